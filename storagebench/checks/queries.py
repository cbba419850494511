"""A query run's folder -> its summary: what LoadGen would say of each trial, the figures beside it, and findings. Pure, byte for byte, like `judge`.

`valid` (with findings) says whether the numbers are true, as for every run; `verdict` is LoadGen's VALID or INVALID, a result like an AU below its
threshold. With --find-max-qps the figures are those of the largest rate that was VALID (of the last trial where none was).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from storagebench.checks.case import ERROR
from storagebench.checks.query_rules import find_in_queries
from storagebench.checks.query_trial import Trial
from storagebench.errors import EXIT_DATASET, EXIT_INVALID, EXIT_OK
from storagebench.hostfiles import HostRecords, read_host_files
from storagebench.members import end_of_run
from storagebench.queryrecords import QueryTrace, query_traces, read_query_trace
from storagebench.records import SUMMARY_FILE, read_run, write_json
from storagebench.scenarios.verdict import EarlyStopping, early_stopping_text

Summary = dict[str, Any]
LATE_ISSUE_S: Final = (
    1e-3  # an issue later than this is counted; a wake-up on an idle core is 0.06 to 0.15 ms late (reference/measurement.md section 1)
)
MAX_AMPLIFICATION: Final = 1.2  # as in `metrics`: above it device bytes say nothing of the cache
_MOST_BAD_NAMED: Final = 20


def judge_query_run(run_dir: Path) -> Summary:
    """The summary of a saved query run. Raises UsageError where it is no run folder, DatasetError where a trace is damaged."""
    run = read_run(run_dir)
    traces = [read_query_trace(path) for path in query_traces(run_dir)]
    return judge_query_records(run, traces, read_host_files(run_dir))


def write_query_summary(run_dir: Path) -> Summary:
    """Judge and write `summary.json`."""
    summary = judge_query_run(run_dir)
    write_json(run_dir / SUMMARY_FILE, summary)
    return summary


def judge_query_records(run: Mapping[str, Any], traces: Sequence[QueryTrace], hosts: Sequence[HostRecords]) -> Summary:
    """The same from records in memory."""
    trials = [Trial(run, trace) for trace in traces]
    held = [trial for trial in trials if trial.valid]
    shown = max(held, key=_rate) if held and run["config"]["query"]["find_max_qps"] else trials[-1] if trials else None
    end = end_of_run(hosts)
    finished = bool(trials) and all(trial.footer for trial in trials) and end is not None and end["exit_code"] == EXIT_OK
    summary = {
        **_asked(run),
        "status": "complete" if finished else "failed" if end and end["failure"] else "incomplete",
        "failure": end["failure"] if end else None,
        **_found(shown),
        **_bytes(run, shown),
        **_search(run, trials),
    }
    findings = find_in_queries(run, summary)
    has_errors = any(finding.severity == ERROR for finding in findings)
    code = end["exit_code"] if end else None
    if code == EXIT_OK and has_errors:
        code = EXIT_DATASET if summary["checksum_errors"] else EXIT_INVALID
    return {**summary, "valid": not has_errors, "exit_code": code, "findings": [finding.as_dict() for finding in findings]}


def _rate(trial: Trial) -> float:
    return float(trial.trace.header.get("target_qps") or 0.0)


def _asked(run: Mapping[str, Any]) -> Summary:
    config = run["config"]
    query = config["query"]
    server = query["scenario"] == "server"
    return {
        "schema_version": run["schema_version"],
        "kind": run["kind"],
        "run_id": run["run_id"],
        "workload": config["name"],
        "scenario": query["scenario"],
        "format": run["dataset"]["format"],
        "storage": run["store"]["kind"],
        "cache": config["run"]["cache"],
        "decode": config["run"]["decode"],
        "num_workers": run["query"]["num_workers"],
        "qsl_samples": run["query"]["qsl_samples"],
        "percentile": run["query"]["percentile"],
        "latency_limit_s": query["latency_limit_s"] if server else None,
        "min_duration_s": query["min_duration_s"],
        "min_query_count": run["query"]["min_query_count"],
    }


def _found(trial: Trial | None) -> Summary:
    """The verdict of the trial that is shown, its latencies and rates."""
    verdict = trial.verdict if trial else None
    empty: Summary = dict.fromkeys(("latency_s", "latency_quantiles_s", "early_stopping", "qps", "scheduled_qps", "samples_per_s", "wall_s"))
    if trial is None or verdict is None:
        return {
            "verdict": None,
            "reasons": trial.reasons() if trial else [],
            "recommendations": [],
            "queries": 0,
            "queries_issued": None,
            "samples": 0,
            "target_qps": None,
            **empty,
            **_delays(None),
        }
    wall_s = float(trial.columns["done_ns"].max() - trial.begin_ns) / 1e9
    quantiles = {f"p{percentile * 100:g}": latency / 1e9 for percentile, latency in verdict.percentiles_ns.items()}
    return {
        "verdict": "VALID" if trial.valid else "INVALID",
        "reasons": trial.reasons(),
        "recommendations": list(verdict.recommendations),
        "queries": trial.complete_queries,
        "queries_issued": trial.footer["queries"] if trial.footer else None,
        "samples": len(trial.latencies_ns),
        "target_qps": trial.trace.header.get("target_qps"),
        "latency_s": verdict.latency_ns / 1e9,
        "latency_quantiles_s": {**quantiles, "min": verdict.min_ns / 1e9, "max": verdict.max_ns / 1e9, "mean": verdict.mean_ns / 1e9},
        "early_stopping": None if verdict.early_stopping is None else _stopping(trial, verdict.early_stopping),
        "qps": None if trial.scenario == "offline" else verdict.rate,
        "scheduled_qps": verdict.scheduled_qps,
        "samples_per_s": len(trial.latencies_ns) / wall_s if wall_s > 0 else None,
        "wall_s": wall_s,
        **_delays(trial),
    }


def _stopping(trial: Trial, found: EarlyStopping) -> Summary:
    return {
        "met": found.met,
        "queries_needed": found.queries_needed,
        "more_queries": found.more_queries,
        "over_limit": found.over_limit,
        "discarded": found.discarded,
        "estimate_s": None if found.estimate_ns is None else found.estimate_ns / 1e9,
        "estimate_p99_s": None if found.estimate_p99_ns is None else found.estimate_p99_ns / 1e9,
        "loadgen_says": early_stopping_text(trial.rules, trial.complete_queries, found),
    }


def _delays(trial: Trial | None) -> Summary:
    """How late queries were issued, how long samples lay before a worker took them, how long a worker was at them."""
    if trial is None:
        return dict.fromkeys(("late_issues", "issue_delay_s", "queue_wait_s", "service_s"))
    columns = trial.columns
    delay_s = (columns["issued_ns"] - columns["scheduled_ns"]) / 1e9
    return {
        "late_issues": len(np.unique(columns["query"][delay_s > LATE_ISSUE_S])),
        "issue_delay_s": _quantiles(delay_s),
        "queue_wait_s": _quantiles((columns["started_ns"] - columns["issued_ns"]) / 1e9),
        "service_s": _quantiles((columns["done_ns"] - columns["started_ns"]) / 1e9),
    }


def _quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    p50, p90, p99 = np.quantile(values, (0.5, 0.9, 0.99)).tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "max": float(values.max())}


def _bytes(run: Mapping[str, Any], trial: Trial | None) -> Summary:
    """Bytes and their proof: delivered, returned by the store, read from the device, checked; the cache before and during."""
    footer: Mapping[str, Any] = (trial.footer if trial else None) or {}
    cache: Mapping[str, Any] = (trial.trace.last("cache") if trial else None) or {}
    columns: Mapping[str, NDArray[Any]] = trial.columns if trial else {}
    delivered = int(columns["record_bytes"].sum()) if columns else 0
    span_s = float(columns["done_ns"].max() - trial.begin_ns) / 1e9 if trial and len(trial.latencies_ns) else 0.0
    storage = footer.get("storage_bytes")
    device = footer.get("device_read_bytes") if run["store"]["kind"] == "posix" else None
    ratio = device / storage if device is not None and storage else None
    bad = columns["sample"][columns["bad"]].tolist() if columns else []
    return {
        "delivered_bytes": delivered,
        "bytes_per_s": delivered / span_s if span_s > 0 else None,
        "storage_bytes": storage,
        "device_read_bytes": device,
        "cached_fraction_before": cache.get("cached_fraction_before"),
        "cached_fraction_served": None if ratio is None or ratio > MAX_AMPLIFICATION else max(0.0, 1.0 - ratio),
        "server_cache": cache.get("server_cache"),
        "verified_samples": int(columns["verified"].sum()) if columns else 0,
        "checksum_errors": len(bad),
        "bad_samples": sorted(set(bad))[:_MOST_BAD_NAMED],
        "requests": footer.get("requests"),
        "retries": footer.get("retries", 0),
        "retries_by_kind": footer.get("retries_by_kind", {}),
        "io_errors": footer.get("errors", 0),
        "cpu_s": footer.get("cpu_s"),
    }


def _search(run: Mapping[str, Any], trials: Sequence[Trial]) -> Summary:
    """What --find-max-qps found; null without it. `max_qps_failed`: the least rate above it that was not VALID."""
    if not run["config"]["query"]["find_max_qps"]:
        return {"max_qps": None, "max_qps_failed": None, "trials": None}
    best = max((_rate(trial) for trial in trials if trial.valid), default=None)
    above = [_rate(trial) for trial in trials if not trial.valid and (best is None or _rate(trial) > best)]
    rows = [
        {
            "target_qps": _rate(trial),
            "verdict": "VALID" if trial.valid else "INVALID",
            "queries": trial.complete_queries,
            "latency_s": trial.verdict.latency_ns / 1e9 if trial.verdict else None,
            "reasons": trial.reasons(),
        }
        for trial in trials
    ]
    return {"max_qps": best, "max_qps_failed": min(above, default=None), "trials": rows}
