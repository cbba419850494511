"""A diagnosis as plots: the ladder, the stall split, and what turning the knob did. Rows and numbers are those of the text (`report.diagnosis`)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape
from statistics import median
from typing import Final

from storagebench.diagnosis.ladder import Diagnosis, Part, Trial
from storagebench.report import wording as w
from storagebench.report.diagnosis import Rung, knob_setting, parts, rungs
from storagebench.report.plotstyle import BLACK, BLUE, GREY, ORANGE, PURPLE, SKY, SOFT, VERMILLION, Figure, layout, six_digits

_ROW_PIXELS: Final = 52
_BAR_WIDTH: Final = 0.56
_RIGHT_PIXELS: Final = 168
_ABOUT_CHARS: Final = 46
# The axis ends here, in the accelerators' own rates: what is above is enough, however much it is (the null loader reaches a thousand times that).
_CUT: Final = 1.5
_PART_COLOURS: Final = {"storage": VERMILLION, "decode": PURPLE, "loader": ORANGE, "host": GREY, "overlap": SKY}
_JOB: Final = "cold"


def ladder(found: Diagnosis) -> Figure:
    """A bar a rung in samples/s, with the range over the repeats; what is far above the accelerators' own rate is cut off, and marked so."""
    rows = rungs(found)
    known = [(y, rung) for y, rung in enumerate(rows) if rung.median is not None]
    own = next((rung.median for _, rung in known if rung.name == "synthetic"), None)
    # Without accelerators there is nothing to compare with but the job.
    cut = _CUT * (own or max(rung.median or 0.0 for _, rung in known if rung.name != "null"))
    too_slow = [item for item in known if own and (item[1].median or 0.0) < own]
    enough = [item for item in known if item not in too_slow]
    kinds = (("less than the accelerators take", VERMILLION, too_slow), ("all that the accelerators take, or more", BLUE, enough))
    data = [_rung_bars(name, colour, items, cut) for name, colour, items in kinds if items]
    if own:
        line = {"x": [six_digits(own)] * 2, "y": [-0.6, len(rows) - 0.4], "line": {"color": BLACK, "width": 2, "dash": "dash"}}
        data.append({"type": "scatter", "mode": "lines", "name": f"the accelerators' own rate: {w.number(own)}", **line, "hoverinfo": "skip"})
    labels = [_label(rung.name if rung.name != _JOB else f"{rung.name} (the result)", rung.about) for rung in rows]
    chart = _rows_layout("samples/s", labels, has_legend=True)
    chart["xaxis"] |= {"range": [0, six_digits(cut)], "fixedrange": True}
    chart["annotations"] = [_rung_note(y, rung) for y, rung in enumerate(rows)] + [
        _cut_mark(y, cut) for y, rung in known if (rung.median or 0.0) > cut
    ]
    return {"data": data, "layout": chart}


def _rows_layout(x_title: str, row_labels: Sequence[str], has_legend: bool = False) -> Figure:
    ticks = {"tickvals": list(range(len(row_labels))), "ticktext": list(row_labels), "range": [len(row_labels) - 0.4, -0.6]}
    above = 66 if has_legend else 22
    chart = layout(x_title, 60 + above + _ROW_PIXELS * len(row_labels))
    chart["margin"] = {**chart["margin"], "t": above, "r": _RIGHT_PIXELS}
    chart["showlegend"] = has_legend
    chart["yaxis"] = {**ticks, "automargin": True, "zeroline": False, "showgrid": False, "ticklabelstandoff": 8, "fixedrange": True}
    chart["barmode"] = "overlay"
    return chart


