"""The results as one SVG: a panel for each load, a bar for each server. Plain text, no library."""

from html import escape
from typing import Any

from benchmarks.loads import LOADS, Load
from benchmarks.peers import SERVERS

__all__ = ["draw"]

_PANEL = 480
_COLUMNS = 2
_MARGIN = 20
_TITLE = 34
_ROW = 19
_LABEL = 128
_FIGURE = 92
_OURS = {peer.name for peer in SERVERS if peer.ours}
_YARDSTICKS = {peer.name for peer in SERVERS if peer.yardstick}
_COLOURS = {"ours": "#0b6e4f", "peer": "#8d99ae", "yardstick": "#d9c27c"}
_STYLE = (
    "text{font:12px sans-serif;fill:#222}.title{font-weight:bold}.figure,.label{font-size:11px}"
    ".label{text-anchor:end}.fault{fill:#a4161a}"
)


def draw(results: dict[str, Any]) -> str:
    """The chart of what a run has kept."""
    servers = results.get("servers", {})
    panels = [(load, servers[load.key]) for load in LOADS if servers.get(load.key)]
    heights = [_TITLE + _ROW * len(_order(summaries)) for _, summaries in panels]
    parts: list[str] = []
    top = _MARGIN
    for row in range(0, len(panels), _COLUMNS):
        for column, (load, summaries) in enumerate(panels[row : row + _COLUMNS]):
            left = _MARGIN + column * (_PANEL + _MARGIN)
            parts += _panel(load, summaries, left, top)
        top += max(heights[row : row + _COLUMNS]) + _MARGIN
    width = _MARGIN + _COLUMNS * (_PANEL + _MARGIN)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" role="img">',
            f"<style>{_STYLE}</style>",
            f'<rect width="{width}" height="{top}" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _order(summaries: dict[str, Any]) -> list[str]:
    """Those that were there, the fastest first."""
    present = [name for name, summary in summaries.items() if summary["warm"]]
    return sorted(present, key=lambda name: -float(summaries[name]["value"]))


def _panel(load: Load, summaries: dict[str, Any], left: int, top: int) -> list[str]:
    order = _order(summaries)
    most = max((float(summaries[name]["value"]) for name in order), default=0.0) or 1.0
    title = escape(f"{load.title} ({load.unit})")
    parts = [f'<text class="title" x="{left}" y="{top + 14}">{title}</text>']
    room = _PANEL - _LABEL - _FIGURE
    for number, name in enumerate(order):
        summary = summaries[name]
        y = top + _TITLE - 8 + number * _ROW
        width = room * float(summary["value"]) / most
        middle = y + 11
        bar = f'x="{left + _LABEL}" y="{y}" width="{width:.1f}" height="{_ROW - 5}"'
        parts += [
            f'<text class="label" x="{left + _LABEL - 6}" y="{middle}">{escape(name)}</text>',
            f'<rect {bar} fill="{_colour(name)}"/>',
            f'<text class="{_kind(summary)}" x="{left + _LABEL + width + 5:.1f}" y="{middle}">'
            f"{escape(_figure(summary))}</text>",
        ]
    return parts


def _colour(name: str) -> str:
    if name in _OURS:
        return _COLOURS["ours"]
    return _COLOURS["yardstick" if name in _YARDSTICKS else "peer"]


def _kind(summary: dict[str, Any]) -> str:
    return "figure fault" if summary["failures"] else "figure"


def _figure(summary: dict[str, Any]) -> str:
    value = float(summary["value"])
    text = f"{value:,.0f}".replace(",", " ") if value >= 10 else f"{value:.1f}"
    return f"{text}, {summary['failures']} failed" if summary["failures"] else text
