"""netascii, the text mode of RFC 1350 ("NVT ASCII", RFC 764): CR LF ends a line, CR NUL is CR.

Both directions are incremental, in the manner of the `codecs` module, so that a pair may be cut
anywhere, a block edge included. They turn bytes into bytes: the character set is not touched.
"""

import re

__all__ = ["NetasciiDecoder", "NetasciiEncoder", "from_netascii", "to_netascii"]

_ENCODED = {b"\n": b"\r\n", b"\r": b"\r\0"}
_DECODED = {b"\r\n": b"\n", b"\r\0": b"\r"}
_LINE_OR_RETURN = re.compile(b"[\r\n]")
_PAIR = re.compile(b"\r[\n\0]")


class NetasciiEncoder:
    """Local text (LF ends a line) to netascii. It has no state: each octet stands for itself."""

    def encode(self, data: bytes, final: bool = False) -> bytes:
        """The netascii form of `data`; at most twice as long."""
        return _LINE_OR_RETURN.sub(lambda found: _ENCODED[found[0]], data)

    def reset(self) -> None:
        """Start again; there is nothing to forget."""


class NetasciiDecoder:
    """netascii to local text (LF ends a line). It holds back a CR whose partner is still to come.

    A CR that neither LF nor NUL follows is against the rules, and is kept as it stands.
    """

    def __init__(self) -> None:
        self._held = b""

    def decode(self, data: bytes, final: bool = False) -> bytes:
        """The local form of `data` and of what was held back; `final` gives up the last CR too."""
        data = self._held + data
        self._held = b""
        if data.endswith(b"\r") and not final:
            data, self._held = data[:-1], b"\r"
        return _PAIR.sub(lambda found: _DECODED[found[0]], data)

    def reset(self) -> None:
        """Forget a CR that was held back."""
        self._held = b""


def to_netascii(text: bytes) -> bytes:
    """A whole local text as netascii."""
    return NetasciiEncoder().encode(text, final=True)


def from_netascii(data: bytes) -> bytes:
    """A whole netascii text as local text."""
    return NetasciiDecoder().decode(data, final=True)
