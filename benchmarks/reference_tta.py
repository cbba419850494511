"""Time to accuracy and cost of published trainings, worked out again from their parts by the formulas of `storagebench.model`.

DAWNBench's times and costs are recomputed to the printed digit. For NVIDIA's MLPerf Training logs the projection is `E x median epoch` and nothing else
(start-up and evaluation are not logged as such), held against the logged time from run_start to run_stop, as the median of each submission (round, system,
benchmark). FFCV's table is the oracle of the linear fit. Ends with 1 where a bound is missed.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from storagebench.model import dawnbench
from storagebench.model.tta import fit_time, time_to_target_s
from storagebench.trainname import reaches

DATA = Path(__file__).parents[1] / "tests" / "data" / "training"
# Done-when 3 of issue 7. NCF and MiniGo are shown with the reason of their residual.
BOUNDS = {
    "resnet": 0.05, "gnmt": 0.05, "transformer": 0.05, "bert": 0.05, "dlrm": 0.05, "rnnt": 0.05, "maskrcnn": 0.20, "ssd": 0.20,
}  # fmt: skip
# libffcv/ffcv README: ResNet-50 on 8 x A100, epochs and minutes.
FFCV = ((16, 14.9), (24, 21.7), (32, 28.7), (40, 35.6), (56, 49.4), (88, 77.2))
# Targets: workloads train-* of storagebench (v0.6 has those of v0.7: mlperf.org/training-overview of v0.6); BERT, DLRM, RNN-T, UNet3D and RetinaNet ("ssd" of v3.0):
# training_rules.adoc at 001952a (v0.7) and decaf38 (v1.0), mlcommons.org/benchmarks/training.
TARGETS = {
    ("0.5", "resnet"): 0.749, ("0.6", "resnet"): 0.759, ("0.7", "resnet"): 0.759, ("3.0", "resnet"): 0.759,
    ("0.5", "ssd"): 0.212, ("0.6", "ssd"): 0.23, ("0.7", "ssd"): 0.23, ("3.0", "ssd"): 0.34,
    ("0.5", "gnmt"): 21.8, ("0.6", "gnmt"): 24.0, ("0.7", "gnmt"): 24.0,
    ("0.5", "transformer"): 25.0, ("0.6", "transformer"): 25.0, ("0.7", "transformer"): 25.0,
    ("0.5", "ncf"): 0.635, ("0.7", "minigo"): 0.5, ("0.7", "bert"): 0.712, ("3.0", "bert"): 0.72, ("0.7", "dlrm"): 0.8025,
    ("3.0", "rnnt"): 0.058, ("3.0", "unet3d"): 0.908,
}  # fmt: skip
LOWER_IS_BETTER = {"rnnt"}
ACCELERATORS = {"dgx1": 8, "dgx2": 16, "dgxa100": 8, "dgxh100": 8}


@dataclass(frozen=True)
class Logged:
    """A row as it stands in the file; blanks are None."""

    round: str
    system: str
    benchmark: str
    run: int
    batch_size: int | None
    train_samples: int | None
    epochs: int
    tta_s: float
    epoch_s: float | None
    quality: float | None

    @property
    def submission(self) -> tuple[str, str, str]:
        return (self.round, self.system, self.benchmark)


class Rule(NamedTuple):
    """How an odd row is read. `epochs`: how many it counts for, None: it cannot be projected."""

    name: str
    applies: Callable[[Logged], bool]
    epochs: Callable[[Logged], int | None]
    why: str


# The first that applies counts.
RULES = (
    Rule("no epoch events", lambda row: row.epochs == 0, lambda row: None, "its logs have no epoch events (v3.0 UNet3D)"),
    Rule(
        "logged twice",
        lambda row: row.submission == ("0.5", "dgx2", "resnet"),
        lambda row: None,
        "128 epoch events, apparently each logged twice, and no time between them",
    ),
    Rule("no epoch time", lambda row: row.epoch_s is None, lambda row: None, "two epochs leave no median of the time between epoch events"),
    Rule(
        "a start too many",
        lambda row: (row.round, row.benchmark, row.epochs) == ("0.7", "ssd", 51),
        lambda row: 50,
        "51 starts: evaluation is due after epochs 40 and 50, and a 51st was begun",
    ),
    Rule(
        "last epoch cut off",
        lambda row: (row.round, row.benchmark, row.epochs) == ("3.0", "ssd", 5),
        lambda row: 4,
        "RetinaNet: 5 starts in 4.2 epoch times; at batch 256 it converges in 4 (mlcommons/logging, training_3.0.0/rcps_ssd.json)",
    ),
)
REASONS = {
    "ncf": "the data is loaded and prepared on the clock before the first epoch, and the whole takes half a minute",
    "minigo": "54 epoch events in every log, however long it ran: they number what was begun, not the iterations up to the target, which is found afterwards",
    "bert": "one epoch event spans the run, so this says little",
    "dlrm": "one epoch event spans the run, so this says little",
}


def rule_of(row: Logged) -> Rule | None:
    """The rule by which the row is read, None for an ordinary one."""
    return next((rule for rule in RULES if rule.applies(row)), None)


def epochs_of(row: Logged) -> int | None:
    """Epochs that count, None where the row cannot be projected."""
    rule = rule_of(row)
    return row.epochs if rule is None else rule.epochs(row)


def projected_s(row: Logged) -> float | None:
    """`E x epoch`, without start-up and evaluation; None where the row cannot be projected."""
    epochs = epochs_of(row)
    return None if epochs is None or row.epoch_s is None else time_to_target_s(epochs, row.epoch_s)


def global_batch_size(row: Logged) -> int | None:
    """v0.5 logs the batch of one accelerator for ResNet-50, SSD and Transformer (there in tokens), and everything later the global one."""
    if row.batch_size is None:
        return None
    per_accelerator = row.round == "0.5" and row.benchmark in ("resnet", "ssd", "transformer")
    return row.batch_size * (ACCELERATORS[row.system] if per_accelerator else 1)


def train_samples(row: Logged) -> int | None:
    """Samples of an epoch, None where the column holds something else: the image size (v0.5 SSD), iterations (v3.0 RetinaNet), no sample count (Mask R-CNN,
    BERT: samples up to the target)."""
    odd = row.benchmark in ("maskrcnn", "bert") or (row.round in ("0.5", "3.0") and row.benchmark == "ssd")
    return None if odd else row.train_samples


def quality_of(row: Logged) -> float | None:
    """The last logged quality in the unit of its target: v0.7 has BLEU as a fraction."""
    if row.quality is not None and row.round == "0.7" and row.benchmark in ("gnmt", "transformer"):
        return row.quality * 100.0
    return row.quality


def reached(row: Logged) -> bool | None:
    """Whether the run ended at its target; None where no quality was logged. The end of a log alone is no proof: NCF stops at 20 epochs."""
    quality = quality_of(row)
    return None if quality is None else reaches(quality, TARGETS[row.round, row.benchmark], row.benchmark in LOWER_IS_BETTER)


def read_runs(path: Path = DATA / "mlperf_training_nvidia_runs.csv") -> list[Logged]:
    """The rows of the file."""
    with open(path, newline="") as file:
        return [
            Logged(
                row["round"],
                row["system"],
                row["benchmark"],
                int(row["run"]),
                int(row["logged_batch_size"]) if row["logged_batch_size"] else None,
                int(row["logged_train_samples"]) if row["logged_train_samples"] else None,
                int(row["epochs_run"]),
                float(row["tta_s_run_start_to_run_stop"]),
                float(row["median_epoch_s"]) if row["median_epoch_s"] else None,
                float(row["last_logged_quality"]) if row["last_logged_quality"] else None,
            )
            for row in csv.DictReader(file)
        ]


@dataclass(frozen=True)
class Checked:
    """A submission. `ratio`: median over its runs of projected over logged time, None where no run can be projected. `start_s`: what a straight line through
    its runs leaves for the time before the first epoch, where their epochs differ."""

    submission: tuple[str, str, str]
    runs: int
    projected: int
    ratio: float | None
    bound: float | None
    start_s: float | None
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        if self.ratio is None:
            return "not projected"
        if self.bound is None:
            return "shown"
        return "within" if abs(self.ratio - 1) <= self.bound else "MISSED"


def check(rows: Sequence[Logged]) -> Checked:
    """One submission's rows."""
    first = rows[0]
    pairs = [(projected_s(row), row.tta_s) for row in rows]
    ratios = [projected / logged for projected, logged in pairs if projected is not None]
    notes = [REASONS[first.benchmark]] if first.benchmark in REASONS else []
    for rule in RULES:
        named = [row.run for row in rows if rule_of(row) is rule]
        if named:
            which = "all runs" if len(named) == len(rows) else f"runs {', '.join(map(str, named))}"
            notes.append(f"{which}: {rule.name}: {rule.why}")
    missed = [row.run for row in rows if reached(row) is False]
    if missed:
        notes.append(f"ended below the target: runs {', '.join(map(str, missed))}")
    counts = [row.epochs for row in rows]
    start_s = fit_time(counts, [row.tta_s for row in rows]).start if len(set(counts)) > 1 else None
    ratio = median(ratios) if ratios else None
    return Checked(first.submission, len(rows), len(ratios), ratio, BOUNDS.get(first.benchmark), start_s, tuple(notes))


