"""The full-screen view as lines: what is on them, and that they fit."""

import itertools
import re
from dataclasses import replace
from io import StringIO
from typing import Literal

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from tests.monitor.happening import Happening
from tests.monitor.staging import Stage
from tftp.errors import PeerError, Refused, TransferTimeout
from tftp.events import Operation, Outcome
from tftp.monitor.screen import amount, duration, lines, short

HERE, THERE = "192.0.2.1:6970", "[2001:db8::2]:6970"


@pytest.fixture
def stage() -> Stage:
    """One server; half of a transfer is done, an upload of unknown size runs, one has failed."""
    stage = Stage(HERE)
    stage.connect()
    half = Happening(7, b"boot/vmlinuz")
    upload = Happening(8, b"config.txt", "192.0.2.8", operation=Operation.WRITE)
    stage.tell(half.received(), half.started(), half.progress(1024, 1.0), half.progress(2048, 2.0))
    stage.tell(upload.received(1.0), upload.started(1.0, size=None))
    stage.tell(replace(upload.progress(1500, 2.0, retransmissions=3), size=None))
    stage.tell(Happening(6, b"missing.cfg", "192.0.2.9").refused(Refused("file not found", 1)))
    stage.totals(at=2.0)
    return stage


def busy(count: int = 60) -> Stage:
    """Two servers with plenty of everything, names in all letters, and a third that is away."""
    stage = Stage(HERE, THERE, "unix:/run/tftp/monitor")
    stage.connect(HERE)
    stage.connect(THERE)
    for number in range(count):
        name = ("ブート/ファイル" * (number % 7)).encode() + b"x%d.bin" % number
        happening = Happening(number, name, f"2001:db8:1234:5678:9abc:def0:1234:{number:x}")
        server = (HERE, THERE)[number % 2]
        stage.tell(happening.received(number), server=server)
        if number % 3:
            stage.tell(happening.started(number, size=4096), server=server)
            stage.tell(happening.progress(70 * number, number + 1.0), server=server)
        refused = Happening(1000 + number, b"\x1b[2J" * number, "192.0.2.9")
        stage.tell(refused.refused(at=number), server=server)
    stage.totals(HERE, at=70.0)
    stage.totals(THERE, at=71.0)
    stage.part("Connection refused", server="unix:/run/tftp/monitor")
    return stage


def line_with(screen: list[str], text: str) -> str:
    found = [line for line in screen if text in line]
    assert len(found) == 1, "\n".join(screen)
    return found[0]


def test_a_running_transfer_has_a_line_with_its_bar_rate_and_round_trip(stage: Stage) -> None:
    line = line_with(stage.screen(100), "boot/vmlinuz")
    assert re.fullmatch(
        r">       7 192\.0\.2\.7:49152       get boot/vmlinuz +"
        r"━+─+   50 %  1\.0 kB/s 2\.00 ms  2\.0 s",
        line,
    ), line
    assert line.count("━") == line.count("─") > 4


def test_a_transfer_of_unknown_size_tells_how_much_and_has_no_bar(stage: Stage) -> None:
    line = line_with(stage.screen(100), "config.txt")
    assert re.search(r"put config\.txt +1\.5 kB  1\.5 kB/s 2\.00 ms +-$", line), line


def test_a_wide_screen_tells_more(stage: Stage) -> None:
    line = line_with(stage.screen(200), "config.txt")
    assert re.search(r" 3 +- +1428x16 +1\.0 s$", line), line
    assert re.search(
        r"SERVER +STATE +ENGINE +RUN REQUESTS +DONE FAILED REFUSED +OUT +IN +SENT +TAKEN +REPEATS"
        r" +UP",
        stage.screen(200)[1],
    )
    assert re.fullmatch(
        r"  192\.0\.2\.1:6970 +serving +threads +2 +3 +0 +0 +1 +1\.0 kB/s +750 B/s"
        r" +2\.0 kB +1\.5 kB +3 +1:00 h",
        stage.screen(200)[2],
    ), stage.screen(200)[2]


def test_of_an_address_that_is_too_long_the_end_is_shown(stage: Stage) -> None:
    stage.tell(Happening(9, b"six", "2001:db8:1234:5678:9abc:def0:1234:77").received(2.0))
    assert re.search(r" …:def0:1234:77\]:49152 get six", line_with(stage.screen(100), "six"))
    assert re.search(r"  …c:def0:1234:77 get six", line_with(stage.screen(80), "six"))


def test_a_transfer_that_opens_says_so(stage: Stage) -> None:
    stage.tell(Happening(9, b"slow").received(2.0))
    assert re.search(r"get slow .* opens ", line_with(stage.screen(), "slow"))


