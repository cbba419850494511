"""Trainings that others ran and published, by the rules of who published them: entries of DAWNBench, logs of MLPerf Training. Read from their files.

Text from files is untrusted: it is shown on one line without control characters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from storagebench.errors import StorageError, UsageError
from storagebench.model import dawnbench, mllog
from storagebench.model.olympic import RUNS_REQUIRED, dropped_runs, olympic_mean
from storagebench.report import wording as w
from storagebench.report.ttatext import long_time, money

Entry = dict[str, Any]
_MAX_BYTES: Final = 2**28
_TASK_OF: Final = {threshold.column: task for task, threshold in dawnbench.THRESHOLDS.items()}


def read_published(path: Path) -> Entry:
    """A `.tsv` file is a table of DAWNBench, with its JSON beside it if there is one; any other is the log of one training. Raises UsageError, StorageError."""
    text = _text(path)
    return _dawnbench(path, text) if path.suffix == ".tsv" else _mlperf(path, text)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{path} has {path.stat().st_size} bytes, over the limit of {_MAX_BYTES}", "a training's table or log is smaller")
        # As mlcommons reads them: a log may hold anything between its lines.
        return path.read_text(encoding="latin-1")
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}", "give a run folder, a table of DAWNBench or a log of MLPerf") from None


def _dawnbench(path: Path, text: str) -> Entry:
    """Time to the first row at the threshold of its task; cost by the price in the JSON."""
    table = dawnbench.read_table(text)
    beside = _beside(path.with_suffix(".json"))
    task, threshold = _task(table, beside)
    row = table.first_at(threshold)
    price = beside.get("costPerHour")
    price = float(price) if isinstance(price, int | float) and not isinstance(price, bool) else None
    return {
        "file": str(path),
        "kind": "dawnbench",
        "task": task,
        "model": beside.get("model"),
        "hardware": beside.get("hardware"),
        "date": beside.get("timestamp"),
        "metric": threshold.column,
        "target": threshold.value,
        "reached": row is not None,
        "epoch": None if row is None else row.epoch,
        "tta_s": None if row is None else row.time_s,
        "cost_per_hour": price,
        "currency": "USD",
        "cost": None if row is None else dawnbench.cost(row.hours, price),
    }


def _task(table: dawnbench.Table, beside: Mapping[str, Any]) -> tuple[str, dawnbench.Threshold]:
    """Of the three tasks the one whose column the table has, the most telling first; of a table that storagebench wrote, that run's own workload and target."""
    misc = beside.get("misc")
    if isinstance(misc, dict) and str(misc.get("made_by", "")).startswith("storagebench") and isinstance(misc.get("target"), int | float):
        return str(misc.get("task")), dawnbench.Threshold(dawnbench.TOP1, 100.0 * misc["target"])
    column = next(name for name in ("f1Score", "top5Accuracy", dawnbench.TOP1) if name in table.columns)
    return _TASK_OF[column], dawnbench.THRESHOLDS[_TASK_OF[column]]


def _beside(path: Path) -> Mapping[str, Any]:
    """The JSON of an entry, empty where it is not there. Raises UsageError where it is no JSON object."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{path} is no JSON object, and belongs to the table beside it", "mend it, or move it away")
    return found


def _mlperf(path: Path, text: str) -> Entry:
    """What the log says: its time counts where `run_stop` says success."""
    events = mllog.read_events(text.splitlines())
    if not events:
        raise UsageError(f"{path} has no line of MLPerf Training (`{mllog.TOKEN.strip()}`), and is no table of DAWNBench (.tsv)", "give one of these")
    training = mllog.training_of(events)
    last = training.evaluations[-1] if training.evaluations else None
    return {
        "file": str(path),
        "kind": "mlperf",
        "benchmark": training.benchmark,
        "global_batch_size": training.global_batch_size,
        "seed": training.seed,
        "train_samples": training.train_samples,
        "reached": training.success,
        "epoch_starts": training.epoch_starts,
        "last_quality": None if last is None else last.quality,
        "tta_s": training.time_s if training.success else None,
        "run_s": training.time_s,
    }


def submissions_of(entries: Sequence[Entry]) -> list[Entry]:
    """The logs of one benchmark at one batch size, two or more, as MLPerf's result: the olympic mean, and how many logs a result has."""
    found: dict[tuple[Any, Any], list[Entry]] = {}
    for entry in entries:
        if entry["kind"] == "mlperf":
            found.setdefault((entry["benchmark"], entry["global_batch_size"]), []).append(entry)
    return [_submission(members) for members in found.values() if len(members) > 1]


