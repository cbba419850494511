"""The bar charts of the HTML page: how busy the accelerators were, and where the time of a step went. A row a run, grouped by decode level."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

from storagebench.report import wording as w
from storagebench.report.plotstyle import BLACK, BLUE, GREY, ORANGE, PURPLE, SOFT, VERMILLION, Figure, layout, short, six_digits
from storagebench.report.wording import Summary

PART_COLOURS: Final = {"fetch_s": VERMILLION, "compute_s": BLUE, "sync_wait_s": ORANGE, "sync_cost_s": PURPLE, "host_delay_s": GREY}
_ROW_PIXELS: Final = 34
_BAR_WIDTH: Final = 0.68  # of a row; plotly would choose a width for each trace from the distance of its own bars


class Row(NamedTuple):
    """A line of a bar chart: a run, or the heading of a decode level (`run_index` None)."""

    label: str
    run_index: int | None


def _rows(summaries: Sequence[Summary], names: Sequence[str]) -> list[Row]:
    groups = w.by_decode(summaries)
    rows: list[Row] = []
    for level, indices in groups:
        if len(groups) > 1:
            rows.append(Row(f"<b>decode {escape(level)}</b>", None))
        rows += [Row(short(names[index], w.mark(summaries[index])), index) for index in indices]
    return rows


def _bars_layout(rows: Sequence[Row], x_title: str) -> Figure:
    ticks = {"tickvals": list(range(len(rows))), "ticktext": [row.label for row in rows], "range": [len(rows) - 0.4, -0.6]}
    return {
        **layout(x_title, 130 + _ROW_PIXELS * len(rows)),
        "yaxis": {**ticks, "automargin": True, "zeroline": False, "showgrid": False, "ticklabelstandoff": 8, "fixedrange": True},
    }


def utilisation(summaries: Sequence[Summary], names: Sequence[str]) -> Figure:
    """AU of each run as a bar, with its threshold and the AU of the null loader."""
    rows = _rows(summaries, names)
    rated = [(y, summaries[row.run_index], names[row.run_index]) for y, row in enumerate(rows) if row.run_index is not None]
    kinds = (
        ("kept busy", BLUE, "", [item for item in rated if w.passes(item[1])]),
        ("below the threshold", VERMILLION, "", [item for item in rated if item[1]["valid"] and not w.passes(item[1])]),
        (f"invalid or incomplete {w.ERROR_MARK}", GREY, "/", [item for item in rated if not item[1]["valid"]]),
    )
    data = [_au_bars(*kind) for kind in kinds if any(item[1]["au_nominal"] is not None for item in kind[3])]
    known = [(y, s, name) for y, s, name in rated if s["au_nominal"] is not None]
    null = [(y, s, name) for y, s, name in rated if s["au_null"] is not None]
    threshold = {"symbol": "line-ns", "size": 24, "line": {"width": 2.5, "color": BLACK}}
    diamond = {"symbol": "diamond-open", "size": 10, "color": BLACK, "line": {"width": 1.5}}
    data.append(_marks("threshold", threshold, [(y, s["au_threshold"], name) for y, s, name in known]))
    data.append(_marks("AU of the null loader", diamond, [(y, s["au_null"], name) for y, s, name in null]))
    chart = _bars_layout(rows, "AU (accelerator utilisation)")
    chart["xaxis"] |= {"range": [0, 1.04], "dtick": 0.1, "tickformat": ".1f"}
    chart["barmode"] = "overlay"
    chart["annotations"] = [
        {"x": 0.005, "y": y, "text": _no_au(s), "showarrow": False, "xanchor": "left", "font": {"color": SOFT}}
        for y, s, _ in rated
        if s["au_nominal"] is None
    ]
    return {"data": data, "layout": chart}


def _no_au(summary: Summary) -> str:
    real = summary.get("training") is not None
    return "no AU: a real training step" if real else "no AU: nothing was computed or measured"


def _au_bars(name: str, colour: str, pattern: str, items: Sequence[tuple[int, Summary, str]]) -> Figure:
    items = [item for item in items if item[1]["au_nominal"] is not None]
    values = [item[1]["au_nominal"] for item in items]
    return {
        "type": "bar",
        "orientation": "h",
        "width": _BAR_WIDTH,
        "name": name,
        "x": values,
        "y": [item[0] for item in items],
        "text": [w.marked(w.utilisation(s["au_nominal"], s["au_threshold"]), w.mark(s)) for _, s, _ in items],
        "textposition": ["inside" if value > 0.15 else "outside" for value in values],
        "insidetextanchor": "start",
        "textangle": 0,
        "textfont": {"size": 13},
        "insidetextfont": {"color": BLACK if pattern else "#FFFFFF"},
        "marker": {"color": "#D8D8D8" if pattern else colour, "pattern": {"shape": pattern, "bgcolor": "#EEEEEE", "fgcolor": "#BDBDBD", "size": 8}},
        "hovertext": [escape(item[2]) for item in items],
        "hovertemplate": "%{hovertext}<br>AU %{x:.4f}<extra></extra>",
    }


def _marks(name: str, marker: Figure, points: Sequence[tuple[int, float, str]]) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [x for _, x, _ in points],
        "y": [y for y, _, _ in points],
        "marker": marker,
        "hovertext": [escape(label) for _, _, label in points],
        "hovertemplate": f"%{{hovertext}}<br>{name} %{{x:.4f}}<extra></extra>",
    }


def step_time(summaries: Sequence[Summary], names: Sequence[str]) -> Figure:
    """Where the window went, as shares that add up to it."""
    rows = _rows(summaries, names)
    shown = [(y, summaries[row.run_index], names[row.run_index]) for y, row in enumerate(rows) if row.run_index is not None]
    shown = [(y, s, name) for y, s, name in shown if s["window_s"] and s["fetch_s"] is not None]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "width": _BAR_WIDTH,
            "name": name,
            "x": [six_digits((s[key] or 0.0) / s["window_s"]) for _, s, _ in shown],
            "y": [y for y, _, _ in shown],
            "marker": {"color": PART_COLOURS[key], "line": {"color": "#FFFFFF", "width": 1}},
            "hovertext": [f"{escape(label)}<br>{escape(name)}: {w.seconds(s[key])} of {w.seconds(s['window_s'])}" for _, s, label in shown],
            "hovertemplate": "%{hovertext} (%{x:.1%})<extra></extra>",
        }
        for key, name in w.STEP_PARTS.items()
    ]
    chart = _bars_layout(rows, "share of the window")
    chart["xaxis"] |= {"range": [0, 1.001], "tickformat": ".0%", "dtick": 0.1}
    chart["barmode"] = "stack"
    return {"data": data, "layout": chart}