def _label(name: str, about: str) -> str:
    """A name, and what it is in one or two lines of like length below it."""
    least = -(-len(about) // 2) + 4 if len(about) > _ABOUT_CHARS else _ABOUT_CHARS
    lines = "<br>".join(map(escape, textwrap.wrap(about, min(least, _ABOUT_CHARS), max_lines=2, placeholder=" …")))
    return f'<b>{escape(name)}</b><br><span style="font-size:11px;color:{SOFT}">{lines}</span>'


def _rung_bars(name: str, colour: str, items: Sequence[tuple[int, Rung]], cut: float) -> Figure:
    middles = [rung.median or 0.0 for _, rung in items]
    highs = [min(rung.high or 0.0, cut) for _, rung in items]
    inside = [middle <= cut for middle in middles]
    return {
        "type": "bar",
        "orientation": "h",
        "width": _BAR_WIDTH,
        "name": name,
        "x": [six_digits(min(middle, cut)) for middle in middles],
        "y": [y for y, _ in items],
        "marker": {"color": colour},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [six_digits(high - middle) if fits else 0 for high, middle, fits in zip(highs, middles, inside, strict=True)],
            "arrayminus": [
                six_digits(middle - (rung.low or 0.0)) if fits else 0 for (_, rung), middle, fits in zip(items, middles, inside, strict=True)
            ],
            "color": BLACK,
            "thickness": 1.5,
            "width": 5,
        },
        "hovertext": [f"{rung.name}: {w.number(rung.median)} samples/s, {w.number(rung.low)} to {w.number(rung.high)}" for _, rung in items],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _cut_mark(y: int, cut: float) -> Figure:
    """Two strokes through a bar that goes on beyond the axis."""
    return {
        "x": six_digits(cut),
        "y": y,
        "text": "<b>//</b>",
        "showarrow": False,
        "xanchor": "right",
        "xshift": -8,
        "font": {"color": "#FFFFFF", "size": 26},
    }


def _rung_note(y: int, rung: Rung) -> Figure:
    """The number in a column at the right; for a rung that is not there its reason, where its bar would be."""
    if rung.median is None:
        lines = textwrap.wrap(f"not measured: {w.printable(rung.why_absent)}", _ABOUT_CHARS, max_lines=2, placeholder=" …")
        place = {"x": 0, "xanchor": "left", "xshift": 6, "align": "left", "font": {"color": SOFT, "size": 12}, "bgcolor": "#FFFFFF"}
        return {"y": y, "text": "<br>".join(map(escape, lines)), "showarrow": False, **place}
    of = "" if rung.of_accelerators is None else f'  <span style="color:{SOFT}">{w.multiple(rung.of_accelerators)}</span>'
    return _right(y, f"<b>{w.number(rung.median)}</b>{of}")


def _right(y: int, text: str) -> Figure:
    return {"xref": "paper", "x": 1, "xanchor": "left", "xshift": 10, "y": y, "text": text, "showarrow": False, "align": "left"}


def split(found: Diagnosis) -> Figure:
    """A bar a part of the stall, with its interval at 95 %, and all of it."""
    rows = [(name, meaning, part) for name, meaning, part in parts(found)] + [("all", "of the accelerators' time", found.stall)]
    data: list[Figure] = [
        {
            "type": "bar",
            "orientation": "h",
            "width": _BAR_WIDTH,
            "x": [six_digits(part.value) for _, _, part in rows],
            "y": list(range(len(rows))),
            "marker": {"color": [_PART_COLOURS.get(name, SOFT) for name, _, _ in rows]},
            "error_x": {
                "type": "data",
                "symmetric": False,
                "array": [six_digits((part.high or part.value) - part.value) for _, _, part in rows],
                "arrayminus": [six_digits(part.value - (part.value if part.low is None else part.low)) for _, _, part in rows],
                "color": BLACK,
                "thickness": 1.5,
                "width": 5,
            },
            "hovertext": [f"{name}: {w.share(part.value)}{_interval(part)}" for name, _, part in rows],
            "hovertemplate": "%{hovertext}<extra></extra>",
        }
    ]
    chart = _rows_layout("share of the accelerators' time", [_label(name, meaning) for name, meaning, _ in rows])
    ends = [end for _, _, part in rows for end in (part.value, part.low, part.high) if end is not None]
    chart["xaxis"] |= {"range": [min(0.0, *ends) - 0.01, max(1.0, *ends) + 0.01], "tickformat": ".0%", "fixedrange": True, "zeroline": True}
    chart |= {
        "showlegend": False,
        "annotations": [_right(y, f"<b>{w.share(part.value)}</b>{_interval(part)}") for y, (_, _, part) in enumerate(rows)],
    }
    return {"data": data, "layout": chart}


def _interval(part: Part) -> str:
    return "" if part.low is None or part.high is None else f'  <span style="font-size:11px">({w.share(part.low)} to {w.share(part.high)})</span>'


def trial(turned: Trial) -> Figure:
    """AU of the job as it was and with the knob turned: a bar to the median, a point a run."""
    rows = (("as it was", turned.before, GREY), ("with the knob turned", turned.after, BLUE))
    knob = w.printable(knob_setting(turned.settings))
    points = [(value, y) for y, (_, values, _) in enumerate(rows) for value in values]
    bars = {"x": [six_digits(median(values)) for _, values, _ in rows], "y": [0, 1], "marker": {"color": [colour for _, _, colour in rows]}}
    dots = {
        "x": [six_digits(value) for value, _ in points],
        "y": [y for _, y in points],
        "marker": {"color": "#FFFFFF", "size": 8, "line": {"color": BLACK, "width": 1.5}},
    }
    data: list[Figure] = [
        {"type": "bar", "orientation": "h", "width": _BAR_WIDTH, "name": "median", **bars, "hovertemplate": "AU %{x:.4f}<extra></extra>"},
        {"type": "scatter", "mode": "markers", "name": "a run", **dots, "hovertemplate": "AU %{x:.4f}<extra></extra>"},
    ]
    chart = _rows_layout("AU (accelerator utilisation)", [_label(name, about) for (name, _, _), about in zip(rows, ("", knob), strict=True)])
    chart["xaxis"] |= {"range": [0, 1.02], "tickformat": ".1f", "dtick": 0.2, "fixedrange": True}
    chart |= {"annotations": [_right(y, f"<b>{median(values):.3f}</b>") for y, (_, values, _) in enumerate(rows)]}
    return {"data": data, "layout": chart}
