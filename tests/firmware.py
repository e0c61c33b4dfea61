"""Peers as they are met in the field, each reduced to the habit for which it is known.

They are ends of a `tests.wire.Wire`, written from what captures and sources of the real ones show,
and they share no code with `tftp.transfer`: what they make of a packet is their own opinion. The
clients read a file; `Apprentice` is a server.
"""

from collections.abc import Sequence

from tftp.packets import Ack, Data, Error, OptionAck, Packet, ReadRequest, decode


class Client:
    """A client that reads, and only its own timer makes it repeat an ACK: so do lock-step ROMs.

    Attributes:
        file: what has come so far.
        received: the last block in order, counted without a wrap.
        done: it has the whole file, or has gone away.
        patience: seconds of silence before it repeats what it said last.
    """

    patience = 5.0

    def __init__(self, *, blksize: int = 512, windowsize: int = 1) -> None:
        self.file = bytearray()
        self.received = 0
        self.done = False
        self.deadline: float | None = None
        self._wanted = {"blksize": str(blksize)} | (
            {"windowsize": str(windowsize)} if windowsize > 1 else {}
        )
        self._blksize = blksize
        self._windowsize = windowsize
        self._next_ack = windowsize
        self._said: Packet = ReadRequest(b"file", options=self._wanted)

    def start(self, now: float) -> Sequence[bytes]:
        return self._say(self._said, now)

    def receive(self, datagram: bytes, now: float) -> Sequence[bytes]:
        if self.done:
            return ()
        match decode(datagram):
            case OptionAck() as oack:
                return self.agree(oack, now)
            case Data(number, payload) if number == self.received + 1 & 0xFFFF:
                return self.take(payload, now)
            case Data(number):
                return self.stray(number, now)
            case packet:
                raise AssertionError(f"{packet} was not to be expected")

    def expire(self, now: float) -> Sequence[bytes]:
        return self._say(self._said, now)

    def agree(self, oack: OptionAck, now: float) -> Sequence[bytes]:
        """The server has granted something."""
        assert dict(oack.options) == self._wanted
        return self._acknowledge(now) if not self.received else ()

    def take(self, payload: bytes, now: float) -> Sequence[bytes]:
        """The next block has come."""
        self.received += 1
        self.file += payload
        self.deadline = now + self.patience
        if len(payload) < self._blksize:
            # No firmware stays to repeat its last ACK.
            return self._leave(Ack(self.received & 0xFFFF))
        return self._acknowledge(now) if self.received == self._next_ack else ()

    def stray(self, number: int, now: float) -> Sequence[bytes]:
        """A block has come that is not the next one."""
        return ()

    def _acknowledge(self, now: float) -> Sequence[bytes]:
        """Acknowledge all so far; the next window is counted from here."""
        self._next_ack = self.received + self._windowsize
        return self._say(Ack(self.received & 0xFFFF), now)

    def _say(self, packet: Packet, now: float) -> Sequence[bytes]:
        self._said = packet
        self.deadline = now + self.patience
        return [packet.encode()]

    def _leave(self, packet: Packet) -> Sequence[bytes]:
        self.done = True
        self.deadline = None
        return [packet.encode()]


class UBoot(Client):
    """U-Boot: one report for each gap, then silence until the gap is filled.

    It takes a block whose number is 32768 or more for an old one, so that up there it reports no
    gap at all. Old blocks it passes over, or (newer versions, `newer`) takes for a gap.
    """

    def __init__(self, *, blksize: int = 1468, windowsize: int = 1, newer: bool = False) -> None:
        super().__init__(blksize=blksize, windowsize=windowsize)
        self.newer = newer
        self._reported = 0

    def stray(self, number: int, now: float) -> Sequence[bytes]:
        signed = number - 0x10000 if number > 0x7FFF else number
        looks_old = (self.received + 1 & 0xFFFF) - signed > 0
        if self._reported == self.received or (looks_old and not self.newer):
            return ()
        self._reported = self.received
        return self._acknowledge(now)


