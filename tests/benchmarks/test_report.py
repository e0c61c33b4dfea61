"""The report: what it compares with, when the bar is reached, and that it can always be written."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chart import draw
from benchmarks.loads import LOADS, Bar, Load
from benchmarks.report import BEGIN, END, fastest, insert, render, verdicts

THREADS = "tftpkit threads"


def summary(value: float, **other: Any) -> dict[str, Any]:
    """What a server has reached, as a run keeps it."""
    usual: dict[str, Any] = {
        "warm": {"transfers": 1},
        "memory": {"private": 10.0, "child": 0.0, "resident": 20.0, "processes": 1},
        "reason": "",
        "value": value,
        "lowest": value,
        "highest": value,
        "p50": 0.001,
        "p99": 0.002,
        "cpu_per_gb": 3.0,
        "cpu_per_transfer": 0.0001,
        "failures": 0,
        "retransmissions": 0,
        "blksize": 1428,
        "windowsize": 1,
    }
    return {**usual, **other}


def load(bar: Bar) -> Load:
    return Load(key="x", title="x", file="1m", quick=("1m", 1, 1), bars={THREADS: bar})


def results(**servers: Any) -> dict[str, Any]:
    """What a run keeps, by load."""
    machine = {"processor": "a", "cores": 2, "kernel": "6", "python": "3", "revision": "r"}
    return {
        "taken": "today",
        "machine": {**machine, "load": [0.1, 0.1, 0.1]},
        "quick": False,
        "rounds": 3,
        "peers": {"atftpd": {"made": "C", "version": "1", "remark": "not installed"}},
        "servers": servers,
    }


def test_a_server_that_fails_and_the_yardstick_are_no_rivals() -> None:
    summaries = {
        "atftpd": summary(50),
        "dnsmasq": summary(90, failures=1),
        "bare C": summary(100),
        THREADS: summary(200),
    }
    assert fastest(summaries) == "atftpd"
    assert fastest({"bare C": summary(100)}) is None


@pytest.mark.parametrize(("ours", "reached"), [(299, True), (280, False), (301, True)])
def test_the_ratio_is_to_the_fastest_peer(ours: float, reached: bool) -> None:
    summaries = {"atftpd": summary(100), "tftp-hpa": summary(40), THREADS: summary(ours)}
    (verdict,) = verdicts(load(Bar(ratio=3.0)), THREADS, summaries)
    assert (verdict.reached, "atftpd" in verdict.what) == (reached, True)


def test_speed_with_failures_does_not_reach_the_bar() -> None:
    summaries = {"atftpd": summary(100), THREADS: summary(900, failures=1)}
    (verdict,) = verdicts(load(Bar(ratio=3.0)), THREADS, summaries)
    assert not verdict.reached


def test_processor_time_memory_and_flaws_are_judged_too() -> None:
    bar = Bar(ratio=1.0, cpu=1 / 3, private=40, flawless=True)
    summaries = {
        "atftpd": summary(100),
        THREADS: summary(100, cpu_per_gb=2.0, retransmissions=1),
    }
    judged = {verdict.what: verdict.reached for verdict in verdicts(load(bar), THREADS, summaries)}
    assert judged == {
        "speed, of atftpd's": True,
        "CPU per GB, of atftpd's": False,
        "private MiB": True,
        "failures, retransmissions": False,
    }


def test_a_child_s_memory_is_judged_by_itself() -> None:
    memory = {"private": 19.0, "child": 3.0, "resident": 29.0, "processes": 3}
    summaries = {"tftp-hpa": summary(1), THREADS: summary(1, memory=memory)}
    bar = Bar(ratio=1.0, of="tftp-hpa", child=2.0)
    *_, verdict = verdicts(load(bar), THREADS, summaries)
    assert (verdict.what, verdict.got, verdict.reached) == ("private MiB a child", "3.00", False)


def test_the_report_tells_who_is_missing_and_who_failed() -> None:
    failed = summary(0, warm={}, memory={}, failures=2, reason="it does | not answer")
    text = render(results(lock512={THREADS: summary(10), "atftpd": failed}))
    assert "not installed" in text
    assert "it does / not answer" in text
    assert "one client, lock-step, blksize 512" in text


def test_the_chart_is_well_formed_and_has_every_server() -> None:
    keys = [load.key for load in LOADS]
    servers = {THREADS: summary(10.5), "bare C": summary(20000), "<peer>": summary(5, failures=1)}
    chart = ET.fromstring(draw(results(**dict.fromkeys(keys, servers))))  # noqa: S314  (our own)
    words = [element.text for element in chart.iter() if element.text]
    assert words.count("<peer>") == len(LOADS)
    assert "20 000" in words
    assert "5.0, 1 failed" in words


def test_only_what_stands_between_the_marks_is_renewed(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    insert(document, "new\n")
    assert document.read_text() == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"


def test_a_document_without_marks_stays_as_it_is(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text("text\n")
    with pytest.raises(ValueError, match="has no lines"):
        insert(document, "new\n")
    assert document.read_text() == "text\n"
