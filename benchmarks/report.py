"""The results in words: tables in Markdown, and what of the bar is reached.

It reads what a run has kept as JSON, and measures nothing: a report can be made again at any time.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.loads import LOADS, Bar, Load
from benchmarks.peers import SERVERS

__all__ = ["BEGIN", "END", "Verdict", "fastest", "insert", "render", "verdicts"]

#: Between these lines of a document stands what `insert` renews.
BEGIN = "<!-- benchmark: begin -->"
END = "<!-- benchmark: end -->"

Figures = dict[str, Any]

_OURS = [peer.name for peer in SERVERS if peer.ours]
_COMPARED = [peer.name for peer in SERVERS if not peer.ours and not peer.yardstick]
_YARDSTICK = next(peer.name for peer in SERVERS if peer.yardstick)
# A ratio that is short of the bar by less than the noise of a run is on it.
_NOISE = 0.03


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that one of our servers had to reach, and whether it did."""

    what: str
    wanted: str
    got: str
    reached: bool


# -- reading --------------------------------------------------------------------------------------


def sound(summary: Figures | None) -> bool:
    """Whether a server did all of its work, so that its figures may be compared."""
    return bool(summary and summary["value"] and not summary["failures"])


def fastest(summaries: Figures) -> str | None:
    """The fastest peer without a failure."""
    names = [name for name in _COMPARED if sound(summaries.get(name))]
    return max(names, key=lambda name: float(summaries[name]["value"]), default=None)


def thriftiest(summaries: Figures) -> str | None:
    """The peer without a failure that needs the least processor time per GB."""
    names = [
        name
        for name in _COMPARED
        if sound(summaries.get(name)) and summaries[name]["cpu_per_gb"] is not None
    ]
    return min(names, key=lambda name: float(summaries[name]["cpu_per_gb"]), default=None)


def verdicts(load: Load, name: str, summaries: Figures) -> Iterator[Verdict]:
    """What one of our servers had to reach under a load."""
    bar = load.bars.get(name)
    summary = summaries.get(name)
    if bar is None or summary is None or not summary.get("warm"):
        return
    rival = bar.of or fastest(summaries)
    if rival is not None and sound(summaries.get(rival)):
        ratio = summary["value"] / summaries[rival]["value"]
        reached = ratio >= bar.ratio * (1 - _NOISE) and sound(summary)
        yield Verdict(f"speed, of {rival}'s", f"{bar.ratio:g}", f"{ratio:.2f}", reached)
    yield from _thrift(bar, summary, summaries)
    yield from _modesty(bar, summary)


def _thrift(bar: Bar, summary: Figures, summaries: Figures) -> Iterator[Verdict]:
    rival = thriftiest(summaries)
    if bar.cpu is None or rival is None or not summary["cpu_per_gb"]:
        return
    share = summary["cpu_per_gb"] / summaries[rival]["cpu_per_gb"]
    what = f"CPU per GB, of {rival}'s"
    yield Verdict(what, f"{bar.cpu:.2f}", f"{share:.2f}", share <= bar.cpu * (1 + _NOISE))


def _modesty(bar: Bar, summary: Figures) -> Iterator[Verdict]:
    memory = summary["memory"]
    if bar.private is not None:
        private = memory["private"]
        reached = private <= bar.private
        yield Verdict("private MiB", f"{bar.private:g}", f"{private:.1f}", reached)
    if bar.child is not None and memory["processes"] > 1:
        child = memory["child"]
        yield Verdict("private MiB a child", f"{bar.child:g}", f"{child:.2f}", child <= bar.child)
    if bar.flawless:
        faults = summary["failures"] + summary["retransmissions"]
        yield Verdict("failures, retransmissions", "0", str(faults), not faults)


# -- writing --------------------------------------------------------------------------------------


def render(results: Figures) -> str:
    """The whole report."""
    parts = [_preamble(results)]
    servers = results.get("servers", {})
    if servers:
        parts += [_bar_table(servers), *_details(servers)]
    parts += [_clients(part) for part in results.get("clients", [])]
    if "start" in results:
        parts.append(_start(results["start"]))
    if results.get("loss"):
        parts.append(_loss(results["loss"]))
    if results.get("gap"):
        parts.append(_gap(results["gap"]))
    parts += [_memory(name, part) for name, part in results.get("memory", {}).items()]
    parts.append(_peers(results.get("peers", {})))
    return "\n\n".join(parts) + "\n"


