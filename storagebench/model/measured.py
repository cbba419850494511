"""What a saved run says of the same workload elsewhere: bytes and requests of a sample, CPU of a byte, and how long its reads took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from storagebench.errors import UsageError
from storagebench.traces import IDLE, NULL, Trace

MOST_SAMPLES = 4096


@dataclass(frozen=True)
class Measured:
    """`fetch_s`: seconds of each read (a piece of a batch, as a worker took it), in order of size; empty where the loader says nothing of it.
    `readers` and `reads_per_batch` as the loader had them. `accelerators` of the run: of more than one, what they waited for each other is in these
    times."""

    run_id: str
    workload: str
    accelerators: int
    batch_size: int
    record_bytes: float
    record_bytes_stdev: float
    requests_per_sample: float | None
    cpu_s_per_gb: float | None
    decode: str | None
    readers: int
    reads_per_batch: int
    fetch_s: tuple[float, ...]

    @property
    def latency_of_reads(self) -> bool:
        return bool(self.fetch_s)

    def latency_s(self, bytes_per_s: float) -> tuple[float, ...]:
        """What is left of the reads' times without what their bytes take at this bandwidth (infinite: all of it)."""
        through_s = self.record_bytes * self.batch_size / self.reads_per_batch / bytes_per_s
        return tuple(max(0.0, seconds - through_s) for seconds in self.fetch_s)


def measured_of(summary: Mapping[str, Any], run: Mapping[str, Any], traces: Iterable[Trace]) -> Measured:
    """Out of a run's summary, its `run.json` and its traces. Raises UsageError where it delivered nothing."""
    samples = summary["samples"]
    if not samples or not summary["delivered_bytes"]:
        raise UsageError(f"run {summary['run_id']} delivered no sample", "give a run that is complete")
    effective = summary["effective"]
    readers, reads = int(effective.get("workers") or 1), int(effective.get("pieces_per_batch") or 1)
    times, sizes = [], []
    for trace in traces:
        steps = trace.steps
        work = (steps.kind != NULL) & (steps.kind != IDLE) & (steps.samples > 0)
        sizes.append(steps.record_bytes[work] / steps.samples[work])
        if "fetch" in steps.spans_s:
            found = steps.spans_s["fetch"][work]
            times.append(found[np.isfinite(found)] / reads)
    fetch = np.sort(np.concatenate(times)) if times else np.zeros(0)
    if len(fetch) > MOST_SAMPLES:
        fetch = fetch[(np.arange(MOST_SAMPLES) * len(fetch)) // MOST_SAMPLES]
    batch = int(run["config"]["train"]["batch_size"])
    spread = float(np.std(np.concatenate(sizes))) * batch**0.5 if sizes else 0.0
    return Measured(
        run_id=str(summary["run_id"]),
        workload=str(summary["workload"]),
        accelerators=int(summary["world_size"]),
        batch_size=batch,
        record_bytes=summary["delivered_bytes"] / samples,
        record_bytes_stdev=spread,
        requests_per_sample=None if summary["requests"] is None else summary["requests"] / samples,
        cpu_s_per_gb=summary["cpu_s_per_gb"],
        decode=summary["decode"],
        readers=readers,
        reads_per_batch=reads,
        fetch_s=tuple(fetch.tolist()),
    )
