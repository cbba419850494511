"""The run folder -> `summary.json`: metrics, verdict, findings, validity and exit code. A pure function of `run.json` and the traces, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storagebench.checks.case import ERROR, Case
from storagebench.checks.findings import find
from storagebench.diagnosis.online import attribute
from storagebench.errors import EXIT_DATASET, EXIT_INVALID, EXIT_OK
from storagebench.hostfiles import HostRecords, read_host_files
from storagebench.metrics import Summary, summarise
from storagebench.ranks import Ranks
from storagebench.records import RUN_FILE, SUMMARY_FILE, rank_traces, read_run, write_json, writer_traces
from storagebench.traces import Trace, TraceFiles, read_trace


def judge(run_dir: Path) -> Summary:
    """The summary of a saved run. Raises UsageError where it is no run folder, DatasetError where a trace is damaged."""
    return judge_records(*read_records(run_dir))


def read_records(run_dir: Path) -> tuple[dict[str, Any], Ranks, list[HostRecords], list[Trace]]:
    """`run.json`, what is needed of the ranks' traces, one after another, the hosts', and the writers'. A rank that died before its header was written is not
    there."""
    run = read_run(run_dir)
    writers = [read_trace(path) for path in writer_traces(run_dir)]
    return run, Ranks(run, TraceFiles(rank_traces(run_dir))), read_host_files(run_dir), writers


def judge_records(run: Mapping[str, Any], ranks: Ranks, hosts: Sequence[HostRecords], writers: Sequence[Trace] = ()) -> Summary:
    """The same from records in memory."""
    summary = attributed(run, ranks, hosts, writers)
    findings = find(Case(run, summary, ranks, hosts, writers))
    errors = [finding for finding in findings if finding.severity == ERROR]
    summary["valid"] = not errors
    summary["exit_code"] = _exit_code(summary, bool(errors))
    summary["findings"] = [finding.as_dict() for finding in findings]
    return summary


def attributed(run: Mapping[str, Any], ranks: Ranks, hosts: Sequence[HostRecords], writers: Sequence[Trace] = ()) -> Summary:
    """The summary with what stood in the run's way, before the findings."""
    summary = summarise(run, ranks, hosts, writers)
    verdict = attribute(run, summary)
    return {**summary, "bottleneck": verdict.bottleneck if verdict else None, "verdict": verdict.as_dict() if verdict else None}


def _exit_code(summary: Summary, has_errors: bool) -> int | None:
    """The command's own code: what the run ended with; for a finished run 3 where samples were corrupt, 6 where another error makes it invalid."""
    code: int | None = summary["exit_code"]
    if code != EXIT_OK or not has_errors:
        return code
    return EXIT_DATASET if summary["checksum_errors"] else EXIT_INVALID


def write_summary(run_dir: Path) -> Summary:
    """Judge and write `summary.json`."""
    summary = judge(run_dir)
    write_json(run_dir / SUMMARY_FILE, summary)
    return summary


def is_run_dir(path: Path) -> bool:
    return (path / RUN_FILE).is_file()
