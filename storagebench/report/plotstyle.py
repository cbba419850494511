"""What the plots of the HTML page share: colours, layout, names. Figures are plain data for plotly.js, {"data", "layout"}; no plotly is needed here.

Texts that plotly sets as its pseudo-HTML are escaped by `short` and `html.escape`. Colours are Okabe and Ito's, which colour-blind readers tell
apart; invalid runs are hatched or marked as well, so nothing hangs on colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Final

from storagebench.report import wording as w
from storagebench.report.wording import Summary

Figure = dict[str, Any]
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222"
GREY: Final = "#A8A8A8"
GRID: Final = "#E3E6EA"
SOFT: Final = "#666666"
_LABEL_CHARS: Final = 36


def labels(summaries: Sequence[Summary]) -> list[str]:
    """A name for each run, told apart where two folders hold runs of the same id."""
    names: list[str] = []
    for summary in summaries:
        name = w.printable(summary["run_id"])
        same = sum(w.printable(other["run_id"]) == name for other in summaries[: len(names)])
        names.append(f"{name} ({same + 1})" if same else name)
    return names


def short(label: str, sign: str = "", most: int = _LABEL_CHARS) -> str:
    """Escaped (for hover templates too), with the run's mark, and shortened in the middle to `most` characters: the ends of run ids differ."""
    half = most // 2
    text = label if len(label) <= most else f"{label[: half - 1]}…{label[-half:]}"
    return escape(w.marked(text, sign)).replace("{", "&#123;")


def layout(x_title: str, height: int) -> Figure:
    """A white plot with its legend above and room for a title of the x axis."""
    return {
        "height": height,
        "margin": {"l": 64, "r": 24, "t": 66, "b": 52},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": BLACK},
        "paper_bgcolor": "#FFFFFF",
        "plot_bgcolor": "#FFFFFF",
        "xaxis": {"title": title(x_title), "gridcolor": GRID, "zeroline": False, "linecolor": GREY, "automargin": True},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        "showlegend": True,
        "hoverlabel": {"align": "left"},
    }


def title(text: str) -> Figure:
    """Of an axis."""
    return {"text": text, "standoff": 10, "font": {"size": 13}}


def y_axis(text: str, **more: Any) -> Figure:
    """An axis with a grid; `more` are its other plotly attributes."""
    return {"title": title(text), "gridcolor": GRID, "zeroline": False, "ticklabelstandoff": 6, **more}


def six_digits(value: float) -> float:
    """Six digits are more than a screen shows, and keep the page small."""
    return float(f"{value:.6g}")
