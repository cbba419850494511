"""What the writers beside the ranks wrote: pure arithmetic on their traces. Unknown, and of a run without writers all of it, is None."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from storagebench.ranks import quantiles
from storagebench.traces import Ints, Trace
from storagebench.window import RankWindow

_KEYS = ("written_shards", "written_bytes", "written_samples", "write_bytes_per_s", "write_quantiles_s", "write_cpu_s")


def write_figures(run: Mapping[str, Any], hosts: Sequence[Any], windows: Sequence[RankWindow], writers: Sequence[Trace]) -> dict[str, Any]:
    """Totals are of the whole run, in stored bytes of whole shards. The rate is of the window of the rank that took longest, between epochs left out: of each
    host its own rank's, whose clock the host's writers share, and then added up. `write_quantiles_s`: a shard, from its first record to its durable name.
    `write_cpu_s`: the writers', up to the last shard of each. `hosts`: the label of each rank's host."""
    if not run["config"]["run"].get("writers"):
        return dict.fromkeys(_KEYS)
    rows = [trace.of_kind("shard") for trace in writers]
    begin, end, num_bytes, samples = (_column(rows, name) for name in ("begin_ns", "end_ns", "bytes", "samples"))
    return {
        "written_shards": len(begin),
        "written_bytes": int(num_bytes.sum()),
        "written_samples": int(samples.sum()),
        "write_bytes_per_s": _rate(hosts, windows, writers),
        "write_quantiles_s": quantiles(np.sort(end - begin)),
        "write_cpu_s": sum(mine[-1]["cpu_s"] for mine in rows if mine),
    }


def _rate(hosts: Sequence[Any], windows: Sequence[RankWindow], writers: Sequence[Trace]) -> float | None:
    """Bytes per second of all hosts' writers; None where a host of ranks or of writers has no window."""
    longest: dict[str, RankWindow] = {}
    for host, window in zip(map(str, hosts), windows, strict=True):
        longest[host] = max(longest.get(host, window), window, key=lambda each: each.length_ns)
    of_host: dict[str, list[Sequence[Mapping[str, Any]]]] = {host: [] for host in longest}
    for trace in writers:
        of_host.setdefault(str(trace.header.get("host")), []).append(trace.of_kind("shard"))
    total = 0.0
    for host, rows in of_host.items():
        window = longest.get(host, RankWindow(()))
        if window.length_ns <= 0:
            return None
        begin, end, num_bytes = (_column(rows, name) for name in ("begin_ns", "end_ns", "bytes"))
        total += bytes_within(begin, end, num_bytes, [(epoch.open_ns, epoch.close_ns) for epoch in window.epochs]) / (window.length_ns / 1e9)
    return total if of_host else None


def bytes_within(begin_ns: Ints, end_ns: Ints, num_bytes: Ints, spans: Sequence[tuple[int, int]]) -> float:
    """The bytes of these shards that were written within the spans (begin, end), which do not overlap: of a shard that lies partly within one, the share of
    its time that does.

    >>> bytes_within(np.array([0]), np.array([10]), np.array([100]), [(5, 7), (9, 20)])
    30.0
    """
    length_ns = np.maximum(end_ns - begin_ns, 1)
    total = 0.0
    for open_ns, close_ns in spans:
        inside_ns = np.maximum(np.minimum(end_ns, close_ns) - np.maximum(begin_ns, open_ns), 0)
        total += float((num_bytes * (inside_ns / length_ns)).sum())
    return total


def _column(rows: Sequence[Sequence[Mapping[str, Any]]], name: str) -> Ints:
    return np.array([row[name] for mine in rows for row in mine], dtype=np.int64)
