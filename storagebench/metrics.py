"""A saved run -> its summary: a pure function of `run.json` and the traces. Imports no engine, loader, dataset, storage, world or torch.

Seconds, bytes, ratios 0..1; an unknown figure is None, never 0. Totals are of the whole run, warm-up included; AU and rates are of the window.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from storagebench.ceiling import ceiling_figures, probe_before_s
from storagebench.devicefigures import device_figures
from storagebench.limits import limits
from storagebench.ranks import Rank, Ranks, quantiles
from storagebench.records import SCHEMA_VERSION
from storagebench.traces import Trace
from storagebench.window import EpochWindow, RankWindow, in_step
from storagebench.writefigures import write_figures

Summary = dict[str, Any]
MAX_AMPLIFICATION = 1.2


def summarise(run: Mapping[str, Any], ranks: Ranks, hosts: Sequence[Trace], writers: Sequence[Trace] = ()) -> Summary:
    """Everything of `summary.json` but the findings, which `storagebench.checks` adds. Ranks and writers without a trace are simply not there."""
    windows = [rank.window for rank in ranks]
    if run["config"]["run"].get("sync") == "step":
        windows = in_step(windows)
    totals = _totals(ranks)
    per_epoch = _per_epoch(run, ranks)
    ends = [record for trace in hosts for record in trace.of_kind("end")]
    plan, config = run["plan"], run["config"]
    effective: Mapping[str, Any] = next((record["effective"] for rank in ranks for record in rank.of_kind("opened")), {})
    longest_ns = max((window.length_ns for window in windows), default=0)
    rates = _rates(run, windows, longest_ns)
    summary = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run["run_id"],
        "status": _status(run, ranks, ends),
        "valid": False,
        "exit_code": ends[0]["exit_code"] if ends else None,
        "failure": ends[0].get("failure") if ends else None,
        "workload": config["name"],
        "measures": config.get("measures", "steady state"),
        "accelerator": run["accelerator"],
        "profile": config["train"].get("profile") if config["run"].get("compute_time_s") is None else None,
        "compute_time_s": plan["compute_time_s"],
        "au_threshold": config["train"]["au_threshold"],
        "loader": config["loader"]["name"],
        "format": run["dataset"]["format"],
        "storage": run["store"]["kind"],
        "cache": config["run"]["cache"],
        "decode": effective.get("decode"),
        "decode_asked": config["run"]["decode"],
        "effective": effective,
        "dataset_digest": run["dataset"]["digest"],
        "world_size": plan["world_size"],
        "num_hosts": len({rank.host for rank in ranks}) or 1,
        "batch_size": config["train"]["batch_size"],
        "epochs": config["train"]["epochs"],
        "measured_steps": max((window.steps for window in windows), default=0),
        "warmup_steps": max((rank.warmup_steps for rank in ranks), default=0),
        "idle_steps": sum(rank.idle_steps for rank in ranks),
        **_utilisation(windows, ranks),
        **rates,
        **totals,
        **_device(run, per_epoch),
        "local_cache_bytes": per_epoch[-1]["local_cache_bytes"] if per_epoch else None,
        "epochs_from_local_cache": [row["epoch"] for row in per_epoch if row["from_local_cache"]],
        **_times(run, ranks, windows, probe_before_s(hosts)),
        "fetch_quantiles_s": quantiles(ranks.waits_ns),
        "step_quantiles_s": quantiles(ranks.lengths_ns),
        **_cpu(ranks, hosts, totals["delivered_bytes"]),
        **device_figures(run, ranks, hosts),
        **write_figures(run, windows, writers, one_host=len({rank.host for rank in ranks}) == 1),
        **ceiling_figures(run, hosts, rates["delivered_bytes_per_s"], totals),
        **_proof(ranks),
        "listing": run.get("listing"),
        "per_epoch": per_epoch,
        "per_rank": [_per_rank(rank, window) for rank, window in zip(ranks, windows, strict=True)],
        "per_host": _per_host(ranks, windows, hosts),
    }
    return {**summary, "limits": limits(run, ranks, hosts, windows, summary)}


def _status(run: Mapping[str, Any], ranks: Ranks, ends: Sequence[Mapping[str, Any]]) -> str:
    """`failed`: an error that a rank wrote down ended it; `incomplete`: it was interrupted or a process was killed, or it still runs."""
    whole = len(ranks) == run["plan"]["world_size"] and all(rank.of_kind("footer") and not rank.truncated for rank in ranks)
    if any(not record["lost_peer"] for rank in ranks for record in rank.of_kind("error")):
        return "failed"
    return "complete" if whole and ends and not ends[0].get("failure") else "incomplete"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _total(values: Sequence[int | None]) -> int | None:
    """The sum, or None as soon as one is unknown (or there are none)."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _utilisation(windows: Sequence[RankWindow], ranks: Ranks) -> Summary:
    return {
        "au_nominal": _mean([window.au_nominal for window in windows]),
        "au_uncorrected": _mean([window.au_uncorrected for window in windows]),
        "au_uncertainty": _mean([window.uncertainty for window in windows]),
        "au_measured": _mean([window.au_measured for window in windows]),
        "au_null": _mean([rank.au_null for rank in ranks]),
    }


