"""URLs as people type them, and the way back (RFC 3617)."""

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tftp.url import Location, parse


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("tftp://example.com/myconfigurationfile", ("example.com", 69, b"myconfigurationfile")),
        ("TFTP://example.com/x", ("example.com", 69, b"x")),
        ("example.com/x", ("example.com", 69, b"x")),
        ("example.com:6969/boot/x", ("example.com", 6969, b"boot/x")),
        ("192.0.2.7:1/x", ("192.0.2.7", 1, b"x")),
        ("tftp://[2001:db8::1]/x", ("2001:db8::1", 69, b"x")),
        ("[::1]:6969/path", ("::1", 6969, b"path")),
        ("[::ffff:192.0.2.7]/x", ("::ffff:192.0.2.7", 69, b"x")),
        ("[fe80::1%eth0]/x", ("fe80::1%eth0", 69, b"x")),
        ("tftp://[fe80::1%25eth0]:70/x", ("fe80::1%eth0", 70, b"x")),
        ("tftp:6969/x", ("tftp", 6969, b"x")),
    ],
)
def test_a_url_names_host_port_and_file(text: str, location: tuple[str, int, bytes]) -> None:
    assert parse(text) == Location(*location, mode="octet")


def test_a_zone_that_is_the_number_25_is_not_taken_for_an_escape() -> None:
    assert parse("[fe80::1%25]/x").host == "fe80::1%25"
    assert parse(str(parse("[fe80::1%25]/x"))).host == "fe80::1%25"


def test_the_first_slash_behind_the_host_is_not_part_of_the_name() -> None:
    assert parse("tftp://h/x").filename == b"x"
    assert parse("tftp://h//x").filename == b"/x"
    assert parse("tftp://h/dir//x/").filename == b"dir//x/"


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        ("", "octet"),
        (";mode=octet", "octet"),
        (";mode=netascii", "netascii"),
        (";MODE=NetASCII", "netascii"),
    ],
)
def test_the_mode_stands_behind_the_name(suffix: str, mode: str) -> None:
    assert parse(f"tftp://h/x{suffix}") == Location("h", 69, b"x", mode)


def test_a_semicolon_that_begins_no_mode_belongs_to_the_name() -> None:
    assert parse("h/a;b").filename == b"a;b"
    assert parse("h/a;mode=x/b").filename == b"a;mode=x/b"
    assert parse("h/a%3Bmode=netascii") == Location("h", 69, b"a;mode=netascii", "octet")


def test_question_mark_and_hash_belong_to_the_name() -> None:
    assert parse("tftp://h/a?b#c").filename == b"a?b#c"


def test_escapes_become_bytes_that_need_not_be_utf8() -> None:
    assert parse("h/pxelinux.0%ff%D1").filename == b"pxelinux.0\xff\xd1"
    assert parse("h/%C3%A4").filename == "ä".encode()
    assert parse("h/ä").filename == "ä".encode()


def test_bytes_of_a_command_line_that_are_no_utf8_reach_the_wire_unchanged() -> None:
    assert parse(os.fsdecode(b"h/\xe4.bin")).filename == b"\xe4.bin"


def test_a_percent_sign_that_begins_no_escape_stands_for_itself() -> None:
    assert parse("h/100%").filename == b"100%"
    assert parse("h/%zz%4").filename == b"%zz%4"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "names no host"),
        ("tftp://", "names no host"),
        ("tftp:///x", "names no host"),
        (":69/x", "names no host"),
        ("/x", "names no host"),
        ("h", "names no file"),
        ("tftp://h/", "names no file"),
        ("tftp://h/;mode=octet", "names no file"),
        ("http://h/x", "http:// is not TFTP"),
        ("h:/x", "'' is no port"),
        ("h:0/x", "'0' is no port"),
        ("h:65536/x", "'65536' is no port"),
        ("h:tftp/x", "'tftp' is no port"),
        ("h:+69/x", "is no port"),
        ("h:٦٩/x", "is no port"),
        ("h:" + "9" * 5000 + "/x", "is no port"),
        ("[::1]69/x", "is no port"),
        ("::1/x", "stands in brackets"),
        ("2001:db8::1/x", "stands in brackets"),
        ("[::1/x", "never closed"),
        ("[192.0.2.1]/x", "is no IPv6 address"),
        ("[example.com]/x", "is no IPv6 address"),
        ("[fe80::1%]/x", "is no IPv6 address"),
        ("h/x;mode=mail", "the mode 'mail' is unknown"),
        ("h/x;mode=", "the mode '' is unknown"),
        ("me@h/x", "no user names"),
        ("a b/x", "no host name"),
        ("a\x1b[2J/x", "no host name"),
        ("h/a%00b", "NUL"),
    ],
)
def test_what_is_no_tftp_url_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as refusal:
        parse(text)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("text", ["h", "h/", "h/;mode=octet"])
def test_an_upload_lends_its_name_to_a_url_without_one(text: str) -> None:
    assert parse(text, upload=b"my.cfg").filename == b"my.cfg"


def test_an_upload_lends_its_name_to_a_directory_but_not_to_a_file() -> None:
    assert parse("h/configs/", upload=b"my.cfg").filename == b"configs/my.cfg"
    assert parse("h/configs", upload=b"my.cfg").filename == b"configs"


@pytest.mark.parametrize(
    ("name", "last"),
    [
        (b"x", b"x"),
        (b"/boot/x", b"x"),
        (b"boot/", b""),
        (b"\\Boot\\BCD", b"BCD"),
        (b"a/..", b".."),
        (b"a\\../b\\c", b"c"),
    ],
)
def test_the_base_name_is_the_last_component(name: bytes, last: bytes) -> None:
    assert Location("h", 69, name).basename == last


@pytest.mark.parametrize(
    ("location", "text"),
    [
        (Location("h", 69, b"x"), "tftp://h/x"),
        (Location("h", 6969, b"/x"), "tftp://h:6969//x"),
        (Location("::1", 69, b"x", "netascii"), "tftp://[::1]/x;mode=netascii"),
        (Location("fe80::1%eth0", 70, b"x"), "tftp://[fe80::1%25eth0]:70/x"),
        (
            Location("h", 69, b"a;mode=octet \x1b\xff%?#"),
            "tftp://h/a%3Bmode=octet%20%1B%FF%25%3F%23",
        ),
    ],
)
def test_a_location_gives_its_url_back(location: Location, text: str) -> None:
    assert str(location) == text
    assert parse(text) == location


names = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True)
addresses = st.ip_addresses().map(str)
zoned = st.tuples(st.ip_addresses(v=6), st.from_regex(r"[A-Za-z0-9._-]{1,15}", fullmatch=True)).map(
    lambda parts: f"{parts[0]}%{parts[1]}"
)
locations = st.builds(
    Location,
    host=names | addresses | zoned,
    port=st.integers(1, 65535),
    filename=st.binary(min_size=1).filter(lambda name: b"\0" not in name),
    mode=st.sampled_from(["octet", "netascii"]),
)


@given(locations)
def test_every_location_survives_its_url(location: Location) -> None:
    text = str(location)
    assert text.isascii()
    assert text.isprintable()
    assert parse(text) == location
    assert parse(text.removeprefix("tftp://")) == location


@given(st.text() | st.text("tfp:/[]%025;mode=@\\h "))
def test_any_text_is_a_location_or_a_value_error(text: str) -> None:
    try:
        location = parse(text)
    except ValueError:
        return
    assert parse(str(location)) == location
