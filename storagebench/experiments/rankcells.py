"""One rank's part of `selfcheck`: cell after cell through the real engine, a trace for each. Judges nothing.

`process_entry` is what `launch.run_ranks` calls in each process; `run_cell` is the same for any clock, world and loader.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from storagebench.accelerator import EmulatedAccelerator
from storagebench.cachestate import HostCache
from storagebench.clock import Clock, SystemClock
from storagebench.consumers import ConsumerClock, ConsumerGroup, ConsumerWorld, PeerFailedError, run_consumers
from storagebench.engine import Engine, EngineJob
from storagebench.errors import EXIT_OK, EXIT_RANK, StorageBenchError
from storagebench.experiments.cells import Cell
from storagebench.loaders.direct import DirectRun
from storagebench.loaders.null import NullLoader
from storagebench.manifest import Dataset, load_dataset
from storagebench.protocols import Batch, LoaderRun, StoreSpec
from storagebench.records import SCHEMA_VERSION, TraceWriter, rank_trace_path, write_json
from storagebench.storage import open_store
from storagebench.world import Seats, World, open_world

_PLAN_FILE = "cells.json"
_NULL_DURATION_S = 0.5
_HOG = "from storagebench.process import die_with_parent\ndie_with_parent()\nprint(flush=True)\nwhile True:\n    pass\n"


def write_cells(folder: Path, root: str, cells: Sequence[Cell]) -> None:
    """What the ranks are to do: the cells over the dataset at `root`, with one shaped store for each, whose wire all ranks share."""
    rows = [{"cell": asdict(cell), "store": asdict(cell.store(root))} for cell in cells]
    write_json(folder / _PLAN_FILE, {"root": root, "cells": rows})


def process_entry(folder_text: str, index: int) -> int:
    """The ranks of one process over all cells of a launch; the exit code."""
    folder = Path(folder_text)
    plan = json.loads((folder / _PLAN_FILE).read_bytes())
    cells = [(Cell(**row["cell"]), StoreSpec(**row["store"])) for row in plan["cells"]]
    first = cells[0][0]
    place, places = Seats(((socket.gethostname(), first.world_size),), first.per_process).process(0, index)
    try:
        store = open_store(plan["root"])
        dataset = load_dataset(store)
        store.close()
        if first.per_process == 1:
            world = open_world(place)
            _run_cells(cells, dataset, world, SystemClock(), folder)
            world.close()
            return EXIT_OK
        group = ConsumerGroup(open_world(place), places)

        def consume(world: ConsumerWorld) -> int:
            return _told(world, lambda: _run_cells(cells, dataset, world, ConsumerClock(group, world.place), folder))

        code = run_consumers(group, consume)
        if code == EXIT_OK:
            group.close()
        return code
    except StorageBenchError as error:
        if first.world_size == 1:
            raise
        print(f"rank {place.rank}: {error.message}", file=sys.stderr)
        return error.exit_code


def _told(world: World, work: Callable[[], None]) -> int:
    """The exit code of one of several ranks in a process; what it raises is said."""
    try:
        work()
    except PeerFailedError:
        return EXIT_RANK
    except Exception as error:
        print(f"rank {world.place.rank}: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, StorageBenchError) else EXIT_RANK
    return EXIT_OK


def _run_cells(cells: Sequence[tuple[Cell, StoreSpec]], dataset: Dataset, world: World, clock: Clock, folder: Path) -> None:
    for cell, spec in cells:
        _run_real(cell, spec, dataset, world, clock, folder)


def _run_real(cell: Cell, spec: StoreSpec, dataset: Dataset, world: World, clock: Clock, folder: Path) -> None:
    job = cell.job(spec, dataset, world.place)
    loader: LoaderRun = NullLoader().open(job) if cell.loader == "null" else DirectRun(job)
    try:
        with _hogs(cell.hogs if world.place.rank_of_host == 0 else 0):
            run_cell(cell, dataset, loader, NullLoader().open_endless(job), world, clock, folder)
    finally:
        loader.close()


def run_cell(cell: Cell, dataset: Dataset, loader: LoaderRun, null_loader: LoaderRun, world: World, clock: Clock, folder: Path) -> None:
    """One cell on this rank, through the engine; the trace lies in `folder/<cell>` as in a run folder."""
    trace = TraceWriter(rank_trace_path(folder / cell.name, world.place.rank))
    trace.write({"kind": "header", "schema_version": SCHEMA_VERSION, "rank": world.place.rank, "host": world.place.host})
    job = EngineJob(
        epochs=1,
        batch_size=cell.batch_size,
        compute_ns=round(cell.compute_s * 1e9),
        warmup_steps=cell.warmup,
        sync="step",
        max_steps=None,
        duration_ns=None,
        null_duration_ns=round(_NULL_DURATION_S * 1e9),
        expected_crc32c=dataset.index["crc32c"],
        shard_of=dataset.shard_of,
    )
    run = _LateStart(loader, clock, round(cell.queue_wait_s * 1e9)) if cell.queue_first else loader
    try:
        Engine(job, world, clock, trace, HostCache("as-is", []), EmulatedAccelerator(clock, job.compute_ns)).run(run, null_loader)
    finally:
        trace.close()


class _LateStart:
    """A loader that has had time to fill its queue when the first step asks."""

    def __init__(self, inner: LoaderRun, clock: Clock, wait_ns: int) -> None:
        self._inner, self._clock, self._wait_ns = inner, clock, wait_ns
        self.plan, self.drain, self.counters, self.effective, self.close = inner.plan, inner.drain, inner.counters, inner.effective, inner.close

    def start(self, epoch: int) -> None:
        self._inner.start(epoch)
        self._clock.sleep_until_ns(self._clock.now_ns() + self._wait_ns)

    def next(self) -> Batch | None:
        return self._inner.next()


@contextmanager
def _hogs(count: int) -> Iterator[None]:
    """Processes that do nothing but spin; they end with the block, or with this process."""
    command = [sys.executable, "-P", "-c", _HOG]
    spinning = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for process in spinning:
            if process.stdout is not None:
                process.stdout.readline()  # it has begun
        yield
    finally:
        for process in spinning:
            process.kill()
            process.communicate()