def insert(document: Path, text: str) -> None:
    """Put the report between the two marks of a document.

    Raises:
        ValueError: it has no such marks.
    """
    before, begin, rest = document.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} has no lines {BEGIN} and {END}")
    document.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell or ' ' for cell in line)} |" for line in lines)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _preamble(results: Figures) -> str:
    machine = results["machine"]
    quick = ", **quick: sizes too small to mean much**" if results["quick"] else ""
    busy = [machine["load"][0], machine.get("load at the end", machine["load"])[0]]
    load = f"load average at the start {busy[0]}, at the end {busy[1]}"
    return (
        f"Measured {results['taken']} on {machine['processor']}, {machine['cores']} cores, Linux "
        f"{machine['kernel']}, CPython {machine['python']}, revision {machine['revision']}; "
        f"{results['rounds']} rounds, medians; {load}{quick}. MB are 1 000 000 octets."
    )


def _bar_table(servers: Figures) -> str:
    rows = []
    for load in LOADS:
        summaries = servers.get(load.key)
        if not summaries:
            continue
        rival = fastest(summaries)
        row = [f"{load.title} ({load.unit})"]
        row += [_our_cell(load, name, summaries) for name in _OURS]
        row.append(f"{rival} {_number(summaries[rival]['value'])}" if rival else "-")
        bare = summaries.get(_YARDSTICK)
        row.append(_number(bare["value"]) if sound(bare) and bare else "-")
        rows.append(row)
    head = ["load", *_OURS, "fastest peer", _YARDSTICK]
    lines = ["### Servers", "", _table(head, rows), "", "What had to be reached:", ""]
    return "\n".join([*lines, _verdict_table(servers)])


def _our_cell(load: Load, name: str, summaries: Figures) -> str:
    summary = summaries.get(name)
    rival = fastest(summaries)
    if not summary or not summary["value"]:
        return "-"
    ratio = f" ({summary['value'] / summaries[rival]['value']:.2f} x)" if rival else ""
    failed = f", {summary['failures']} failed" if summary["failures"] else ""
    return f"{_number(summary['value'])}{ratio}{failed}"


def _verdict_table(servers: Figures) -> str:
    rows = [
        [load.title, name, verdict.what, verdict.wanted, verdict.got, _yes(verdict.reached)]
        for load in LOADS
        for name in _OURS
        if load.key in servers
        for verdict in verdicts(load, name, servers[load.key])
    ]
    return _table(["load", "server", "what", "to reach", "reached", ""], rows)


def _yes(reached: bool) -> str:
    return "yes" if reached else "**no**"


def _details(servers: Figures) -> Iterator[str]:
    for load in LOADS:
        summaries = servers.get(load.key)
        if not summaries:
            continue
        per = "CPU µs each" if load.counts_transfers else "CPU s/GB"
        head = ["server", load.unit, "lowest - highest", "p99 ms", per]
        head += [
            "private MiB",
            "a child",
            "RSS MiB",
            "processes",
            "failed",
            "repeated",
            "granted",
            "remark",
        ]
        order = sorted(summaries, key=lambda name: -float(summaries[name]["value"]))
        rows = [_detail(load, name, summaries[name]) for name in order]
        yield f"#### {load.title}\n\n{_table(head, rows)}"


def _detail(load: Load, name: str, summary: Figures) -> list[str]:
    memory = summary["memory"] or {}
    granted = f"{summary['blksize']} x {summary['windowsize']}" if summary["blksize"] else "-"
    each = summary["cpu_per_transfer"]
    cpu = (each and each * 1e6) if load.counts_transfers else summary["cpu_per_gb"]
    return [
        name,
        _number(summary["value"]) if summary["value"] else "-",
        f"{_number(summary['lowest'])} - {_number(summary['highest'])}",
        _number(summary["p99"] * 1000),
        _number(cpu),
        _number(memory.get("private")),
        _number(memory.get("child") or None),
        _number(memory.get("resident")),
        str(memory.get("processes", "-")),
        str(summary["failures"]),
        str(summary["retransmissions"]),
        granted,
        summary["reason"].replace("|", "/"),
    ]


