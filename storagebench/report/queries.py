"""The page of one query run: verdict and why, latencies, rate, bytes, cache, findings. Plain text; unknown is shown as `-`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from storagebench.report import wording as w
from storagebench.units import format_rate, format_seconds

Summary = Mapping[str, Any]


def query_text(summaries: Sequence[Summary]) -> str:
    """The pages of these runs, one below another."""
    return "\n".join(one_query_run(summary) for summary in summaries)


def one_query_run(summary: Summary) -> str:
    """The page of one run."""
    rows = [*_head(summary), *_latencies(summary), *_rates(summary), *_proof(summary)]
    width = max(len(name) for name, _ in rows)
    lines = [_verdict(summary), *(f"  why: {w.printable(reason)}" for reason in summary["reasons"]), ""]
    lines += [f"  {name:<{width}}  {w.printable(value)}" for name, value in rows]
    lines += ["", *_trials(summary)]
    for finding in summary["findings"]:
        lines += [f"  {finding['severity']} {finding['code']}: {w.printable(finding['message'])}", f"    hint: {w.printable(finding['hint'])}"]
    return "\n".join(lines if summary["findings"] else [*lines, "  no findings"]) + "\n"


def _verdict(summary: Summary) -> str:
    what = f"{summary['workload']}, {summary['scenario']} on {summary['format']} over {summary['storage']}"
    if not summary["valid"]:
        return f"DO NOT USE: {w.printable(what)}: the numbers are false or of an incomplete run"
    if summary["trials"] is not None:
        found = "no rate was VALID" if summary["max_qps"] is None else f"{summary['max_qps']:.4g} queries/s is the largest VALID rate found"
        return f"{summary['verdict']}: {w.printable(what)}: {found}"
    return f"{summary['verdict'] or 'NO VERDICT'}: {w.printable(what)}"


def _head(summary: Summary) -> list[tuple[str, str]]:
    sample = f"{summary['samples']} samples out of {summary['qsl_samples']}"
    return [
        ("run", str(summary["run_id"])),
        ("queries", f"{summary['queries']} ({sample}), at least {summary['min_query_count']} and {format_seconds(summary['min_duration_s'])}"),
        ("workers", f"{summary['num_workers']}, decode {summary['decode']}"),
    ]


def _latencies(summary: Summary) -> list[tuple[str, str]]:
    quantiles = summary["latency_quantiles_s"]
    if quantiles is None:
        return [("latency", w.UNKNOWN)]
    limit = "" if summary["latency_limit_s"] is None else f", limit {format_seconds(summary['latency_limit_s'])}"
    shown = ", ".join(f"{name} {format_seconds(quantiles[name])}" for name in ("p50", "p90", "p99", "p99.9", "max"))
    rows = [
        ("latency", f"{format_seconds(summary['latency_s'])} at the {summary['percentile'] * 100:g}th percentile{limit}"),
        ("", shown),
    ]
    stopping = summary["early_stopping"]
    if stopping is not None:
        rows.append(("early stopping", _stopping(stopping)))
    return rows


def _stopping(stopping: Mapping[str, Any]) -> str:
    if not stopping["met"]:
        return f"not met: {stopping['more_queries']} more queries are needed"
    if stopping["over_limit"] is not None:
        return f"met: {stopping['over_limit']} over the limit, for which {stopping['queries_needed']} queries are needed"
    return f"met: estimate {format_seconds(stopping['estimate_s'])} ({stopping['discarded']} highest discarded)"


def _rates(summary: Summary) -> list[tuple[str, str]]:
    rows = []
    if summary["qps"] is not None:
        asked = "" if summary["target_qps"] is None else f" of {summary['target_qps']:.4g} asked for"
        rows.append(("queries/s", f"{w.number(summary['qps'])}{asked}"))
    rate = summary["bytes_per_s"]
    rows.append(("samples/s", f"{w.number(summary['samples_per_s'])}, {w.UNKNOWN if rate is None else format_rate(rate)}"))
    for name, key in (("issued late by", "issue_delay_s"), ("waited for a worker", "queue_wait_s"), ("read and checked in", "service_s")):
        found = summary[key]
        if found is not None:
            late = f"; more than 1 ms: {summary['late_issues']} of {summary['queries']}" if key == "issue_delay_s" else ""
            rows.append((name, ", ".join(f"{quantile} {format_seconds(found[quantile])}" for quantile in ("p50", "p99", "max")) + late))
    return rows


def _proof(summary: Summary) -> list[tuple[str, str]]:
    return [
        ("checksums", f"{summary['verified_samples']} compared, {summary['checksum_errors']} differ"),
        ("bytes", f"{w.size(summary['delivered_bytes'])} delivered, {w.size(summary['storage_bytes'])} from the store"),
        (
            "cache",
            f"{summary['cache']}; cached before {w.share(summary['cached_fraction_before'])}, served from cache {w.share(summary['cached_fraction_served'])}",
        ),
    ]


def _trials(summary: Summary) -> list[str]:
    """What --find-max-qps tried, in order."""
    if summary["trials"] is None:
        return []
    lines = ["  trials (queries/s, verdict, queries, latency at the percentile)"]
    for trial in summary["trials"]:
        latency = w.seconds(trial["latency_s"])
        lines.append(f"  {trial['target_qps']:>12.4g}  {trial['verdict']:<7}  {trial['queries']:>8}  {latency}")
    return [*lines, ""]
