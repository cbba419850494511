"""When a quality counts as reached, and where a curve of it first does: the first crossing, never the best value, since accuracy goes up and down.

Source: reference/tta-cost-kubeflow.md section 1, edge cases 1 and 5.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np

_Point = TypeVar("_Point")


def reaches(quality: float, target: float, lower_is_better: bool = False) -> bool:
    """At or above the target (at or below it, where lower is better, as word error rates), both as float32: frameworks compute in it, and MLPerf v0.5
    GNMT runs on dgx2 stopped at 21.799999237060547, which is 21.8 there."""
    value, bound = float(np.float32(quality)), float(np.float32(target))
    return value <= bound if lower_is_better else value >= bound


def first_crossing(points: Iterable[tuple[_Point, float | None]], target: float, lower_is_better: bool = False) -> _Point | None:
    """The first point (of whatever kind: an epoch, a time) whose quality reaches the target; None where none does. A quality of None was not measured."""
    for point, quality in points:
        if quality is not None and reaches(quality, target, lower_is_better):
            return point
    return None
