"""Made-up real training runs, for the tests of the report and of the page in a browser: made-up emulated runs with `summary["training"]` put in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from storagebench.report.load import LoadedRun

Make = Callable[..., LoadedRun]
SLOW = {"kind": "shaped", "root": "/data/digits", "options": {"bandwidth": "2500000", "latency": "10ms", "clock_id": "ab"}}
FAST = {"kind": "posix", "root": "/data/digits", "options": {}}


def saturating(epochs: int, rate: float, top: float = 0.985, seed: int = 0) -> list[float]:
    """Accuracies that rise towards `top`, with a wobble that follows from the seed."""
    return [round(top - (top - 0.3) * math.exp(-rate * epoch) - 0.012 * math.sin(7 * epoch + 3 * seed) ** 2, 4) for epoch in range(epochs)]


def training(
    accuracies: Sequence[float | None],
    model: str = "resnet8",
    seed: int = 1,
    target: float | None = 0.95,
    epoch_s: float = 4.0,
    stall_share: float = 0.1,
    start_s: float = 0.5,
    metric: str = "top-1 accuracy",
) -> dict[str, Any]:
    """The summary's `training` of a run that evaluated to these; it stops at the target."""
    curve: list[dict[str, Any]] = []
    first = None
    for epoch, accuracy in enumerate(accuracies):
        time_s = start_s + (epoch + 1) * (epoch_s + 0.2)
        row = {
            "epoch": epoch,
            "time_s": time_s,
            "accuracy": accuracy,
            "loss": 1.0,
            "train_s": epoch_s,
            "eval_s": 0.2,
            "stall_s": stall_share * epoch_s,
        }
        curve.append(row)
        if target is not None and accuracy is not None and accuracy >= target:
            first = epoch
            break
    known = [row["accuracy"] for row in curve if row["accuracy"] is not None]
    return {
        "model": model, "device": "cpu", "parameters": 78_042, "seed": seed, "metric": metric, "target": target,
        "target_source": "made up", "target_date": "2026-11-27", "reached": first is not None, "epochs_run": len(curve),
        "epochs_to_target": None if first is None else first + 1, "tta_s": None if first is None else curve[first]["time_s"], "start_s": start_s,
        "train_s": epoch_s * len(curve), "eval_s": 0.2 * len(curve), "stall_s": stall_share * epoch_s * len(curve), "stall_share": stall_share,
        "step_compute_s": 0.01, "final_accuracy": known[-1] if known else None, "best_accuracy": max(known, default=None), "curve": curve,
    }  # fmt: skip


def trained(make: Make, run_id: str, found: dict[str, Any], store: dict[str, Any] = FAST, workload: str = "digits", **fields: Any) -> LoadedRun:
    """A made-up run as one that trained: no AU, no finding, and `training` as given."""
    loaded = make(**{"run_id": run_id, "steps": 30, "epochs": 1, "world_size": 1, **fields})
    nothing = dict.fromkeys(("au_nominal", "au_uncorrected", "au_uncertainty", "au_null"))
    summary = {**loaded.summary, **nothing, "findings": [], "workload": workload, "storage": store["kind"], "training": found}
    return replace(loaded, run={**loaded.run, "store": store}, summary=summary)


def gallery(make: Make, seeds: int = 3) -> list[LoadedRun]:
    """Three depths on a fast and a slow store, several seeds each: accuracy by epoch is the seed's, whatever the store."""
    runs = []
    for depth, (model, rate, epoch_s) in enumerate((("resnet8", 0.40, 4.0), ("resnet14", 0.55, 6.5), ("resnet20", 0.70, 9.0))):
        for name, store, slow, stalled in (("fast", FAST, 1.0, 0.02), ("slow", SLOW, 1.9, 0.48)):
            for seed in range(1, seeds + 1):
                accuracies = saturating(30, rate * (1 + 0.12 * (seed - 2)), seed=seed + depth)
                found = training(accuracies, model, seed, epoch_s=epoch_s * slow * (1 + 0.02 * seed), stall_share=stalled)
                runs.append(trained(make, f"{model}-{name}-{seed}", found, store))
    return runs
