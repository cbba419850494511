"""Where a curve first reaches a target: the first crossing, never the best value, since accuracy goes up and down. What counts as reached: `trainname.reaches`.

Source: reference/tta-cost-kubeflow.md section 1, edge case 5.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from storagebench.trainname import reaches

_Point = TypeVar("_Point")


def first_crossing(points: Iterable[tuple[_Point, float | None]], target: float, lower_is_better: bool = False) -> _Point | None:
    """The first point (of whatever kind: an epoch, a time) whose quality reaches the target; None where none does. A quality of None was not measured."""
    for point, quality in points:
        if quality is not None and reaches(quality, target, lower_is_better):
            return point
    return None
