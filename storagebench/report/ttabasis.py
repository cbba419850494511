"""What a projection stands on beside the run's own figures: whose target, how many epochs to it, how many samples an epoch has, whose price counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from storagebench.configfile import known_workloads, load_workload
from storagebench.errors import StorageBenchError
from storagebench.model.epochs import EpochsToTarget, between, observed
from storagebench.model.prices import Prices
from storagebench.report.load import LoadedRun
from storagebench.workload import Target

GIVEN_EPOCHS: Final = "--epochs-to-target"


@dataclass(frozen=True)
class Asked:
    """What the command was asked beside the runs. `epochs`: counts of trainings that the user saw, instead of the target's; `reference`: those of
    the reference trainings that several are held against; empty and None: not given."""

    prices: Prices | None = None
    edition: str = ""
    price_name: str = ""
    epochs: tuple[int, ...] = ()
    training_samples: int | None = None
    reference: tuple[int, ...] = ()


def epochs_to_target(target: Target | None, asked: Asked) -> EpochsToTarget | None:
    """Those that the user gave, else the published ones of the target; None where there are neither."""
    if asked.epochs:
        return observed(asked.epochs, GIVEN_EPOCHS)
    if target is None or target.epochs is None:
        return None
    return between(*target.epochs, f"{target.source} ({target.date})")


def samples_of_epoch(loaded: LoadedRun, given: int | None) -> tuple[int, str]:
    """(samples of an epoch of the full training, where that number is from): a shipped workload's own, however few the run read."""
    if given is not None:
        return given, "--training-samples"
    name, read = str(loaded.summary["workload"]), int(loaded.run["dataset"]["num_samples"])
    if name in known_workloads():
        profile = loaded.run["config"]["train"].get("profile")
        try:
            published = load_workload(name, [("train.profile", profile, "run.json")] if profile else []).workload.dataset.num_samples
        except StorageBenchError:  # the run is of a version whose workload had other profiles
            return read, "the run's dataset"
        return published, f"workload {name}" + ("" if published == read else f"; the run's dataset has {read}")
    return read, "the run's dataset"


def price_name(run: Mapping[str, Any]) -> str:
    """Whose price counts where none is named: the emulated accelerator, or `cuda`."""
    return str(run["config"]["run"].get("accelerator") or "").partition(":")[0]


def device_price(training: Mapping[str, Any]) -> str:
    """Whose price counts for a real training where none is named: `cpu` or `cuda`, of `cuda:0 (NVIDIA H200)` too."""
    return str(training["device"]).split(" ")[0].partition(":")[0]
