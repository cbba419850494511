"""Saved runs -> time to accuracy, what stalls are of it, and what it costs: plain data for text, JSON and CSV.

A real training was measured; of an emulated accelerator the training is projected from the rate that it kept up and the epochs that the workload's target
is known to take. What is not known is None, and `left_out` says what to give to have it. The formulas are those of `storagebench.model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from storagebench.model.epochs import EpochsToTarget, observed, time_spread
from storagebench.model.tta import epoch_s, stall_share, time_to_target_s
from storagebench.report.load import LoadedRun
from storagebench.report.ttabasis import Asked, device_price, epochs_to_target, price_name, samples_of_epoch
from storagebench.report.ttacost import Amounts, priced, prices_used
from storagebench.workload import Target, edition_of, saved_targets, target_of

Entry = dict[str, Any]
HOW_TO_PRICE: Final = "cost: give --prices FILE to have it (docs/prices.yaml is an example)"


def entry_of(loaded: LoadedRun, asked: Asked) -> Entry:
    """One run's entry. Raises UsageError for an edition that its workload does not have, and for a price that the table does not have."""
    return _measured(loaded, asked) if loaded.summary.get("training") else _projected(loaded, asked)


def _head(loaded: LoadedRun, kind: str) -> Entry:
    summary = loaded.summary
    warned = any(finding["severity"] == "warning" for finding in summary["findings"])
    return {
        "run_id": summary["run_id"],
        "kind": kind,
        "valid": summary["valid"],
        "mark": "!" if not summary["valid"] else "~" if warned else "",
        "workload": summary["workload"],
        "accelerator": summary["accelerator"],
        "num_accelerators": summary["world_size"],
        "global_batch_size": summary["batch_size"] * summary["world_size"],
        "loader": summary["loader"],
        "storage": summary["storage"],
    }


# A real training


def _measured(loaded: LoadedRun, asked: Asked) -> Entry:
    """The training of this run; its time to accuracy was on the clock."""
    summary, training = loaded.summary, loaded.summary["training"]
    reached, epochs = training["reached"], training["epochs_to_target"]
    curve = training["curve"][:epochs] if reached else training["curve"]
    sums = {name: sum(row[name] or 0.0 for row in curve) for name in ("train_s", "eval_s", "stall_s")}
    share = sums["stall_s"] / sums["train_s"] if sums["train_s"] > 0 else None
    left_out: list[str] = []
    point = None
    if reached:
        taken = epochs / training["epochs_run"]
        samples = (summary["samples"] or 0) * taken
        amounts = Amounts.of(summary, float(loaded.run["dataset"]["num_samples"]), samples, left_out)
        point = _point("measured", epochs, training["tta_s"], sums["train_s"], sums["stall_s"])
        point["cost"] = priced(
            asked.prices,
            asked.price_name or device_price(training),
            summary["world_size"],
            point,
            training["start_s"] or 0.0,
            share,
            amounts,
            left_out,
        )
    elif training["target"] is None:
        left_out.append("time to accuracy: the training had no target")
    else:
        left_out.append("time to accuracy: the target was not reached, so there is none")
    return {
        **_head(loaded, "measured"),
        "model": training["model"],
        "device": training["device"],
        "seed": training["seed"],
        "target": _target_of_training(training),
        "reached": reached,
        "best_accuracy": training["best_accuracy"],
        "epochs": observed([epochs], "this run").as_dict() if reached else None,
        "epochs_run": training["epochs_run"],
        "samples_per_epoch": loaded.run["dataset"]["num_samples"],
        "samples_from": "the run's dataset",
        "samples_per_s": summary["samples_per_s"],
        "read_once": False,
        "start_s": training["start_s"],
        "eval_s": sums["eval_s"],
        "stall_share": share,
        "tta_s": training["tta_s"] if reached else None,
        "tta_spread_s": None,
        "points": [point] if point else [],
        **_price_list(asked, point, device_price(training), left_out),
        "left_out": left_out,
    }


def _target_of_training(training: Mapping[str, Any]) -> Entry | None:
    if training["target"] is None:
        return None
    return {
        "edition": None,
        "metric": training["metric"],
        "value": training["target"],
        "source": training["target_source"],
        "date": training["target_date"],
    }


# A projection