def _rates(run: Mapping[str, Any], windows: Sequence[RankWindow], longest_ns: int) -> Summary:
    if longest_ns <= 0:
        return {"samples_per_s": None, "delivered_bytes_per_s": None}
    samples = sum(epoch.samples for window in windows for epoch in window.epochs)
    kept_samples = sum(sum(epoch.samples for epoch in window.epochs) * window.kept_share for window in windows)
    kept_bytes = sum(sum(epoch.record_bytes for epoch in window.epochs) * window.kept_share for window in windows)
    seconds = longest_ns / 1e9
    return {"samples_per_s": kept_samples / seconds if samples else None, "delivered_bytes_per_s": kept_bytes / seconds if samples else None}


def _totals(ranks: Ranks) -> Summary:
    ends = [record for rank in ranks for record in rank.of_kind("epoch_end")]
    return {
        "samples": sum(rank.samples for rank in ranks),
        "delivered_bytes": sum(rank.record_bytes for rank in ranks),
        "handover_bytes": sum(rank.handover_bytes for rank in ranks),
        "storage_bytes": _total([record["storage_bytes"] for record in ends]),
        "storage_method": ends[0]["storage_method"] if ends else None,
        "requests": _total([record["requests"] for record in ends]),
        "retries": _total([record["retries"] for record in ends]),
        "retries_by_kind": _counts(ends, "retries_by_kind"),
        "bytes_by_endpoint": _counts(ends, "bytes_by_endpoint"),
        "io_errors": sum(record["errors"] for record in ends),
    }


def _counts(records: Sequence[Mapping[str, Any]], name: str) -> dict[str, int]:
    """Counts by name, summed up; records of before they were counted have none."""
    summed: dict[str, int] = defaultdict(int)
    for record in records:
        for key, count in record.get(name, {}).items():
            summed[key] += count
    return dict(sorted(summed.items()))


def _per_epoch(run: Mapping[str, Any], ranks: Ranks) -> list[Summary]:
    """Bytes of each finished epoch over all ranks, with the cache state before it. Device bytes of our own S3 server stand in for the clients'."""
    by_epoch: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    caches = {record["epoch"]: record for rank in ranks for record in rank.of_kind("cache")}
    for rank in ranks:
        for record in rank.of_kind("epoch_end"):
            by_epoch[record["epoch"]].append(record)
    rows = []
    for epoch, records in sorted(by_epoch.items()):
        storage = _total([record["storage_bytes"] for record in records])
        server = [record["server_device_bytes"] for record in records if record["server_device_bytes"] is not None]
        device = max(server) if server else _total([record["device_read_bytes"] for record in records]) if run["store"]["kind"] == "posix" else None
        ratio = device / storage if device is not None and storage else None
        cache = caches.get(epoch, {})
        rows.append(
            {
                "epoch": epoch,
                "samples": sum(record["samples"] for record in records),
                "duration_s": (max(record["end_ns"] for record in records) - min(record["start_ns"] for record in records)) / 1e9,
                "storage_bytes": storage,
                "retries": _total([record["retries"] for record in records]),
                "retries_by_kind": _counts(records, "retries_by_kind"),
                "device_read_bytes": device,
                "read_amplification": ratio,
                "cached_fraction_served": None if ratio is None or ratio > MAX_AMPLIFICATION else max(0.0, 1.0 - ratio),
                "cached_fraction_before": cache.get("cached_fraction_before"),
                "cache_method": cache.get("method"),
                "metadata_cache": cache.get("metadata_cache"),
                "server_cache": cache.get("server_cache"),
                **_local_cache(records),
            }
        )
    return rows


