"""The dashboard and the alerts, held against real metrics, and run in a real Prometheus."""

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.monitor.operating import Watched
from tests.monitor.scraping import (
    TARGET_LABELS,
    Scrape,
    Selector,
    grouped_by,
    scrape,
    selectors,
    text_of,
)
from tests.watching import eventually
from tests.wirepeer import PATIENCE
from tftp.client import Client
from tftp.errors import PeerError
from tftp.monitor.metrics import Exposition, Metrics
from tftp.monitor.place import Place

DEPLOY = Path(__file__).parents[2] / "deploy"
DOCS = DEPLOY.parent / "docs"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
CASES = ALERTS.with_name("alerts_test.yml")
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "tftpkit.json").read_text())

#: What Grafana puts in for the variables of the dashboard, where "All" is chosen.
VARIABLES = {"$instance": ".*", "$operation": "read|write", "$__rate_interval": "1m"}

#: Made by Prometheus itself for each target.
OWN = {"up"}


def panels(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All panels, those in rows too."""
    for panel in found:
        yield panel
        yield from panels(panel.get("panels", []))


def queries() -> dict[str, str]:
    """The dashboard's queries with their variables filled in, by panel and letter."""
    found = {}
    for panel in panels(DASHBOARD["panels"]):
        for target in panel.get("targets", []):
            query = target["expr"]
            for variable, value in VARIABLES.items():
                query = query.replace(variable, value)
            assert "$" not in query, f"{query} has a variable that is not known here"
            found[f"{panel['title']} {target['refId']}"] = query
    return found


def alerts() -> dict[str, str]:
    """The alerts' conditions by name."""
    text = ALERTS.read_text()
    names = re.findall(r"^ *- alert: (\w+)$", text, re.MULTILINE)
    return dict(zip(names, re.findall(r"^ *expr: (.+)$", text, re.MULTILINE), strict=True))


QUERIES, CONDITIONS = queries(), alerts()


@pytest.fixture
def url(one: Watched) -> Iterator[str]:
    """The URL of the metrics of a server that has done a bit of everything."""
    exposition = Exposition(Metrics(one.board, one.server), Place.parse("0"))
    exposition.start()
    work(one)
    yield f"http://{exposition.place}/metrics"
    exposition.stop()


def work(watched: Watched) -> None:
    """A download, an upload and a refusal."""
    with Client(*watched.address[:2]) as client:
        client.get("large", bytearray())
        with suppress(PeerError):  # The second time it exists.
            client.put(b"new", "new")
        with pytest.raises(PeerError):
            client.get("missing", bytearray())


def missing(selector: Selector, scraped: Scrape) -> str | None:
    """What a query asks for that is not there; None where all of it is."""
    series = scraped.series(selector.name)
    if not series:
        return f"there is no {selector.name}"
    for matcher in selector.matchers:
        if matcher.label in TARGET_LABELS:
            continue
        if not all(matcher.label in labels for labels in series):
            return f"{selector.name} has no label {matcher.label}"
        series = [labels for labels in series if matcher.takes(labels[matcher.label])]
        if not series:
            return f"no {selector.name} has {matcher.label}{matcher.sign}{matcher.value}"
    return None


def test_every_query_reads_series_and_labels_that_are_there(url: str) -> None:
    scraped = scrape(url)
    for name, query in {**QUERIES, **CONDITIONS}.items():
        read = [selector for selector in selectors(query) if selector.name not in OWN]
        assert read or name == "TftpServerDown", name
        for selector in read:
            assert missing(selector, scraped) is None, name
        labels = {label for one in read for had in scraped.series(one.name) for label in had}
        assert grouped_by(query) <= labels | TARGET_LABELS, name


def test_legends_name_labels_that_the_query_has_left(url: str) -> None:
    scraped = scrape(url)
    for panel in panels(DASHBOARD["panels"]):
        for target in panel.get("targets", []):
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            names = {selector.name for selector in selectors(target["expr"])}
            had = {label for name in names for labels in scraped.series(name) for label in labels}
            left = grouped_by(target["expr"]) or had | TARGET_LABELS
            assert wanted <= left, panel["title"]


def test_what_finds_the_series_of_a_query_finds_all_of_them() -> None:
    query = (
        'histogram_quantile(0.9, sum by (le, job) (rate(a_bucket{x=~"b{2}|\\"",y!="c"}[5m]))) '
        "/ on (job) group_left (z) max_over_time(d:e[1h:5m]) > 1e3 and f unless sum(g)"
    )
    found = selectors(query)
    assert [selector.name for selector in found] == ["a_bucket", "d:e", "f", "g"]
    assert [(one.label, one.sign) for one in found[0].matchers] == [("x", "=~"), ("y", "!=")]
    assert found[0].matchers[0].takes("bb")
    assert not found[0].matchers[1].takes("c")
    assert grouped_by(query) == {"le", "job", "z"}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("rate(tftp_transfer_total[1m])", "there is no tftp_transfer_total"),
        ('tftp_requests_total{mode="octet"}', "tftp_requests_total has no label mode"),
        (
            'tftp_transfers_total{outcome="succeeded"}',
            "no tftp_transfers_total has outcome=succeeded",
        ),
    ],
)
def test_a_query_for_what_is_not_there_is_found_out(url: str, query: str, words: str) -> None:
    (selector,) = selectors(query)
    assert missing(selector, scrape(url)) == words


