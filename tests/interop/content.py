"""What is sent to and fro in the interop tests."""

from random import Random

#: More blocks of 512 octets than 16 bits can number, and a little.
LARGE_SIZE = 65540 * 512 + 17

#: Every end of line that there is, and pairs that fall on the edge of a block of 512 octets.
TEXT = (b"LF\nCR\rCR LF\r\nCR CR LF\r\r\nNUL\0LF CR\n\r" + b"x" * 9) * 200 + b"end\n"


def content(size: int) -> bytes:
    """So many octets in which no two blocks are alike."""
    return Random(size).randbytes(size)