def _local_cache(records: Sequence[Mapping[str, Any]]) -> Summary:
    """What the loader's own caches on local files held after an epoch, and whether any of them held something before it: that epoch was not served
    by the storage alone. None for a loader without one."""
    before = [record.get("local_cache_bytes_before") for record in records]
    known = [value for value in before if value is not None]
    return {
        "local_cache_bytes": _total([record.get("local_cache_bytes") for record in records]),
        "from_local_cache": any(value > 0 for value in known) if known else None,
    }


def _device(run: Mapping[str, Any], per_epoch: Sequence[Summary]) -> Summary:
    """Top level figures of the worst epoch: the least cached one where a warm cache was asked for, else the most cached one."""
    worst = min if run["config"]["run"]["cache"] == "warm" else max

    def pick(name: str) -> Any:
        known = [row[name] for row in per_epoch if row[name] is not None]
        return worst(known) if known and len(known) == len(per_epoch) else None

    amplification = [row["read_amplification"] for row in per_epoch if row["read_amplification"] is not None]
    return {
        "device_read_bytes": _total([row["device_read_bytes"] for row in per_epoch]),
        "cached_fraction_before": pick("cached_fraction_before"),
        "cached_fraction_served": pick("cached_fraction_served"),
        "read_amplification": max(amplification) if amplification else None,
        "server_cache": next((row["server_cache"] for row in per_epoch if row["server_cache"]), None),
    }


def _times(run: Mapping[str, Any], ranks: Ranks, windows: Sequence[RankWindow], probe_s: float) -> Summary:
    starts = [record["start_ns"] for rank in ranks for record in rank.of_kind("epoch_start") if record["epoch"] == 0]
    stops = [epoch.end_ns for rank in ranks for epoch in rank.epochs]
    ends = stops + [record["end_ns"] for rank in ranks for record in rank.of_kind("epoch_end")]
    epochs_s = _epoch_spans_s(ranks)
    wall_s = (max(ends) - min(starts)) / 1e9 if starts and ends else None
    firsts = [_first_batch_s(rank) for rank in ranks]
    costs_ns = ranks.least_sync_ns.total()  # gloo's own cost: for each step the least sync time over the ranks
    waits_ns = [sum(epoch.sync_ns for epoch in window.epochs) - costs_ns for window in windows]
    null_s = max((rank.null_ns for rank in ranks), default=0) / 1e9
    null_first = bool(starts) and any(rank.null_begin_ns is not None and rank.null_begin_ns < min(starts) for rank in ranks)
    return {
        "wall_s": wall_s,
        "harness_s": None if wall_s is None else max(0.0, wall_s - epochs_s),
        "startup_s": (min(starts) - run["command_start_ns"]) / 1e9 - (null_s if null_first else 0.0) - probe_s if starts else None,
        "null_s": null_s,
        "time_to_first_batch_s": max(first for first in firsts if first is not None) if any(first is not None for first in firsts) else None,
        "window_s": max((window.length_ns for window in windows), default=0) / 1e9,
        "compute_s": _mean_ns(windows, "compute_ns"),
        "fetch_s": _mean_ns(windows, "fetch_ns"),
        "sync_wait_s": sum(waits_ns) / len(waits_ns) / 1e9 if waits_ns else None,
        "sync_cost_s": costs_ns / 1e9 if windows else None,
        "host_delay_s": _mean_ns(windows, "host_delay_ns"),
    }


def _epoch_spans_s(ranks: Ranks) -> float:
    """Seconds in all epochs, each from the first rank's loader start to the last rank's last step."""
    begins: dict[int, int] = {}
    ends: dict[int, int] = {}
    for rank in ranks:
        for record in rank.of_kind("epoch_start"):
            begins[record["epoch"]] = min(begins.get(record["epoch"], record["start_ns"]), record["start_ns"])
        for each in rank.epochs:
            ends[each.epoch] = max(ends.get(each.epoch, 0), each.end_ns)
    return sum(ends[epoch] - begin_ns for epoch, begin_ns in begins.items() if epoch in ends) / 1e9


def _first_batch_s(rank: Rank) -> float | None:
    """From opening the loader to the first batch, without the null run and the cache work in between."""
    opened, starts = rank.of_kind("opened"), rank.of_kind("epoch_start")
    if not opened or not starts or rank.first_got_ns is None:
        return None
    opening_ns: int = opened[0]["open_end_ns"] - opened[0]["open_begin_ns"]
    fetching_ns: int = rank.first_got_ns - starts[0]["start_ns"]
    return (opening_ns + fetching_ns) / 1e9