@pytest.mark.parametrize(
    ("at", "words"), [(7.0, "idle 5 s"), (70.0, "idle 1:08"), (602.0, "idle"), (1e6, "idle")]
)
def test_a_transfer_that_stands_still_says_for_how_long(
    stage: Stage, at: float, words: str
) -> None:
    stage.totals(at=at)
    assert f" {words} 2.00 ms" in line_with(stage.screen(120), "vmlinuz")


def test_a_failure_has_a_line_with_its_reason(stage: Stage) -> None:
    stage.tell(
        Happening(10, b"a").ended(Outcome.TIMED_OUT, TransferTimeout("no answer for 20 s"), at=3.0),
        Happening(11, b"b").ended(Outcome.PEER_ERROR, PeerError("disk full", 3), at=4.0),
        Happening(12, b"c").ended(Outcome.STORAGE_ERROR, None, at=5.0),
    )
    screen = stage.screen(120)
    where = next(place for place, line in enumerate(screen) if line.startswith("─ failures"))
    told = [re.split(r" {2,}", line.strip())[-1] for line in screen[where + 1 :][:4]]
    assert told == [
        "storage",
        "ended by the client: disk full (3)",
        "client silent: no answer for 20 s (0)",
        "refused: file not found (1)",
    ]
    assert re.match(r"\d\d:\d\d:\d\d 192\.0\.2\.7:49152 +get c ", screen[where + 1])


def test_without_transfers_and_failures_it_says_so() -> None:
    stage = Stage(HERE)
    stage.connect()
    screen = stage.screen()
    assert line_with(screen, "no transfer is running")
    assert not any("▼" in line for line in screen)


def test_before_the_first_connection_nobody_knows_anything() -> None:
    screen = Stage(HERE).screen()
    assert "192.0.2.1:6970  not connected: not connected yet" in screen[2]
    assert line_with(screen, "there is no connection")
    *_, failures = Stage(HERE).report()
    assert failures.strip() == "nobody knows"


def test_a_lost_connection_shows_its_reason_and_when_it_is_made_again(stage: Stage) -> None:
    stage.part("Connection refused", retry=4.0)
    line = line_with(stage.screen(), HERE)
    assert "not connected: Connection refused, again in 4 s" in line
    stage.now += 3.9
    assert "connecting again" in line_with(stage.screen(), HERE)
    stage.part("this is not the token", retry=None)
    assert line_with(stage.screen(), HERE).rstrip().endswith("this is not the token")


def test_a_draining_server_says_so_in_a_word(stage: Stage) -> None:
    stage.state("draining")
    assert re.search(r"192\.0\.2\.1:6970 +draining ", line_with(stage.screen(), HERE))


@pytest.mark.parametrize(
    ("width", "height"),
    [(80, 24), (200, 50), (100, 30), (132, 43), (60, 12), (40, 8), (20, 4), (8, 2), (1, 1)],
)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_every_line_is_as_wide_as_the_screen_and_there_are_as_many_as_it_has(
    width: int, height: int, ascii_only: bool
) -> None:
    stage = busy()
    for keys in ((), ("end",), ("f",), ("tab",), ("c",), ("n",), ("?",)):
        stage.press(*keys)
        screen = stage.screen(width, height, ascii_only=ascii_only)
        assert len(screen) == height, keys
        assert {cell_len(line) for line in screen} == {width}, keys
        if ascii_only:
            assert "".join(screen).isascii()


@pytest.mark.parametrize("height", range(1, 30))
def test_no_height_is_too_small_for_many_servers(height: int) -> None:
    stage = Stage(*(f"192.0.2.{number}:6970" for number in range(1, 40)))
    for server in stage.names[:20]:
        stage.connect(server)
    screen = stage.screen(80, height)
    assert len(screen) == height
    if height > 12:
        assert re.search(r"and \d+ more, \d+ not connected", "\n".join(screen))


def test_the_cursor_is_on_the_screen_wherever_it_goes() -> None:
    stage = busy()
    for key in itertools.chain(["home"], ["down"] * 60, ["up"] * 60):
        stage.press(key)
        marked = [line for line in stage.screen() if line.startswith(">")]
        assert len(marked) == 1
        rows = stage.top.rows()
        place = stage.top.cursor(rows)
        assert place is not None
        assert f" {rows[place][1]['transfer']} " in marked[0]


def test_failures_get_the_room_when_they_are_asked_for() -> None:
    stage = busy()

    def failures() -> int:
        return sum(" refused: " in line for line in stage.screen(100, 40))

    before = failures()
    stage.press("f")
    assert failures() > before >= 5
    stage.press("f")
    assert failures() == before


def test_room_that_few_failures_do_not_need_goes_to_transfers(stage: Stage) -> None:
    for number in range(20, 40):
        stage.tell(Happening(number, b"more").received(3.0))
    stage.press("f")
    screen = stage.screen(100, 40)
    assert sum("more" in line for line in screen) == 20
    assert not any(line.isspace() for line in screen[: screen.index(line_with(screen, "refused:"))])


