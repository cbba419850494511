"""The known-answer cases of `selfcheck` as data: what each cell runs, and what its AU must be. Runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from storagebench.manifest import Dataset
from storagebench.model.closed_forms import no_prefetch, pipelined
from storagebench.model.recurrence import pace
from storagebench.protocols import LoadJob, StoreSpec
from storagebench.sampling import plan_by_sample
from storagebench.storage import parse_url
from storagebench.storage.shaped import jitter_ns
from storagebench.workload import DatasetSpec, LoaderSpec, RunSpec, TrainSpec, Workload
from storagebench.world import Place

RECORD_BYTES = 8192
SEED = 1


@dataclass(frozen=True)
class Cell:
    """One run. Seconds: `compute_s` of a step, `read_s` that a rank's batch takes on the wire which all ranks share (0: no limit), `latency_s` of a
    request and `jitter_s`, the mean of an exponential one on top. `prefetch` batches (0: none), `workers` threads of a rank; `queue_first`: the
    first step waits until the queue is full; `hogs` processes spin meanwhile; `per_process` ranks share a process."""

    name: str
    compute_s: float
    steps: int
    world_size: int = 1
    loader: str = "direct"
    batch_size: int = 4
    prefetch: int = 0
    workers: int = 0
    read_s: float = 0.0
    latency_s: float = 0.0
    jitter_s: float = 0.0
    warmup: int = 3
    queue_first: bool = False
    hogs: int = 0
    per_process: int = 1

    @property
    def num_processes(self) -> int:
        return -(-self.world_size // self.per_process)

    @property
    def num_samples(self) -> int:
        return (self.warmup + self.steps) * self.batch_size * self.world_size

    @property
    def bandwidth(self) -> float:
        """Bytes per second of the wire, infinite for no limit."""
        return self.batch_size * RECORD_BYTES / self.read_s if self.read_s else float("inf")

    @property
    def queue_wait_s(self) -> float:
        """How long filling the queue takes, and a tenth of a second more."""
        return self.prefetch * self.read_s + self.latency_s + 0.1 if self.queue_first else 0.0

    def store(self, root: str) -> StoreSpec:
        """The shaped store over the dataset at `root`, with a wire of its own."""
        options = {"latency": f"{self.latency_s}s", "jitter": f"{self.jitter_s}s", "seed": str(SEED)}
        if self.read_s:
            options["bandwidth"] = str(round(self.bandwidth))
        return parse_url(f"shaped+{root}", options)

    def workload(self) -> Workload:
        """The same as a request, for the plan and the metrics."""
        return Workload(
            name=self.name,
            dataset=dataset_spec(self.num_samples),
            loader=LoaderSpec(name=self.loader, num_workers=self.workers, prefetch_batches=max(1, self.prefetch)),
            train=TrainSpec(batch_size=self.batch_size),
            run=RunSpec(
                num_accelerators=self.world_size,
                accelerators_per_process=self.per_process,
                compute_time_s=self.compute_s,
                warmup_steps=self.warmup,
                decode="none",
                cache="as-is",
            ),
        )

    def job(self, store: StoreSpec, dataset: Dataset, place: Place) -> LoadJob:
        """The loader's job. The dataset is cut to the samples of this cell, so that its one epoch is complete."""
        return LoadJob(
            store=store,
            dataset=replace(dataset, index=dataset.index[: self.num_samples]),
            rank=place.rank,
            world_size=self.world_size,
            batch_size=self.batch_size,
            seed=SEED,
            num_workers=self.workers,
            prefetch_batches=max(1, self.prefetch),
            counts_process=place.rank_of_process == 0,
        )

    def expected_au(self, dataset: Dataset) -> float:
        """What AU must be: a closed form, or for random reads the recurrence on the very draws of the run."""
        if self.loader == "null":
            return 1.0
        if self.jitter_s:
            return pace(self._draws_s(dataset), self.compute_s, self.prefetch, max(1, self.workers)).au(self.warmup)
        batch_bytes = self.batch_size * RECORD_BYTES
        if self.prefetch:
            return pipelined(self.compute_s, batch_bytes, self.bandwidth, self.latency_s, self.world_size, self.workers)
        return no_prefetch(self.compute_s, batch_bytes, self.bandwidth, self.latency_s, self.world_size)

    def _draws_s(self, dataset: Dataset) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """Seconds of each read [ranks, steps]; a batch of random reads is one sample, and the wire has no limit."""
        rows = []
        for rank in range(self.world_size):
            _, ids = plan_by_sample(SEED, 0, self.num_samples, rank, self.world_size, self.batch_size, True, False)
            extents = [dataset.extent(int(sample), False) for sample in ids]
            rows.append([self.latency_s + jitter_ns(SEED, extent.key, extent.offset, round(self.jitter_s * 1e9)) / 1e9 for extent in extents])
        return np.array(rows)


