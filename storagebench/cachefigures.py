"""Bytes of each epoch and the cache state that they show, over all ranks and hosts: pure arithmetic on records.

What adds up (bytes) is added up; of what proves a cache state, the host that is worst for the state that was asked counts: one host that read from its
memory makes a cold run a false one, however many others there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from storagebench.hostfigures import counts, epoch_duration_s, total
from storagebench.ranks import Ranks

MAX_AMPLIFICATION = 1.2
_Row = Mapping[str, Any]
_Figures = dict[str, Any]


def per_epoch(run: _Row, ranks: Ranks) -> list[_Figures]:
    """Bytes of each finished epoch over all ranks, with the cache state before it."""
    by_epoch: dict[int, dict[str, list[_Row]]] = defaultdict(lambda: defaultdict(list))
    caches: dict[int, dict[str, _Row]] = defaultdict(dict)
    for rank in ranks:
        for record in rank.of_kind("cache"):
            caches[record["epoch"]][str(rank.host)] = record
        for record in rank.of_kind("epoch_end"):
            by_epoch[record["epoch"]][str(rank.host)].append(record)
    return [_epoch(run, epoch, hosts, caches.get(epoch, {})) for epoch, hosts in sorted(by_epoch.items())]


def _epoch(run: _Row, epoch: int, hosts: Mapping[str, Sequence[_Row]], caches: Mapping[str, _Row]) -> _Figures:
    records = [record for mine in hosts.values() for record in mine]
    of_hosts = [caches.get(host, {}) for host in hosts]
    return {
        "epoch": epoch,
        "samples": sum(record["samples"] for record in records),
        "duration_s": epoch_duration_s(hosts.values()),
        "storage_bytes": total([record["storage_bytes"] for record in records]),
        "retries": total([record["retries"] for record in records]),
        "retries_by_kind": counts(records, "retries_by_kind"),
        **_served(run, list(hosts.values())),
        "cached_fraction_before": worst(run, [cache.get("cached_fraction_before") for cache in of_hosts]),
        "cache_method": _said(of_hosts, "method"),
        "metadata_cache": _said(of_hosts, "metadata_cache"),
        "server_cache": _server_cache(of_hosts),
        **_local_cache(records),
    }


def worst(run: _Row, values: Sequence[float | None]) -> float | None:
    """Of shares that were cached: the least where a warm cache was asked for, else the most; None where one is unknown."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return min(known) if run["config"]["run"]["cache"] == "warm" else max(known)


def _said(caches: Sequence[_Row], key: str) -> str | None:
    """What the hosts say of this, each once, or None where none does."""
    return ", ".join(dict.fromkeys(str(cache[key]) for cache in caches if cache.get(key) is not None)) or None


def _server_cache(caches: Sequence[_Row]) -> str | None:
    """`unknown` as soon as one host cannot tell: it may read from another server than the others."""
    states = [cache["server_cache"] for cache in caches if cache.get("server_cache") is not None]
    return "unknown" if "unknown" in states else ", ".join(dict.fromkeys(states)) or None


def _served(run: _Row, hosts: Sequence[Sequence[_Row]]) -> _Figures:
    """Device bytes of all, and how much of what was read did not come from the device. Bytes that our own S3 server read stand in for the clients': of
    each host that has one the most that a rank saw of it."""
    records = [record for mine in hosts for record in mine]
    seen = [[record["server_device_bytes"] for record in mine if record["server_device_bytes"] is not None] for mine in hosts]
    servers = [max(values) for values in seen if values]
    if servers:
        device: int | None = sum(servers)
        groups = [(device, total([record["storage_bytes"] for record in records]))]
    elif run["store"]["kind"] == "posix":
        device = total([record["device_read_bytes"] for record in records])
        groups = [tuple(total([record[name] for record in mine]) for name in ("device_read_bytes", "storage_bytes")) for mine in hosts]
    else:
        device, groups = None, []
    ratios = [None if read is None or not stored else read / stored for read, stored in groups]
    known = all(ratio is not None for ratio in ratios) and bool(ratios)
    shares = [None if ratio is None or ratio > MAX_AMPLIFICATION else max(0.0, 1.0 - ratio) for ratio in ratios]
    return {
        "device_read_bytes": device,
        "read_amplification": max(ratio for ratio in ratios if ratio is not None) if known else None,
        "cached_fraction_served": worst(run, shares),
    }


def _local_cache(records: Sequence[_Row]) -> _Figures:
    """What the loader's own caches on local files held after an epoch, and whether any of them held something before it: that epoch was not served
    by the storage alone. None for a loader without one."""
    before = [record.get("local_cache_bytes_before") for record in records]
    known = [value for value in before if value is not None]
    return {
        "local_cache_bytes": total([record.get("local_cache_bytes") for record in records]),
        "from_local_cache": any(value > 0 for value in known) if known else None,
    }


def worst_epoch(run: _Row, rows: Sequence[_Figures]) -> _Figures:
    """Top level figures, of the worst epoch."""
    amplification = [row["read_amplification"] for row in rows if row["read_amplification"] is not None]
    return {
        "device_read_bytes": total([row["device_read_bytes"] for row in rows]),
        "cached_fraction_before": worst(run, [row["cached_fraction_before"] for row in rows]),
        "cached_fraction_served": worst(run, [row["cached_fraction_served"] for row in rows]),
        "read_amplification": max(amplification) if amplification else None,
        "server_cache": next((row["server_cache"] for row in rows if row["server_cache"]), None),
    }
