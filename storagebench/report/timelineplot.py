"""What each step did over time, as plots: the whole run, and the steps around its longest wait one by one. One pair of plots a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from storagebench.report import wording as w
from storagebench.report.bars import PART_COLOURS
from storagebench.report.plotstyle import BLACK, SOFT, VERMILLION, Figure, layout, six_digits, y_axis
from storagebench.report.timeline import COMPUTE, FETCH, PARTS, Overview, Timeline, Wait, around, overview

_ROW_PIXELS: Final = 34
_ABOVE: Final = 92
_BELOW: Final = 52
# Compute lies at the bottom, so that its upper edge is the utilisation over time.
_STACK: Final = (COMPUTE, *(index for index in range(len(PARTS)) if index != COMPUTE))
_NAMES: Final = tuple(w.STEP_PARTS.values())
_MAX_EPOCH_LINES: Final = 40
_MAX_EPOCH_NAMES: Final = 12
_LEAST_SHARE: Final = 0.0005  # a part that is nowhere more than this is left out


def whole_run(found: Timeline, wait: Wait) -> Figure:
    """Shares of the ranks' time as areas; with several ranks, below it which of them waited for data when."""
    seen = overview(found)
    data: list[Figure] = [
        {
            "type": "scatter",
            "mode": "lines",
            "stackgroup": "time",
            "name": _NAMES[part],
            "x0": 0,
            "dx": six_digits(seen.bucket_s),
            "y": _thousandths([*seen.shares[part], seen.shares[part][-1]]),
            "line": {"width": 0, "shape": "hv"},
            "fillcolor": PART_COLOURS[PARTS[part]],
            "hovertemplate": "%{y:.1%}",
        }
        for part in _STACK
        if part in (COMPUTE, FETCH) or float(seen.shares[part].max()) > _LEAST_SHARE
    ]
    rows_pixels = 62 + 22 * len(seen.shown) if len(seen.shown) > 1 else 0
    plot_pixels = 212 + rows_pixels
    chart = _layout("seconds since the first epoch began", plot_pixels)
    chart["hovermode"] = "x unified"
    chart["xaxis"] |= {"range": [0, six_digits(found.length_s)], "showgrid": False, "hoverformat": ".2f", "ticksuffix": " s"}
    split = rows_pixels / plot_pixels
    chart["yaxis"] = y_axis("share of time", range=[0, 1], tickformat=".0%", domain=[split, 1], fixedrange=True)
    if rows_pixels:
        data.append(_waiting(seen))
        chart["xaxis"] |= {"anchor": "y2"}
        chart["yaxis2"] = {**_rank_axis(found, seen.shown), "domain": [0, split - 40 / plot_pixels]}
    chart["shapes"], chart["annotations"] = _marks(found, wait)
    return {"data": data, "layout": chart}


def _layout(x_title: str, plot_pixels: int) -> Figure:
    """With room between the plot and its legend for the arrow to the longest wait."""
    chart = layout(x_title, plot_pixels + _ABOVE + _BELOW)
    chart["margin"] = {**chart["margin"], "t": _ABOVE, "b": _BELOW}
    chart["legend"] = {**chart["legend"], "y": 1 + 30 / plot_pixels}
    return chart


def _thousandths(values: Sequence[float]) -> list[float]:
    """Three digits, which keeps the page small. Zeros without a point."""
    return [round(float(value), 3) or 0 for value in values]


def _waiting(seen: Overview) -> Figure:
    return {
        "type": "heatmap",
        "name": "waiting for data",
        "x0": six_digits(seen.bucket_s / 2),
        "dx": six_digits(seen.bucket_s),
        "y": list(range(len(seen.shown))),
        "z": [[round(100 * float(value)) for value in row] for row in seen.waiting],
        "zmin": 0,
        "zmax": 100,
        "ygap": 3,
        # Steep at its foot: a wait of a single step in a bucket of many is to be seen.
        "colorscale": [[0, "#F1F3F5"], [0.25, "#EFA36C"], [1, VERMILLION]],
        "showscale": False,
        "yaxis": "y2",
        "hovertemplate": "%{z}%",
    }


def _rank_axis(found: Timeline, shown: Sequence[int]) -> Figure:
    texts = [f"rank {found.ranks[row].rank}" for row in shown]
    place = {"tickvals": list(range(len(shown))), "ticktext": texts, "range": [len(shown) - 0.4, -0.6]}
    return {**place, "zeroline": False, "showgrid": False, "fixedrange": True, "ticks": "", "ticklabelstandoff": 6}


