"""Real training runs as plain data: curves of accuracy against time, grouped by workload, architecture and store, and the median of several seeds.

Times are of TTA's clock (`summary["training"]`): from opening the loader, evaluation included, without the harness's own work between epochs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, NamedTuple

from storagebench.errors import UsageError
from storagebench.report import wording as w
from storagebench.report.load import LoadedRun
from storagebench.report.provenance import without_secrets
from storagebench.units import format_seconds, parse_duration, parse_size


class EpochPoint(NamedTuple):
    """An evaluation. `epoch` counts from 1; `stall_share` is that of this epoch's training time, None where it had none."""

    epoch: int
    time_s: float
    accuracy: float
    stall_share: float | None


@dataclass(frozen=True)
class Curve:
    """A run: its index on the page, its name, its mark, what it was, and its evaluations in order."""

    index: int
    name: str
    sign: str
    training: Mapping[str, Any]
    points: tuple[EpochPoint, ...]

    @property
    def crossing(self) -> EpochPoint | None:
        """The evaluation that first was at or above the target; the run itself says which (it compares as the rules do)."""
        if not self.training["reached"] or self.training["epochs_to_target"] is None:
            return None
        return next((point for point in self.points if point.epoch == self.training["epochs_to_target"]), None)


class Group(NamedTuple):
    """Runs that differ by their seed alone, or a single run. `alone` is the name of an invalid or incomplete run, which is grouped with no other."""

    model: str
    store: str
    curves: tuple[Curve, ...]
    alone: str = ""

    @property
    def label(self) -> str:
        return ", ".join(filter(None, (self.model, self.store, self.alone)))


class Task(NamedTuple):
    """What may stand on one plot: the runs of a workload that are judged by one metric."""

    workload: str
    metric: str
    groups: tuple[Group, ...]

    @property
    def curves(self) -> list[Curve]:
        return [curve for group in self.groups for curve in group.curves]

    @property
    def targets(self) -> list[float]:
        """All that these runs aimed at, each once, from the lowest."""
        return sorted({float(curve.training["target"]) for curve in self.curves if curve.training["target"] is not None})


def tasks(loaded: Sequence[LoadedRun], names: Sequence[str]) -> list[Task]:
    """The real training runs among these, in the order of the page. An invalid or incomplete run is never grouped with others."""
    found: dict[tuple[str, str], list[int]] = {}
    for index, run in enumerate(loaded):
        training = run.summary.get("training")
        if training is not None:
            key = w.printable(run.summary["workload"]), w.printable(training["metric"] or "accuracy")
            found.setdefault(key, []).append(index)
    return [Task(*key, _groups(loaded, names, indices)) for key, indices in found.items()]


def _groups(loaded: Sequence[LoadedRun], names: Sequence[str], indices: Sequence[int]) -> tuple[Group, ...]:
    keys = _keys([loaded[index] for index in indices], [names[index] for index in indices])
    grouped: dict[tuple[str, str, str], list[Curve]] = {}
    for index, (model, store) in zip(indices, keys, strict=True):
        curve = _curve(index, names[index], loaded[index].summary)
        alone = curve.name if curve.sign == w.ERROR_MARK else ""
        grouped.setdefault((model, store, alone), []).append(curve)
    return tuple(Group(model, store, tuple(curves), alone) for (model, store, alone), curves in grouped.items())


def _keys(runs: Sequence[LoadedRun], names: Sequence[str]) -> list[tuple[str, str]]:
    """(architecture, store) of each run. What tells runs apart beside their seed is put to the store's label, and the run's name where nothing does."""
    models = [w.printable(run.summary["training"]["model"]) for run in runs]
    stores = [store_label(run.run) for run in runs]
    for part in _PARTS:
        values = [part(run) for run in runs]
        if _differs(list(zip(models, stores, strict=True)), values):
            stores = [f"{store}, {value}" for store, value in zip(stores, values, strict=True)]
    seeds: dict[tuple[object, ...], int] = {}
    for run, model, store in zip(runs, models, stores, strict=True):
        key = model, store, run.summary["training"]["seed"]
        seeds[key] = seeds.get(key, 0) + 1
    twice = {key[:2] for key, count in seeds.items() if count > 1}
    return [
        (model, f"{store}, {w.printable(name)}" if (model, store) in twice else store)
        for model, store, name in zip(models, stores, names, strict=True)
    ]