def test_the_key_that_sorts_is_marked_in_the_head() -> None:
    stage = busy()
    stage.press("s")
    assert "RATE▼" in "\n".join(stage.screen())
    stage.press("R")
    assert "RATE▲" in "\n".join(stage.screen())
    assert "sorted by rate, reversed" in "\n".join(stage.screen())
    assert "RATE*" in "\n".join(stage.screen(ascii_only=True))


def test_a_question_shows_its_keys_whatever_the_length_of_the_name() -> None:
    stage = Stage(HERE)
    stage.connect()
    stage.tell(Happening(1, b"long/" * 80).received())
    stage.press("c")
    for width in (40, 80):
        footer = stage.screen(width)[-1]
        assert footer.startswith("cancel get long/")
        assert footer.rstrip().endswith("y/n")


def test_the_keys_stand_on_the_last_line_and_fit_on_80_columns() -> None:
    footer = busy().screen(80)[-1].rstrip()
    assert footer.endswith("tab server")
    assert "tab" not in Stage(HERE).screen(80)[-1]


def test_the_sparkline_shows_the_throughput_and_a_server_without_any_has_none() -> None:
    stage = Stage(HERE)
    stage.connect()
    happening = Happening(1)
    stage.tell(happening.received(), happening.started())
    for at, payload in ((1.0, 1000), (2.0, 2000), (3.0, 2000), (4.0, 6000)):
        stage.tell(happening.progress(payload, at))
        stage.totals(at=at)
    assert stage.screen()[0].split("B/s")[1].rstrip()[:-8].strip() == "▃▃ █"
    assert "█" not in stage.screen(ascii_only=True)[0]


def test_what_a_hostile_server_tells_can_not_reach_the_terminal(stage: Stage) -> None:
    evil = "\x1b]0;owned\x07\x9b2J\r\n\u202e"
    stage.part(evil)
    reached = "".join(stage.screen())
    assert not set(reached) & set(evil) - set("]0;owned2J")
    assert reached.isprintable()
    assert "\\x1b]0;owned\\x07\\u009b2J\\r\\n\\u202e" in reached


def test_what_is_printable_already_is_not_escaped_again(stage: Stage) -> None:
    stage.tell(Happening(20, b"\x1b[31m\\back").received())
    assert "\\x1b[31m\\\\back" in "\n".join(stage.screen())


def test_markup_in_a_name_is_only_text(stage: Stage) -> None:
    stage.tell(Happening(20, b"[bold red]x[/]").received())
    assert "[bold red]x[/]" in drawn(stage, color_system="standard")


def drawn(stage: Stage, *, color_system: Literal["standard"] | None, no_color: bool = False) -> str:
    """What a terminal is sent."""
    stream = StringIO()
    console = Console(
        file=stream,
        width=100,
        height=24,
        force_terminal=True,
        color_system=color_system,
        no_color=no_color,
    )
    console.print(Text("\n", no_wrap=True).join(lines(stage.top, stage.look(100, 24))))
    return stream.getvalue()


def test_a_terminal_without_colours_is_sent_none_and_shows_the_same() -> None:
    stage = busy()
    plain = drawn(stage, color_system=None)
    assert "\x1b" not in plain
    assert [line.rstrip() for line in plain.splitlines()] == [
        line.rstrip() for line in stage.screen(100)
    ]
    no_color = drawn(stage, color_system="standard", no_color=True)
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", no_color)
    assert re.search(r"\x1b\[3[0-7]|;3[0-7]m", drawn(stage, color_system="standard"))


def test_the_report_has_all_transfers_and_no_keys() -> None:
    stage = busy()
    report = stage.report()
    assert sum("get " in line and ".bin" in line for line in report) == 60
    assert sum("refused: " in line for line in report) == 10
    assert "quit" not in report[-1]
    assert not any(line.startswith(">") for line in report)


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.7, "1.0 kB"),
        (1536, "1.5 kB"),
        (99_940, "99.9 kB"),
        (99_960, "100 kB"),
        (999_600, "1.0 MB"),
        (3_500_000, "3.5 MB"),
        (7e12, "7.0 TB"),
    ],
)
def test_amounts_are_in_decimal_units(octets: float, words: str) -> None:
    assert amount(octets) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0"), (99_999, "99999"), (100_000, "100 k"), (1_234_567, "1.2 M"), (4e9, "4.0 G")],
)
def test_counts_fit_in_six_letters(number: int, words: str) -> None:
    assert short(number) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "-"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (727, "12:07"),
        (3599.6, "1:00 h"),
        (11_520, "3:12 h"),
        (1_036_800, "12 d"),
    ],
)
def test_durations_are_short(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words
    assert len(words) <= 6