def _marks(found: Timeline, wait: Wait) -> tuple[list[Figure], list[Figure]]:
    """The warm-up as a band, the epochs as lines, and where the other plot looks closer."""
    shapes: list[Figure] = []
    notes: list[Figure] = []
    if found.warmup_end_s > 0:
        band = {"type": "rect", "x0": 0, "x1": six_digits(found.warmup_end_s), "yref": "y domain", "y0": 0, "y1": 1, "line": {"width": 0}}
        shapes.append({**band, "fillcolor": "#FFFFFF", "opacity": 0.55})
        notes.append(_note(found.warmup_end_s / 2, "warm-up", SOFT, found.warmup_end_s > 0.08 * found.length_s))
    starts = found.epoch_starts_s if 1 < len(found.epoch_starts_s) <= _MAX_EPOCH_LINES else ()
    for epoch, start_s in enumerate(starts):
        shapes.append(_line(start_s))
        notes.append({**_note(start_s, f" epoch {epoch}", BLACK, len(starts) <= _MAX_EPOCH_NAMES), "xanchor": "left"})
    rank = found.ranks[wait.row]
    if wait.wait_s > 0:
        text = f"longest wait: {w.seconds(wait.wait_s)}"
        arrow = {"x": six_digits(float(rank.begins_s[wait.at]) + wait.wait_s / 2), "yref": "y domain", "y": 1, "ax": 0, "ay": -16, "arrowhead": 2}
        notes.append({**arrow, "text": text, "showarrow": True, "arrowcolor": BLACK, "font": {"size": 12}, "yanchor": "bottom", "standoff": 1})
    return shapes, [note for note in notes if note["text"]]


def _line(x: float) -> Figure:
    return {
        "type": "line",
        "x0": six_digits(x),
        "x1": six_digits(x),
        "yref": "y domain",
        "y0": 0,
        "y1": 1,
        "line": {"dash": "dot", "width": 1, "color": BLACK},
    }


def _note(x: float, text: str, colour: str, has_room: bool) -> Figure:
    """A text at the foot of the areas, or none where it has no room."""
    place = {"x": six_digits(x), "yref": "y domain", "y": 0.02, "yanchor": "bottom", "showarrow": False}
    return {**place, "text": text if has_room else "", "font": {"size": 11, "color": colour}, "bgcolor": "rgba(255,255,255,0.75)"}


def longest_wait_closely(found: Timeline, wait: Wait) -> Figure:
    """Every span of the steps around the longest wait, a row a rank."""
    begin_s, end_s = around(found, wait)
    shown = found.shown_rows
    unit, factor = ("milliseconds", 1e3) if end_s - begin_s < 10 else ("seconds", 1.0)
    spans: dict[int, list[tuple[float, float, int, int]]] = {part: [] for part in range(len(PARTS))}
    for y, row in enumerate(shown):
        rank = found.ranks[row]
        edges = rank.begins_s + np.cumsum(np.vstack([np.zeros(len(rank.steps)), rank.parts_s]), axis=0) - begin_s
        for index in np.flatnonzero((rank.ends_s > begin_s) & (rank.begins_s < end_s)):
            for part in range(len(PARTS)):
                if rank.parts_s[part, index] > 0:
                    spans[part].append((float(edges[part, index]) * factor, float(rank.parts_s[part, index]) * factor, y, int(rank.steps[index])))
    data = [_bars(part, spans[part], unit) for part in _STACK if spans[part]]
    chart = _layout(f"{unit} from {begin_s:.3f} s on", _ROW_PIXELS * len(shown) + 12)
    chart["xaxis"] |= {"range": [0, six_digits((end_s - begin_s) * factor)]}
    chart["yaxis"] = _rank_axis(found, shown)
    chart |= {"barmode": "overlay", "hovermode": "closest"}
    inside = [start_s for start_s in found.epoch_starts_s if begin_s < start_s < end_s]
    chart["shapes"] = [_line((start_s - begin_s) * factor) for start_s in inside[:_MAX_EPOCH_LINES]]
    if wait.wait_s > 0 and wait.row in shown:
        chart["annotations"] = [_arrow(found, wait, shown.index(wait.row), begin_s, end_s, factor)]
    return {"data": data, "layout": chart}


def _bars(part: int, spans: Sequence[tuple[float, float, int, int]], unit: str) -> Figure:
    short = "ms" if unit == "milliseconds" else "s"
    return {
        "type": "bar",
        "orientation": "h",
        "name": _NAMES[part],
        "width": 0.7,
        "base": [six_digits(span[0]) for span in spans],
        "x": [six_digits(span[1]) for span in spans],
        "y": [span[2] for span in spans],
        "customdata": [span[3] for span in spans],
        # A step is told from the next by the edge of its compute.
        "marker": {"color": PART_COLOURS[PARTS[part]], "line": {"color": "#FFFFFF", "width": 1 if part == COMPUTE else 0}},
        "hovertemplate": f"step %{{customdata}}: {_NAMES[part]} %{{x:.4g}} {short}<extra></extra>",
    }


def _arrow(found: Timeline, wait: Wait, y: int, begin_s: float, end_s: float, factor: float) -> Figure:
    """Points at the longest wait, or at as much of it as is in the plot."""
    rank = found.ranks[wait.row]
    start_s = float(rank.begins_s[wait.at] + rank.parts_s[: wait.part, wait.at].sum())
    x = (max(start_s, begin_s) + min(start_s + wait.wait_s, end_s)) / 2 - begin_s
    text = f"step {rank.steps[wait.at]}: {w.seconds(wait.wait_s)}"
    head = {"arrowhead": 2, "arrowcolor": BLACK, "ax": 0, "ay": -20, "standoff": 1}
    return {
        "x": six_digits(x * factor),
        "y": y - 0.35,
        "text": text,
        "showarrow": True,
        **head,
        "font": {"size": 12},
        "bgcolor": "rgba(255,255,255,0.8)",
    }
