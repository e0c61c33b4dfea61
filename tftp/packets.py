"""The six packets of TFTP as values, and their bytes (RFC 1350, section 5; RFC 2347).

Bytes that are no TFTP packet raise `DecodeError`, and nothing else ever escapes. The decoder
forgives what real firmware sends (padding, garbage behind the last complete option, a missing
terminator on an error text); the encoder never emits any of it. This module gives a packet no
meaning: whether a value makes sense is for `options` and `transfer` to say.
"""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from functools import lru_cache
from struct import Struct
from typing import Any, ClassVar, NoReturn

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


class _Value:
    """A frozen value: its slots are its fields, and it equals only another of its own kind.

    A dataclass writes all of this anew for each class, whenever the module is loaded; six of them
    would take longer for that than a small file does.
    """

    __slots__ = ()
    __match_args__: ClassVar[tuple[str, ...]] = ()

    def _fill(self, *values: Any) -> None:
        for name, value in zip(self.__match_args__, values, strict=True):
            object.__setattr__(self, name, value)

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__match_args__)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: {name!r} stays what it is")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: {name!r} stays where it is")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        # Options are equal in any order, and a dict has no hash: they do without.
        return hash(tuple(value for value in self._values() if not isinstance(value, Mapping)))

    def __repr__(self) -> str:
        parts = zip(self.__match_args__, self._values(), strict=True)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in parts)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._values()


class _Request(_Value):
    """What RRQ and WRQ have in common.

    Attributes:
        filename: the name as it stands on the wire; it need not be UTF-8.
        mode: "octet", "netascii" or "mail", in the case that the client chose.
        options: names and values in the order asked, as they were spelled (RFC 2347).
    """

    __slots__ = __match_args__ = ("filename", "mode", "options")
    OPCODE: ClassVar[Opcode]

    filename: bytes
    mode: str
    options: Mapping[str, str]

    def __init__(
        self, filename: bytes, mode: str = "octet", options: Mapping[str, str] | None = None
    ) -> None:
        self._fill(filename, mode, {} if options is None else options)

    def encode(self) -> bytes:
        """The bytes of this packet.

        Raises:
            ValueError: a NUL inside a name or value, a word that is not ASCII, or more than
                `MAX_REQUEST` octets in all.
        """
        words = [self.filename, self.mode.encode(*_WORDS), *_option_words(self.options.items())]
        request = _OPCODE.pack(self.OPCODE) + _terminated(words)
        if len(request) > MAX_REQUEST:
            raise ValueError(f"a request of {len(request)} octets, where {MAX_REQUEST} is the most")
        return request


class ReadRequest(_Request):
    """RRQ: the client wants to read a file."""

    __slots__ = ()
    OPCODE = Opcode.RRQ


class WriteRequest(_Request):
    """WRQ: the client wants to write a file."""

    __slots__ = ()
    OPCODE = Opcode.WRQ


class Data(_Value):
    """DATA: one block of the file; a short one (or an empty one) is the last."""

    __slots__ = __match_args__ = ("block", "payload")

    block: int
    payload: bytes

    def __init__(self, block: int, payload: bytes = b"") -> None:
        self._fill(block, payload)

    def encode(self) -> bytes:
        """The bytes of this packet; `block` must be a wire number, 0 to 65535."""
        return HEADER.pack(Opcode.DATA, self.block) + self.payload


class Ack(_Value):
    """ACK: everything up to and with this block has arrived (RFC 7440 for windows)."""

    __slots__ = __match_args__ = ("block",)

    block: int

    def __init__(self, block: int) -> None:
        self._fill(block)

    def encode(self) -> bytes:
        """The bytes of this packet; `block` must be a wire number, 0 to 65535."""
        return HEADER.pack(Opcode.ACK, self.block)


class Error(_Value):
    """ERROR: the end of the transfer. It is never acknowledged and never answered."""

    __slots__ = __match_args__ = ("code", "message")

    code: int
    message: str

    def __init__(self, code: int, message: str = "") -> None:
        self._fill(code, message)

    @classmethod
    def of(cls, error: TFTPError) -> "Error":
        """The packet that tells a peer of `error`; it can be encoded, whatever the error says."""
        return _telling(error.code, error.message[:_MAX_ERROR_TEXT])

    @property
    def text(self) -> str:
        """The peer's words, or the code's standard text where it sent none."""
        return self.message or known_text(self.code)

    def encode(self) -> bytes:
        """The bytes of this packet. Raises `ValueError` for a NUL inside the message."""
        return _encoded_error(self.code, self.message)


class OptionAck(_Value):
    """OACK: the options that the server grants (RFC 2347)."""

    __slots__ = __match_args__ = ("options",)

    options: Mapping[str, str]

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        self._fill({} if options is None else options)

    def encode(self) -> bytes:
        """The bytes of this packet. Raises `ValueError` as a request does, but for its length."""
        return _encoded_options(tuple(self.options.items()))


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
    filename, mode, options = _known_fields(body)
    return filename, mode, dict(options)


@lru_cache(maxsize=128)  # Of a thousand machines that boot all ask the same.
def _known_fields(body: bytes) -> tuple[bytes, str, dict[str, str]]:
    if len(body) > MAX_REQUEST:
        raise DecodeError(f"a request of {len(body)} octets, where {MAX_REQUEST} is the most")
    *words, _unterminated = body[_OPCODE.size :].split(b"\0")
    if len(words) < 2:
        raise DecodeError("a request holds a file name and a mode, each ended by a NUL")
    filename, mode, *options = words
    return filename, mode.decode(*_WORDS), _option_pairs(options)


@lru_cache(maxsize=32)  # Most of those who are refused are refused for the same reason.
def _telling(code: int, message: str) -> Error:
    text = message.replace("\0", "?")
    return Error(code, text.encode("utf-8", "replace").decode("utf-8"))


@lru_cache(maxsize=32)
def _encoded_error(code: int, message: str) -> bytes:
    return HEADER.pack(Opcode.ERROR, code) + _terminated([message.encode(*_TEXT)])


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


def _option_words(options: Iterable[tuple[str, str]]) -> list[bytes]:
    words = []
    for name, value in options:
        if not name:
            raise ValueError("an option needs a name")
        words += [name.encode(*_WORDS), value.encode(*_WORDS)]
    return words


@lru_cache(maxsize=128)  # And all are granted the same.
def _encoded_options(options: tuple[tuple[str, str], ...]) -> bytes:
    return _OPCODE.pack(Opcode.OACK) + _terminated(_option_words(options))


def _terminated(words: list[bytes]) -> bytes:
    for word in words:
        if b"\0" in word:
            raise ValueError(f"{word!r} holds a NUL, which ends a field on the wire")
    return b"".join(word + b"\0" for word in words)
