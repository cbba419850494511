"""The least dataset that the rules of MLPerf Storage ask for: arithmetic in whole numbers, rounded up (mlperf-storage.md section 2; R2 7, R3 3.1.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from storagebench.checks.mlperf_tables import MEMORY_FACTOR, MIN_STEPS, ClosedValues


@dataclass(frozen=True)
class LeastSize:
    """The least dataset: in files, samples and bytes of records; which rule asks for more, and what each of the two would ask for."""

    files: int
    samples: int
    samples_per_file: int
    record_bytes: int
    decided_by: Literal["memory", "steps"]
    files_by_memory: int
    files_by_steps: int
    steps_per_epoch: int


def least_size(closed: ClosedValues, batch_size: int, num_accelerators: int, memory_bytes: int, samples_per_file: int | None = None) -> LeastSize:
    """`memory_bytes` is of all hosts together, `num_accelerators` of all hosts too; `samples_per_file` is the dataset's own where OPEN changes it.

    The rules write both bounds without rounding and the tool takes floors, which breaks the rule of 500 steps (resnet50 on one accelerator: 159 files
    are 497 steps); so files are rounded up here.

    >>> from storagebench.checks.mlperf_tables import EDITIONS
    >>> least_size(EDITIONS["v2.0"].workloads["resnet50"], 400, 1, 0).files
    160
    """
    per_file = closed.samples_per_file if samples_per_file is None else samples_per_file
    record_bytes = Fraction(str(closed.record_length_bytes))
    by_memory = math.ceil(MEMORY_FACTOR * memory_bytes / (record_bytes * per_file))
    by_steps = math.ceil(Fraction(MIN_STEPS * num_accelerators * batch_size, per_file))
    files = max(by_memory, by_steps)
    samples = files * per_file
    return LeastSize(
        files=files,
        samples=samples,
        samples_per_file=per_file,
        record_bytes=round(samples * record_bytes),
        decided_by="memory" if by_memory >= by_steps else "steps",
        files_by_memory=by_memory,
        files_by_steps=by_steps,
        steps_per_epoch=samples // (batch_size * num_accelerators),
    )