class EDK2(Client):
    """UEFI: an ACK of the last good block for every block that is not the next one."""

    patience = 4.0

    def stray(self, number: int, now: float) -> Sequence[bytes]:
        return self._acknowledge(now)


class IPXE(Client):
    """iPXE: repeats its request after 0.25 s; an OACK with `tsize 0` is an empty file to it."""

    patience = 0.25

    def __init__(self) -> None:
        super().__init__(blksize=1432)
        self._wanted |= {"tsize": "0"}
        self._said = ReadRequest(b"file", options=self._wanted)

    def agree(self, oack: OptionAck, now: float) -> Sequence[bytes]:
        if oack.options["tsize"] == "0":
            return [*self._leave(Ack(0)), *self._leave(Ack(0))]
        return self._acknowledge(now)

    def stray(self, number: int, now: float) -> Sequence[bytes]:
        return self._acknowledge(now)


class GRUB(Client):
    """GRUB: says nothing while its queue is full, and then answers all of it, old blocks too."""

    def __init__(self, *, busy_from: float, busy_for: float = 2.0) -> None:
        super().__init__(blksize=1024)
        self._busy = (busy_from, busy_from + busy_for)
        self._queue: list[bytes] = []

    def receive(self, datagram: bytes, now: float) -> Sequence[bytes]:
        begin, end = self._busy
        if not begin <= now < end:
            return super().receive(datagram, now)
        self._queue.append(datagram)
        self.deadline = end
        return ()

    def expire(self, now: float) -> Sequence[bytes]:
        queue, self._queue = self._queue, []
        return [reply for datagram in queue for reply in self.receive(datagram, now)]

    def stray(self, number: int, now: float) -> Sequence[bytes]:
        return [Ack(number).encode()]

    def take(self, payload: bytes, now: float) -> Sequence[bytes]:
        if not payload and not self.file:
            return self._leave(Error(0, "closed"))
        return super().take(payload, now)


class RaspberryPi4(Client):
    """The Raspberry Pi 4: a block that comes twice makes it acknowledge the next one, and hang."""

    def __init__(self) -> None:
        super().__init__(blksize=1024)

    def stray(self, number: int, now: float) -> Sequence[bytes]:
        return self._leave(Ack(number + 1 & 0xFFFF))


class Prober(Client):
    """Whoever only wants to know a size, and says so with an ERROR: EDK2 code 8, the others 0."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self._wanted = {"tsize": "0"}
        self._said = ReadRequest(b"file", options=self._wanted)
        self._code = code

    def agree(self, oack: OptionAck, now: float) -> Sequence[bytes]:
        return self._leave(Error(self._code, "TFTP Aborted"))


class Apprentice:
    """A server that sends for every ACK, repeated ones too (atftpd): the Sorcerer's Apprentice."""

    patience = 5.0

    def __init__(self, file: bytes, *, blksize: int = 512, windowsize: int = 1) -> None:
        self.deadline: float | None = None
        self._blocks = [file[at : at + blksize] for at in range(0, len(file) + 1, blksize)]
        self._granted = {"blksize": str(blksize), "windowsize": str(windowsize)}
        self._windowsize = windowsize
        self._acked = 0

    def start(self, now: float) -> Sequence[bytes]:
        return ()

    def receive(self, datagram: bytes, now: float) -> Sequence[bytes]:
        self.deadline = now + self.patience
        match decode(datagram):
            case ReadRequest():
                return [OptionAck(self._granted).encode()]
            case Ack(block):
                self._acked = block
                return self._window()
            case packet:
                raise AssertionError(f"{packet} was not to be expected")

    def expire(self, now: float) -> Sequence[bytes]:
        self.deadline = now + self.patience
        return self._window()

    def _window(self) -> Sequence[bytes]:
        if self._acked == len(self._blocks):
            self.deadline = None
        first = self._acked
        window = self._blocks[first : first + self._windowsize]
        return [Data(first + index, block).encode() for index, block in enumerate(window, 1)]