def _differs(keys: Sequence[object], values: Sequence[str]) -> bool:
    """Whether two runs of one key have different values."""
    first: dict[object, str] = {}
    return any(first.setdefault(key, value) != value for key, value in zip(keys, values, strict=True))


_PARTS: Final[tuple[Callable[[LoadedRun], str], ...]] = (
    lambda run: f"loader {w.printable(run.summary['loader'])}",
    lambda run: w.printable(run.summary["format"]),
    lambda run: f"on {w.printable(run.summary['training']['device'])}",
    lambda run: f"{run.summary['world_size']} ranks",
    lambda run: f"batches of {run.summary['batch_size']}",
    lambda run: f"learning rate {w.printable(run.run['config']['train'].get('learning_rate'))}",
    lambda run: f"cache {w.printable(run.summary['cache'])}",
    lambda run: without_secrets(w.printable(run.run["store"]["options"].get("endpoint_url"))),
    lambda run: without_secrets(w.printable(run.run["store"]["root"])),
)


def store_label(run: Mapping[str, Any]) -> str:
    """`posix`, `s3`; of a shaped store what lies behind it and how it was shaped: `posix at 2.5 MB/s, 10 ms`."""
    store = run["store"]
    if store["kind"] != "shaped":
        return w.printable(store["kind"])
    scheme, colon, _ = str(store["root"]).partition("://")
    inner = w.printable(scheme) if colon and scheme != "file" else "posix"
    options = store["options"]
    bandwidth = _worded(options.get("bandwidth"), lambda text: f"at {w.size(parse_size(text))}/s")
    latency = _worded(options.get("latency"), lambda text: format_seconds(parse_duration(text)))
    jitter = _worded(options.get("jitter"), lambda text: f"jitter {format_seconds(parse_duration(text))}")
    shape = ", ".join(filter(None, (bandwidth, latency, jitter)))
    return f"{inner} {shape}" if shape else f"{inner}, not slowed down"


def _worded(value: Any, words: Callable[[str], str]) -> str:
    """An option in our units, as it was typed where it does not read, nothing where it asks for nothing."""
    try:
        text = words(str(value)) if value else ""
    except UsageError:
        return w.printable(value)
    return "" if text in ("0 s", "jitter 0 s", "at 0 B/s") else text


def _curve(index: int, name: str, summary: w.Summary) -> Curve:
    training = summary["training"]
    points = [
        EpochPoint(row["epoch"] + 1, float(row["time_s"]), float(row["accuracy"]), _share(row["stall_s"], row["train_s"]))
        for row in training["curve"]
        if row["accuracy"] is not None and math.isfinite(row["accuracy"])
    ]
    return Curve(index, w.printable(name), w.mark(summary), training, tuple(points))


def _share(part_s: float | None, whole_s: float | None) -> float | None:
    return None if part_s is None or not whole_s else part_s / whole_s


def median_curve(curves: Sequence[Curve]) -> list[EpochPoint]:
    """The curve of several seeds, as long as at least half of them can be told and their median is not beyond the target.

    Accuracy: the median over the runs after so many epochs, of an even number the lower of the middle two; a run that ended because it had reached the target
    counts as above all others, so that the runs that go on do not pull the line down. Time: the median; once runs have ended, that of the epoch's duration is
    added, so that the line never goes back.
    """
    found: list[EpochPoint] = []
    by_epoch = [{point.epoch: point for point in curve.points} for curve in curves]
    for epoch in range(1, max((epoch for points in by_epoch for epoch in points), default=0) + 1):
        here = [points[epoch] for points in by_epoch if epoch in points]
        ended = sum(epoch not in points and curve.crossing is not None for curve, points in zip(curves, by_epoch, strict=True))
        accuracies = [*sorted(point.accuracy for point in here), *[math.inf] * ended]
        if 2 * len(accuracies) < len(curves) or not here:
            break
        accuracy = accuracies[(len(accuracies) - 1) // 2]
        if accuracy == math.inf:
            break
        time_s = median(point.time_s for point in here)
        durations = [points[epoch].time_s - points[epoch - 1].time_s for points in by_epoch if epoch in points and epoch - 1 in points]
        if found and durations and len(here) < len(curves):
            time_s = found[-1].time_s + median(durations)
        shares = [point.stall_share for point in here if point.stall_share is not None]
        found.append(EpochPoint(epoch, time_s, accuracy, median(shares) if shares else None))
    return found
