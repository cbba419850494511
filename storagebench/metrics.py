"""A saved run -> its summary: a pure function of `run.json` and the traces. Imports no engine, loader, dataset, storage, world or torch.

Seconds, bytes, ratios 0..1; an unknown figure is None, never 0. Totals are of the whole run, warm-up included; AU and rates are of the window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from storagebench.cachefigures import per_epoch, worst_epoch
from storagebench.ceiling import ceiling_figures, probe_before_s
from storagebench.devicefigures import device_figures
from storagebench.hostfigures import counts, num_hosts, peak_rss_bytes, per_host, span_times, total
from storagebench.hostfiles import HostRecords
from storagebench.limits import limits
from storagebench.members import end_of_run
from storagebench.ranks import Rank, Ranks, quantiles
from storagebench.records import SCHEMA_VERSION
from storagebench.traces import Trace
from storagebench.trainingfigures import training_figures
from storagebench.window import EpochWindow, RankWindow, in_step
from storagebench.writefigures import write_figures

Summary = dict[str, Any]


def summarise(run: Mapping[str, Any], ranks: Ranks, hosts: Sequence[HostRecords], writers: Sequence[Trace] = ()) -> Summary:
    """Everything of `summary.json` but the findings, which `storagebench.checks` adds. Ranks and writers without a trace are simply not there."""
    windows = [rank.window for rank in ranks]
    if run["config"]["run"].get("sync") == "step":
        windows = in_step(windows)
    totals = _totals(ranks)
    rows = per_epoch(run, ranks)
    caused_s = [int(waited_ns) / len(ranks) / 1e9 for waited_ns in ranks.last_in_sync.caused(len(ranks))]
    end = end_of_run(hosts)
    plan, config = run["plan"], run["config"]
    effective: Mapping[str, Any] = next((record["effective"] for rank in ranks for record in rank.of_kind("opened")), {})
    longest_ns = max((window.length_ns for window in windows), default=0)
    rates = _rates(run, windows, longest_ns)
    summary = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run["run_id"],
        "status": _status(run, ranks, end),
        "valid": False,
        "exit_code": end["exit_code"] if end else None,
        "failure": end.get("failure") if end else None,
        "workload": config["name"],
        "measures": config.get("measures", "steady state"),
        "accelerator": run["accelerator"],
        "profile": config["train"].get("profile") if config["run"].get("compute_time_s") is None else None,
        "compute_time_s": plan["compute_time_s"],
        "au_threshold": config["train"]["au_threshold"],
        "loader": config["loader"]["name"],
        "format": run["dataset"]["format"],
        "storage": run["store"]["kind"],
        "placement": config["run"].get("placement", "shared"),
        "cache": config["run"]["cache"],
        "decode": effective.get("decode"),
        "decode_asked": config["run"]["decode"],
        "effective": effective,
        "dataset_digest": run["dataset"]["digest"],
        "world_size": plan["world_size"],
        "num_hosts": num_hosts(run),
        "batch_size": config["train"]["batch_size"],
        "epochs": config["train"]["epochs"],
        "measured_steps": max((window.steps for window in windows), default=0),
        "warmup_steps": max((rank.warmup_steps for rank in ranks), default=0),
        "idle_steps": sum(rank.idle_steps for rank in ranks),
        **_utilisation(windows, ranks),
        **rates,
        **totals,
        **worst_epoch(run, rows),
        "local_cache_bytes": rows[-1]["local_cache_bytes"] if rows else None,
        "epochs_from_local_cache": [row["epoch"] for row in rows if row["from_local_cache"]],
        **_times(run, ranks, windows, probe_before_s(hosts)),
        "fetch_quantiles_s": quantiles(ranks.waits_ns),
        "step_quantiles_s": quantiles(ranks.lengths_ns),
        **_cpu(run, ranks, hosts, totals["delivered_bytes"]),
        "training": training_figures(run, ranks),
        **device_figures(run, ranks, hosts),
        **write_figures(run, [rank.host for rank in ranks], windows, writers),
        **ceiling_figures(run, hosts, rates["delivered_bytes_per_s"], totals),
        **_proof(ranks),
        "listing": run.get("listing"),
        "per_epoch": rows,
        "per_rank": [_per_rank(*each) for each in zip(ranks, windows, caused_s, strict=True)],
        "per_host": per_host(run, ranks, windows, hosts, caused_s),
    }
    return {**summary, "limits": limits(run, ranks, hosts, windows, summary)}


def _status(run: Mapping[str, Any], ranks: Ranks, end: Mapping[str, Any] | None) -> str:
    """`failed`: an error that a rank wrote down ended it; `incomplete`: it was interrupted or a process was killed, or it still runs."""
    whole = len(ranks) == run["plan"]["world_size"] and all(rank.of_kind("footer") and not rank.truncated for rank in ranks)
    if any(not record["lost_peer"] for rank in ranks for record in rank.of_kind("error")):
        return "failed"
    return "complete" if whole and end and not end.get("failure") else "incomplete"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


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
        "storage_bytes": total([record["storage_bytes"] for record in ends]),
        "storage_method": ends[0]["storage_method"] if ends else None,
        "requests": total([record["requests"] for record in ends]),
        "retries": total([record["retries"] for record in ends]),
        "retries_by_kind": counts(ends, "retries_by_kind"),
        "bytes_by_endpoint": counts(ends, "bytes_by_endpoint"),
        "io_errors": sum(record["errors"] for record in ends),
    }


def _times(run: Mapping[str, Any], ranks: Ranks, windows: Sequence[RankWindow], probe_s: float) -> Summary:
    firsts = [_first_batch_s(rank) for rank in ranks]
    costs_ns = ranks.last_in_sync.total()  # gloo's own cost: for each step the least sync time over the ranks
    waits_ns = [sum(epoch.sync_ns for epoch in window.epochs) - costs_ns for window in windows]
    return {
        **span_times(run, ranks, probe_s),
        "time_to_first_batch_s": max(first for first in firsts if first is not None) if any(first is not None for first in firsts) else None,
        "window_s": max((window.length_ns for window in windows), default=0) / 1e9,
        "compute_s": _mean_ns(windows, "compute_ns"),
        "fetch_s": _mean_ns(windows, "fetch_ns"),
        "sync_wait_s": sum(waits_ns) / len(waits_ns) / 1e9 if waits_ns else None,
        "sync_cost_s": costs_ns / 1e9 if windows else None,
        "host_delay_s": _mean_ns(windows, "host_delay_ns"),
    }


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


def _cpu(run: Mapping[str, Any], ranks: Ranks, hosts: Sequence[HostRecords], delivered_bytes: int) -> Summary:
    ends = [record for rank in ranks for record in rank.of_kind("epoch_end")]
    cpu_s = sum(record["rank_cpu_s"] + record["worker_cpu_s"] for record in ends) if ends else None
    return {
        "cpu_s": cpu_s,
        "cpu_s_per_gb": cpu_s / (delivered_bytes / 1e9) if cpu_s is not None and delivered_bytes else None,
        "peak_rss_bytes": peak_rss_bytes(run, hosts),
    }


def _proof(ranks: Ranks) -> Summary:
    """Checksums over all ranks, coverage as rank 0 wrote it for all. Samples are counted, never assumed."""
    bad = sorted({bad for rank in ranks for bad in rank.bad_samples})
    ends = ranks[0].of_kind("epoch_end") if len(ranks) else []
    return {
        "verified_samples": sum(rank.verified for rank in ranks),
        "checksum_errors": sum(rank.errors for rank in ranks),
        "bad_samples": [{"sample": sample, "shard": shard} for sample, shard in bad],
        "duplicate_samples": total([record["duplicate_samples_of_all"] for record in ends]),
        "missing_samples": total([record["missing_samples_of_all"] for record in ends]),
        "dropped_samples": total([record["dropped_samples_of_all"] for record in ends]),
    }


def _per_rank(rank: Rank, window: RankWindow, caused_s: float) -> Summary:
    """`sync_wait_caused_s`: how long the ranks waited, in the mean, in the steps where this one came last; over all ranks they are at most `sync_wait_s`."""
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
        "sync_wait_caused_s": caused_s,
        "host_delay_s": _seconds(window.epochs, "host_delay_ns"),
        "credit_steps": sum(epoch.credit_steps for epoch in window.epochs),
        "spans_s": {name: round(seconds, 9) for name, seconds in sorted(rank.spans_s.items())},
        "finished": bool(rank.of_kind("footer")),
    }


def _seconds(epochs: Sequence[EpochWindow], name: str) -> float:
    return float(sum(getattr(epoch, name) for epoch in epochs)) / 1e9
