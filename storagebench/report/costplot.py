"""What each run's training costs, as bars: accelerators that compute, accelerators that wait for data, and the storage. Amounts are `report --tta`'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final, NamedTuple

from storagebench.report.plotstyle import BLUE, GREY, PURPLE, VERMILLION, Figure, layout, short, six_digits
from storagebench.report.scaling import amount

Entry = Mapping[str, Any]
_ROW_PIXELS: Final = 34
_STORAGE: Final = ("keeping", "reading", "requests")


class Bar(NamedTuple):
    """A run's training at the fewest of its epochs, in the currency of the prices; `stalls` None where they are not known, `storage` where none of it has a price."""

    label: str
    computing: float
    stalls: float | None
    storage: float | None
    epochs: str
    total: str


def bars(entries: Sequence[Entry], names: Sequence[str]) -> list[Bar]:
    """Of the runs (an entry each) whose training has a cost."""
    return [_bar(entry, name) for entry, name in zip(entries, names, strict=True) if any(point["cost"] for point in entry["points"])]


def _bar(entry: Entry, name: str) -> Bar:
    points = [point for point in entry["points"] if point["cost"]]
    cost = points[0]["cost"]
    known = [cost[part] for part in _STORAGE if cost[part] is not None]
    epochs, totals = [str(point["epochs"]) for point in points], [amount(point["cost"]["total"]) for point in points]
    return Bar(
        label=short(name, entry["mark"]),
        computing=cost["accelerators"] - (cost["stalls"] or 0.0),
        stalls=cost["stalls"],
        storage=sum(known) if known else None,
        epochs=" to ".join(dict.fromkeys((epochs[0], epochs[-1]))),
        total=" to ".join(dict.fromkeys((totals[0], totals[-1]))),
    )


def cost(found: Sequence[Bar], currency: str) -> Figure:
    """A row a run; what a run does not know is no part of its bar."""
    rows = list(enumerate(found))
    kinds = (
        ("accelerators, not waiting", BLUE, [(y, bar.computing) for y, bar in rows if bar.stalls is not None]),
        ("accelerators, how far they wait is not known", GREY, [(y, bar.computing) for y, bar in rows if bar.stalls is None]),
        ("accelerators, waiting for data", VERMILLION, [(y, bar.stalls) for y, bar in rows if bar.stalls is not None]),
        ("storage", PURPLE, [(y, bar.storage) for y, bar in rows if bar.storage is not None]),
    )
    data = [_trace(name, colour, pairs, found, currency) for name, colour, pairs in kinds if pairs]
    chart = layout(escape(currency), 130 + _ROW_PIXELS * len(found))
    ticks = {"tickvals": [y for y, _ in rows], "ticktext": [bar.label for bar in found], "range": [len(found) - 0.4, -0.6]}
    chart["yaxis"] = {**ticks, "automargin": True, "zeroline": False, "showgrid": False, "ticklabelstandoff": 8, "fixedrange": True}
    longest = max(bar.computing + (bar.stalls or 0.0) + (bar.storage or 0.0) for bar in found)
    chart["xaxis"] |= {"range": [0, six_digits(1.3 * longest) or 1]}  # with room for the totals
    chart["barmode"] = "stack"
    chart["annotations"] = [_total(y, bar, currency) for y, bar in rows]
    return {"data": data, "layout": chart}


def _trace(name: str, colour: str, pairs: Sequence[tuple[int, float]], found: Sequence[Bar], currency: str) -> Figure:
    return {
        "type": "bar",
        "orientation": "h",
        "width": 0.68,
        "name": name,
        "x": [six_digits(value) for _, value in pairs],
        "y": [y for y, _ in pairs],
        "marker": {"color": colour, "line": {"color": "#FFFFFF", "width": 1}},
        "hovertext": [f"{found[y].label}<br>{name}: {amount(value)} {short(currency)}" for y, value in pairs],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _total(y: int, bar: Bar, currency: str) -> Figure:
    whole = bar.computing + (bar.stalls or 0.0) + (bar.storage or 0.0)
    text = f" {bar.total} {escape(currency)}, {bar.epochs} epoch{'' if bar.epochs == '1' else 's'}"
    return {"x": six_digits(whole), "y": y, "text": text, "showarrow": False, "xanchor": "left", "font": {"size": 12}}