def _mean_ns(windows: Sequence[RankWindow], name: str) -> float | None:
    values = [sum(getattr(epoch, name) for epoch in window.epochs) / 1e9 for window in windows]
    return float(sum(values) / len(values)) if values else None


def _cpu(ranks: Ranks, hosts: Sequence[Trace], delivered_bytes: int) -> Summary:
    ends = [record for rank in ranks for record in rank.of_kind("epoch_end")]
    cpu_s = sum(record["rank_cpu_s"] + record["worker_cpu_s"] for record in ends) if ends else None
    rss = [record["rss_bytes"] for trace in hosts for record in trace.of_kind("host")]
    return {
        "cpu_s": cpu_s,
        "cpu_s_per_gb": cpu_s / (delivered_bytes / 1e9) if cpu_s is not None and delivered_bytes else None,
        "peak_rss_bytes": max(rss) if rss else None,
    }


def _proof(ranks: Ranks) -> Summary:
    """Checksums over all ranks, coverage as rank 0 wrote it for all. Samples are counted, never assumed."""
    bad = sorted({bad for rank in ranks for bad in rank.bad_samples})
    ends = ranks[0].of_kind("epoch_end") if len(ranks) else []
    return {
        "verified_samples": sum(rank.verified for rank in ranks),
        "checksum_errors": sum(rank.errors for rank in ranks),
        "bad_samples": [{"sample": sample, "shard": shard} for sample, shard in bad],
        "duplicate_samples": _total([record["duplicate_samples_of_all"] for record in ends]),
        "missing_samples": _total([record["missing_samples_of_all"] for record in ends]),
        "dropped_samples": _total([record["dropped_samples_of_all"] for record in ends]),
    }


def _per_rank(rank: Rank, window: RankWindow) -> Summary:
    return {
        "rank": rank.header.get("rank"),
        "host": rank.host,
        "steps": window.steps,
        "last_step": rank.last_step,
        "samples": rank.samples,
        "au_nominal": window.au_nominal,
        "au_uncorrected": window.au_uncorrected,
        "window_s": window.length_ns / 1e9,
        "fetch_s": _seconds(window.epochs, "fetch_ns"),
        "compute_s": _seconds(window.epochs, "compute_ns"),
        "sync_s": _seconds(window.epochs, "sync_ns"),
        "host_delay_s": _seconds(window.epochs, "host_delay_ns"),
        "credit_steps": sum(epoch.credit_steps for epoch in window.epochs),
        "spans_s": {name: round(seconds, 9) for name, seconds in sorted(rank.spans_s.items())},
        "finished": bool(rank.of_kind("footer")),
    }


def _seconds(epochs: Sequence[EpochWindow], name: str) -> float:
    return float(sum(getattr(epoch, name) for epoch in epochs)) / 1e9


def _per_host(ranks: Ranks, windows: Sequence[RankWindow], hosts: Sequence[Trace]) -> list[Summary]:
    of_host: dict[str, list[int]] = defaultdict(list)
    for index, rank in enumerate(ranks):
        of_host[str(rank.host)].append(index)
    sampled: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for trace in hosts:
        sampled[str(trace.header.get("host"))] += trace.of_kind("host")
    rows = []
    for host, mine in sorted(of_host.items()):
        ends = [record for index in mine for record in ranks[index].of_kind("epoch_end")]
        samples = sampled[host]
        rows.append(
            {
                "host": host,
                "ranks": len(mine),
                "au_nominal": _mean([windows[index].au_nominal for index in mine]),
                "device_read_bytes": _total([record["device_read_bytes"] for record in ends]),
                "storage_bytes": _total([record["storage_bytes"] for record in ends]),
                "block_device_read_bytes": _growth(samples, "device_read_bytes"),
                "cpu_busy_s": _growth(samples, "cpu_user_s", "cpu_system_s"),
                "cpu_steal_s": _growth(samples, "cpu_steal_s"),
            }
        )
    return rows


def _growth(samples: Sequence[Mapping[str, Any]], *names: str) -> float | None:
    """How much these cumulative host counters grew over the samples."""
    if len(samples) < 2 or any(samples[0][name] is None for name in names):
        return None
    return float(sum(samples[-1][name] - samples[0][name] for name in names))
