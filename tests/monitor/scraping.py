"""What Prometheus would read: scrapes, and the selectors in its queries."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple
from urllib.request import Request, urlopen

from prometheus_client.parser import text_string_to_metric_families

from tests.wirepeer import PATIENCE

__all__ = ["Scrape", "Selector", "grouped_by", "scrape", "selectors", "text_of"]

#: What Prometheus adds to every series.
TARGET_LABELS = frozenset({"instance", "job"})

_STRING = r'"(?:[^"\\]|\\.)*"'
_GROUPS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(
    rf"(?<![\w.])([a-zA-Z_:][\w:]*)\s*(?:\{{((?:[^}}\"]|{_STRING})*)\}})?(?!\s*\(|[\w:])"
)
_MATCHER = re.compile(rf"(\w+)\s*(=~|!~|!=|=)\s*({_STRING})")
_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan"})


class Matcher(NamedTuple):
    """A condition on a label."""

    label: str
    sign: str
    value: str

    def takes(self, text: str) -> bool:
        """Whether a label's value passes."""
        equal = (
            re.fullmatch(self.value, text) is not None if "~" in self.sign else self.value == text
        )
        return equal is not self.sign.startswith("!")


class Selector(NamedTuple):
    """A name of series, with conditions."""

    name: str
    matchers: tuple[Matcher, ...]


@dataclass(frozen=True)
class Scrape:
    """The samples of a scrape: values by name and labels."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the series of this name that have these labels; fails where there are none."""
        found = [
            value
            for (known, those), value in self.samples.items()
            if known == name and labels.items() <= dict(those).items()
        ]
        assert found, f"no series {name} with {labels}"
        return sum(found)

    def series(self, name: str) -> list[dict[str, str]]:
        """The labels of each series of this name."""
        return [dict(labels) for known, labels in self.samples if known == name]

    @property
    def growing(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """The samples that never become less."""
        ends = ("_total", "_count", "_bucket", "_sum")
        return {key: value for key, value in self.samples.items() if key[0].endswith(ends)}


def text_of(url: str, accept: str = "text/plain") -> str:
    """What is answered there."""
    request = Request(url, headers={"Accept": accept})  # noqa: S310  (it is ours, and http)
    with urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
        text: str = answer.read().decode()
    return text


def scrape(url: str) -> Scrape:
    """A scrape, read as Prometheus' own library reads it."""
    samples = {}
    for family in text_string_to_metric_families(text_of(url)):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in samples, f"{key} is there twice"
            samples[key] = sample.value
    return Scrape(samples)


def selectors(query: str) -> list[Selector]:
    """The series that a query of PromQL reads."""
    plain = re.sub(r"\[[^\]]*\]", "", _GROUPS.sub(" ", query))
    found = []
    for name, conditions in _SELECTOR.findall(plain):
        if name.lower() not in _WORDS:
            matchers = tuple(
                Matcher(label, sign, value[1:-1].replace("\\\\", "\\"))
                for label, sign, value in _MATCHER.findall(conditions)
            )
            found.append(Selector(name, matchers))
    return found


def grouped_by(query: str) -> set[str]:
    """The labels that a query groups or joins by."""
    groups: Iterable[str] = _GROUPS.findall(query)
    return {label.strip() for group in groups for label in group.split(",") if label.strip()}
