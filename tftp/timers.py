"""When to send again: the round trip measured, doubled on silence (RFC 6298 with Karn's rule).

TFTP itself leaves the timeout to the implementation. A constant of one to five seconds, the custom
of the field, turns every lost packet into a stall; a measured one makes it a few round trips.
Like everything in the protocol's core this module reads no clock: times are arguments, in seconds.
"""

from dataclasses import dataclass

__all__ = ["Patience", "RetransmitTimer"]

# A standby waits this many times longer, and never less than this (seconds).
_STANDBY_FACTOR, _STANDBY_FLOOR = 2, 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait, and for how long in all. All times are in seconds.

    Attributes:
        initial: the wait before anything is measured. RFC 6298 says 1; boot firmware repeats its
            request after 0.25, and a spurious repeat of the first packet harms nobody.
        floor: the shortest wait. Below some tens of milliseconds a busy peer looks like a lost
            packet, and a block sent twice breaks real firmware.
        ceiling: the longest wait that doubling leads to.
        total: silence for this long ends the transfer.
        retries: so many repeats without an answer end it too; None leaves it to `total`.
        dally: how long a receiver stays to repeat its last ACK, at most (RFC 1350, section 6). The
            tftp-hpa and atftp clients miss it for 5 s before they ask, and take the upload for
            failed if nobody is there.
    """

    initial: float = 0.5
    floor: float = 0.02
    ceiling: float = 5.0
    total: float = 30.0
    retries: int | None = None
    dally: float = 6.0

    def __post_init__(self) -> None:
        # A wait of zero, doubled, stays zero: packets without end.
        if not (self.initial > 0 and self.total > 0 and 0 < self.floor <= self.ceiling):
            raise ValueError("waits are longer than 0 s, and the ceiling is not below the floor")
        if not (self.dally >= 0 and (self.retries is None or self.retries >= 0)):
            raise ValueError("dally and retries are 0 or more")


class RetransmitTimer:
    """The wait before the next repeat.

    With `fixed` (a `timeout` that was negotiated, RFC 2349) the wait is just that, always. A
    `standby` is the end that usually need not act, as the other knows first: a receiver of DATA.

    Attributes:
        interval: seconds to wait for an answer to what is sent now.
        base: the same without doubling: within it, an answer is not late.
        round_trip: smoothed, in seconds; None until one has been measured.
    """

    __slots__ = (
        "_fixed",
        "_patience",
        "_standby",
        "_trusting",
        "_variance",
        "base",
        "interval",
        "round_trip",
    )

    def __init__(
        self, patience: Patience, fixed: float | None = None, *, standby: bool = False
    ) -> None:
        self._patience = patience
        self._fixed = fixed
        self._standby = standby
        self._trusting = False
        self._variance = 0.0
        self.base = self.interval = patience.initial if fixed is None else fixed
        self.round_trip: float | None = None

    def sample(self, round_trip: float) -> None:
        """Take in a measured round trip.

        Karn's rule is the caller's: never the round trip of anything that was sent twice. Until
        such a clean one comes, the doubled wait stays (RFC 6298, section 5), but for `relax`.
        """
        self._trusting = False
        if self.round_trip is None:
            self.round_trip = round_trip
            self._variance = round_trip / 2
        else:
            # RFC 6298, section 2.3: alpha 1/8, beta 1/4, the variance first.
            self._variance += (abs(self.round_trip - round_trip) - self._variance) / 4
            self.round_trip += (round_trip - self.round_trip) / 8
        if self._fixed is not None:
            return
        floor, ceiling = self._patience.floor, self._patience.ceiling
        # However steady the round trip, a busy peer is late now and then.
        wait = self.round_trip + max(4 * self._variance, floor / 2)
        if self._standby:
            wait = max(_STANDBY_FACTOR * wait, _STANDBY_FLOOR)
        self.base = self.interval = min(max(wait, floor), ceiling)

    def back_off(self) -> None:
        """Nothing came: wait twice as long the next time (RFC 6298, section 5.5)."""
        if self._fixed is None:
            self.interval = min(2 * self.interval, max(self.base, self._patience.ceiling))

    def relax(self, since: float) -> None:
        """The peer is there after all; it answered `since` seconds after the last repeat.

        That is no sample, as it may answer any of the copies, and Karn would keep the doubled wait.
        But where loss leaves few clean samples, nothing would then bring it down again. So an
        answer that came soon is taken for one to the repeat, though not twice in a row: if it is
        the path that has become slow, the second time shows it.
        """
        self._trusting = not self._trusting and since <= self.base
        if self._trusting:
            self.interval = self.base
