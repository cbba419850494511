"""Early stopping: how many queries prove a latency percentile at 99 % confidence, given how many of them were over it.

With t over-latency queries among n, the percentile p is proved where so few would be unlikely if it did not hold: BinomCDF(t; n, 1 - p) < 1 - c.
(MLPerf inference_rules.adoc, appendix Early Stopping; LoadGen has tolerance d = 0 and confidence c = 0.99 for all scenarios.)
"""

from __future__ import annotations

import math
from typing import Final

CONFIDENCE: Final = 0.99
_SMALLEST_SHARE: Final = 2.0**-53  # a term below this share of the largest changes no digit of the sum


def binomial_cdf(t: int, n: int, q: float) -> float:
    """P(at most t events in n trials of probability q), for 0 <= t <= n and 0 < q < 1.

    Terms are summed from k = t downwards, each from the one above it; below the mean they fall, so the sum ends early.

    >>> round(binomial_cdf(0, 44, 0.1), 6), binomial_cdf(3, 3, 0.5)
    (0.009698, 1.0)
    """
    if t >= n:
        return 1.0
    if t > n * q:  # past the mean the sum is long; the other tail is short
        return 1.0 - _upper_tail(t + 1, n, q)
    term = total = _term(t, n, q)
    for k in range(t, 0, -1):
        term *= k * (1 - q) / ((n - k + 1) * q)
        total += term
        if term < total * _SMALLEST_SHARE:
            break
    return min(total, 1.0)


def _upper_tail(t: int, n: int, q: float) -> float:
    term = total = _term(t, n, q)
    for k in range(t, n):
        term *= (n - k) * q / ((k + 1) * (1 - q))
        total += term
        if term < total * _SMALLEST_SHARE:
            break
    return min(total, 1.0)


def _term(k: int, n: int, q: float) -> float:
    """Binomial probability of exactly k."""
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(choose + k * math.log(q) + (n - k) * math.log1p(-q))


def proves(num_queries: int, num_over: int, percentile: float) -> bool:
    """Whether so many queries, of which `num_over` were over the latency, prove that it holds at the percentile (0..1, exclusive)."""
    return num_over < num_queries and binomial_cdf(num_over, num_queries, 1 - percentile) < 1 - CONFIDENCE


def queries_needed(num_over: int, percentile: float) -> int:
    """The least number of queries (over and under the latency) that prove the percentile with `num_over` over it.

    >>> [queries_needed(t, 0.90) for t in (0, 1, 2, 10)], queries_needed(0, 0.99), queries_needed(1, 0.999)
    ([44, 64, 81, 197], 459, 6636)
    """
    low, high = num_over, max(2 * num_over, 64)  # low does not prove it
    while not proves(high, num_over, percentile):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if proves(middle, num_over, percentile):
            high = middle
        else:
            low = middle
    return high


def most_over(num_queries: int, percentile: float) -> int:
    """The largest number of over-latency queries with which so many queries still prove the percentile; -1 where not even 0 does.

    >>> most_over(43, 0.90), most_over(44, 0.90), most_over(64, 0.90), most_over(24576, 0.90)
    (-1, 0, 1, 2348)
    """
    low, high = -1, num_queries
    while high - low > 1:
        middle = (low + high) // 2
        if proves(num_queries, middle, percentile):
            low = middle
        else:
            high = middle
    return low
