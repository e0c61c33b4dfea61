"""The six packets of TFTP as values, and their bytes (RFC 1350, section 5; RFC 2347).

Bytes that are no TFTP packet raise `DecodeError`, and nothing else ever escapes. The decoder
forgives what real firmware sends (padding, garbage behind the last complete option, a missing
terminator on an error text); the encoder never emits any of it. This module gives a packet no
meaning: whether a value makes sense is for `options` and `transfer` to say.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct
from typing import ClassVar

from tftp.errors import DecodeError, TFTPError, known_text

__all__ = [
    "MAX_DATAGRAM",
    "MAX_REQUEST",
    "Ack",
    "Data",
    "Error",
    "Opcode",
    "OptionAck",
    "Packet",
    "ReadRequest",
    "WriteRequest",
    "decode",
    "header",
]

HEADER = Struct("!HH")
_OPCODE = Struct("!H")
_EMPTY_OACK = b"\0\6"

#: A DATA packet of the largest block size: 4 octets of header and 65464 of payload (RFC 2348).
MAX_DATAGRAM = HEADER.size + 65464

#: The longest request understood. RFC 2347 allows 512 octets and real ROMs send a few more; what is
#: beyond any path's length is an attack on whoever parses, logs or shows it.
MAX_REQUEST = 4096

# Nor is more sent than anybody reads, in characters.
_MAX_ERROR_TEXT = 400

# Words of a request are ASCII by the RFCs; whatever else comes must survive the round trip.
_WORDS = ("ascii", "surrogateescape")
# Error texts are "netascii" (RFC 1350), in practice often UTF-8.
_TEXT = ("utf-8", "surrogateescape")


class Opcode(IntEnum):
    """The first 16 bits of every packet (RFC 1350, section 5; OACK from RFC 2347)."""

    RRQ = 1
    WRQ = 2
    DATA = 3
    ACK = 4
    ERROR = 5
    OACK = 6


@dataclass(frozen=True, slots=True)
class _Request:
    """What RRQ and WRQ have in common.

    Attributes:
        filename: the name as it stands on the wire; it need not be UTF-8.
        mode: "octet", "netascii" or "mail", in the case that the client chose.
        options: names and values in the order asked, as they were spelled (RFC 2347).
    """

    OPCODE: ClassVar[Opcode]

    filename: bytes
    mode: str = "octet"
    options: Mapping[str, str] = field(default_factory=dict, hash=False)

    def encode(self) -> bytes:
        """The bytes of this packet.

        Raises:
            ValueError: a NUL inside a name or value, a word that is not ASCII, or more than
                `MAX_REQUEST` octets in all.
        """
        words = [self.filename, self.mode.encode(*_WORDS), *_option_words(self.options)]
        request = _OPCODE.pack(self.OPCODE) + _terminated(words)
        if len(request) > MAX_REQUEST:
            raise ValueError(f"a request of {len(request)} octets, where {MAX_REQUEST} is the most")
        return request


@dataclass(frozen=True, slots=True)
class ReadRequest(_Request):
    """RRQ: the client wants to read a file."""

    OPCODE = Opcode.RRQ


@dataclass(frozen=True, slots=True)
class WriteRequest(_Request):
    """WRQ: the client wants to write a file."""

    OPCODE = Opcode.WRQ


@dataclass(frozen=True, slots=True)
class Data:
    """DATA: one block of the file; a short one (or an empty one) is the last."""

    block: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """The bytes of this packet; `block` must be a wire number, 0 to 65535."""
        return HEADER.pack(Opcode.DATA, self.block) + self.payload


@dataclass(frozen=True, slots=True)
class Ack:
    """ACK: everything up to and with this block has arrived (RFC 7440 for windows)."""

    block: int

    def encode(self) -> bytes:
        """The bytes of this packet; `block` must be a wire number, 0 to 65535."""
        return HEADER.pack(Opcode.ACK, self.block)


@dataclass(frozen=True, slots=True)
class Error:
    """ERROR: the end of the transfer. It is never acknowledged and never answered."""

    code: int
    message: str = ""

    @classmethod
    def of(cls, error: TFTPError) -> "Error":
        """The packet that tells a peer of `error`; it can be encoded, whatever the error says."""
        text = error.message[:_MAX_ERROR_TEXT].replace("\0", "?")
        return cls(error.code, text.encode("utf-8", "replace").decode("utf-8"))

    @property
    def text(self) -> str:
        """The peer's words, or the code's standard text where it sent none."""
        return self.message or known_text(self.code)

    def encode(self) -> bytes:
        """The bytes of this packet. Raises `ValueError` for a NUL inside the message."""
        return HEADER.pack(Opcode.ERROR, self.code) + _terminated([self.message.encode(*_TEXT)])


@dataclass(frozen=True, slots=True)
class OptionAck:
    """OACK: the options that the server grants (RFC 2347)."""

    options: Mapping[str, str] = field(default_factory=dict, hash=False)

    def encode(self) -> bytes:
        """The bytes of this packet. Raises `ValueError` as a request does, but for its length."""
        return _OPCODE.pack(Opcode.OACK) + _terminated(_option_words(self.options))


Packet = ReadRequest | WriteRequest | Data | Ack | Error | OptionAck


def header(datagram: bytes | bytearray | memoryview) -> tuple[int, int]:
    """The opcode and the number behind it (block, or error code), without building a packet.

    Raises:
        DecodeError: fewer than four octets. Only an OACK that grants nothing is that short.
    """
    if len(datagram) < HEADER.size:
        if datagram == _EMPTY_OACK:
            return Opcode.OACK, 0
        raise DecodeError(f"a TFTP packet has at least 4 octets, this datagram has {len(datagram)}")
    opcode, number = HEADER.unpack_from(datagram)
    return opcode, number


def decode(datagram: bytes | bytearray | memoryview) -> Packet:
    """The packet that these bytes are.

    Raises:
        DecodeError: they are none; no other exception escapes, whatever the bytes.
    """
    opcode, number = header(datagram)
    body = bytes(datagram)
    match opcode:
        case Opcode.RRQ:
            return ReadRequest(*_request_fields(body))
        case Opcode.WRQ:
            return WriteRequest(*_request_fields(body))
        case Opcode.DATA:
            return Data(number, body[HEADER.size :])
        case Opcode.ACK:
            return Ack(number)
        case Opcode.ERROR:
            message, _, _ = body[HEADER.size :].partition(b"\0")
            return Error(number, message.decode(*_TEXT))
        case Opcode.OACK:
            return OptionAck(_option_pairs(body[_OPCODE.size :].split(b"\0")[:-1]))
        case _:
            raise DecodeError(f"no TFTP packet has the opcode {opcode}")


def _request_fields(body: bytes) -> tuple[bytes, str, dict[str, str]]:
    if len(body) > MAX_REQUEST:
        raise DecodeError(f"a request of {len(body)} octets, where {MAX_REQUEST} is the most")
    *words, _unterminated = body[_OPCODE.size :].split(b"\0")
    if len(words) < 2:
        raise DecodeError("a request holds a file name and a mode, each ended by a NUL")
    filename, mode, *options = words
    return filename, mode.decode(*_WORDS), _option_pairs(options)


def _option_pairs(words: list[bytes]) -> dict[str, str]:
    """Names and values, up to the last complete pair.

    Padding NULs show up as empty names and are passed over. RFC 2347 allows each option once;
    where one is repeated, the first counts.
    """
    options: dict[str, str] = {}
    remaining = iter(words)
    for name in remaining:
        if not name:
            continue
        value = next(remaining, None)
        if value is None:
            break
        options.setdefault(name.decode(*_WORDS), value.decode(*_WORDS))
    return options


def _option_words(options: Mapping[str, str]) -> list[bytes]:
    if "" in options:
        raise ValueError("an option needs a name")
    return [word.encode(*_WORDS) for pair in options.items() for word in pair]


def _terminated(words: list[bytes]) -> bytes:
    for word in words:
        if b"\0" in word:
            raise ValueError(f"{word!r} holds a NUL, which ends a field on the wire")
    return b"".join(word + b"\0" for word in words)
