"""Do groups of results differ by more than their own spread? A one-way permutation test: pure, and the same for the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEVEL: Final = 0.05
_DRAWS: Final = 20_000
_SEED: Final = 20261127


@dataclass(frozen=True)
class Agreement:
    """`p_value`: how often a random dealing of all values to the groups has means at least as far apart; `spread` between the highest and the lowest mean,
    `pooled` the standard deviation within the groups."""

    p_value: float
    spread: float
    pooled: float
    means: Mapping[str, float]

    @property
    def agrees(self) -> bool:
        """Whether the groups may be of one distribution, at LEVEL."""
        return self.p_value > LEVEL


def agreement(groups: Mapping[str, Sequence[float]]) -> Agreement:
    """One-way permutation test on the sum of squares between the groups (Fisher 1935; Good, "Permutation Tests", section 3.3), 20,000 dealings.

    Raises ValueError for fewer than two groups of two values, and where the test could not fail: one group that lies apart from all others has the p-value
    k / C(n, m) at least (k groups of m among n values), which has to be under LEVEL.
    """
    sizes = [len(values) for values in groups.values()]
    if len(sizes) < 2 or min(sizes) < 2:
        raise ValueError(f"{len(sizes)} groups of {min(sizes, default=0)} values at least are too few to compare")
    least = _least_p(sizes)
    if least >= LEVEL:
        raise ValueError(f"with groups of {sizes} values no difference can be told at {LEVEL}: the least p-value is {least:.3f}")
    values = np.concatenate([np.asarray(group, np.float64) for group in groups.values()])
    seen = _between(values[None, :], sizes)[0]
    order = np.random.default_rng(_SEED).permuted(np.tile(np.arange(len(values)), (_DRAWS, 1)), axis=1)
    as_far = int((_between(values[order], sizes) >= seen - 1e-12).sum())
    means = {name: float(np.mean(group)) for name, group in groups.items()}
    within = sum(float(((np.asarray(group) - means[name]) ** 2).sum()) for name, group in groups.items())
    return Agreement(
        p_value=(as_far + 1) / (_DRAWS + 1),
        spread=max(means.values()) - min(means.values()),
        pooled=float(np.sqrt(within / (len(values) - len(sizes)))),
        means=means,
    )


def _least_p(sizes: Sequence[int]) -> float:
    from math import comb

    largest = max(sizes)
    return len(sizes) / comb(sum(sizes), largest)


def _between(values: NDArray[np.float64], sizes: Sequence[int]) -> NDArray[np.float64]:
    """Sum of squares between the groups, of each row."""
    whole = values.mean(axis=1)
    ends = np.cumsum(sizes)
    parts = [values[:, end - size : end].mean(axis=1) for end, size in zip(ends, sizes, strict=True)]
    return np.asarray(sum(size * (part - whole) ** 2 for size, part in zip(sizes, parts, strict=True)))
