"""A lossy UDP link in user space: datagrams are lost, doubled, overtaken and late, by a seeded die.

It stands between real TFTP programs on one host, and follows them to their ports. A client sends
its request to the link; the link passes it on to the server from a port that it opens for this
client; the server answers from a port of its own (its TID, RFC 1350, section 4), and for each such
port the link opens one towards the client, which sees a TID like any other. Of a packet it reads
nothing but where it came from.

    python -m benchmarks.link --listen 127.0.0.1:6900 --to 127.0.0.1:69 \\
        --loss 1% --rtt 20ms --seed 1

As a library::

    with Link(("127.0.0.1", 0), server, both=Conditions(loss=0.01, delay=0.01), seed=1) as link:
        ...  # clients use link.address

What becomes of the nth datagram of a transfer in one direction depends on the seed, the number of
the transfer, the direction and n alone: the same programs meet the same luck again. Needs Linux
(epoll).
"""

import argparse
import contextlib
import heapq
import ipaddress
import itertools
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from types import FrameType, TracebackType

__all__ = ["Conditions", "Link", "Tally"]

Where = tuple[str, int]

# Octets of receive buffer for each port: the link itself is to lose nothing.
_BUFFER = 4 << 20
# From asm-generic/socket.h; CPython 3.11 has no name for it.
_SO_RCVBUFFORCE = 33
# The largest datagram.
_ROOM = 65536
# How many datagrams are taken from one port before the clock is looked at again.
_TURN = 64
# Seconds of silence after which the ports of a transfer are closed: more than any timeout in TFTP.
_IDLE = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What one direction does to datagrams.

    Attributes:
        loss: the chance that one is lost.
        duplicate: the chance that one arrives twice.
        reorder: the chance that one is held back, so that later ones overtake it.
        hold: seconds for which such a one is held back.
        delay: seconds that every one is on its way.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    hold: float = 0.005
    delay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "reorder"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a chance, 0 to 1, not {getattr(self, name)}")
        if self.hold < 0.0 or self.delay < 0.0:
            raise ValueError("hold and delay are not negative")


@dataclass(slots=True)
class Tally:
    """What one direction has done so far; a doubled datagram is passed on twice."""

    arrived: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    passed: int = 0


class _Direction:
    """One direction of one transfer: conditions and a die of its own."""

    def __init__(self, conditions: Conditions, tally: Tally, seed: str) -> None:
        self._conditions = conditions
        self._tally = tally
        self._die = Random(seed)

    def delays(self) -> list[float]:
        """For each copy of the next datagram that arrives, the seconds it takes."""
        conditions, tally = self._conditions, self._tally
        # Always three throws, so that one chance does not shift the luck of the others.
        lost, doubled, held = (self._die.random() for _ in range(3))
        tally.arrived += 1
        if lost < conditions.loss:
            tally.lost += 1
            return []
        delay = conditions.delay
        if held < conditions.reorder:
            tally.reordered += 1
            delay += conditions.hold
        if doubled < conditions.duplicate:
            tally.duplicated += 1
            return [delay, delay]
        return [delay]


class _Port:
    """A socket of the link, and the transfer that it belongs to (none: the door)."""

    __slots__ = ("flow", "peer", "sock")

    def __init__(self, sock: socket.socket, flow: "_Flow | None", peer: Where | None) -> None:
        self.sock = sock
        self.flow = flow
        #: Which port of the server this one stands for; None for the door and the far side.
        self.peer = peer


@dataclass(slots=True, kw_only=True)
class _Flow:
    """One client (an address and port), and the ports that are open on its behalf."""

    client: Where
    far: socket.socket
    there: _Direction
    back: _Direction
    near: dict[Where, socket.socket] = field(default_factory=dict)
    last: float = 0.0


