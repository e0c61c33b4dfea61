"""What may come down a wire: octets of all sorts, many of them almost an order."""

import json

from hypothesis import strategies as st

from tftp.monitor.orders import ORDERS

__all__ = ["ANYTHING"]

_WORDS = st.sampled_from(list(ORDERS))
_NAMES = st.sampled_from(["command", "id", "kinds", "rate", "transfer", "token", "level"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=6,
)

#: A line without its end; it may have ends inside.
ANYTHING = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.builds(lambda word, tail: word.encode() + b" " + tail, _WORDS, st.binary(max_size=30)),
    st.builds(lambda word, tail: f"{word} {tail}".encode(), _WORDS, st.text("=1 az", max_size=20)),
    st.dictionaries(_NAMES, _VALUES, max_size=4).map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda word, value: json.dumps({"command": word, **value}).encode(),
        _WORDS,
        st.dictionaries(_NAMES, _VALUES, max_size=3),
    ),
    st.just(b'{"command":' + b"[" * 4000),
    st.just(b'{"id": ' + b"9" * 4000 + b"}"),
    st.just(b"x" * 9000),
)
