"""One lost DATA, and a receiver that ACKs every DATA behind it, as EDK2 (UEFI's firmware) does.

A server that starts its window again at each of these ACKs sends the file many times over. This
counts what comes.
"""

import socket
import struct
import time
from dataclasses import dataclass

from benchmarks.process import Where

__all__ = ["Gap", "fetch_with_a_gap"]

_HEADER = struct.Struct("!HH")
_DATA, _ACK, _ERROR, _OACK = 3, 4, 5, 6
_BLKSIZE = 1428
# Seconds of silence after which the client repeats its last ACK, and so often it does.
_TIMEOUT = 1.0
_TRIES = 8
# A server that has sent so many will not stop by itself.
_TOO_MANY = 5000


@dataclass(frozen=True, slots=True)
class Gap:
    """What a server did.

    Attributes:
        needed: blocks of the file.
        received: DATA that came, the lost one included.
        windowsize: as granted; a server that grants none is not what this is about.
        fault: why the file did not come; "" where it did.
        seconds: from the request to the end.
    """

    needed: int
    received: int
    windowsize: int
    fault: str
    seconds: float


def fetch_with_a_gap(where: Where, name: str, size: int, *, windowsize: int, lost: int) -> Gap:
    """Read a file of `size` octets, and lose block `lost` once."""
    start = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(_TIMEOUT)
        options = f"blksize\0{_BLKSIZE}\0windowsize\0{windowsize}\0"
        sock.sendto(f"\0\1{name}\0octet\0{options}".encode(), where)
        receiver = _Receiver(sock, windowsize, lost)
        receiver.run()
    return Gap(
        needed=size // _BLKSIZE + 1,
        received=receiver.received,
        windowsize=receiver.windowsize,
        fault=receiver.fault or ("" if receiver.octets == size else "the file is not whole"),
        seconds=time.monotonic() - start,
    )


class _Receiver:
    def __init__(self, sock: socket.socket, windowsize: int, lost: int) -> None:
        self._sock = sock
        self._lost: int | None = lost
        self._asked = windowsize
        self._block = 0
        self._heard = False
        self._over = False
        self.windowsize = 1
        self.received = 0
        self.octets = 0
        self.fault = ""

    def run(self) -> None:
        silence = 0
        while not self._over:
            try:
                datagram, peer = self._sock.recvfrom(65536)
            except TimeoutError:
                silence += 1
                if silence > _TRIES:
                    self._end("silence")
                elif self._heard:
                    self._acknowledge()
                continue
            except ConnectionRefusedError:
                self._end("it has given up: its port is closed")
                continue
            silence = 0
            self._heard = True
            self._sock.connect(peer)
            self._take(datagram)
            if self.received > _TOO_MANY:
                self._end("it does not stop")

    def _end(self, fault: str = "") -> None:
        self._over = True
        self.fault = fault

    def _acknowledge(self) -> None:
        self._sock.send(_HEADER.pack(_ACK, self._block & 0xFFFF))

    def _take(self, datagram: bytes) -> None:
        opcode, number = _HEADER.unpack_from(datagram)
        if opcode == _ERROR:
            self._end(f"ERROR {number}")
        elif opcode == _OACK:
            if b"windowsize\0%d\0" % self._asked in datagram.lower():
                self.windowsize = self._asked
            self._acknowledge()
        elif opcode == _DATA:
            self.received += 1
            self._take_data(number, len(datagram) - _HEADER.size)

    def _take_data(self, number: int, payload: int) -> None:
        if number == self._lost:
            self._lost = None  # Only once.
            return
        if number != self._block + 1:
            self._acknowledge()  # This is what the server must bear.
            return
        self._block += 1
        self.octets += payload
        last = payload < _BLKSIZE
        if last or self._block % self.windowsize == 0:
            self._acknowledge()
        if last:
            self._end()
