"""Rules on a run beside the raw ceiling of its storage (`run --ceiling`). Without one, they say nothing."""

from __future__ import annotations

from collections.abc import Iterator

from storagebench.ceiling import STABLE_WITHIN, is_unstable
from storagebench.checks.case import Case, Found
from storagebench.units import format_rate

# A rate so far above the range's upper end is no noise (reference/measurement.md section 5).
OVER_CEILING = 1.03


def _range(case: Case) -> tuple[float, float] | None:
    """(lower, higher) of the ceilings before and after; twice the one where there is only one."""
    ceiling = case.summary["ceiling_bytes_per_s"]
    both = case.summary.get("ceiling_range_bytes_per_s")
    return None if ceiling is None else (both[0], both[1]) if both else (ceiling, ceiling)


def ceiling_unstable(case: Case) -> Iterator[Found]:
    both = _range(case)
    if both is not None and is_unstable(*both):
        low, high = both
        yield Found(
            f"the storage's raw ceiling was {format_rate(low)} and {format_rate(high)} before and after the run, "
            f"{high / low - 1:.0%} apart, over {STABLE_WITHIN:.0%}",
            "stop what else uses the storage, or give the fraction of the ceiling as a range",
        )


def faster_than_ceiling(case: Case) -> Iterator[Found]:
    both, fraction = _range(case), case.summary["fraction_of_ceiling"]
    if both is None or fraction is None:
        return
    rate, high = fraction * case.summary["ceiling_bytes_per_s"], both[1]
    if rate > OVER_CEILING * high:
        yield Found(
            f"the run read {format_rate(rate)}, {rate / high:.2f} x the raw ceiling of the storage ({format_rate(high)}), over {OVER_CEILING}",
            "some of it came from a cache, or the storage was slower when it was probed: see the cache state, and run it again",
        )
