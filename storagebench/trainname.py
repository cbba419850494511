"""`--accelerator train:MODEL[@DEVICE]`: what the name says, and when a quality is at its target. Pure; knows no model, and imports no torch."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import numpy as np

from storagebench.errors import UsageError

PREFIX: Final = "train"
METRIC: Final = "top-1 accuracy"
_DEVICE: Final = re.compile(r"cpu|cuda(:\d{1,4})?")


class TrainName(NamedTuple):
    """`device` is cpu, cuda, cuda:N, or empty where the name leaves it open."""

    model: str
    device: str

    def __str__(self) -> str:
        return f"{PREFIX}:{self.model}" + (f"@{self.device}" if self.device else "")


def is_training(accelerator: str) -> bool:
    """Whether `--accelerator NAME` means a real training step."""
    return accelerator.partition(":")[0] == PREFIX


def train_name(accelerator: str) -> TrainName:
    """The parts of the name. Raises UsageError for one that is not of this form.

    >>> train_name("train:resnet8@cuda:1")
    TrainName(model='resnet8', device='cuda:1')
    """
    model, at, device = accelerator.partition(":")[2].partition("@")
    if not is_training(accelerator) or not model or (at and not _DEVICE.fullmatch(device)):
        raise UsageError(f"--accelerator is {accelerator!r}", "write it as train:MODEL, train:MODEL@cpu, train:MODEL@cuda or train:MODEL@cuda:0")
    return TrainName(model, device)


def refuse_training(accelerator: str, verb: str, why: str) -> None:
    """Raises UsageError where a verb that goes by nominal compute time is asked to train."""
    if is_training(accelerator):
        raise UsageError(
            f"{verb} {why}, and --accelerator is {accelerator}",
            "give --accelerator NAME or --compute-time of an emulated one (such as the step_compute_s of a training)",
        )


def reaches(quality: float, target: float, lower_is_better: bool = False) -> bool:
    """Whether a quality is at or above its target (at or below it, where lower is better, as word error rates), compared in float32, as frameworks compute:
    MLPerf v0.5 GNMT runs on dgx2 stop at float32(21.8) = 21.799999237 for a target of 21.8 (reference tta-cost-kubeflow.md, section 1, edge case 1).

    >>> reaches(21.799999237060547, 21.8), reaches(0.7589, 0.759), reaches(0.0579, 0.058, lower_is_better=True)
    (True, False, True)
    """
    value, bound = float(np.float32(quality)), float(np.float32(target))
    return value <= bound if lower_is_better else value >= bound
