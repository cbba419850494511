"""`report --submission`: saved runs laid out as a submission to MLPerf Storage wants them, as far as they go, and line by line what they lack.

The layouts are those of mlperf-storage.md section 6: v1.0 has a folder for each workload and accelerator, v2.0 (R2 11.3, its last text) and v3.0 (R3
2.1) `training/<model>/run/<timestamp>`. Nothing here passes for a file of the engine: what storagebench gives says so in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storagebench.checks.case import Case
from storagebench.checks.mlperf import MLPERF_SETS, set_name
from storagebench.checks.mlperf_rules import Ground
from storagebench.checks.mlperf_runs import counted_runs, in_order, span_of
from storagebench.checks.setrules import judge_rules
from storagebench.errors import UsageError
from storagebench.records import RUN_FILE, SUMMARY_FILE, TRACE_DIR, host_traces, rank_traces
from storagebench.report.load import LoadedRun
from storagebench.report.submission_missing import missing_text, readme_text
from storagebench.report.submission_parts import dataset_json, datasize_json, per_epoch_stats, results_json, summary_json, system_text

Files = dict[str, bytes | Path]
OURS = "storagebench"


@dataclass(frozen=True)
class Submission:
    """Whose it is, of which system, by which rules. `org_given`: whether the user said so."""

    ground: Ground
    org: str
    org_given: bool
    system: str

    @property
    def root(self) -> str:
        """Where the organisation's part lies."""
        division = self.ground.division
        return f"{division if self.ground.edition.name == 'v3.0' else division.capitalize()}/{self.org}"

    def phase(self, case: Case, phase: str) -> str:
        """Where a phase (run, datagen, datasize) of the run's workload lies."""
        config = case.run["config"]
        if self.ground.edition.name == "v1.0":
            return f"{self.root}/results/{self.system}/{config['name']}-{config['run']['accelerator']}/{phase}"
        return f"{self.root}/results/{self.system}/training/{config['name']}/{phase}"


def file_name(text: str, what: str) -> str:
    """A name as R3 2.1.1 wants it: what cannot be in a file's name is a dash. Raises UsageError where nothing is left."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", text.strip())
    if not name.strip(".-"):
        raise UsageError(f"{what} {text!r} makes no folder name", "give it letters or digits")
    return name


def lay_out(submission: Submission, loaded: Sequence[LoadedRun]) -> Files:
    """The files of a submission (path in it -> bytes, or the file to copy). Raises UsageError for runs that the edition does not have."""
    folders = {str(run.run["run_id"]): run.run_dir for run in loaded}
    cases = in_order([Case(run.run, run.summary, run.ranks, run.hosts) for run in loaded])
    if len(folders) < len(cases):
        raise UsageError("two of the runs have the same id", "give each run once")
    for case in cases:
        _refuse_unknown(case, submission.ground)
    files: Files = {}
    for case in cases:
        for path, content in _run_files(submission, case, folders[str(case.run["run_id"])]).items():
            if path in files:
                raise UsageError(f"two runs ended in the same second, and would both be {path}", "give one of them")
            files[path] = content
    for phase, group in _by_phase(submission, cases).items():
        files |= _workload_files(submission, phase, group)
    suffix = "json" if submission.ground.edition.name == "v1.0" else "yaml"
    description = system_text(submission.system, submission.org, submission.ground, cases, suffix)
    files[f"{submission.root}/systems/{submission.system}.{suffix}"] = description.encode()
    verdicts = judge_rules(MLPERF_SETS[set_name(submission.ground.edition, submission.ground.division)], cases)
    files["MISSING.txt"] = missing_text(submission.ground, submission.root, submission.system, submission.org_given, cases, verdicts).encode()
    files["README.md"] = readme_text(submission.ground, submission.org, submission.system, len(cases)).encode()
    return files


def _refuse_unknown(case: Case, ground: Ground) -> None:
    name, accelerator = case.run["config"]["name"], case.run["config"]["run"]["accelerator"]
    known = ground.edition.workloads
    if name not in known:
        raise UsageError(f"run {case.run['run_id']} is of workload {name}, and {ground.edition.name} has {', '.join(known)}", "give other --rules")
    if accelerator not in known[name].accelerators:
        able = ", ".join(known[name].accelerators)
        raise UsageError(
            f"run {case.run['run_id']} has accelerator {accelerator!r}, and {name} of {ground.edition.name} has {able}", "give other --rules"
        )


def _run_files(submission: Submission, case: Case, run_dir: Path) -> Files:
    """One run: its figures as the engine would name them, and storagebench's own files as they are."""
    leaf = f"{submission.phase(case, 'run')}/{_timestamp(case)}"
    engine = submission.ground.edition.engine
    files: Files = {f"{leaf}/{OURS}_summary.json": _json(summary_json(case, submission.ground))}
    for rank in case.ranks:
        files[f"{leaf}/{OURS}_{rank.header.get('rank', 0)}_per_epoch_stats.json"] = _json(per_epoch_stats(case, rank, engine))
    files[f"{leaf}/{OURS}/{RUN_FILE}"] = run_dir / RUN_FILE
    files[f"{leaf}/{OURS}/{SUMMARY_FILE}"] = _json(case.summary)
    for path in (*rank_traces(run_dir), *host_traces(run_dir)):
        files[f"{leaf}/{OURS}/{TRACE_DIR}/{path.name}"] = path
    return files


def _workload_files(submission: Submission, phase: str, cases: Sequence[Case]) -> Files:
    """What is said once of the runs of a workload: their results, the least dataset, and how the dataset was made."""
    counted = counted_runs(cases, submission.ground.edition)
    files: Files = {f"{phase}/{OURS}_results.json": _json(results_json(submission.ground, cases, counted))}
    files[f"{submission.phase(cases[0], 'datasize')}/{OURS}_datasize.json"] = _json(datasize_json(cases[0], submission.ground))
    for number, digest in enumerate(dict.fromkeys(case.run["dataset"]["digest"] for case in cases)):
        case = next(case for case in cases if case.run["dataset"]["digest"] == digest)
        files[f"{submission.phase(case, 'datagen')}/{OURS}_dataset{f'_{number}' if number else ''}.json"] = _json(dataset_json(case))
    return files


def _by_phase(submission: Submission, cases: Sequence[Case]) -> Mapping[str, list[Case]]:
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(submission.phase(case, "run"), []).append(case)
    return groups


def _timestamp(case: Case) -> str:
    """When the run ended, in UTC: its own time zone is not recorded."""
    return datetime.fromtimestamp(span_of(case).end_ns // 10**9, UTC).strftime("%Y%m%d_%H%M%S")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
