"""Where bandwidth stops to grow with the number of accelerators: the fit of min(N demand, plateau) to runs. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from storagebench.model.scaling import knee

# A plateau this close to the largest demand is none: the runs never asked for more.
_CLEARLY: Final = 0.02


class Knee(NamedTuple):
    """`plateau` bytes/s that all accelerators together get at most; `accelerators` (not whole) that would take it at AU 1; `kept_busy`: as many are
    predicted to reach the threshold, floor(plateau / (threshold x demand)). `residual`: root mean square of (measured - fit) / fit."""

    plateau: float
    accelerators: float
    kept_busy: int
    residual: float


def fit_knee(points: Sequence[tuple[int, float]], demand: float, threshold: float) -> Knee | None:
    """Least squares over (accelerators, bytes/s) with the demand of one accelerator at AU 1 (bytes/s, above 0), each point weighed by its own demand.

    None where no plateau is in the points. For a plateau above the points' first i demands the squares are least at the mean of the others' rates (closed form),
    so all splits are tried.
    """
    ordered = sorted((accelerators * demand, rate) for accelerators, rate in points)
    best: tuple[float, float] | None = None
    for split in range(len(ordered)):
        weights = [1.0 / wanted**2 for wanted, _ in ordered[split:]]
        plateau = sum(weight * rate for weight, (_, rate) in zip(weights, ordered[split:], strict=True)) / sum(weights)
        squares = sum(((rate - min(wanted, plateau)) / wanted) ** 2 for wanted, rate in ordered)
        if best is None or squares < best[0]:
            best = squares, plateau
    if best is None or best[1] <= 0 or best[1] >= ordered[-1][0] * (1 - _CLEARLY):
        return None
    plateau = best[1]
    fitted = [(rate, min(wanted, plateau)) for wanted, rate in ordered]
    residual = (sum(((rate - fit) / fit) ** 2 for rate, fit in fitted) / len(fitted)) ** 0.5
    kept_busy = int(knee(plateau, (threshold or 1.0) * demand) + 1e-9)
    return Knee(plateau, knee(plateau, demand), kept_busy, residual)