def test_every_panel_says_what_it_shows_and_none_lies_on_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    identifiers = set()
    for panel in panels(DASHBOARD["panels"]):
        identifiers.add(panel["id"])
        assert panel["type"] == "row" or panel["description"], panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    assert len(identifiers) == len(list(panels(DASHBOARD["panels"])))


def test_the_reference_lists_every_metric_with_its_type_and_labels(url: str) -> None:
    page = (DOCS / "reference" / "metrics.md").read_text()
    listed = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in re.findall(
            r"^\| `(tftp_\w+)` \| (\w+) \| (.+?) \|", page, re.MULTILINE
        )
    }
    exposed = {}
    for family in text_string_to_metric_families(text_of(url)):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        if name.startswith("tftp_"):
            exposed[name] = (family.type, labels)
        else:
            assert f"`{name}`" in page
    assert listed == exposed


def test_the_queries_of_the_how_to_read_what_is_there(url: str) -> None:
    page = (DOCS / "how-to" / "watch-a-server.md").read_text()
    (block,) = re.findall(r"^```\n(# Share.+?)^```", page, re.MULTILINE | re.DOTALL)
    found = selectors(re.sub(r"^#.*$", "", block, flags=re.MULTILINE))
    scraped = scrape(url)
    assert len(found) == 4
    assert [missing(selector, scraped) for selector in found] == [None] * 4
    for path in ("deploy/grafana/tftpkit.json", "deploy/prometheus/alerts.yml"):
        assert path in page
        assert (DEPLOY.parent / path).is_file()


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_accepts_the_alerts() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", str(ALERTS)],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert f"{len(CONDITIONS)} rules found" in done.stdout.decode()


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_each_alert_fires_when_it_should_and_only_then() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", CASES.name],
        cwd=CASES.parent,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    tested = re.findall(r"^ *- alertname: (\w+)$", CASES.read_text(), re.MULTILINE)
    assert set(tested) == CONDITIONS.keys()


def test_the_cases_of_the_alerts_are_about_series_that_are_there(url: str) -> None:
    scraped = scrape(url)
    series = re.findall(r"^ *- series: (.+)$", CASES.read_text(), re.MULTILINE)
    found = [one for line in series for one in selectors(line) if one.name not in OWN]
    assert len(found) > 10
    for selector in found:
        assert missing(selector, scraped) is None, selector


class Prometheus:
    """A real one, which scrapes some metrics five times a second."""

    def __init__(self, target: str, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._at = f"http://127.0.0.1:{free.getsockname()[1]}"
        config = folder / "prometheus.yml"
        config.write_text(
            json.dumps(  # JSON is YAML.
                {
                    "global": {"scrape_interval": "200ms", "evaluation_interval": "200ms"},
                    "rule_files": [str(ALERTS)],
                    "scrape_configs": [
                        {"job_name": "tftp", "static_configs": [{"targets": [target]}]}
                    ],
                }
            )
        )
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self._at.removeprefix('http://')}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._until_ready()

    def _until_ready(self) -> None:
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            said.append(line)
            if "Server is ready" in line:
                return
        pytest.fail("".join(said))

    def ask(self, what: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        answer = json.loads(text_of(f"{self._at}/api/v1/{what}?{urlencode(parameters)}"))
        assert answer["status"] == "success", answer
        return answer["data"]

    def result(self, query: str) -> list[dict[str, Any]]:
        """What a query gives now."""
        found: list[dict[str, Any]] = self.ask("query", query=query)["result"]
        return found

    def close(self) -> None:
        self._process.terminate()
        # It goes on talking until its end, and must not wait for somebody to listen.
        self._process.communicate(timeout=PATIENCE)


@pytest.fixture
def prometheus(url: str, tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus that reads the metrics."""
    folder = tmp_path / "prometheus"
    folder.mkdir()
    started = Prometheus(url.removeprefix("http://").removesuffix("/metrics"), folder)
    yield started
    started.close()


@pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed")
def test_a_real_prometheus_answers_every_query(one: Watched, prometheus: Prometheus) -> None:
    waiting = dict(QUERIES)

    def all_answered() -> bool:
        # A rate is that of something which goes on.
        work(one)
        for name, query in list(waiting.items()):
            if prometheus.result(query):
                del waiting[name]
        return not waiting

    assert eventually(all_answered), f"no answer to {waiting}"
    assert prometheus.result("sum(tftp_payload_bytes_total)")[0]["value"][1] != "0"
    labels = prometheus.ask("label/instance/values", **{"match[]": "tftp_build_info"})
    assert len(labels) == 1

    def all_evaluated() -> bool:
        (group,) = prometheus.ask("rules")["groups"]
        return all(rule["health"] == "ok" for rule in group["rules"])

    assert eventually(all_evaluated)
    firing = {alert["labels"]["alertname"] for alert in prometheus.ask("alerts")["alerts"]}
    assert firing <= {"TftpFilesMissing"}  # A third of the requests are for what is not there.