def check_all(rows: Sequence[Logged]) -> list[Checked]:
    """All submissions, in the order of the file."""
    return [check([row for row in rows if row.submission == key]) for key in dict.fromkeys(row.submission for row in rows)]


def dawnbench_differences(path: Path = DATA / "dawnbench_tta.csv") -> tuple[int, list[str]]:
    """(rows, what differs): seconds, dollars and the crossing of each row, to the digits that the file has."""
    differences = []
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        found = dawnbench.Row(float(row["epoch_at_threshold"]), float(row["hours"]), (float(row["accuracy"]),))
        table = dawnbench.Table((dawnbench.THRESHOLDS[row["task"]].column,), (found,))
        cost = dawnbench.cost(found.hours, float(row["cost_per_hour"]) if row["cost_per_hour"] else None)
        if table.first_at(dawnbench.THRESHOLDS[row["task"]]) is not found or dawnbench.THRESHOLDS[row["task"]].value != float(row["threshold"]):
            differences.append(f"{row['entry']}: its row does not reach the threshold")
        if round(found.time_s, 2) != float(row["tta_s"]):
            differences.append(f"{row['entry']}: {found.time_s} s, and the file has {row['tta_s']}")
        if (None if cost is None else round(cost, 4)) != (float(row["cost_usd"]) if row["cost_usd"] else None):
            differences.append(f"{row['entry']}: {cost} USD, and the file has {row['cost_usd'] or 'none'}")
    return len(rows), differences


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the two CSV files")
    asked = parser.parse_args()
    count, differences = dawnbench_differences(asked.data / "dawnbench_tta.csv")
    print(f"DAWNBench: time and cost of {count} entries, {len(differences)} differ")
    for difference in differences:
        print(f"  {difference}")
    line = fit_time([epochs for epochs, _ in FFCV], [minutes for _, minutes in FFCV])
    print(f"FFCV: {line.epoch:.4f} min an epoch, {line.start:.2f} min before, largest residual {line.largest_residual:.2f} min")
    found = check_all(read_runs(asked.data / "mlperf_training_nvidia_runs.csv"))
    print(f"{'submission':<24} {'runs':>7} {'projected/logged':>16} {'bound':>6}  verdict")
    for one in found:
        ratio = "-" if one.ratio is None else f"{one.ratio:.3f}"
        bound = "-" if one.bound is None else f"{one.bound:.0%}"
        print(f"{' '.join(one.submission):<24} {f'{one.projected}/{one.runs}':>7} {ratio:>16} {bound:>6}  {one.verdict}")
        if one.bound is None and one.start_s is not None:
            print(f"    a line through its runs leaves {one.start_s:.1f} s before the first epoch")
        for note in one.notes:
            print(f"    {note}")
    return 1 if differences or any(one.verdict == "MISSED" for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
