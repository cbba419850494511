"""A search as plots: AU, and bandwidth, against the number of accelerators; a point a run, with the threshold, the answer and the knee."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

from storagebench.experiments.searchresult import Found, Point
from storagebench.report import wording as w
from storagebench.report.plotstyle import BLACK, BLUE, GREY, SKY, SOFT, VERMILLION, Figure, layout, six_digits, y_axis

_HEIGHT: Final = 400
_X_TITLE: Final = "accelerators"
_ROOM: Final = 0.6  # of an accelerator, left and right of the first and last number


def utilisation(found: Found) -> Figure:
    """AU of each run against the number of accelerators, the medians joined, and the threshold."""
    threshold = found.rules.threshold
    points = [point for point in found.points if point.au]
    kinds = (("a run that met the threshold", BLUE, True), ("a run that missed it", VERMILLION, False))
    data: list[Figure] = [_line("median", [point.accelerators for point in points], [median(point.au) for point in points], SKY)]
    for name, colour, met in kinds:
        pairs = [(point.accelerators, au) for point in points for au in point.au if (au >= threshold) is met]
        if pairs:
            data.append(_dots(name, pairs, colour, "AU %{y:.4f} with %{x}<extra></extra>"))
    chart = _layout(found, points)
    chart["yaxis"] = y_axis("AU (accelerator utilisation)", range=[0, 1.05], tickformat=".1f")
    chart["shapes"].append(_rule("y", threshold, {"color": BLACK, "width": 2, "dash": "dash"}))
    chart["annotations"].append(
        {"xref": "paper", "x": 0, "y": threshold, "xanchor": "left", "yanchor": "top", "showarrow": False, "text": f"threshold {threshold:g}"}
    )
    return {"data": data, "layout": chart}


def bandwidth(found: Found) -> Figure:
    """Bytes per second of each run against the number of accelerators, what they ask for at AU 1, and the fitted plateau with its knee."""
    points = [point for point in found.points if point.bytes_per_s]
    pairs = [(point.accelerators, rate / 1e6) for point in points for rate in point.bytes_per_s]
    data: list[Figure] = []
    last = max((point.accelerators for point in points), default=1)
    top = max((rate for _, rate in pairs), default=1.0)
    knee = found.knee
    if found.demand_bytes_per_s:
        one = found.demand_bytes_per_s / 1e6
        end = last if knee is None else min(last, 1.25 * knee.accelerators)
        data.append(_line("what they ask for at AU 1", [0, end], [0, end * one], GREY, "dash"))
        top = max(top, end * one)
    if knee is not None:
        level = knee.plateau / 1e6
        data.append(_line("fit: what they get", [0, knee.accelerators, last], [0, level, level], SKY))
    data.append(_dots("a run", pairs, BLUE, "%{y:.1f} MB/s with %{x}<extra></extra>"))
    chart = _layout(found, points)
    chart["yaxis"] = y_axis("MB/s", range=[0, six_digits(1.08 * top)])
    if knee is not None and knee.accelerators <= last:
        text = f"knee: {w.number(knee.accelerators)} accelerators, {w.number(knee.plateau / 1e6)} MB/s"
        place = {"x": six_digits(knee.accelerators), "y": six_digits(knee.plateau / 1e6), "ax": 30, "ay": 44, "arrowhead": 2, "arrowcolor": SOFT}
        chart["annotations"].append({**place, "text": text, "xanchor": "left"})
    return {"data": data, "layout": chart}


def _layout(found: Found, points: Sequence[Point]) -> Figure:
    """The x axis with whole numbers, and the answer as a band between the last number that is kept busy and the first that is not."""
    chart = layout(_X_TITLE, _HEIGHT)
    numbers = [point.accelerators for point in points] or [1]
    chart["xaxis"] |= {"range": [min(numbers) - _ROOM, max(numbers) + _ROOM], "tickformat": "d"}
    if len(numbers) <= 20:
        chart["xaxis"] |= {"tickvals": numbers}
    chart["shapes"], chart["annotations"] = [], []
    answer = found.answer
    if answer is not None and answer.state in ("found", "bounded") and answer.best:
        chart["shapes"].append(_rule("x", answer.best, {"color": SOFT, "width": 2, "dash": "dot"}))
        chart["annotations"].append(
            {
                "yref": "paper",
                "x": answer.best,
                "y": 0,
                "xanchor": "right",
                "yanchor": "bottom",
                "showarrow": False,
                "text": f"<b>{answer.best}</b> kept busy ",
            }
        )
    return chart


def _rule(axis: str, value: float, line: Figure) -> Figure:
    """A line across the plot at this value of an axis."""
    other = "y" if axis == "x" else "x"
    return {
        "type": "line",
        f"{axis}0": value,
        f"{axis}1": value,
        f"{other}ref": "paper",
        f"{other}0": 0,
        f"{other}1": 1,
        "line": line,
        "layer": "below",
    }


def _line(name: str, x: Sequence[float], y: Sequence[float], colour: str, dash: str = "solid") -> Figure:
    values = {"x": [six_digits(value) for value in x], "y": [six_digits(value) for value in y]}
    return {"type": "scatter", "mode": "lines", "name": name, **values, "line": {"color": colour, "width": 2, "dash": dash}, "hoverinfo": "skip"}


def _dots(name: str, pairs: Sequence[tuple[int, float]], colour: str, hover: str) -> Figure:
    marker = {"color": colour, "size": 9, "opacity": 0.75, "line": {"color": "#FFFFFF", "width": 1}}
    values = {"x": [x for x, _ in pairs], "y": [six_digits(y) for _, y in pairs]}
    return {"type": "scatter", "mode": "markers", "name": name, **values, "marker": marker, "hovertemplate": hover}