def _submission(members: Sequence[Entry]) -> Entry:
    benchmark = str(members[0]["benchmark"])
    mean = olympic_mean([entry["tta_s"] for entry in members], dropped_runs(benchmark))
    return {
        "benchmark": members[0]["benchmark"],
        "global_batch_size": members[0]["global_batch_size"],
        "logs": [entry["file"] for entry in members],
        "not_converged": [entry["file"] for entry in members if entry["tta_s"] is None],
        "logs_required": RUNS_REQUIRED.get(benchmark),
        "olympic_mean_s": mean.value,
        "olympic_note": mean.why,
    }


def published_text(entries: Sequence[Entry], submissions: Sequence[Entry]) -> str:
    """A block for each file and each submission."""
    blocks = [_dawnbench_text(entry) if entry["kind"] == "dawnbench" else _log_text(entry) for entry in entries]
    return "\n\n".join([*blocks, *map(_submission_text, submissions)]) + "\n"


def _dawnbench_text(entry: Entry) -> str:
    reached = f"{long_time(entry['tta_s'])}, at epoch {entry['epoch']:g}" if entry["reached"] else "not reached"
    cost = "none: there is no costPerHour in a JSON beside it" if entry["cost_per_hour"] is None else "none"
    if entry["cost"] is not None:
        cost = f"{money(entry['cost'], entry['currency'])} at {entry['cost_per_hour']:g} an hour"
    return "\n".join(
        [
            w.printable(
                f"DAWNBench: {entry['file']}: {entry['model'] or w.UNKNOWN} on {entry['hardware'] or w.UNKNOWN} ({entry['date'] or w.UNKNOWN})"
            ),
            f"  target            {entry['metric']} {entry['target']:g} ({entry['task']})",
            f"  time to accuracy  {reached}",
            f"  cost              {cost}",
        ]
    )


def _log_text(entry: Entry) -> str:
    known = [f"{name} {entry[key]}" for name, key in (("batch", "global_batch_size"), ("seed", "seed")) if entry[key] is not None]
    title = ", ".join([str(entry["benchmark"] or "unnamed"), *known])
    quality = "" if entry["last_quality"] is None else f", last quality {entry['last_quality']:.6g}"
    reached = long_time(entry["tta_s"]) if entry["tta_s"] is not None else f"none: run_stop does not say success, after {long_time(entry['run_s'])}"
    return "\n".join(
        [
            w.printable(f"MLPerf log: {entry['file']}: {title}"),
            f"  time to accuracy  {reached}",
            f"  epochs begun      {entry['epoch_starts']}{quality}",
        ]
    )


def _submission_text(entry: Entry) -> str:
    required = "" if entry["logs_required"] is None else f" (a result has {entry['logs_required']})"
    note = f" ({entry['olympic_note']})" if entry["olympic_note"] else ""
    lines = [
        w.printable(
            f"{len(entry['logs'])} logs of {entry['benchmark'] or 'an unnamed benchmark'}, batch {entry['global_batch_size'] or w.UNKNOWN}{required}"
        ),
        f"  olympic mean      {long_time(entry['olympic_mean_s'])}{note}",
    ]
    if entry["not_converged"]:
        lines.append(w.printable(f"  did not converge: {' '.join(entry['not_converged'])}"))
    return "\n".join(lines)
