"""What an operator can set of a server, in one frozen value, checked when it is made."""

from dataclasses import dataclass, field, replace

from tftp.options import Limits
from tftp.timers import Patience

__all__ = ["ServerConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How a server listens and what it grants. The defaults suit a server inside another program.

    Attributes:
        hosts: names or addresses to listen on; none means all addresses, IPv4 and IPv6.
        port: the UDP port; 0 lets the system choose (see `Server.address`).
        family: `socket.AF_INET` or `AF_INET6` to use only that; 0 for both.
        freebind: listen on addresses that the host does not have yet (Linux).
        reuse_port: let other processes of the same user listen on the same port, and have the
            system deal the clients out among them (see `Supervisor`).
        limits: the most that options are granted.
        clamp_to_mtu: grant no blksize that would be fragmented on the way to the client.
        max_transfers: at most so many at once; more are answered ERROR 0 "busy".
        queue_size: at most so many requests waiting for a thread or a process; likewise. (A single
            thread listens itself: requests wait for it in the socket's buffer.)
        patience: how long to wait for clients.
        single_port: answer from the port that was asked, for clients behind NAT or port maps.
        port_range: answer from ports between these two, both included, for firewalls.
    """

    hosts: tuple[str, ...] = ("127.0.0.1",)
    port: int = 0
    family: int = 0
    freebind: bool = False
    reuse_port: bool = False
    limits: Limits = field(default_factory=Limits)
    clamp_to_mtu: bool = True
    max_transfers: int = 5000
    queue_size: int = 1024
    patience: Patience = field(default_factory=Patience)
    single_port: bool = False
    port_range: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"a port is 0 to 65535, not {self.port}")
        if self.max_transfers < 1 or self.queue_size < 1:
            raise ValueError("max_transfers and queue_size are at least 1")
        if self.port_range is not None:
            low, high = self.port_range
            if not 1 <= low <= high <= 65535:
                raise ValueError(f"a port range goes from 1 to 65535, lowest first: {low}:{high}")
            if self.single_port:
                raise ValueError("single_port and port_range exclude one another")

    @property
    def adjustable(self) -> dict[str, int]:
        """The limits that can be changed while the server runs."""
        return {
            "max_transfers": self.max_transfers,
            "max_blksize": self.limits.max_blksize,
            "max_windowsize": self.limits.max_windowsize,
        }

    def adjusted(
        self,
        *,
        max_transfers: int | None = None,
        max_blksize: int | None = None,
        max_windowsize: int | None = None,
    ) -> "ServerConfig":
        """This configuration with other limits; None leaves one as it is.

        Raises:
            ValueError: a limit is out of range.
        """
        limits = replace(
            self.limits,
            max_blksize=self.limits.max_blksize if max_blksize is None else max_blksize,
            max_windowsize=self.limits.max_windowsize if max_windowsize is None else max_windowsize,
        )
        most = self.max_transfers if max_transfers is None else max_transfers
        return replace(self, limits=limits, max_transfers=most)