@dataclass(frozen=True)
class Check:
    """A row of the table: its cells, judged together. `kind` known: AU against the expectation; null: au_null of several step lengths against the
    targets of reference/measurement.md; contention: the second cell, with hogs, may not be above the first."""

    name: str
    about: str
    cells: tuple[Cell, ...]
    kind: str = "known"


def dataset_spec(num_samples: int) -> DatasetSpec:
    """Records of one length behind each other in shards, so that each sample is one request of known bytes."""
    return DatasetSpec(format="webdataset", num_samples=num_samples, record_length_bytes=RECORD_BYTES)


def quick_checks(hogs: int) -> list[Check]:
    """The cells that run in a minute or two; `hogs` processes are for the one with CPU contention."""
    pipeline = {"prefetch": 4, "workers": 2, "warmup": 12}
    busy = Cell("quiet", 0.005, 300, read_s=0.010, **pipeline)  # type: ignore[arg-type]
    nulls = tuple(Cell(f"{compute_s * 1e3:g} ms", compute_s, steps, loader="null", batch_size=1) for compute_s, steps in NULL_STEPS.items())
    return [
        Check("no prefetch", "A1 c/(c + L + b/B)", (Cell("a1", 0.050, 60, read_s=0.040, latency_s=0.010),)),
        Check("steady pipeline", "A2 c B/b", (Cell("a2", 0.020, 150, read_s=0.040, latency_s=0.020, **pipeline),)),  # type: ignore[arg-type]
        Check("batches queued before", "A2, dq = 6", (Cell("t4", 0.020, 60, prefetch=8, workers=2, read_s=0.040, warmup=2, queue_first=True),)),
        Check("random read times", "recurrence", (Cell("a3", 0.040, 150, batch_size=1, prefetch=1, workers=1, jitter_s=0.040),)),
        Check("null loader", "A6, several step lengths", nulls, "null"),
        Check("CPU contention", f"A2, {hogs} hogs", (busy, replace(busy, name="hogs", hogs=hogs)), "contention"),
        Check("2 ranks in step", "A1 c/(c + 2b/B)", (Cell("a1x2", 0.100, 60, 2, read_s=0.050),)),
        _sharing(4, 1.5, 60),
    ]


NULL_STEPS = {0.001: 500, 0.010: 150, 0.050: 30}


def _sharing(ranks: int, demand: float, steps: int) -> Check:
    """Ranks that share one process ask for `demand` times what the wire gives, each in a pipeline of its own."""
    compute_s = 0.224
    read_s = demand * compute_s / ranks
    cell = Cell(f"share{ranks}-{demand:g}", compute_s, steps, ranks, "direct", 1, 2, 1, read_s, warmup=6, per_process=ranks)
    return Check(f"{ranks} in one process", f"A2 demand {demand:g} of the wire", (cell,))


def full_checks(hogs: int) -> list[Check]:
    """The quick ones, the grid (2 compute times x 3 bandwidths x 1, 2, 4 ranks, with and without prefetch) and random reads of ranks in step."""
    checks = quick_checks(hogs)
    slow = Cell("latency", 0.020, 100, prefetch=4, workers=2, read_s=0.005, latency_s=0.055, warmup=12)
    checks += [_sharing(4, 0.5, 60), _sharing(64, 0.5, 60), _sharing(64, 1.5, 60)]
    checks.append(Check("latency-bound pipeline", "A2 c W/(L + b/B)", (slow,)))
    for ranks in (1, 2, 4):
        checks += _grid(ranks)
        random = Cell(f"a4x{ranks}", 0.100, 40, ranks, batch_size=1, prefetch=1, workers=1, jitter_s=0.100)
        checks.append(Check(f"random reads, {ranks} ranks", "recurrence", (random,)))
    return checks


GRID_COMPUTE_S = (0.100, 0.150)
GRID_READ_S = (0.035, 0.070, 0.160)


def _grid(ranks: int, compute_times_s: Sequence[float] = GRID_COMPUTE_S, reads_s: Sequence[float] = GRID_READ_S) -> list[Check]:
    """Steps of 100 ms and more: without prefetch each read waits for the sync of all ranks, which takes milliseconds."""
    checks = []
    for compute_s in compute_times_s:
        for read_s in reads_s:
            about = f"{ranks} ranks, c {compute_s * 1e3:g} ms, b/B {read_s * 1e3:g} ms"
            name = f"x{ranks}-{compute_s:g}-{read_s:g}"
            plain = Cell(f"a1{name}", compute_s, 24, ranks, read_s=read_s, warmup=2)
            ahead = Cell(f"a2{name}", compute_s, 24, ranks, read_s=read_s, prefetch=2, workers=2, warmup=10)
            checks += [Check("no prefetch", f"A1 {about}", (plain,)), Check("pipeline", f"A2 {about}", (ahead,))]
    return checks
