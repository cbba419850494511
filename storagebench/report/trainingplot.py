"""Accuracy against time of real training runs, one plot a task: architecture by colour, store by dash, several seeds as thin lines under their median."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from storagebench.report import wording as w
from storagebench.report.plotstyle import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    SOFT,
    VERMILLION,
    Figure,
    layout,
    short,
    six_digits,
    y_axis,
)
from storagebench.report.spans import TimeUnit, long_time, unit_for
from storagebench.report.trainingseries import Curve, EpochPoint, Group, Task, median_curve

_COLOURS: Final = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
_DASHES: Final = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS: Final = ("circle", "square", "diamond", "triangle-up", "cross")
_LABEL_CHARS: Final = 64
_MOST_MARKED: Final = 60  # evaluations of a line that are drawn as points, too
_PLOT_PIXELS: Final = 380
# Of the legend, on a page of full width: how many characters stand on one line, and what a line and the box around an entry take.
_LEGEND_LINE_CHARS, _LEGEND_ENTRY_CHARS, _LEGEND_LINE_PIXELS = 150, 8, 21


def accuracy_over_time(task: Task) -> Figure:
    """The plot of a task with at least one evaluation."""
    unit = unit_for(max((curve.points[-1].time_s for curve in task.curves if curve.points), default=0.0))
    looks = _looks(task.groups)
    thin: list[Figure] = []
    lines: list[Figure] = []
    for group, look in zip(task.groups, looks, strict=True):
        drawn = [curve for curve in group.curves if curve.points]
        if len(drawn) == 1:
            lines.append(_line(group, drawn[0].points, unit, look, _label(group, len(group.curves), drawn[0].sign), _who(drawn[0])))
        elif drawn:
            label = _label(group, len(drawn), w.WARNING_MARK if any(curve.sign for curve in drawn) else "")
            thin += [_thin(_line(group, curve.points, unit, look, label, _who(curve))) for curve in drawn]
            middle = median_curve(drawn)
            if middle:
                lines.append(_line(group, middle, unit, look, label, f"median of {len(drawn)} seeds"))
    chart = _layout(task, unit, [line["name"] for line in lines])
    return {"data": [*thin, *lines, *_marks(task.curves, unit)], "layout": chart}


def _looks(groups: Sequence[Group]) -> list[tuple[str, str, str]]:
    """(colour, dash, symbol) of each group. With a single architecture the stores have the colours; what is not valid is grey."""
    models = list(dict.fromkeys(group.model for group in groups))
    stores = list(dict.fromkeys(group.store for group in groups))
    looks = []
    for group in groups:
        model, store = models.index(group.model), stores.index(group.store)
        colour = _COLOURS[(model if len(models) > 1 else store) % len(_COLOURS)]
        symbol = (store // len(_DASHES) + (model // len(_COLOURS) if len(models) > 1 else 0)) % len(_SYMBOLS)
        looks.append((GREY if group.alone else colour, _DASHES[store % len(_DASHES)], _SYMBOLS[symbol]))
    return looks


def _label(group: Group, seeds: int, sign: str) -> str:
    many = f" ({seeds} seeds)" if seeds > 1 else ""
    return short(f"{group.label}{many}", sign, _LABEL_CHARS)


def _who(curve: Curve) -> str:
    return short(f"{curve.name}, seed {w.printable(curve.training['seed'])}", curve.sign, _LABEL_CHARS)


def _line(group: Group, points: Sequence[EpochPoint], unit: TimeUnit, look: tuple[str, str, str], label: str, who: str) -> Figure:
    colour, dash, symbol = look
    what = short(group.label, "", _LABEL_CHARS)
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(points) <= _MOST_MARKED else "lines",
        "name": label,
        "legendgroup": f"group-{group.curves[0].index}",
        "x": [six_digits(point.time_s / unit.seconds) for point in points],
        "y": [six_digits(point.accuracy) for point in points],
        "line": {"color": colour, "dash": dash, "width": 2.5},
        "marker": {"size": 5, "symbol": symbol},
        "hovertext": [_hover(point) for point in points],
        "hovertemplate": f"{what}<br>{who}<br>%{{hovertext}}<extra></extra>",
    }


def _hover(point: EpochPoint) -> str:
    epochs = f"{point.epoch} epoch{'' if point.epoch == 1 else 's'}"
    stalled = "" if point.stall_share is None else f"<br>stall share of this epoch {w.share(point.stall_share)}"
    return f"{point.accuracy:.2%} after {epochs}, {long_time(point.time_s)}{stalled}"


def _thin(line: Figure) -> Figure:
    """One of several seeds; of a single evaluation a point is left to see."""
    mode = "lines" if len(line["x"]) > 1 else "markers"
    return {**line, "mode": mode, "line": {**line["line"], "width": 1}, "opacity": 0.45, "showlegend": False}


def _marks(curves: Sequence[Curve], unit: TimeUnit) -> list[Figure]:
    """A ring where a run first is at or above its target, a cross where one ended without; none on what is not valid."""
    curves = [curve for curve in curves if curve.sign != w.ERROR_MARK]
    crossed = [(curve, curve.crossing) for curve in curves if curve.crossing is not None]
    ended = [(curve, curve.points[-1]) for curve in curves if curve.points and curve.crossing is None and curve.training["target"] is not None]
    ring = {"symbol": "circle-open", "size": 13, "color": BLACK, "line": {"width": 2}}
    cross = {"symbol": "x-thin", "size": 9, "line": {"width": 2, "color": BLACK}}
    kinds = (("first at or above the target", ring, crossed), ("ended without reaching it", cross, ended))
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [six_digits(point.time_s / unit.seconds) for _, point in found],
            "y": [six_digits(point.accuracy) for _, point in found],
            "marker": marker,
            "cliponaxis": False,
            "hovertext": [f"{_who(curve)}<br>{name}<br>{_hover(point)}" for curve, point in found],
            "hovertemplate": "%{hovertext}<extra></extra>",
        }
        for name, marker, found in kinds
        if found
    ]


def _layout(task: Task, unit: TimeUnit, labels: Sequence[str]) -> Figure:
    lines = (
        sum(len(label) + _LEGEND_ENTRY_CHARS for label in (*labels, "first at or above the target", "ended without reaching it"))
        // _LEGEND_LINE_CHARS
    )
    chart = layout(f"{unit.name} since the loader was opened", _PLOT_PIXELS + 118 + _LEGEND_LINE_PIXELS * lines)
    chart["margin"] = {**chart["margin"], "t": 66 + _LEGEND_LINE_PIXELS * lines}
    chart["xaxis"] |= {"rangemode": "tozero"}
    chart["hovermode"] = "closest"
    values = [point.accuracy for curve in task.curves for point in curve.points]
    low, high = min([*values, *task.targets]), max([*values, *task.targets])
    room = max(0.07 * (high - low), 0.01)
    digits = 0 if high - low > 0.05 else 1
    span = [six_digits(max(low - room, -0.01)), six_digits(min(high + room, 1.01) if high <= 1 else high + room)]
    chart["yaxis"] = y_axis(f"{short(task.metric, '', _LABEL_CHARS)}, held out", range=span, tickformat=f".{digits}%")
    chart["shapes"] = [_target_line(value) for value in task.targets]
    chart["annotations"] = [_target_note(value) for value in task.targets]
    return chart


def _target_line(value: float) -> Figure:
    place = {"xref": "paper", "x0": 0, "x1": 1, "y0": six_digits(value), "y1": six_digits(value)}
    return {"type": "line", **place, "line": {"color": SOFT, "width": 2, "dash": "dash"}, "layer": "below"}


def _target_note(value: float) -> Figure:
    place = {"xref": "paper", "x": 0, "xanchor": "left", "y": six_digits(value), "yanchor": "bottom", "showarrow": False}
    return {**place, "text": f" target {target_text(value)}", "font": {"color": SOFT}, "bgcolor": "rgba(255,255,255,0.75)"}


def target_text(value: float) -> str:
    """`95%`, `74.9%`: no digit more than it has."""
    return f"{round(100 * value, 6):g}%"
