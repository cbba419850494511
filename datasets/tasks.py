"""Small real tasks as sources of records: images with labels, so that a real model can be trained on what a loader delivers."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storagebench.datasets import digits, photographs
from storagebench.datasets.taskimages import TaskImages, encode, mixed_order
from storagebench.errors import UsageError, did_you_mean
from storagebench.heldout import TRAINING
from storagebench.protocols import Record
from storagebench.workload import PAYLOAD_OF_TASK, DatasetSpec

# To be raised with every change of what a split holds, of its order, or of how an image becomes a record.
TASK_VERSION = 1
_LOAD: Mapping[str, Callable[[str], TaskImages]] = {"digits": digits.load, "photographs": photographs.load}
_SUFFIXES = {"png": "png", "jpeg": "jpg"}


class TaskSource:
    """One split of a task, mixed by the data seed, so that the first samples are of all classes. Thread-safe: its records lie in memory (a few MB).

    Of the training split the first `num_samples` of the spec are taken, of the held-out one all. Raises UsageError for more samples than there are, for an
    unknown task, and where scikit-learn is not installed.
    """

    kind = "task"

    def __init__(self, spec: DatasetSpec, split: str) -> None:
        if spec.task not in _LOAD:
            raise UsageError(f"unknown task {spec.task!r}", did_you_mean(spec.task, list(_LOAD)))
        images = _LOAD[spec.task](split)
        count = len(images.labels)
        if split == TRAINING and spec.num_samples > count:
            raise UsageError(
                f"{spec.num_samples} samples were asked for, and task {spec.task} has {count} for training",
                f"use --num-samples {count}, or fewer, which takes the first ones",
            )
        self.payload: str = PAYLOAD_OF_TASK[spec.task]
        self.num_samples = spec.num_samples if split == TRAINING else count
        self.classes: tuple[str, ...] = images.classes
        self.credits = dict(images.credits)
        order = mixed_order(spec.seed, count)[: self.num_samples]
        self._records = [encode(images.pixels[number], self.payload) for number in order]
        self._labels = images.labels[order].tolist()
        self.approx_bytes: NDArray[np.int64] = np.array([len(record) for record in self._records], np.int64)
        self._described = {
            "task": spec.task,
            "task_version": TASK_VERSION,
            "split": split,
            "seed": spec.seed,
            "source_fingerprint": images.fingerprint,
        }

    def describe(self) -> dict[str, Any]:
        """All that determines the records' bytes."""
        return dict(self._described)

    def encoder(self) -> dict[str, str]:
        """Libraries, with versions, whose output the records are: what gave the pixels, and what made files of them."""
        from storagebench.datasets import image, png

        versions = (image if self.payload == "jpeg" else png).encoder_versions()
        del versions["image_version"]  # of synthetic images
        return {**versions, "scikit-learn": importlib.metadata.version("scikit-learn")}

    def records(self, first: int, count: int) -> Iterator[Record]:
        """Samples first .. first + count."""
        suffix = _SUFFIXES[self.payload]
        for sample_id in range(first, first + count):
            yield Record(sample_id, memoryview(self._records[sample_id]), self._labels[sample_id], suffix)

    def close(self) -> None:
        """Nothing is open."""
