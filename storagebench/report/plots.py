"""The four plots of the HTML page as plain data for plotly.js: {"data", "layout"}. Needs no plotly here; the page carries plotly.js itself.

Texts that plotly sets as its pseudo-HTML are escaped here. Colours are Okabe and Ito's, which colour-blind readers tell apart; invalid runs are
hatched, so nothing hangs on colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any, Final, NamedTuple

from storagebench.report import wording as w
from storagebench.report.load import LoadedRun
from storagebench.report.series import fetch_distribution, throughput
from storagebench.report.wording import Summary

Figure = dict[str, Any]
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222"
GREY: Final = "#A8A8A8"
_RUN_COLOURS: Final = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
_DASHES: Final = ("solid", "dash", "dot", "dashdot")
_PART_COLOURS: Final = {"fetch_s": VERMILLION, "compute_s": BLUE, "sync_wait_s": ORANGE, "sync_cost_s": PURPLE, "host_delay_s": GREY}
_LABEL_CHARS: Final = 36
_LEAST_TIME_S: Final = 1e-6
_ROW_PIXELS: Final = 34
_BAR_WIDTH: Final = 0.68  # of a row; plotly would choose a width for each trace from the distance of its own bars
_GRID: Final = "#E3E6EA"


class Row(NamedTuple):
    """A line of a bar chart: a run, or the heading of a decode level (`run_index` None)."""

    label: str
    run_index: int | None


def labels(summaries: Sequence[Summary]) -> list[str]:
    """A name for each run, told apart where two folders hold runs of the same id."""
    names: list[str] = []
    for summary in summaries:
        name = w.printable(summary["run_id"])
        same = sum(w.printable(other["run_id"]) == name for other in summaries[: len(names)])
        names.append(f"{name} ({same + 1})" if same else name)
    return names


def _short(label: str) -> str:
    """Escaped, and shortened in the middle: the ends of run ids differ."""
    half = _LABEL_CHARS // 2
    return escape(label if len(label) <= _LABEL_CHARS else f"{label[: half - 1]}…{label[-half:]}")


def _rows(summaries: Sequence[Summary], names: Sequence[str]) -> list[Row]:
    groups = w.by_decode(summaries)
    rows: list[Row] = []
    for level, indices in groups:
        if len(groups) > 1:
            rows.append(Row(f"<b>decode {escape(level)}</b>", None))
        rows += [Row(_short(names[index]), index) for index in indices]
    return rows


def _bars_layout(rows: Sequence[Row], x_title: str) -> Figure:
    ticks = {"tickvals": list(range(len(rows))), "ticktext": [row.label for row in rows], "range": [len(rows) - 0.4, -0.6]}
    return {
        **_layout(x_title, 130 + _ROW_PIXELS * len(rows)),
        "yaxis": {**ticks, "automargin": True, "zeroline": False, "showgrid": False, "ticklabelstandoff": 8, "fixedrange": True},
    }


def _layout(x_title: str, height: int) -> Figure:
    return {
        "height": height,
        "margin": {"l": 64, "r": 24, "t": 66, "b": 52},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": BLACK},
        "paper_bgcolor": "#FFFFFF",
        "plot_bgcolor": "#FFFFFF",
        "xaxis": {"title": _title(x_title), "gridcolor": _GRID, "zeroline": False, "linecolor": GREY, "automargin": True},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        "hoverlabel": {"align": "left"},
    }


def _title(text: str) -> Figure:
    return {"text": text, "standoff": 10, "font": {"size": 13}}


def _y_axis(title: str, **more: Any) -> Figure:
    return {"title": _title(title), "gridcolor": _GRID, "zeroline": False, "ticklabelstandoff": 6, **more}


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
    layout = _bars_layout(rows, "AU (accelerator utilisation)")
    layout["xaxis"] |= {"range": [0, 1.04], "dtick": 0.1, "tickformat": ".1f"}
    layout["barmode"] = "overlay"
    layout["annotations"] = [
        {"x": 0.005, "y": y, "text": "no AU: nothing was computed or measured", "showarrow": False, "xanchor": "left", "font": {"color": "#666666"}}
        for y, s, _ in rated
        if s["au_nominal"] is None
    ]
    return {"data": data, "layout": layout}


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
            "x": [_six((s[key] or 0.0) / s["window_s"]) for _, s, _ in shown],
            "y": [y for y, _, _ in shown],
            "marker": {"color": _PART_COLOURS[key], "line": {"color": "#FFFFFF", "width": 1}},
            "hovertext": [f"{escape(label)}<br>{escape(name)}: {w.seconds(s[key])} of {w.seconds(s['window_s'])}" for _, s, label in shown],
            "hovertemplate": "%{hovertext} (%{x:.1%})<extra></extra>",
        }
        for key, name in w.STEP_PARTS.items()
    ]
    layout = _bars_layout(rows, "share of the window")
    layout["xaxis"] |= {"range": [0, 1.001], "tickformat": ".0%", "dtick": 0.1}
    layout["barmode"] = "stack"
    return {"data": data, "layout": layout}


def fetch_times(loaded: Sequence[LoadedRun], names: Sequence[str]) -> Figure:
    """Share of steps that waited no longer than x, on a log axis. Steps that did not wait at all are where a curve begins."""
    found = [(index, fetch_distribution(run)) for index, run in enumerate(loaded)]
    known = [(index, times) for index, times in found if times is not None]
    positive = [float(time) for _, times in known for time in times.times_s if time >= _LEAST_TIME_S]
    low = 10.0 ** math.floor(math.log10(min(positive))) if positive else 1e-3
    high = 10.0 ** math.ceil(math.log10(max(positive) * 1.0001)) if positive else 1.0
    data = []
    for index, times in known:
        xs = [low, *map(float, times.times_s[times.times_s > low]), high]
        below = times.share_without_wait if not (times.times_s <= low).any() else float(times.shares[times.times_s <= low][-1])
        ys = [below, *map(float, times.shares[times.times_s > low]), 1.0]
        data.append(_line(index, names[index], xs, ys, f"%{{y:.2%}} of {times.num_steps} steps waited no longer than %{{x:.3s}}s"))
    layout = _layout("fetch time of a step", 420)
    powers = range(round(math.log10(low)), round(math.log10(high)) + 1)
    ticks = {"tickvals": [10.0**power for power in powers], "ticktext": [w.seconds(10.0**power) for power in powers]}
    layout["xaxis"] |= {"type": "log", "range": [math.log10(low), math.log10(high)], **ticks}
    layout["yaxis"] = _y_axis("share of steps", range=[0, 1.02], tickformat=".0%")
    computes = {run.summary["compute_time_s"] for run in loaded}
    only = computes.pop() if len(computes) == 1 else 0.0
    if low < only < high:
        layout["shapes"] = [{"type": "line", "x0": only, "x1": only, "yref": "paper", "y0": 0, "y1": 1, "line": {"dash": "dot", "color": "#666666"}}]
        note = {"x": math.log10(only), "yref": "paper", "y": 0.02, "yanchor": "bottom", "xanchor": "left", "showarrow": False}
        layout["annotations"] = [{**note, "text": f" compute time of a step: {w.seconds(only)}", "font": {"color": "#666666"}}]
    return {"data": data, "layout": layout}


def throughput_over_time(loaded: Sequence[LoadedRun], names: Sequence[str]) -> Figure:
    """MB/s of all ranks over the run, with a triangle where an epoch starts."""
    data = []
    for index, run in enumerate(loaded):
        flow = throughput(run)
        if flow is None or not len(flow.bytes_per_s):
            continue
        rates = [float(rate) / 1e6 for rate in flow.bytes_per_s]
        hover = f"%{{y:.1f}} MB/s in {w.seconds(flow.bucket_s)} from %{{x:.1f}} s"
        line = _line(index, names[index], [float(edge) for edge in flow.edges_s], [*rates, rates[-1]], hover)
        epochs = {
            "type": "scatter",
            "mode": "markers",
            "x": [_six(start) for start in flow.epoch_starts_s],
            "y": [0.0] * len(flow.epoch_starts_s),
            "marker": {"symbol": "triangle-up", "size": 11, "color": line["line"]["color"]},
            "cliponaxis": False,
            "showlegend": False,
            "legendgroup": line["legendgroup"],
            "hovertext": [f"{escape(names[index])}<br>epoch {epoch} starts" for epoch in range(len(flow.epoch_starts_s))],
            "hovertemplate": "%{hovertext}<extra></extra>",
        }
        data += [line, epochs]
    layout = _layout("seconds since the first epoch began", 420)
    layout["xaxis"] |= {"rangemode": "tozero"}
    layout["yaxis"] = _y_axis("delivered MB/s", rangemode="tozero")
    return {"data": data, "layout": layout}


def _line(index: int, label: str, xs: Sequence[float], ys: Sequence[float], hover: str) -> Figure:
    colour = _RUN_COLOURS[index % len(_RUN_COLOURS)]
    dash = _DASHES[index // len(_RUN_COLOURS) % len(_DASHES)]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": _short(label),
        "legendgroup": f"run-{index}",
        "x": [_six(x) for x in xs],
        "y": [_six(y) for y in ys],
        "line": {"color": colour, "dash": dash, "width": 2, "shape": "hv"},
        "hovertemplate": f"{escape(label)}<br>{hover}<extra></extra>",
    }


def _six(value: float) -> float:
    """Six digits are more than a screen shows, and keep the page small."""
    return float(f"{value:.6g}")
