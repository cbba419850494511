"""A run against the raw ceiling of its storage: pure arithmetic on the host traces' `ceiling` records (reference/measurement.md section 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from storagebench.members import first_files, members_of
from storagebench.traces import Trace

STABLE_WITHIN = 0.05


def stored_per_delivered(run: Mapping[str, Any], totals: Mapping[str, Any]) -> float | None:
    """Bytes that the storage returned for each delivered byte; None where unknown.

    A run that was cut short (--max-steps, --duration) had read ahead what it never delivered: there it is what the dataset has for a record byte.
    """
    bounds = run["config"]["run"]
    if totals["storage_bytes"] is None or not totals["delivered_bytes"]:
        return None
    if bounds["max_steps"] is not None or bounds["duration_s"] is not None:
        return float(run["dataset"]["stored_bytes"] / run["dataset"]["record_bytes"])
    return float(totals["storage_bytes"] / totals["delivered_bytes"])


def ceiling_figures(run: Mapping[str, Any], hosts: Sequence[Trace], delivered_bytes_per_s: float | None, totals: Mapping[str, Any]) -> dict[str, Any]:
    """`ceiling_bytes_per_s`, `ceiling_range_bytes_per_s` ([lower, higher] of before and after), `fraction_of_ceiling`; None where unknown.

    Hosts that are probed at the same time share the storage, so what each was given adds up; where one has none, the sum is not known. The ceiling is the
    mean of before and after where the higher is at most 5 % over the lower, else the lower. The fraction is the rate of storage_bytes in the window over
    it: the delivered rate times `stored_per_delivered`.
    """
    files = _files_of_hosts(run, hosts)
    sums = {when: _sum_of_hosts(files, "ceiling", when) for when in ("before", "after")}
    found = [rate for rate in sums.values() if rate is not None]
    if not found:
        return {"ceiling_bytes_per_s": None, "ceiling_range_bytes_per_s": None, "fraction_of_ceiling": None}
    low, high = min(found), max(found)
    ceiling = low if is_unstable(low, high) else (low + high) / 2
    ratio = stored_per_delivered(run, totals)
    return {
        "ceiling_bytes_per_s": ceiling,
        "ceiling_range_bytes_per_s": [low, high] if len(found) > 1 else None,
        "fraction_of_ceiling": None if ratio is None or delivered_bytes_per_s is None else delivered_bytes_per_s * ratio / ceiling,
    }


def headroom_bytes_per_s(run: Mapping[str, Any], hosts: Sequence[Trace]) -> float | None:
    """What the storage gave to more readers after the run, all hosts at once; None where one of them has no such figure."""
    return _sum_of_hosts(_files_of_hosts(run, hosts), "headroom", None)


def _files_of_hosts(run: Mapping[str, Any], hosts: Sequence[Trace]) -> list[Trace | None]:
    """The file of each host's first member; None for a host that left none."""
    files = first_files(hosts)
    return [files.get(host) for host in dict.fromkeys(member["host"] for member in members_of(run))]


def _sum_of_hosts(files: Sequence[Trace | None], kind: str, when: str | None) -> float | None:
    """The last rate that each host wrote down in records of this kind, added up."""
    total = 0.0
    for file in files:
        records = [] if file is None else [record for record in file.of_kind(kind) if record.get("when") == when]
        rates = [float(record["bytes_per_s"]) for record in records if record["bytes_per_s"] is not None]
        if not rates:
            return None
        total += rates[-1]
    return total if files else None


def is_unstable(low: float, high: float) -> bool:
    """Whether two ceilings (bytes per second, low <= high) are more than 5 % apart."""
    return high > low * (1 + STABLE_WITHIN)


def probe_before_s(hosts: Sequence[Trace]) -> float:
    """Seconds that the probe before the run took: they are no part of its start."""
    records = [record for trace in hosts for record in trace.of_kind("ceiling") if record["when"] == "before"]
    return max(((record["monotonic_ns"] - record["begin_ns"]) / 1e9 for record in records), default=0.0)
