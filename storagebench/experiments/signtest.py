"""How many runs it takes to say that most runs at a setting meet a threshold: a sign test after each run, with its error worked out exactly.

Only whether a run met the threshold counts, so nothing is assumed about how AU is distributed (it piles up at 1, where a t interval of two equal runs
has no width). A wrong statement is "runs meet" where a run meets with a probability under 1/2, or "runs miss" where it does so with one over 1/2.
Looking after every run makes such an error likelier than one look would (Armitage, McPherson and Rowe, JRSS A 132, 1969), so each look is held to a
nominal level that is lower, the same for all looks (Pocock, Biometrika 64, 1977), and the whole is computed, not approximated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Literal

from storagebench.errors import UsageError

Statement = Literal["meets", "misses", "undecided", "open"]


def tail(num_runs: int, at_most: int) -> float:
    """P(Bin(num_runs, 1/2) <= at_most)."""
    return float(sum(math.comb(num_runs, k) for k in range(at_most + 1)) / 2**num_runs)


@cache
def boundary(confidence: float, most_runs: int) -> tuple[int, ...]:
    """For 0, 1 ... `most_runs` runs: how many may contradict a statement that is then made; -1 where none is made yet.

    The statement is wrong with a probability of at most 1 - confidence over all looks together. Raises UsageError where so few runs cannot say it.

    >>> boundary(0.95, 12)
    (-1, -1, -1, -1, -1, 0, 0, 0, 0, 1, 1, 1, 2)
    """
    error = 1.0 - confidence
    levels = sorted({tail(n, k) for n in range(1, most_runs + 1) for k in range(n // 2 + 1)})
    best: tuple[int, ...] = ()
    for level in levels:
        bounds = _bounds(level, most_runs)
        if error_of(bounds) > error + 1e-12:
            break
        best = bounds
    if not best:
        least = math.ceil(-math.log2(error) - 1e-12)
        raise UsageError(
            f"--confirmations is {most_runs}, and a confidence of {confidence:g} takes at least {least} runs that agree",
            f"use --confirmations {least} or more, or a lower --confidence",
        )
    return best


def _bounds(level: float, most_runs: int) -> tuple[int, ...]:
    rows = []
    for n in range(most_runs + 1):
        fitting = [k for k in range(n // 2 + 1) if n and tail(n, k) <= level + 1e-12]
        rows.append(max(fitting, default=-1))
    return tuple(rows)


def error_of(bounds: Sequence[int]) -> float:
    """The probability that runs which meet with probability 1/2 are ever said to meet: the exact error over all looks."""
    alive, wrong = {0: 1.0}, 0.0  # by contradicting runs so far
    for bound in bounds[1:]:
        grown: dict[int, float] = {}
        for contradicting, share in alive.items():
            for step in (0, 1):
                grown[contradicting + step] = grown.get(contradicting + step, 0.0) + share / 2
        wrong += sum(share for contradicting, share in grown.items() if contradicting <= bound)
        alive = {contradicting: share for contradicting, share in grown.items() if contradicting > bound}
    return wrong


def state(met: int, missed: int, bounds: Sequence[int]) -> Statement:
    """What so many runs say; `undecided` once no more are to be made."""
    num_runs = met + missed
    bound = bounds[min(num_runs, len(bounds) - 1)]
    if missed <= bound:
        return "meets"
    if met <= bound:
        return "misses"
    return "undecided" if num_runs >= len(bounds) - 1 else "open"
