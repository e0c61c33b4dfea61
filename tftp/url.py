"""TFTP URLs (RFC 3617): text that a person types, to the place that it names, and back.

The RFC knows `tftp://host/name;mode=octet`. People also leave the scheme out, add a port (RFC 3986)
and write IPv6 addresses with a zone (RFC 6874); all of that is understood. A host stays a name
here: whether there is one is for the resolver to say.
"""

import re
from typing import NamedTuple

__all__ = ["DEFAULT_PORT", "Location", "parse"]

DEFAULT_PORT = 69  # RFC 1350, section 4
_MODES = ("octet", "netascii")  # RFC 3617, section 3; "mail" of RFC 1350 is obsolete.

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BRACKETED = re.compile(r"\[([^]]*)](.*)", re.DOTALL)
_IPV6 = re.compile(r"([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)(?:%(.+))?")
_MODE = re.compile(r";mode=([^;/]*)\Z", re.IGNORECASE)
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_MAX_PORT_DIGITS = 5

# RFC 3986, section 3.3: what a path holds unescaped, but for the ";" that begins our mode.
_PLAIN = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,=:@/"
)


class Location(NamedTuple):
    """A file on a TFTP server. `str` gives its URL, in printable ASCII wherever the host is.

    Attributes:
        host: a name, or an address without brackets ("fe80::1%eth0").
        port: 1 to 65535.
        filename: the name as it goes on the wire; it need not be UTF-8.
        mode: "octet" or "netascii".
    """

    host: str
    port: int
    filename: bytes
    mode: str = "octet"

    @property
    def basename(self) -> bytes:
        """The last component of the name, b"" where it ends in a slash.

        A backslash ends a component too: Windows loaders name files like that, and a name from
        elsewhere that becomes a local one must not hide a path.
        """
        return re.split(rb"[/\\]", self.filename)[-1]

    def __str__(self) -> str:
        host = self.host
        if ":" in host:
            address, percent, zone = host.partition("%")
            # RFC 6874: the percent sign in front of a zone is written as an escape.
            host = f"[{address}%25{zone}]" if percent else f"[{address}]"
        port = "" if self.port == DEFAULT_PORT else f":{self.port}"
        mode = "" if self.mode == "octet" else f";mode={self.mode}"
        return f"tftp://{host}{port}/{_escaped(self.filename)}{mode}"


def parse(text: str, *, upload: bytes = b"") -> Location:
    """The place that a URL names.

    The first slash behind the host is not part of the name: `tftp://h/x` names "x", and
    `tftp://h//x` names "/x" (RFC 3617, section 3).

    Args:
        text: with or without `tftp://`. Bytes of a command line that are no UTF-8 come as
            `os.fsdecode` gives them.
        upload: the base name of the file to send, for a URL that names only a directory.

    Raises:
        ValueError: one sentence that says what is wrong and what would be right.
    """
    scheme = _SCHEME.match(text)
    if scheme and scheme[1].lower() != "tftp":
        raise ValueError(f"the scheme {scheme[1]}:// is not TFTP: a URL here begins with tftp://")
    authority, _, path = text[scheme.end() if scheme else 0 :].partition("/")
    host, port = _host_and_port(authority)
    found = _MODE.search(path)
    mode = found[1].lower() if found else "octet"
    if mode not in _MODES:
        raise ValueError(f"the mode {mode!r} is unknown: write ;mode=octet or ;mode=netascii")
    filename = _unescaped(path[: found.start()] if found else path)
    if not filename or (upload and filename.endswith(b"/")):
        filename += upload
    if not filename:
        raise ValueError("the URL names no file: write it behind the host, as in tftp://host/name")
    if b"\0" in filename:
        raise ValueError("the file name holds a NUL (%00), which no TFTP name can")
    return Location(host, port, filename, mode)


def _host_and_port(authority: str) -> tuple[str, int]:
    if "@" in authority:
        raise ValueError("TFTP knows no user names: leave out what stands before the @")
    if authority.startswith("["):
        host, rest = _bracketed(authority)
    else:
        host, colon, port = authority.partition(":")
        if ":" in port:
            raise ValueError("an IPv6 address stands in brackets: tftp://[2001:db8::1]/name")
        rest = colon + port
    if not host:
        raise ValueError("the URL names no host: it is written as in tftp://host/name")
    if not host.isprintable() or " " in host:
        raise ValueError(f"{host!r} is no host name: it holds spaces or control characters")
    return host, _port(rest)


def _bracketed(authority: str) -> tuple[str, str]:
    parts = _BRACKETED.fullmatch(authority)
    if not parts:
        raise ValueError("the bracket before the IPv6 address is never closed: add a ]")
    address = _IPV6.fullmatch(parts[1])
    if not address:
        raise ValueError(f"{parts[1]!r} is no IPv6 address: brackets hold nothing else")
    zone = address[2]
    if zone is None:
        return address[1], parts[2]
    # RFC 6874 writes the zone behind "%25", people write it behind "%". "%25" alone is zone 25.
    return f"{address[1]}%{zone.removeprefix('25') or zone}", parts[2]


def _port(text: str) -> int:
    """The port of ":69"; the usual one of ""."""
    if not text:
        return DEFAULT_PORT
    digits = text.removeprefix(":")
    if text[0] == ":" and digits.isascii() and digits.isdigit() and len(digits) <= _MAX_PORT_DIGITS:
        port = int(digits)
        if 1 <= port <= 65535:
            return port
    raise ValueError(f"{digits!r} is no port: it is a number from 1 to 65535, as in host:6969/name")


def _unescaped(path: str) -> bytes:
    """The bytes of a path. A percent sign that begins no escape stands for itself."""
    raw = path.encode("utf-8", "surrogateescape")
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), raw)


def _escaped(filename: bytes) -> str:
    return "".join(chr(octet) if octet in _PLAIN else f"%{octet:02X}" for octet in filename)
