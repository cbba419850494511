"""Several real trainings that differ in nothing but their seed, as one result: median, spread, the olympic mean, and those that did not converge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from storagebench.checks.statistics import spread_of
from storagebench.errors import UsageError
from storagebench.experiments.trainings import training_spread
from storagebench.model.epochs import observed
from storagebench.report.load import LoadedRun
from storagebench.report.ttareference import held_against

Entry = Mapping[str, Any]


def groups_of(runs: Sequence[LoadedRun], entries: Sequence[Entry], reference: Sequence[int] = ()) -> list[dict[str, Any]]:
    """The groups of at least two trainings, in the order of their first runs, held against the epochs of the `reference` where there are some. Runs that are not
    valid are named, and count for nothing. Raises UsageError for a reference that is too short, or that has no group."""
    found: dict[str, list[Entry]] = {}
    for loaded, entry in zip(runs, entries, strict=True):
        if entry["kind"] == "measured" and entry["target"] is not None:
            found.setdefault(_but_for_the_seed(loaded.run), []).append(entry)
    groups = [_group(members) for members in found.values() if len(members) > 1]
    if reference and not groups:
        raise UsageError(
            "--reference-epochs judges several trainings, and there are no two among these runs that differ in nothing but their seed",
            "make some with `storagebench run ... --repeat 5`, and give their folders",
        )
    return [{**group, "convergence": held_against(reference, group) if reference else None} for group in groups]


def _but_for_the_seed(run: Mapping[str, Any]) -> str:
    config = json.loads(json.dumps(run["config"]))
    config["run"].pop("seed", None)
    store = json.loads(json.dumps(run["store"]))
    store.get("options", {}).pop("clock_id", None)  # another one each time, of a store with a clock of its own
    return json.dumps([config, store, run["accelerator"], run["plan"]["world_size"], run["dataset"]["digest"]], sort_keys=True)


def _group(members: Sequence[Entry]) -> dict[str, Any]:
    valid = [entry for entry in members if entry["valid"]]
    reached = [entry for entry in valid if entry["reached"]]
    times = training_spread([entry["tta_s"] if entry["reached"] else None for entry in valid], str(members[0]["workload"]))
    costs = [entry["points"][0]["cost"]["total"] for entry in reached if entry["points"][0]["cost"] is not None]
    return {
        "workload": members[0]["workload"],
        "model": members[0]["model"],
        "accelerator": members[0]["accelerator"],
        "loader": members[0]["loader"],
        "storage": members[0]["storage"],
        "global_batch_size": members[0]["global_batch_size"],
        "runs": [entry["run_id"] for entry in members],
        "seeds": [entry["seed"] for entry in members],
        "not_valid": [entry["run_id"] for entry in members if not entry["valid"]],
        "not_reached": [entry["run_id"] for entry in valid if not entry["reached"]],
        "tta_s": times.as_dict(),
        "epochs_of_runs": [entry["points"][0]["epochs"] if entry["reached"] else None for entry in valid],
        "epochs": observed([entry["points"][0]["epochs"] for entry in reached], "these runs").as_dict() if reached else None,
        "stall_share": spread_of([entry["stall_share"] for entry in reached]).as_dict() if reached else None,
        "currency": members[0]["currency"],
        "cost": spread_of(costs).as_dict() if costs else None,
    }
