"""Time and cost of a search's runs against the number of accelerators, one above the other, and what more bandwidth would be worth. Formulas: `model.scaling`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from typing import Final, NamedTuple

from storagebench.experiments.searchresult import Found
from storagebench.model import scaling as model
from storagebench.report import wording as w
from storagebench.report.plotstyle import BLUE, GREY, SKY, SOFT, VERMILLION, Figure, layout, short, six_digits, y_axis
from storagebench.report.scaling import CostUnit, HourPrice, cost_unit, knee_interval, rated, step_text
from storagebench.report.spans import unit_for

_PANEL_PIXELS: Final = 230
_GAP_PIXELS: Final = 34
_ROOM: Final = 0.6  # of an accelerator, left and right of the first and last number
_POINTS: Final = 80  # of a curve
_MOST_TICKS: Final = 20
_LEAST_TICK_GAP: Final = 1 / 26  # of the axis


class Piece(NamedTuple):
    """What time and cost are told of. `work_s` accelerator seconds, or 1 where times are relative; `least` and `most`: the range around it, as factors."""

    work_s: float
    time_title: str
    time_unit_s: float
    cost_title: str
    cost: CostUnit
    least: float = 1.0
    most: float = 1.0


def piece_of(found: Found, price: HourPrice | None = None) -> Piece:
    """The training where the epochs to its target are known, else an epoch, else nothing but ratios."""
    work, points = found.work, rated(found)
    if work.epoch_s is None:
        return Piece(1.0, "time, of one that never waits", 1.0, "cost (1: no waiting)", CostUnit("", 1.0))
    fewest, most = work.epochs or (1, 1)
    middle = (fewest + most) / 2
    work_s = middle * work.epoch_s
    slowest_s = max((model.time_s(work_s, point.accelerators, min(point.au)) for point in points), default=work_s)
    unit = unit_for(slowest_s)
    what = "an epoch" if work.epochs is None else "to the target"
    if price is None:
        cost, cost_title = CostUnit("", 1 / work_s), "cost (1: no waiting)"
    else:
        cost, cost_title = cost_unit([], price), f"{short(price.currency)} {what}"
    return Piece(work_s, f"{unit.name} {what}", unit.seconds, cost_title, cost, fewest / middle, most / middle)


def time_and_cost(found: Found, price: HourPrice | None = None) -> Figure:
    """Time above, cost below, on one axis of accelerators: a point a run, the model with its knee, and accelerators that never wait."""
    piece, points = piece_of(found, price), rated(found)
    pairs = [(point.accelerators, au) for point in points for au in point.au]
    times = [model.time_s(piece.work_s, accelerators, au) / piece.time_unit_s for accelerators, au in pairs]
    costs = [model.accelerator_s(piece.work_s, au) * piece.cost.factor for _, au in pairs]
    data: list[Figure] = []
    for axis, of_au in (("y", _time(piece)), ("y2", _cost(piece))):
        data += _lines(found, of_au, axis)
    # Money of a training has the range of its epochs; relative cost has none.
    data.append(_dots(pairs, times, "y", f"%{{y:.4g}} {piece.time_title}", piece))
    data.append(_dots(pairs, costs, "y2", f"%{{y:.4g}} {piece.cost_title}", piece if piece.cost.name else None))
    chart = _layout(found, 2 * _PANEL_PIXELS + _GAP_PIXELS)
    split = _PANEL_PIXELS / (2 * _PANEL_PIXELS + _GAP_PIXELS)
    chart["xaxis"] |= {"anchor": "y2"}
    chart["yaxis"] = y_axis(piece.time_title, rangemode="tozero", domain=[1 - split, 1])
    chart["yaxis2"] = y_axis(piece.cost_title, rangemode="tozero", domain=[0, split])
    return {"data": data, "layout": chart}


def worth(found: Found, price: HourPrice | None = None) -> Figure:
    """What the next piece of bandwidth would save in an epoch, against the number of accelerators, below all that waiting costs. There has to be a knee."""
    knee, epoch_s, points = found.knee, found.work.epoch_s, rated(found)
    assert knee is not None and epoch_s is not None
    more = model.step_of(knee.plateau)
    low, high = _ends(found)
    xs = _grid(low, high, [knee.accelerators, knee.accelerators * (knee.plateau + more) / knee.plateau])
    saved = [model.worth_of_more(epoch_s, x, knee.accelerators, knee.plateau, more) for x in xs]
    lost = [model.stalled_s(epoch_s, model.busy_share(x, knee.accelerators)) for x in xs]
    unit = cost_unit([*lost, 0.0], price)
    measured = [(point.accelerators, median(point.au)) for point in points]
    waiting = [model.stalled_s(epoch_s, au) * unit.factor for _, au in measured]
    name = short(unit.name)
    data = [
        _line("all the waiting", xs, [value * unit.factor for value in lost], "y", GREY, "dash"),
        _line(f"what the next {step_text(more)} would save", xs, [value * unit.factor for value in saved], "y", VERMILLION),
        {**_dots(measured, waiting, "y", f"%{{y:.4g}} {name} of waiting"), "name": "the waiting as measured (medians)", "showlegend": True},
    ]
    chart = _layout(found, _PANEL_PIXELS)
    chart["yaxis"] = y_axis(f"{name} an epoch", rangemode="tozero")
    return {"data": data, "layout": chart}


def _time(piece: Piece) -> Callable[[float, float], float]:
    return lambda accelerators, au: model.time_s(piece.work_s, accelerators, au) / piece.time_unit_s


def _cost(piece: Piece) -> Callable[[float, float], float]:
    return lambda _accelerators, au: model.accelerator_s(piece.work_s, au) * piece.cost.factor


def _lines(found: Found, of_au: Callable[[float, float], float], axis: str) -> list[Figure]:
    """The model, where a knee is known, over what it would be without waits."""
    low, high = _ends(found)
    xs = _grid(low, high, [] if found.knee is None else [found.knee.accelerators])
    lines = [_line("if they never waited", xs, [of_au(x, 1.0) for x in xs], axis, GREY, "dash")]
    if found.knee is not None:
        knee = found.knee.accelerators
        lines.append(_line("model: one bandwidth for all", xs, [of_au(x, model.busy_share(x, knee)) for x in xs], axis, SKY))
    return lines


def _ends(found: Found) -> tuple[float, float]:
    """From the first number to the last; around a single one."""
    numbers = [point.accelerators for point in rated(found)] or [1]
    return (min(numbers), max(numbers)) if len(numbers) > 1 else (numbers[0] - _ROOM / 2, numbers[0] + _ROOM / 2)


def _grid(low: float, high: float, corners: Sequence[float]) -> list[float]:
    """From low to high with the corners of the curve in it."""
    inside = [corner for corner in corners if low < corner < high]
    return sorted({*(low + (high - low) * index / (_POINTS - 1) for index in range(_POINTS)), *inside})


def _layout(found: Found, plot_pixels: int) -> Figure:
    """The axis of accelerators, and the knee with its interval as a band across the plot."""
    chart = layout("accelerators", plot_pixels + 118)
    numbers = sorted(point.accelerators for point in rated(found)) or [1]
    low, high = numbers[0] - _ROOM, numbers[-1] + _ROOM
    chart["xaxis"] |= {"range": [low, high], "tickformat": "d"}
    gaps = [(b - a) / (high - low) for a, b in pairwise(numbers)]
    if len(numbers) <= _MOST_TICKS and min(gaps, default=1.0) >= _LEAST_TICK_GAP:
        chart["xaxis"] |= {"tickvals": numbers}
    chart["shapes"], chart["annotations"] = _knee_marks(found, low, high)
    return chart


def _knee_marks(found: Found, low: float, high: float) -> tuple[list[Figure], list[Figure]]:
    """A dotted line at n*, its interval behind it; none outside of the plot."""
    if found.knee is None or not low < found.knee.accelerators < high:
        return [], []
    at, interval = six_digits(found.knee.accelerators), knee_interval(found)
    across = {"yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    shapes: list[Figure] = [{"type": "line", "x0": at, "x1": at, **across, "line": {"color": SOFT, "width": 2, "dash": "dot"}}]
    text = f"knee: {w.number(at)}"
    if interval is not None:
        ends = [six_digits(max(interval.low, low)), six_digits(min(interval.high, high))]
        shapes.insert(0, {"type": "rect", "x0": ends[0], "x1": ends[1], **across, "fillcolor": SKY, "opacity": 0.25, "line": {"width": 0}})
        text += f" ({w.number(interval.low)} to {w.number(interval.high)})"
    right = at > (low + high) / 2
    place = {"x": at, "yref": "paper", "y": 1, "yanchor": "top", "xanchor": "right" if right else "left", "xshift": -4 if right else 4}
    return shapes, [{**place, "text": text, "showarrow": False, "font": {"color": SOFT}, "bgcolor": "rgba(255,255,255,0.75)"}]


def _line(name: str, x: Sequence[float], y: Sequence[float], axis: str, colour: str, dash: str = "solid") -> Figure:
    values = {"x": [six_digits(value) for value in x], "y": [six_digits(value) for value in y]}
    style = {"line": {"color": colour, "width": 2, "dash": dash}, "hoverinfo": "skip", "yaxis": axis, "legendgroup": name, "showlegend": axis == "y"}
    return {"type": "scatter", "mode": "lines", "name": name, **values, **style}


def _dots(pairs: Sequence[tuple[int, float]], y: Sequence[float], axis: str, hover: str, piece: Piece | None = None) -> Figure:
    """A point for each (accelerators, AU); a bar on it where the epochs are a range."""
    found: Figure = {
        "type": "scatter",
        "mode": "markers",
        "name": "a run",
        "x": [accelerators for accelerators, _ in pairs],
        "y": [six_digits(value) for value in y],
        "customdata": [six_digits(au) for _, au in pairs],
        "yaxis": axis,
        "legendgroup": "a run",
        "showlegend": axis == "y",
        "marker": {"color": BLUE, "size": 9, "opacity": 0.75, "line": {"color": "#FFFFFF", "width": 1}},
        "hovertemplate": f"{hover}<br>%{{x}} accelerators, AU %{{customdata:.4f}}<extra></extra>",
    }
    if piece is not None and piece.most > piece.least:
        reach = [six_digits(value * (piece.most - 1)) for value in y]
        found["error_y"] = {"type": "data", "array": reach, "symmetric": True, "color": BLUE, "thickness": 1, "width": 4}
    return found
