"""A real training out of the records: its curve of accuracy over time, the time to its target, and how long the accelerators waited for their data. Pure
arithmetic on `run.json` and the traces; seconds, ratios 0..1, None for what is unknown.

The clock of an epoch runs from `loader.start` to the end of its last step, and on through the evaluation; what the harness does between epochs (dropping
and proving caches, gathering proofs) is not on it. Only whole epochs count, which were evaluated: the last, cut one of a killed run has no accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from storagebench.ranks import Ranks

_NS = 1e9
_Row = dict[str, Any]


def training_figures(run: Mapping[str, Any], ranks: Ranks) -> _Row | None:
    """The summary's key `training`; None of a run that trained nothing.

    `start_s`: opening the loader, of the rank that took longest. `train_s`, `eval_s`: of the slowest rank in each epoch, added up. `stall_s`: waiting for the
    batch of a step, until all ranks had theirs, mean of the ranks; `stall_share` of `train_s`. `step_compute_s`: the median measured step with a full batch.
    `tta_s`: `start_s` and the epochs up to the first one whose accuracy is at or above the target, evaluations included; None where none is.
    """
    asked = run.get("training")
    if asked is None:
        return None
    start_s = max((_opening_s(record) for rank in ranks for record in rank.of_kind("opened")), default=None)
    curve = _curve(ranks, start_s or 0.0)
    first = next((index for index, point in enumerate(curve) if point["reached"]), None)
    train_s, eval_s, stall_s = (sum(point[name] for point in curve) if curve else None for name in ("train_s", "eval_s", "stall_s"))
    model = next((record for rank in ranks for record in rank.of_kind("model")), {})
    accuracies = [point["accuracy"] for point in curve]
    computes_ns = ranks.computes_ns
    return {
        "model": asked["model"],
        "device": _device(asked["device"], model.get("device_name")),
        "parameters": model.get("parameters"),
        "seed": run["config"]["run"]["seed"],
        "metric": asked["metric"],
        "target": asked["target"],
        "target_source": asked["target_source"],
        "target_date": asked["target_date"],
        "reached": None if asked["target"] is None else first is not None,
        "epochs_run": len(curve),
        "epochs_to_target": None if first is None else curve[first]["epoch"] + 1,
        "tta_s": None if first is None else curve[first]["time_s"],
        "start_s": start_s,
        "train_s": train_s,
        "eval_s": eval_s,
        "stall_s": stall_s,
        "stall_share": stall_s / train_s if train_s and stall_s is not None else None,
        "step_compute_s": int(computes_ns[(len(computes_ns) - 1) // 2]) / _NS if len(computes_ns) else None,
        "final_accuracy": accuracies[-1] if accuracies else None,
        "best_accuracy": max(accuracies, default=None),
        "curve": [{name: value for name, value in point.items() if name != "reached"} for point in curve],
    }


def _opening_s(record: Mapping[str, Any]) -> float:
    return float((record["open_end_ns"] - record["open_begin_ns"]) / _NS)


def _device(asked: str, name: str | None) -> str:
    return asked if name is None else f"{asked} ({name})"


def _curve(ranks: Ranks, start_s: float) -> list[_Row]:
    """A row for each epoch that was evaluated, in order. The accuracy is of all ranks' shares, the same in the record of each."""
    evaluations: dict[int, list[Mapping[str, Any]]] = {}
    for rank in ranks:
        for record in rank.of_kind("eval"):
            evaluations.setdefault(record["epoch"], []).append(record)
    curve, time_s = [], start_s
    for epoch, records in sorted(evaluations.items()):
        mine = [each for rank in ranks for each in rank.epochs if each.epoch == epoch]
        train_s = max((each.end_ns - each.begin_ns for each in mine), default=0) / _NS
        eval_s = max(record["end_ns"] - record["start_ns"] for record in records) / _NS
        time_s += train_s + eval_s
        curve.append(
            {
                "epoch": epoch,
                "time_s": time_s,
                "accuracy": records[0]["accuracy"],
                "loss": _loss([record for rank in ranks for record in rank.of_kind("trained") if record["epoch"] == epoch]),
                "train_s": train_s,
                "eval_s": eval_s,
                "stall_s": sum(each.stall_ns for each in mine) / len(mine) / _NS if mine else 0.0,
                "reached": bool(records[0]["reached"]),
            }
        )
    return curve


def _loss(records: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean over the samples of all ranks; None where one of them has a loss that is no number."""
    samples = sum(record["samples"] for record in records)
    if not samples or any(record["loss"] is None for record in records):
        return None
    return float(sum(record["loss"] * record["samples"] for record in records) / samples)
