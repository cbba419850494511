"""The rows of `per_epoch` and `per_rank`. Part of the independent computation; see `recompute`."""

from __future__ import annotations

from hosts import least_cached
from rank import NS, RankFigures, Row, all_or_none, by_name, kind


def epoch_row(run: Row, ranks: list[list[Row]], ends: list[Row], epoch: int) -> Row:
    mine = [row for row in ends if row["epoch"] == epoch]
    of_hosts: dict[str, list[Row]] = {}
    caches: dict[str, Row] = {}
    for rows in ranks:
        name = str(kind(rows, "header")[0].get("host"))
        for row in kind(rows, "cache"):
            if row["epoch"] == epoch:
                caches[name] = row
        for row in kind(rows, "epoch_end"):
            if row["epoch"] == epoch:
                of_hosts.setdefault(name, []).append(row)
    cache = [caches.get(name, {}) for name in of_hosts]
    stored = all_or_none([row["storage_bytes"] for row in mine])
    device, amplified = _from_the_device(run, list(of_hosts.values()), stored)
    known = bool(amplified) and None not in amplified
    return {
        "epoch": epoch,
        "samples": sum(row["samples"] for row in mine),
        "duration_s": max(max(row["end_ns"] for row in rows) - min(row["start_ns"] for row in rows) for rows in of_hosts.values()) / NS,
        "storage_bytes": stored,
        "retries": all_or_none([row["retries"] for row in mine]),
        "retries_by_kind": by_name([row.get("retries_by_kind") or {} for row in mine]),
        "device_read_bytes": device,
        "read_amplification": max(amplified) if known else None,
        "cached_fraction_served": least_cached(run, [None if ratio is None or ratio > 1.2 else max(0.0, 1 - ratio) for ratio in amplified]),
        "cached_fraction_before": least_cached(run, [row.get("cached_fraction_before") for row in cache]),
        "cache_method": ", ".join(dict.fromkeys(row["method"] for row in cache if row.get("method"))) or None,
        "metadata_cache": ", ".join(dict.fromkeys(row["metadata_cache"] for row in cache if row.get("metadata_cache"))) or None,
        "server_cache": "unknown"
        if any(row.get("server_cache") == "unknown" for row in cache)
        else next((row["server_cache"] for row in cache if row.get("server_cache")), None),
        "local_cache_bytes": all_or_none([row.get("local_cache_bytes") for row in mine]),
        "from_local_cache": _was_held([row["local_cache_bytes_before"] for row in mine if row.get("local_cache_bytes_before") is not None]),
    }


def _from_the_device(run: Row, hosts: list[list[Row]], stored: int | None) -> tuple[int | None, list[float | None]]:
    """Bytes of all devices, and over what the storage returned: host by host, or in all where it is our own server's device."""
    served = [[row["server_device_bytes"] for row in rows if row["server_device_bytes"] is not None] for rows in hosts]
    if any(served):
        device = sum(max(values) for values in served if values)
        return device, [device / stored if stored else None]
    if run["store"]["kind"] != "posix":
        return None, []
    pairs = [(all_or_none([row["device_read_bytes"] for row in rows]), all_or_none([row["storage_bytes"] for row in rows])) for rows in hosts]
    return all_or_none([read for read, _ in pairs]), [read / given if given and read is not None else None for read, given in pairs]


def _was_held(before: list[int]) -> bool | None:
    """Whether a loader's own cache held anything when the epoch began; nothing is known of loaders without one."""
    return max(before) > 0 if before else None


def rank_row(each: RankFigures, caused: float) -> Row:
    spans: dict[str, float] = {}
    for row in each.work:
        for name, seconds in row["spans_s"].items():
            spans[name] = spans.get(name, 0.0) + seconds
    every = kind(each.rows, "warmup", "step", "idle")
    return {
        "rank": each.header.get("rank"),
        "host": each.header.get("host"),
        "steps": each.total["steps"],
        "last_step": every[-1]["step"] if every else None,
        "samples": sum(row["samples"] for row in each.work),
        "au_nominal": each.au_nominal,
        "au_uncorrected": each.au_uncorrected,
        "window_s": each.total["window"] / NS,
        **{
            f"{name}_s": each.total[part] / NS
            for name, part in {"fetch": "fetch", "compute": "compute", "sync": "sync", "host_delay": "host"}.items()
        },
        "sync_wait_caused_s": caused,
        "credit_steps": sum(each.free.values()),
        "spans_s": dict(sorted(spans.items())),
        "finished": bool(kind(each.rows, "footer")),
    }
