"""The largest rate that holds, by trials: bracket it by factors of two, then bisect. No clock and no trial in here: a trial is what the caller does."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

LEAST_RATE = 1e-3
MOST_RATE = 1e7


class Found(NamedTuple):
    """`best`: the largest rate that held, None where none did; `failed`: the smallest one above it that did not, None where none was found."""

    best: float | None
    failed: float | None
    trials: int

    def narrow(self, tolerance: float) -> bool:
        """Whether the two are within the tolerance of one another (0.05: 5 %)."""
        return self.best is not None and self.failed is not None and self.failed / self.best <= 1 + tolerance


def find_max(holds: Callable[[float], bool], start: float, tolerance: float, most_trials: int) -> Found:
    """Try rates from `start` until the bracket is within the tolerance, the trials are used up, or the rate leaves what makes sense.

    `holds(rate)` is taken for monotone: what held once is not tried again above a rate that failed.
    """
    found = Found(None, None, 0)
    rate = start
    while found.trials < most_trials and not found.narrow(tolerance) and LEAST_RATE <= rate <= MOST_RATE:
        best, failed = (rate, found.failed) if holds(rate) else (found.best, rate)
        found = Found(best, failed, found.trials + 1)
        rate = _next(found)
    return found


def _next(found: Found) -> float:
    """Twice what held, half of what failed, or between the two (their geometric mean, since the tolerance is relative)."""
    if found.failed is None:
        return 2 * (found.best or 0.0)
    if found.best is None:
        return found.failed / 2
    return float((found.best * found.failed) ** 0.5)