class Link:
    """A link from a port of this host to a server, running in a thread while the context lasts.

    Attributes:
        there: what has become of the datagrams to the server.
        back: and of those to the clients.
    """

    def __init__(
        self,
        listen: Where,
        to: Where,
        *,
        both: Conditions | None = None,
        there: Conditions | None = None,
        back: Conditions | None = None,
        seed: int = 0,
        idle: float = _IDLE,
    ) -> None:
        """Open the door.

        Args:
            listen: where clients send their requests; port 0 lets the system choose.
            to: the server.
            both: the conditions of a direction for which no other are given.
            there: towards the server.
            back: towards the clients.
            seed: of the die.
            idle: seconds of silence after which a transfer's ports are closed.

        Raises:
            OSError: the port is taken.
        """
        both = both or Conditions()
        self.there = Tally()
        self.back = Tally()
        self._conditions = (there or both, back or both)
        self._to = to
        self._seed = seed
        # Only when the last datagram has arrived, too.
        self._idle = idle + max(way.delay + way.hold for way in self._conditions)
        self._numbers = itertools.count(1)
        self._flows: dict[Where, _Flow] = {}
        self._ports: dict[int, _Port] = {}
        self._order = itertools.count()
        self._due: list[tuple[float, int, socket.socket, bytes, Where]] = []
        self._poll = select.epoll()
        self._wake, self._woken = socket.socketpair()
        self._poll.register(self._woken, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        try:
            self._door = self._open(listen, None, None)
        except BaseException:
            self._close()
            raise
        self.address: Where = self._door.getsockname()

    def __enter__(self) -> "Link":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._wake.send(b"\0")
        self._thread.join()
        self._close()

    @property
    def transfers(self) -> int:
        """How many clients have ports open on their behalf."""
        return len(self._flows)

    # -- ports --------------------------------------------------------------------------------

    def _open(self, local: Where, flow: _Flow | None, peer: Where | None) -> socket.socket:
        family = _family(local)
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.bind(local)
            _enlarge(sock)
            self._poll.register(sock, select.EPOLLIN)
        except BaseException:
            sock.close()
            raise
        self._ports[sock.fileno()] = _Port(sock, flow, peer)
        return sock

    def _shut(self, sock: socket.socket) -> None:
        del self._ports[sock.fileno()]
        self._poll.unregister(sock)
        sock.close()

    def _close(self) -> None:
        for port in self._ports.values():
            port.sock.close()
        self._ports.clear()
        self._flows.clear()
        self._due.clear()
        self._poll.close()
        self._wake.close()
        self._woken.close()

    def _flow(self, client: Where) -> _Flow:
        flow = self._flows.get(client)
        if flow is None:
            number = next(self._numbers)
            there, back = self._conditions
            far = self._open((_any(self._to), 0), None, None)
            flow = self._flows[client] = _Flow(
                client=client,
                far=far,
                there=_Direction(there, self.there, f"{self._seed}/{number}/there"),
                back=_Direction(back, self.back, f"{self._seed}/{number}/back"),
            )
            self._ports[far.fileno()].flow = flow
        return flow

    def _near(self, flow: _Flow, peer: Where) -> socket.socket:
        """The port from which the client hears this port of the server."""
        if peer == self._to:
            return self._door  # A server that answers from where it was asked.
        sock = flow.near.get(peer)
        if sock is None:
            sock = flow.near[peer] = self._open((self.address[0], 0), flow, peer)
        return sock

    def _forget_idle(self, now: float) -> None:
        for client, flow in list(self._flows.items()):
            if flow.last + self._idle <= now:
                for sock in (flow.far, *flow.near.values()):
                    self._shut(sock)
                del self._flows[client]

    # -- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        look = time.monotonic() + self._idle
        while True:
            now = time.monotonic()
            self._send_due(now)
            if now >= look:
                self._forget_idle(now)
                look = now + self._idle / 4
            until = min(look, self._due[0][0]) if self._due else look
            for number in self._ready(max(0.0, until - time.monotonic())):
                port = self._ports.get(number)
                if port is None:
                    return  # Woken: the context has ended.
                self._take(port)

    def _ready(self, timeout: float) -> list[int]:
        # epoll waits in whole milliseconds, and select in microseconds, but for few descriptors:
        # so select waits for epoll itself.
        select.select([self._poll], [], [], timeout)
        return [number for number, _ in self._poll.poll(0)]

    def _send_due(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            _, _, sock, datagram, peer = heapq.heappop(self._due)
            _send(sock, datagram, peer)

    def _take(self, port: _Port) -> None:
        for _ in range(_TURN):
            try:
                datagram, sender = port.sock.recvfrom(_ROOM)
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # A port that closed; whoever sent to it finds out by silence.
            now = time.monotonic()
            self._pass(port, datagram, sender[:2], now)

    def _pass(self, port: _Port, datagram: bytes, sender: Where, now: float) -> None:
        if port.flow is None:
            flow, towards_server, peer = self._flow(sender), True, self._to
        elif port.peer is None:
            flow, towards_server, peer = port.flow, False, port.flow.client
        elif sender == port.flow.client:
            flow, towards_server, peer = port.flow, True, port.peer
        else:
            return  # A stranger has found the port; that is no part of the link.
        flow.last = now
        sock = flow.far if towards_server else self._near(flow, sender)
        direction = flow.there if towards_server else flow.back
        tally = self.there if towards_server else self.back
        for delay in direction.delays():
            tally.passed += 1
            if delay:
                heapq.heappush(self._due, (now + delay, next(self._order), sock, datagram, peer))
            else:
                _send(sock, datagram, peer)


def _send(sock: socket.socket, datagram: bytes, peer: Where) -> None:
    # A refusal belongs to an earlier datagram, and a full queue loses this one, as a network would.
    with contextlib.suppress(BlockingIOError, ConnectionError):
        sock.sendto(datagram, peer)


def _family(where: Where) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in where[0] else socket.AF_INET


def _any(where: Where) -> str:
    """The address to send to `where` from: loopback stays on loopback."""
    if ipaddress.ip_address(where[0]).is_loopback:
        return where[0]
    return "::" if ":" in where[0] else "0.0.0.0"  # noqa: S104  (the system chooses the address)


def _enlarge(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)


# -- the command ----------------------------------------------------------------------------------


def _where(text: str) -> Where:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not ADDRESS:PORT")
    try:
        ipaddress.ip_address(host)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return host, int(port)


def _chance(text: str) -> tuple[float, float]:
    def one(part: str) -> float:
        return float(part.removesuffix("%")) / 100 if part.endswith("%") else float(part)

    return _each_way(text, one)


def _seconds(text: str) -> tuple[float, float]:
    def one(part: str) -> float:
        for unit, factor in (("us", 1e-6), ("ms", 1e-3), ("s", 1.0)):
            if part.endswith(unit):
                return float(part.removesuffix(unit)) * factor
        return float(part)

    return _each_way(text, one)


def _each_way(text: str, one: Callable[[str], float]) -> tuple[float, float]:
    there, comma, back = text.partition(",")
    return one(there), one(back if comma else there)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.link",
        description="A lossy UDP link between TFTP clients and a server. A value for both "
        "directions may be two, THERE,BACK: to the server and to the client.",
    )
    both = "PERCENT%"
    parser.add_argument("--listen", type=_where, required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--to", type=_where, required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--loss", type=_chance, default=(0.0, 0.0), metavar=both)
    parser.add_argument("--duplicate", type=_chance, default=(0.0, 0.0), metavar=both)
    parser.add_argument("--reorder", type=_chance, default=(0.0, 0.0), metavar=both)
    parser.add_argument(
        "--hold", type=_seconds, default=(0.005, 0.005), metavar="TIME", help="of the reordered"
    )
    parser.add_argument("--rtt", type=_seconds, default=None, metavar="TIME", help="half each way")
    parser.add_argument("--delay", type=_seconds, default=(0.0, 0.0), metavar="TIME")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


def _conditions(options: argparse.Namespace) -> Iterator[Conditions]:
    for way in (0, 1):
        yield Conditions(
            loss=options.loss[way],
            duplicate=options.duplicate[way],
            reorder=options.reorder[way],
            hold=options.hold[way],
            delay=options.delay[way] if options.rtt is None else options.rtt[way] / 2,
        )


def main(given: Sequence[str] | None = None) -> int:
    """Run a link until SIGINT or SIGTERM; then say what became of the datagrams."""
    options = _arguments(given)
    there, back = _conditions(options)
    over = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        over.set()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    with Link(options.listen, options.to, there=there, back=back, seed=options.seed) as link:
        host, port = link.address[:2]
        print(f"listening on {host}:{port}", flush=True)
        over.wait()
        print(f"there: {link.there}\nback: {link.back}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
