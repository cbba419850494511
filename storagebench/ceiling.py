"""A run against the raw ceiling of its storage: pure arithmetic on the host traces' `ceiling` records (reference/measurement.md section 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from storagebench.records import Trace

STABLE_WITHIN = 0.05


def ceiling_figures(hosts: Sequence[Trace], delivered_bytes_per_s: float | None, totals: Mapping[str, Any]) -> dict[str, Any]:
    """`ceiling_bytes_per_s`, `ceiling_range_bytes_per_s` ([lower, higher] of before and after), `fraction_of_ceiling`; None where unknown.

    The ceiling is the mean of before and after where the higher is at most 5 % over the lower, else the lower. The fraction is the rate of
    storage_bytes in the window over it: the delivered rate times the run's storage bytes for each delivered byte. Only runs on one host have one.
    """
    found = {record["when"]: float(record["bytes_per_s"]) for trace in hosts for record in trace.of_kind("ceiling")}
    if not found or len(hosts) != 1:
        return {"ceiling_bytes_per_s": None, "ceiling_range_bytes_per_s": None, "fraction_of_ceiling": None}
    low, high = min(found.values()), max(found.values())
    ceiling = low if is_unstable(low, high) else (low + high) / 2
    storage, delivered = totals["storage_bytes"], totals["delivered_bytes"]
    known = storage is not None and delivered and delivered_bytes_per_s is not None
    return {
        "ceiling_bytes_per_s": ceiling,
        "ceiling_range_bytes_per_s": [low, high] if len(found) > 1 else None,
        "fraction_of_ceiling": delivered_bytes_per_s * storage / delivered / ceiling if known and delivered_bytes_per_s is not None else None,
    }


def is_unstable(low: float, high: float) -> bool:
    """Whether two ceilings (bytes per second, low <= high) are more than 5 % apart."""
    return high > low * (1 + STABLE_WITHIN)


def probe_before_s(hosts: Sequence[Trace]) -> float:
    """Seconds that the probe before the run took: they are no part of its start."""
    records = [record for trace in hosts for record in trace.of_kind("ceiling") if record["when"] == "before"]
    return max(((record["monotonic_ns"] - record["begin_ns"]) / 1e9 for record in records), default=0.0)
