"""The curves of the HTML page: how long steps waited for their data, and the throughput over time. A line a run, marked like its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from storagebench.report import wording as w
from storagebench.report.load import LoadedRun
from storagebench.report.plotstyle import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, SOFT, VERMILLION, Figure, layout, short, six_digits, y_axis
from storagebench.report.series import fetch_distribution, throughput

_RUN_COLOURS: Final = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
_DASHES: Final = ("solid", "dash", "dot", "dashdot")
_LEAST_TIME_S: Final = 1e-6


def fetch_times(loaded: Sequence[LoadedRun], names: Sequence[str]) -> Figure:
    """Share of steps that waited no longer than x, on a log axis. Steps that did not wait at all are where a curve begins."""
    found = [(index, fetch_distribution(run)) for index, run in enumerate(loaded)]
    known = [(index, times) for index, times in found if times is not None]
    computes = {run.summary["compute_time_s"] for run in loaded}
    compute_s = computes.pop() if len(computes) == 1 else 0.0
    low, high = _decades([compute_s, *(float(time) for _, times in known for time in (*times.times_s[:1], *times.times_s[-1:]))])
    data = []
    for index, times in known:
        inside = times.times_s > low
        below = float(times.shares[~inside][-1]) if (~inside).any() else times.share_without_wait
        xs, ys = [low, *map(float, times.times_s[inside]), high], [below, *map(float, times.shares[inside]), 1.0]
        data.append(_line(index, _name(loaded, names, index), xs, ys, f"%{{y:.2%}} of {times.num_steps} steps waited no longer than %{{x:.3s}}s"))
    chart = layout("fetch time of a step", 420)
    powers = range(round(math.log10(low)), round(math.log10(high)) + 1)
    ticks = {"tickvals": [10.0**power for power in powers], "ticktext": [w.seconds(10.0**power) for power in powers]}
    chart["xaxis"] |= {"type": "log", "range": [math.log10(low), math.log10(high) + 0.002], **ticks}
    chart["yaxis"] = y_axis("share of steps", range=[0, 1.02], tickformat=".0%")
    if compute_s >= low:
        chart |= _compute_line(compute_s)
    return {"data": data, "layout": chart}


def _decades(times_s: Sequence[float]) -> tuple[float, float]:
    """Powers of ten around the times, from a microsecond up; a millisecond to a second around nothing."""
    seen = [time for time in times_s if time >= _LEAST_TIME_S]
    if not seen:
        return 1e-3, 1.0
    low = math.floor(math.log10(min(seen)))
    return 10.0**low, 10.0 ** max(low + 1, math.ceil(math.log10(max(seen) * 1.0001)))


def _compute_line(compute_s: float) -> Figure:
    """What a wait is to be compared with."""
    line = {"type": "line", "x0": compute_s, "x1": compute_s, "yref": "paper", "y0": 0, "y1": 1, "line": {"dash": "dot", "color": SOFT}}
    note = {"x": math.log10(compute_s), "yref": "paper", "y": 0.02, "yanchor": "bottom", "xanchor": "right", "showarrow": False}
    return {"shapes": [line], "annotations": [{**note, "text": f"compute time of a step: {w.seconds(compute_s)} ", "font": {"color": SOFT}}]}


def throughput_over_time(loaded: Sequence[LoadedRun], names: Sequence[str]) -> Figure:
    """MB/s of all ranks over the run, with a triangle where an epoch starts."""
    data = []
    for index, run in enumerate(loaded):
        flow = throughput(run)
        if flow is None or not len(flow.bytes_per_s):
            continue
        rates = [float(rate) / 1e6 for rate in flow.bytes_per_s]
        hover = f"%{{y:.1f}} MB/s in {w.seconds(flow.bucket_s)} from %{{x:.1f}} s"
        line = _line(index, _name(loaded, names, index), [float(edge) for edge in flow.edges_s], [*rates, rates[-1]], hover)
        epochs = {
            "type": "scatter",
            "mode": "markers",
            "x": [six_digits(start) for start in flow.epoch_starts_s],
            "y": [0.0] * len(flow.epoch_starts_s),
            "marker": {"symbol": "triangle-up", "size": 11, "color": line["line"]["color"]},
            "cliponaxis": False,
            "showlegend": False,
            "legendgroup": line["legendgroup"],
            "hovertext": [f"{line['name']}<br>epoch {epoch} starts" for epoch in range(len(flow.epoch_starts_s))],
            "hovertemplate": "%{hovertext}<extra></extra>",
        }
        data += [line, epochs]
    chart = layout("seconds since the first epoch began", 420)
    chart["xaxis"] |= {"rangemode": "tozero"}
    chart["yaxis"] = y_axis("delivered MB/s", rangemode="tozero")
    return {"data": data, "layout": chart}


def _name(loaded: Sequence[LoadedRun], names: Sequence[str], index: int) -> str:
    """The run's name and mark, and its decode level where they differ."""
    summary = loaded[index].summary
    level = "" if len({run.summary["decode"] for run in loaded}) == 1 else f" (decode {escape(summary['decode'] or 'unknown')})"
    return short(names[index], w.mark(summary)) + level


def _line(index: int, label: str, xs: Sequence[float], ys: Sequence[float], hover: str) -> Figure:
    colour = _RUN_COLOURS[index % len(_RUN_COLOURS)]
    dash = _DASHES[index // len(_RUN_COLOURS) % len(_DASHES)]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": label,
        "legendgroup": f"run-{index}",
        "x": [six_digits(x) for x in xs],
        "y": [six_digits(y) for y in ys],
        "line": {"color": colour, "dash": dash, "width": 2, "shape": "hv"},
        "hovertemplate": f"{label}<br>{hover}<extra></extra>",
    }
