"""What the harness itself costs: a step of the engine, a record of the trace, AU on storage that costs nothing, and the start of the command.

The step is the engine's own over a loader that hands out one ready batch and an accelerator that computes nothing, without its trace; the record is what
the trace adds. Medians of several rounds; exit code 1 where a bound is missed: 20 us a step, 3 us a record, au_null 0.99 at 10 ms and 0.95 at 1 ms,
`--help` 0.25 s, `list` 0.6 s, and 1.5 s from the command to the first measured step of a one-rank `direct` run. Python's own start stands beside them.

    python benchmarks/harness.py --folder /data/harness
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from storagebench.accelerator import EmulatedAccelerator
from storagebench.cachestate import HostCache
from storagebench.clock import SystemClock
from storagebench.engine import Engine, EngineJob
from storagebench.protocols import Batch, LoaderCounters
from storagebench.records import StepRecord, TraceWriter, rank_trace_path
from storagebench.sampling import EpochPlan
from storagebench.traces import read_trace
from storagebench.world import SingleWorld

CLI = (sys.executable, "-P", "-m", "storagebench")
BATCH = 4
STEP_US, RECORD_US = 20.0, 3.0
LEAST_AU = {0.010: 0.99, 0.001: 0.95}
HELP_S, LIST_S, START_S = 0.25, 0.6, 1.5


class ReadyLoader:
    """One batch for ever, as the direct loader gives it with checksums."""

    def __init__(self, steps: int) -> None:
        self._plan = EpochPlan((BATCH,) * steps, np.zeros(steps * BATCH, np.int64), 0)
        self._batch = Batch(
            np.arange(BATCH),
            record_bytes=BATCH * 115_000,
            handover_bytes=BATCH * 115_000,
            checksums=np.zeros(BATCH, np.uint32),
            checked=np.ones(BATCH, np.bool_),
            ready_ns=5,
            queue_level=1,
            spans_s={"fetch": 0.00123456789, "parse": 0.00012345678, "checksum": 0.000123},
            prep_cpu_s=0.000123,
        )

    def plan(self, epoch: int) -> EpochPlan:
        return self._plan

    def start(self, epoch: int) -> None: ...

    def next(self) -> Batch:
        return self._batch

    def drain(self) -> None: ...

    def counters(self) -> LoaderCounters:
        return LoaderCounters()

    def effective(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None: ...


class NoTrace:
    """Takes records and does nothing with them."""

    def step(self, record: StepRecord) -> None: ...

    def write(self, record: Mapping[str, Any]) -> None: ...

    def sync(self) -> None: ...


def engine_s(steps: int, trace: Any, compute_ns: int = 0) -> float:
    """Seconds of a step of the engine over a ready loader."""
    job = EngineJob(
        epochs=1,
        batch_size=BATCH,
        compute_ns=compute_ns,
        warmup_steps=0,
        sync="step",
        max_steps=None,
        duration_ns=None,
        null_duration_ns=0,
        expected_crc32c=np.zeros(BATCH, np.uint32),
        shard_of=str,
    )
    clock = SystemClock()
    engine = Engine(job, SingleWorld(), clock, trace, HostCache("as-is", []), EmulatedAccelerator(clock, compute_ns))
    begin = time.perf_counter()
    engine.run(ReadyLoader(steps), None)
    return (time.perf_counter() - begin) / steps


def step_costs_us(rounds: int, steps: int) -> tuple[list[float], list[float]]:
    """Microseconds of a step without its record, and of its record, in turns."""
    bare, records = [], []
    with tempfile.TemporaryDirectory(prefix="storagebench-harness-") as folder:
        for number in range(rounds):
            bare.append(engine_s(steps, NoTrace()) * 1e6)
            trace = TraceWriter(Path(folder) / f"{number}.jsonl")
            records.append(engine_s(steps, trace) * 1e6 - bare[-1])
            trace.close()
    return bare, records


def au_null(compute_s: float, steps: int) -> float:
    """AU of a loader that is always ready: nominal compute time over the time that the steps took, with their records."""
    with tempfile.TemporaryDirectory(prefix="storagebench-harness-") as folder:
        path = Path(folder) / "trace.jsonl"
        trace = TraceWriter(path)
        engine_s(steps, trace, round(compute_s * 1e9))
        trace.close()
        records = read_trace(path).steps
    return (steps - 1) * compute_s * 1e9 / (records[-1].sync_end_ns - records[0].sync_end_ns)


def seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


def first_step_s(data: Path, cache: str) -> float:
    """From the command to the first measured step of a one-rank `direct` run."""
    with tempfile.TemporaryDirectory(prefix="storagebench-harness-") as results:
        options = [
            "--loader", "direct", "--compute-time", "10ms", "--batch-size", "16", "--max-steps", "4", "--cache", cache, "--null-duration", "0.1",
            "--headroom-duration", "0", "--results-dir", results, "--run-id", "r",
        ]  # fmt: skip
        begin_ns = time.monotonic_ns()
        subprocess.run([*CLI, "run", "resnet50", "--data-dir", str(data), *options], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        steps = read_trace(rank_trace_path(Path(results) / "r", 0)).steps
    return (next(step for step in steps if step.kind == "step").asked_ns - begin_ns) / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where a dataset of 10,000 npy files of 115 KB is made (or is already)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--smoke", action="store_true", help="one short round on a small dataset: does it run; no bound is judged")
    asked = parser.parse_args()
    rounds, steps, samples = (1, 200, 100) if asked.smoke else (asked.rounds, 20_000, 10_000)
    if not (asked.folder / "manifest.json").exists():
        options = ["--format", "npy", "--num-samples", str(samples), "--record-length", "115000", "--record-length-stdev", "0"]
        seconds([*CLI, "generate", "resnet50", "--data-dir", str(asked.folder), *options])
    missed = []

    def show(what: str, values: list[float], unit: str, bound: float | None = None, least: bool = False) -> None:
        value = median(values)
        ok = bound is None or (value >= bound if least else value <= bound)
        judged = "" if bound is None else f"   {'at least' if least else 'at most'} {bound:g}   {'ok' if ok else 'MISSED'}"
        print(f"{what:<46} {value:9.4g} {unit:<3} ({min(values):.4g} to {max(values):.4g}){judged}", flush=True)
        if not ok:
            missed.append(what)

    def repeated(measure: Callable[[], float]) -> list[float]:
        return [measure() for _ in range(rounds)]

    bare, records = step_costs_us(rounds, steps)
    show("a step of the engine", bare, "us", STEP_US)
    show("a record of the trace", records, "us", RECORD_US)
    for compute_s, least in LEAST_AU.items():
        show(f"au_null at {compute_s * 1e3:g} ms", repeated(lambda c=compute_s: au_null(c, 20 if asked.smoke else round(2 / c))), "", least, True)  # type: ignore[misc]
    show("python's own start", repeated(lambda: seconds([sys.executable, "-c", ""])), "s")
    show("storagebench --help", repeated(lambda: seconds([*CLI, "--help"])), "s", HELP_S)
    show("storagebench list", repeated(lambda: seconds([*CLI, "list"])), "s", LIST_S)
    for cache in ("as-is", "cold"):
        show(f"first measured step, --cache {cache}", repeated(lambda c=cache: first_step_s(asked.folder, c)), "s", START_S)  # type: ignore[misc]
    return 1 if missed and not asked.smoke else 0


if __name__ == "__main__":
    sys.exit(main())