def _projected(loaded: LoadedRun, asked: Asked) -> Entry:
    """The training that would be: `TTA = start + E x N / R`, with R the rate of this run. Evaluation is unknown and left out.

    Of a workload that is read once (`measures: cold load`) only the first epoch runs at R, the others at what the accelerators take.
    """
    summary = loaded.summary
    config = loaded.run["config"]
    workload = saved_targets(str(config["name"]), config["train"], asked.edition)
    edition, target = edition_of(workload), target_of(workload)
    epochs = epochs_to_target(target, asked)
    samples, samples_from = samples_of_epoch(loaded, asked.training_samples)
    rate, start_s = summary["samples_per_s"], summary["time_to_first_batch_s"]
    share = None if summary["au_nominal"] is None else stall_share(summary["au_nominal"], 1.0)
    once = summary["measures"] == "cold load"
    left_out = _unknown(summary["workload"], target, epochs, rate, start_s, share, once)
    points: list[Entry] = []
    spread = None
    if epochs is not None and rate and not (once and share is None):
        one = _Course(samples, rate, share, once, start_s or 0.0)
        read = samples if once else None
        for which, count in _counts(epochs):
            point = _point(which, count, one.time_s(count), one.train_s(count), one.stall_s(count))
            notes: list[str] = []
            amounts = Amounts.of(summary, samples, read if read is not None else samples * count, notes)
            name = asked.price_name or price_name(loaded.run)
            point["cost"] = priced(asked.prices, name, summary["world_size"], point, one.start_s, point["stall_share"], amounts, notes)
            left_out += [note for note in notes if note not in left_out]
            points.append(point)
        spread = time_spread(epochs, one.time_s).as_dict()
    return {
        **_head(loaded, "projected"),
        "target": None if target is None else {"edition": edition, **target.model_dump(exclude={"epochs"})},
        "reached": None,
        "epochs": None if epochs is None else epochs.as_dict(),
        "samples_per_epoch": samples,
        "samples_from": samples_from,
        "samples_per_s": rate,
        "read_once": once,
        "start_s": start_s,
        "eval_s": None,
        "stall_share": share if not once or not points else points[-1]["stall_share"],
        "tta_s": None if spread is None else spread["p50_s"],
        "tta_spread_s": spread,
        "points": points,
        **_price_list(asked, points[0] if points else None, price_name(loaded.run), left_out),
        "left_out": left_out,
    }


@dataclass(frozen=True)
class _Course:
    """How a projected training goes: `samples` an epoch at `rate` samples/s, of which `stalled` (None: unknown) is waiting; `once`: the first epoch only."""

    samples: float
    rate: float
    stalled: float | None
    once: bool
    start_s: float

    def time_s(self, epochs: int) -> float:
        return time_to_target_s(epochs - 1, self._later_s, time_to_target_s(1, epoch_s(self.samples, self.rate), self.start_s))

    def train_s(self, epochs: int) -> float:
        return self.time_s(epochs) - self.start_s

    def stall_s(self, epochs: int) -> float | None:
        if self.stalled is None:
            return None
        return self.stalled * epoch_s(self.samples, self.rate) * (1 if self.once else epochs)

    @property
    def _later_s(self) -> float:
        return epoch_s(self.samples, self.rate) * (1.0 - (self.stalled or 0.0) if self.once else 1.0)


def _point(which: str, epochs: int, time_s: float, train_s: float, stall_s: float | None) -> Entry:
    """The training at one number of epochs; `cost` is filled in by the caller."""
    return {
        "which": which,
        "epochs": epochs,
        "tta_s": time_s,
        "train_s": train_s,
        "stall_s": stall_s,
        "stall_share": None if stall_s is None or train_s <= 0 else stall_s / train_s,
        "tta_without_stalls_s": None if stall_s is None else time_s - stall_s,
        "cost": None,
    }


def _counts(epochs: EpochsToTarget) -> list[tuple[str, int]]:
    """The epochs at which the training is shown: the ends, and the median where it is known; a single one where all are the same."""
    if epochs.fewest == epochs.most:
        return [("all", epochs.fewest)]
    middle = epochs.quantile(0.5)
    return [("fewest", epochs.fewest), *([] if middle is None else [("median", middle)]), ("most", epochs.most)]


def _unknown(
    workload: str, target: Target | None, epochs: EpochsToTarget | None, rate: float | None, start_s: float | None, share: float | None, once: bool
) -> list[str]:
    """What a projection lacks, each with what would give it."""
    found = []
    if epochs is None:
        why = "has no target" if target is None else f"has a target ({target.metric} {target.value:g}), and nobody published the epochs to it"
        found.append(f"time to accuracy: workload {workload} {why}: give --epochs-to-target N[,N...]")
    if not rate:
        found.append("time to accuracy: the run measured no rate: run it for longer")
    if start_s is None:
        found.append("start-up: the run had no first batch, so it counts as 0 s")
    if share is None:
        found.append("stall share: without compute time there is none: run with --accelerator or --compute-time")
        if once:
            found.append("time to accuracy: its data is read once, and without compute time the later epochs are not known")
    if epochs is not None and rate:
        found.append("evaluation: nothing is known of it, and its time is not in these figures")
    return found


def _price_list(asked: Asked, point: Entry | None, default_name: str, left_out: list[str]) -> Entry:
    if asked.prices is None:
        left_out.append(HOW_TO_PRICE)
        return {"currency": None, "prices": []}
    used = [] if point is None else prices_used(asked.prices, asked.price_name or default_name)
    return {"currency": asked.prices.currency, "prices": used}
