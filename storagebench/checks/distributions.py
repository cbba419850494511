"""Two distributions that intervals need: quantiles of Student's t, and the exact null distribution of Mann and Whitney's U. Pure arithmetic."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np

_MAX_DF: Final = 1e6
_MAX_NEWTON_STEPS: Final = 100  # 5 to 15 are taken
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


@lru_cache(maxsize=4096)
def student_t_quantile(probability: float, df: float) -> float:
    """x with P(T <= x) = probability, for 0.5 <= probability < 1 and `df` >= 1 degrees of freedom, real ones too; good to 1e-6.

    With t = sqrt(df) tan(a) the distribution is 1/2 + G((df+1)/2) / (sqrt(pi) G(df/2)) times the integral of cos(a)^(df-1): smooth, so that Gauss
    and Legendre's 64 points give it. Newton's method from 0 nears the root from below, since the distribution is concave there.
    """
    df = min(df, _MAX_DF)
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(math.pi)
    x = 0.0
    for _ in range(_MAX_NEWTON_STEPS):
        angle = math.atan(x / math.sqrt(df))
        above_half = scale * angle / 2 * float(np.sum(_WEIGHTS * np.cos(angle * (_NODES + 1) / 2) ** (df - 1)))
        step = (probability - 0.5 - above_half) / (scale / math.sqrt(df) * math.cos(angle) ** (df + 1))
        x += step
        if abs(step) < 1e-10:
            break
    return x


@lru_cache(maxsize=64)
def rank_counts(m: int, n: int) -> tuple[int, ...]:
    """In how many of the orders of m and n values Mann and Whitney's U is 0, 1 ... m n: the coefficients of the Gaussian binomial."""
    counts = [1] + [0] * (m * n)
    for i in range(1, m + 1):
        for u in range(m * n, n + i - 1, -1):
            counts[u] -= counts[u - n - i]
        for u in range(i, m * n + 1):
            counts[u] += counts[u - i]
    return tuple(counts)