def _clients(part: Figures) -> str:
    what = f"`{part['verb']}` of {part['octets'] >> 20} MiB, whole command, server {part['server']}"
    clients = part["clients"]
    best = min(
        (one["seconds"] for name, one in clients.items() if name != "tftp" and one["seconds"]),
        default=0.0,
    )
    ours = clients.get("tftp", {}).get("seconds")
    rows = [
        [
            name,
            one["asks"],
            _number(one["seconds"]) if one["seconds"] else "-",
            _number(one["cpu"]) if one["seconds"] else "-",
            str(one["failures"]),
            one["reason"].replace("|", "/"),
        ]
        for name, one in clients.items()
    ]
    table = _table(["client", "asks for", "s", "CPU s", "failures", "remark"], rows)
    verdict = (
        f"\n\nThe fastest other client takes {best / ours:.2f} times as long as ours (to reach: 2)."
        if ours and best
        else ""
    )
    return f"### Clients: {what}\n\n{table}{verdict}"


def _start(figures: Figures) -> str:
    ratio = figures["get"] / figures["import"]
    return (
        "### Start\n\n"
        f"`tftp get` of 1 KiB, whole command: {figures['get'] * 1000:.0f} ms; "
        f'`python3 -c "import click, socket"`: {figures["import"] * 1000:.0f} ms; '
        f"`python3 -c pass`: {figures['python'] * 1000:.0f} ms. "
        f"Ratio to the second: {ratio:.2f} (to reach: under 1.5)."
    )


def _loss(scenes: Sequence[Figures]) -> str:
    names = list(dict.fromkeys(name for scene in scenes for name in scene["pairs"]))
    rows = []
    for scene in scenes:
        pairs = scene["pairs"]
        row = [f"{scene['title']}, {scene['octets'] >> 20} MiB"]
        row += [_goodput(pairs.get(name)) for name in names]
        row += list(_loss_verdict(scene))
        rows.append(row)
    head = ["link", *names, "to reach", "ratio"]
    return f"### Lossy links, KiB/s\n\n{_table(head, rows)}"


def _goodput(pair: Figures | None) -> str:
    if pair is None:
        return "-"
    if "runs" not in pair:
        return str(pair["reason"])
    failed = f" ({pair['failures']} of {pair['runs']} failed)" if pair["failures"] else ""
    return f"{_number(pair['goodput'])}{failed}"


def _loss_verdict(scene: Figures) -> tuple[str, str]:
    rival = scene["pairs"].get(scene["of"], {}).get("goodput")
    ours = scene["pairs"].get("tftpkit", {}).get("goodput")
    wanted = f"{scene['ratio']:g} x {scene['of']}" if scene["ratio"] else "-"
    if not scene["ratio"] or ours is None or rival is None:
        return wanted, "-"
    if not rival:
        # What it had not done in time bounds what it does.
        least = scene["octets"] / 1024 / scene["limit"]
        return wanted, f"over {ours / least:.1f}" if ours else "-"
    return wanted, f"{ours / rival:.1f}"


def _gap(figures: Figures) -> str:
    rows = []
    for name, one in figures.items():
        if "reason" in one:
            rows.append([name, "-", "-", "-", one["reason"]])
        else:
            extra = one["received"] - one["needed"]
            fault = one["fault"]
            rows.append([name, str(one["windowsize"]), str(one["received"]), str(extra), fault])
    head = ["server", "windowsize", "DATA received", "beyond the file's 34", "remark"]
    return (
        "### One DATA lost in a window of 16, and a receiver that ACKs every DATA behind it\n\n"
        f"{_table(head, rows)}"
    )


def _memory(name: str, figures: Figures) -> str:
    rows = [[f"one file of {size} MiB", _number(mib)] for size, mib in figures["sizes"].items()]
    rows += [
        [f"{count} transfers of 1 KiB", _number(mib)] for count, mib in figures["transfers"].items()
    ]
    if "reason" in figures:
        rows.append(["not measured", figures["reason"]])
    return f"### Memory: {name}\n\n{_table(['after', 'private MiB'], rows)}"


def _peers(peers: Figures) -> str:
    rows = [[name, one["made"], one["version"], one["remark"]] for name, one in peers.items()]
    return f"### Who took part\n\n{_table(['server', 'made of', 'version', 'remark'], rows)}"
