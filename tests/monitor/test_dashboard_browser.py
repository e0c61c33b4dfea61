"""The page in a real browser, used as a person would: with eyes, a mouse, a keyboard, on a phone.

Each look at it also leaves a picture in the test's directory (`pytest --basetemp=FOLDER` says
where), for people to judge what no test can.
"""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.monitor.browsing import TOKEN, Served, page_of
from tests.monitor.chromium import DESKTOP, PHONE, Browser, chromium
from tests.monitor.crowd import Reader, crowd
from tests.monitor.impostor import GREETING, Impostor
from tests.monitor.operating import Watched, watched
from tests.wirepeer import WirePeer
from tftp.monitor.board import Board
from tftp.packets import Error

SCREENS = [
    pytest.param(DESKTOP, False, id="desktop-light"),
    pytest.param(DESKTOP, True, id="desktop-dark"),
    pytest.param(PHONE, False, id="phone-light"),
    pytest.param(PHONE, True, id="phone-dark"),
]
#: What somebody who does not see the page must be told the name of.
USED = {"button", "searchbox", "textbox", "combobox", "progressbar", "table", "image", "tab"}
HOSTS = [f"127.0.0.{number}" for number in range(11, 19)]
# What is wider than what it stands in, so that somebody would have to scroll sideways.
_HIDDEN = """
const wide = [document.documentElement, ...document.querySelectorAll(".card")];
return wide.filter((one) => one.scrollWidth > one.clientWidth)
  .map((one) => `${one.className || one.tagName}: ${one.scrollWidth} in ${one.clientWidth}`);
"""


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests: it takes seconds to start."""
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(chrome: Browser) -> Iterator[Browser]:
    """The browser, which must have nothing to complain of."""
    yield chrome
    complaints = chrome.complaints()
    # The next test's page would find this one's gone, and say so.
    chrome.driver.get("about:blank")
    assert complaints == []


@pytest.fixture
def page(one: Watched) -> Iterator[Served]:
    """A page that takes orders from whoever has the token."""
    with page_of([one.place], token=TOKEN) as served:
        yield served


def running(browser: Browser) -> list[str]:
    """The files of the running transfers, from top to bottom."""
    return browser.texts("#transfers td.file .main")


def bars(browser: Browser) -> list[float]:
    """How far the running transfers are, from 0 to 1, by their bars."""
    script = "return [...document.querySelectorAll('progress')].map((one) => one.position)"
    positions: list[float] = browser.run(script)
    return positions


@contextmanager
def busy(one: Watched) -> Iterator[list[Reader]]:
    """A server in the middle of the morning: some fetch, some have, some failed."""
    with ExitStack() as stack:
        for name in ("small", "empty"):
            stack.enter_context(WirePeer(one.address, host="127.0.0.9")).read(name)
        for name in ("pxelinux.cfg/01-52-54-00-12-34-56", "pxelinux.cfg/default", "../shadow"):
            peer = stack.enter_context(WirePeer(one.address, host="127.0.0.10"))
            peer.rrq(name)
            assert isinstance(peer.receive(), Error)
        readers = stack.enter_context(crowd(one.address, dict.fromkeys(HOSTS, "large")))
        for windows, reader in enumerate(readers, 3):
            reader.advance(8 * windows)
        yield readers


# -- looks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "dark"), SCREENS)
def test_a_busy_page_can_be_read_on_any_screen(
    one: Watched,
    page: Served,
    browser: Browser,
    tmp_path: Path,
    size: tuple[int, int],
    dark: bool,
) -> None:
    with busy(one) as readers:
        browser.show(page.url, size=size, dark=dark)
        browser.until(lambda: len(running(browser)) == len(readers))
        browser.until(lambda: len(browser.texts("#failures li")) == 3)
        browser.until(lambda: browser.text("#total-done") == "2")
        assert browser.text("#total-running") == "8"
        assert browser.text("#total-refused") == "and 3 refused"
        assert browser.text("#link-text") == "Live"
        assert browser.run("return document.title").startswith("8 running")
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        assert browser.faint() == []
        browser.until(lambda: all(0 < bar < 1 for bar in bars(browser)))
        browser.photograph(tmp_path / "busy.png")


def test_whatever_the_width_and_whatever_clients_say_nothing_is_out_of_sight(
    one: Watched, browser: Browser, tmp_path: Path
) -> None:
    name, reason = "n" * 250, "r" * 900
    gone = f"unix:{tmp_path}/{'m' * 60}"
    with busy(one) as readers, page_of([one.place, gone], token=TOKEN) as page:
        for number in range(8):
            with WirePeer(one.address) as peer:
                peer.rrq(f"{name}{number}")
                peer.receive()
        with WirePeer(one.address) as peer:
            peer.rrq("large")
            peer.receive()
            peer.send(Error(0, reason))
        browser.show(page.url)
        browser.until(lambda: len(running(browser)) == len(readers))
        browser.until(lambda: any("r" * 150 in said for said in browser.texts("#failures strong")))
        for width in (320, 390, 690, 720, 820, 990, 1010, 1100, 1250, 1370, 1400, 1920):
            browser.look(size=(width, 1000))
            for tab in ("clients", "files", "endings", "errors"):
                # A click would scroll to it first.
                browser.run("document.getElementById(arguments[0]).click()", f"tab-{tab}")
                hidden = browser.run(_HIDDEN)
                assert hidden == [], (width, tab)
            browser.photograph(tmp_path / f"{width}.png")
        # One that talks much does not drive the others off the list.
        heights = browser.run(
            "return [...document.querySelectorAll('#failures li')].map((one) => one.offsetHeight)"
        )
        assert max(heights) < 200


@pytest.mark.parametrize(("size", "dark"), SCREENS)
def test_an_empty_page_says_what_to_do(
    one: Watched,
    page: Served,
    browser: Browser,
    tmp_path: Path,
    size: tuple[int, int],
    dark: bool,
) -> None:
    with WirePeer(one.address) as peer:
        peer.read("small")
    browser.show(page.url, size=size, dark=dark)
    host, port = one.address
    command = f"tftp get tftp://{host}:{port}/small"
    browser.until(lambda: browser.text("#running-empty-command") == command)
    assert browser.text("#failures-empty") == "Nothing has failed."
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.faint() == []
    browser.photograph(tmp_path / "empty.png")


def test_whatever_can_be_used_has_a_name_and_every_table_says_what_it_holds(
    one: Watched, page: Served, browser: Browser
) -> None:
    with busy(one) as readers:
        browser.show(page.url)
        browser.until(lambda: len(running(browser)) == len(readers))
        nameless = [role for role, name in browser.accessible() if role in USED and not name]
        assert nameless == []
        roles = {role for role, _ in browser.accessible("#transfers")}
        assert {"table", "row", "columnheader", "cell"} <= roles
        # A phone shows the rows as cards; who listens still has a table.
        browser.look(size=PHONE)
        roles = {role for role, _ in browser.accessible("#transfers")}
        assert {"table", "row", "cell"} <= roles


def test_a_name_is_text_whatever_it_says(one: Watched, page: Served, browser: Browser) -> None:
    name = "<img src=x onerror=document.title='gone'><script>document.title='gone'</script>"
    with WirePeer(one.address) as peer:
        peer.rrq(name)
        peer.receive()
    browser.show(page.url)
    browser.until(lambda: browser.texts("#failures .file") == [name])
    assert browser.all("#failures img, #failures script") == []
    assert browser.run("return document.title") != "gone"


def test_the_page_asks_nobody_but_its_own_server(page: Served, browser: Browser) -> None:
    browser.show(page.url)
    browser.until(lambda: browser.text("#link-text") == "Live")
    asked = browser.run("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert asked
    assert all(url.startswith(page.url) for url in asked)


# -- use -------------------------------------------------------------------------------------------


def test_the_table_moves_as_the_transfers_do(one: Watched, page: Served, browser: Browser) -> None:
    with crowd(one.address, {"127.0.0.11": "large"}) as [reader]:
        browser.show(page.url)
        browser.until(lambda: running(browser) == ["large"])
        reader.advance(46)
        assert reader.octets * 2 > 1 << 20
        browser.until(lambda: browser.run("return document.querySelector('progress').value") > 0.4)
        reader.advance(1000)
        browser.until(lambda: running(browser) == [])
    browser.find("#tab-endings").click()
    browser.until(lambda: browser.texts("#endings td.labelled") == ["done"])


def test_columns_sort_and_the_filter_filters(one: Watched, page: Served, browser: Browser) -> None:
    wanted = {"127.0.0.11": "large", "127.0.0.12": "small", "127.0.0.13": "large"}
    with crowd(one.address, wanted):
        browser.show(page.url)
        browser.until(lambda: len(running(browser)) == 3)
        by_file = browser.find("#transfers th:first-child button")
        by_file.click()
        browser.until(lambda: running(browser) == ["large", "large", "small"])
        by_file.send_keys(Keys.ENTER)
        browser.until(lambda: running(browser) == ["small", "large", "large"])
        assert browser.find("#transfers th").get_attribute("aria-sort") == "descending"
        browser.find("#filter").send_keys("0.12")
        browser.until(lambda: running(browser) == ["small"])
        browser.find("#filter").send_keys("3")
        browser.until(lambda: "fits the filter" in browser.text("#running-empty-title"))


def test_the_tabs_are_walked_with_the_arrow_keys(page: Served, browser: Browser) -> None:
    browser.show(page.url)
    browser.find("#tab-clients").click()
    for key, tab in ((Keys.RIGHT, "files"), (Keys.END, "errors"), (Keys.RIGHT, "clients")):
        browser.driver.switch_to.active_element.send_keys(key)
        assert browser.driver.switch_to.active_element.get_attribute("id") == f"tab-{tab}"
        assert [one.get_attribute("id") for one in browser.all("[role=tabpanel]")] == [
            f"panel-{tab}"
        ]


def test_each_client_has_a_row_with_what_it_did_and_does(
    one: Watched, page: Served, browser: Browser
) -> None:
    with WirePeer(one.address, host="127.0.0.11") as peer:
        peer.read("small")
    with crowd(one.address, {"127.0.0.11": "large", "127.0.0.12": "large"}):
        browser.show(page.url)
        browser.until(
            lambda: (
                [row.split()[:2] for row in browser.texts("#clients tbody tr")]
                == [["127.0.0.11", "1"], ["127.0.0.12", "1"]]
            )
        )
    assert "700 B" in browser.texts("#clients tbody tr")[0]


def test_cancelling_asks_first_and_wants_the_token(
    one: Watched, page: Served, browser: Browser, tmp_path: Path
) -> None:
    with crowd(one.address, {"127.0.0.11": "large"}):
        browser.show(page.url)
        browser.until(lambda: running(browser) == ["large"])
        browser.find("#transfers .act button").click()
        assert browser.text("#dialog-title") == "Cancel this transfer?"
        secret = browser.find("#dialog-secret")
        secret.send_keys("a guess", Keys.ENTER)
        browser.until(lambda: browser.text("#dialog-error") == "This is not the token.")
        assert running(browser) == ["large"]
        assert browser.faint() == []
        browser.photograph(tmp_path / "dialog.png")
        # The browser writes each refusal into its log.
        assert all("403" in complaint for complaint in browser.complaints())
        secret.clear()
        secret.send_keys(TOKEN, Keys.ENTER)
        browser.until(lambda: running(browser) == [])
    browser.until(
        lambda: browser.texts("#failures strong") == ["aborted: cancelled by the operator"]
    )
    kept = "return [{...sessionStorage}, {...localStorage}, document.cookie, location.href]"
    assert browser.run(kept) == [{"tftp-token": TOKEN}, {}, "", page.url]
    browser.find("#key").click()
    assert browser.run(kept)[0] == {}


def test_a_server_is_drained_and_resumed_by_keyboard_alone(
    one: Watched, page: Served, browser: Browser
) -> None:
    browser.show(page.url)
    browser.until(lambda: browser.all("#servers .order"))
    order = browser.find("#servers .order")
    order.send_keys(Keys.ENTER)
    browser.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    browser.until(lambda: not browser.all("#dialog"))
    assert browser.driver.switch_to.active_element == order
    assert one.server.state == "serving"
    order.send_keys(Keys.ENTER)
    browser.driver.switch_to.active_element.send_keys(TOKEN, Keys.ENTER)
    browser.until(lambda: one.server.state == "draining")
    browser.until(lambda: browser.text("#servers .what").startswith("draining"))
    assert browser.text("#servers .order") == "Resume …"
    # The token is known now.
    browser.until(lambda: not browser.all("#dialog"))
    browser.find("#servers .order").send_keys(Keys.ENTER)
    assert not browser.all("#dialog-token")
    browser.find("#dialog-yes").send_keys(Keys.ENTER)
    browser.until(lambda: one.server.state == "serving")


def test_a_page_without_a_token_offers_nothing_to_do(one: Watched, browser: Browser) -> None:
    with page_of([one.place]) as page, crowd(one.address, {"127.0.0.11": "large"}):
        browser.show(page.url)
        browser.until(lambda: running(browser) == ["large"])
        assert browser.all("#servers .order, #transfers .act button, #key") == []
        assert "--monitor-token-file" in browser.text("#about")


def test_a_page_for_other_hosts_asks_for_the_token_before_it_shows_anything(
    one: Watched, browser: Browser
) -> None:
    with page_of([one.place], token=TOKEN, local=False) as page:
        browser.show(page.url)
        browser.until(lambda: browser.all("#dialog"))
        assert browser.text("#version") == ""
        assert all("401" in complaint for complaint in browser.complaints())
        browser.find("#dialog-secret").send_keys(TOKEN, Keys.ENTER)
        browser.until(lambda: browser.text("#link-text") == "Live")


def test_a_page_that_lost_its_server_says_so_and_comes_back(
    one: Watched, browser: Browser, tmp_path: Path
) -> None:
    with page_of([one.place]) as page:
        browser.show(page.url)
        browser.until(lambda: browser.text("#link-text") == "Live")
    browser.until(lambda: "reconnecting" in browser.text("#link-text"))
    assert browser.run("return document.body.className") == "away"
    browser.photograph(tmp_path / "away.png")
    with page_of([one.place], port=page.port):
        browser.until(lambda: browser.text("#link-text") == "Live")
        assert browser.run("return document.body.className") == ""
        assert all("ERR_" in complaint for complaint in browser.complaints())


def test_the_throughput_of_several_servers_lacks_none_of_them(browser: Browser) -> None:
    """They tell their numbers at different moments of a second."""
    with ExitStack() as stack:
        places = []
        for phase in (0.0, 0.3, 0.6):
            impostor = Impostor(_steady(int(time.time()) + phase))
            stack.callback(impostor.close)
            places.append(impostor.place)
        page = stack.enter_context(page_of(places))
        browser.show(page.url)
        browser.until(lambda: browser.text("#total-read") == "3.0 MB/s")
        until, seen = time.monotonic() + 1.2, set()
        while time.monotonic() < until:
            seen.add(browser.text("#total-read"))
        assert seen == {"3.0 MB/s"}


def _steady(began: float) -> bytes:
    """What a server tells that has sent a megabyte in each of two seconds."""
    board = Board()
    limits = {"max_transfers": 9, "max_blksize": 1428, "max_windowsize": 1}
    state = {"state": "serving", "limits": limits}
    lines = [{"event": "snapshot", **state, **board.snapshot(), "time": began}]
    for second in range(3):
        totals = board.totals() | {"time": began + second, "state": "serving"}
        totals["totals"]["read"]["counters"]["payload"] = second * 1_000_000
        lines.append({"event": "totals", **totals})
    return GREETING + b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def test_several_servers_are_seen_together_or_one_by_one(
    one: Watched, root: Path, browser: Browser, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        other = stack.enter_context(watched("threads", root))
        nobody = f"unix:{tmp_path}/nobody"
        page = stack.enter_context(page_of([one.place, other.place, nobody]))
        stack.enter_context(crowd(one.address, {"127.0.0.11": "large"}))
        stack.enter_context(crowd(other.address, {"127.0.0.12": "small"}))
        browser.show(page.url)
        browser.until(lambda: sorted(running(browser)) == ["large", "small"])
        assert [chip.split("\n")[0] for chip in browser.texts("#servers .what")][-1] == (
            "out of reach: No such file or directory"
        )
        browser.all("#servers .name")[2].click()
        browser.until(lambda: running(browser) == ["small"])
        assert browser.text("#total-running") == "1"
        browser.all("#servers .name")[0].click()
        browser.until(lambda: len(running(browser)) == 2)
        browser.photograph(tmp_path / "several.png")
