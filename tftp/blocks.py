"""Block numbers: 16 bits on the wire, absolute (0, 1, 2, ... without end) everywhere else.

RFC 1350 does not say what follows block 65535. Nearly everyone goes on with 0; the de-facto
option `rollover` lets a client choose 0 or 1. Nothing but this module knows that there is a wrap.
"""

__all__ = ["MAX_WIRE", "absolute", "octets_on_wire", "on_wire"]

MAX_WIRE = 0xFFFF


def on_wire(block: int, rollover: int = 0) -> int:
    """The number that block `block` (absolute) carries on the wire."""
    if rollover == 0 or block <= MAX_WIRE:
        return block & MAX_WIRE
    return (block - 1) % MAX_WIRE + 1


def octets_on_wire(first: int, count: int, rollover: int = 0) -> tuple[bytes, bytes]:
    """The numbers of `count` blocks from `first` (absolute) on: their high and their low octets.

    That is what many packets of one size, one behind the other, hold at equal distances: to write
    or compare all of them takes two strokes. `count` is at most `MAX_WIRE`.
    """
    start = on_wire(first, rollover)
    end = start + count
    if rollover and end > MAX_WIRE + 1:
        end -= MAX_WIRE
        return _HIGH[start : MAX_WIRE + 1] + _HIGH[1:end], _LOW[start : MAX_WIRE + 1] + _LOW[1:end]
    return _HIGH[start:end], _LOW[start:end]


# The two octets of each number, in order, and once more behind the wrap to 0.
_HIGH = b"".join(bytes([high]) * 256 for high in range(256)) * 2
_LOW = bytes(range(256)) * 512


def absolute(number: int, near: int, rollover: int = 0) -> int:
    """The absolute block that `number` stands for: of all that carry it, the one closest to `near`.

    The answer may be far from `near`, or below zero, when the peer sent nonsense; a caller
    compares it with the blocks that it can be about.
    """
    if rollover == 0:
        return near + (number - near + 0x8000 & MAX_WIRE) - 0x8000
    if number == 0:
        return 0  # With rollover 1 only the very first ACK or OACK is number 0.
    period = MAX_WIRE
    block = near + (number - near + period // 2) % period - period // 2
    return block or period  # Block 0 lies on the way of 65535, but is never numbered so.
