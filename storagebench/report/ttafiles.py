"""A real training in the formats that others publish in: DAWNBench's table and JSON, MLPerf Training's log lines. Written out of a saved run.

Neither makes a run a submission: both benchmarks fix the task, the target and who may submit, and both files leave to the submitter what a run does not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from storagebench.errors import UsageError
from storagebench.members import first_host
from storagebench.model.dawnbench import TOP1, Row, Table, entry, write_table
from storagebench.model.mllog import END, POINT, START, Event, line_of
from storagebench.report.load import LoadedRun

_HOUR_S: Final = 3600.0
_MS: Final = 1000.0


def dawnbench_files(loaded: LoadedRun, machine_price_per_hour: float | None) -> tuple[str, str]:
    """(TSV, JSON) of a training: a row for each epoch, epochs from 1, accuracy in percent. `costPerHour` only with a price of all its accelerators.

    Raises UsageError where the run is no training.
    """
    training = _training(loaded)
    rows = [Row(point["epoch"] + 1, point["time_s"] / _HOUR_S, (point["accuracy"] * 100.0,)) for point in training["curve"]]
    host = first_host(loaded.run)
    fields = {
        "framework": _version_of(host, "torch"),
        "model": training["model"],
        "hardware": f"{loaded.summary['world_size']} x {training['device']}, {host.get('usable_cores', '?')} cores ({host.get('host', 'host')})",
        "timestamp": datetime.fromtimestamp(loaded.run["created"]["wall_ns"] / 1e9, UTC).date().isoformat(),
        "misc": {
            "made_by": "storagebench report --dawnbench",
            "task": loaded.summary["workload"],
            "loader": loaded.summary["loader"],
            "storage": loaded.summary["storage"],
            "seed": training["seed"],
            "target": training["target"],
        },
    }
    return write_table(Table((TOP1,), tuple(rows))), entry(fields, machine_price_per_hour)


def mllog_text(loaded: LoadedRun) -> str:
    """The log of a training, one line an event, stamped with the run's wall clock. The clock of TTA has no gaps, and neither have these stamps: what the
    harness did between epochs is not in them. `submission_org`, `_platform` and `_status` are for the submitter. Raises UsageError where the run is no training."""
    return "".join(line_of(event) + "\n" for event in _events(loaded, _training(loaded)))


def _training(loaded: LoadedRun) -> Mapping[str, Any]:
    training: Mapping[str, Any] | None = loaded.summary.get("training")
    if not training:
        raise UsageError(
            f"{loaded.run_dir} is a run of an emulated accelerator, which learns nothing",
            "give a run of `storagebench run --accelerator train:MODEL`",
        )
    if not training["curve"] or any(point["accuracy"] is None for point in training["curve"]):
        raise UsageError(f"{loaded.run_dir} has an epoch without an evaluation, or none at all", "give a training that ended by itself")
    return training


def _version_of(host: Mapping[str, Any], package: str) -> str:
    version = host.get("versions", {}).get(package)
    return f"{package} {version}" if version else ""


def _events(loaded: LoadedRun, training: Mapping[str, Any]) -> Iterator[Event]:
    config, summary = loaded.run["config"], loaded.summary
    begin_ms = loaded.run["created"]["wall_ns"] / 1e6
    yield Event(begin_ms, POINT, "submission_benchmark", summary["workload"])
    yield Event(begin_ms, POINT, "submission_division", "open")
    yield Event(begin_ms, POINT, "cache_clear", summary["cache"] == "cold")
    yield Event(begin_ms, START, "init_start")
    for key, value in (
        ("seed", training["seed"]),
        ("global_batch_size", summary["batch_size"] * summary["world_size"]),
        ("gradient_accumulation_steps", 1),
        ("train_samples", loaded.run["dataset"]["num_samples"]),
        ("model", training["model"]),
        ("loader", config["loader"]["name"]),
    ):
        yield Event(begin_ms, POINT, key, value)
    yield Event(begin_ms, END, "init_stop")
    yield Event(begin_ms, START, "run_start")
    before_s = training["start_s"] or 0.0
    for point in training["curve"]:
        number = {"epoch_num": point["epoch"] + 1}
        evaluated_from_s = point["time_s"] - (point["eval_s"] or 0.0)
        yield Event(begin_ms + before_s * _MS, START, "epoch_start", None, number)
        yield Event(begin_ms + evaluated_from_s * _MS, END, "epoch_stop", None, number)
        yield Event(begin_ms + evaluated_from_s * _MS, START, "eval_start", None, number)
        yield Event(begin_ms + point["time_s"] * _MS, POINT, "eval_accuracy", point["accuracy"], number)
        yield Event(begin_ms + point["time_s"] * _MS, END, "eval_stop", None, number)
        before_s = point["time_s"]
    stop_s = training["tta_s"] if training["reached"] else before_s
    yield Event(begin_ms + stop_s * _MS, END, "run_stop", None, {"status": "success" if training["reached"] else "aborted"})
