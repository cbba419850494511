"""Builds datasets: synthetic ones out of a workload, and copies of real data. Parallel, resumable, and a pure function of what was asked.

It writes below the store it is given and deletes only its own sidecars and the temporaries of its own shards. It does not measure.
Shards appear whole or not at all, the manifest comes last: a dataset without one is unfinished, and the same command goes on with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import storagebench
from storagebench.buildcrew import build_together
from storagebench.buildparts import Layout, Ledger, Unit
from storagebench.cluster.crew import Crew
from storagebench.datasets.decode import IMAGE_PAYLOADS
from storagebench.datasets.source import Source
from storagebench.datasets.synthetic import SyntheticSource
from storagebench.errors import UsageError
from storagebench.heldout import HELD_OUT, TRAINING
from storagebench.inorder import in_order
from storagebench.manifest import PARTITION_OPTION, Dataset
from storagebench.protocols import Format, Store
from storagebench.registry import open_format
from storagebench.shardmaking import Made, Maker, Makers, ProcessMaker, ThreadMaker
from storagebench.verify import Problem, verify
from storagebench.workload import PAYLOAD_OF_FORMAT, DatasetSpec, Placement, Workload

__all__ = ["Problem", "Progress", "generate", "generate_together", "import_dataset", "verify"]

Progress = Callable[[int, int], None]
# Makers hold a record each and what the store keeps of an open object (a part of 16 MiB on S3); this bounds all of it, with the default number of makers.
_DEFAULT_MEMORY_BYTES = 2**30
_STORE_BYTES_PER_THREAD = 16 * 2**20
_LEAST_THREADS, _LEAST_THREADS_SMALL, _MOST_THREADS = 4, 16, 64
_SMALL_BYTES = 2**20
# Below, a process takes longer to start than it saves: it takes 0.3 s, in which a thread makes so many bytes.
_LEAST_BYTES, _LEAST_BYTES_IMAGES = 500 * 10**6, 20 * 10**6


def generate(workload: Workload, store: Store, *, num_threads: int = 0, progress: Progress | None = None, split: str = TRAINING) -> Dataset:
    """Make the dataset that `workload.dataset` describes, or finish it, or return it if it is complete. Of a task it is that split (`heldout.splits`).

    `num_threads` 0 chooses by cores and record length; at most so many shards are in flight, one record of each in memory. `progress(done, total)`
    is called with samples, from the calling thread. Raises UsageError where the store holds something else, and StorageError where writing fails.
    """
    return _asked_of(workload, store, num_threads, progress, split).build()


def generate_together(
    workload: Workload, store: Store, crew: Crew, *, num_threads: int = 0, progress: Progress | None = None, split: str = TRAINING
) -> Dataset | None:
    """`generate` by all members of a crew, each of which calls it with the same workload; the dataset at member 0, None at the others. `run.placement` says
    what each host gets, and `run.num_accelerators` of the members how much of it, where it is partitioned; the held-out split,
    which each host reads whole, is replicated then. Collective.

    Raises what `generate` does, on all members.
    """
    asked = _asked_of(workload, store, num_threads, progress, split)
    placement: Placement = "replicated" if split == HELD_OUT and workload.run.placement == "partitioned" else workload.run.placement
    return build_together(crew, asked, placement, workload.run.num_accelerators)


def _asked_of(workload: Workload, store: Store, num_threads: int, progress: Progress | None, split: str) -> _Asked:
    data = workload.dataset
    source, about = _source_of(data, split)
    return _asked(
        source,
        store,
        format_name=data.format,
        samples_per_shard=data.samples_per_shard,
        row_group_bytes=data.row_group_bytes,
        num_subfolders=data.num_subfolders,
        about={"workload": workload.name, **about},
        num_threads=num_threads,
        progress=progress,
    )


def _source_of(data: DatasetSpec, split: str) -> tuple[Source, dict[str, Any]]:
    """The records, and what else the manifest says of them."""
    if data.task:
        from storagebench.datasets.tasks import TaskSource

        source = TaskSource(data, split)
        return source, {"classes": list(source.classes), **source.credits}
    if split != TRAINING:
        raise UsageError(f"synthetic records have no {split} split", "use a workload with a task (digits, photographs)")
    return SyntheticSource(data), {}


def import_dataset(
    source: str | Path,
    store: Store,
    *,
    format: str,
    column: str | None = None,
    samples_per_shard: int = 1,
    row_group_bytes: int = 8 * 2**20,
    num_subfolders: int = 0,
    num_threads: int = 0,
    progress: Progress | None = None,
) -> Dataset:
    """Make a dataset out of real data (see `storagebench.datasets.importers`); the bytes of each record stay as they are.

    Arguments and errors are those of `generate`, and DatasetError where the source is empty, damaged or changes meanwhile.
    """
    from storagebench.datasets.importers import open_source

    _refuse_inside(Path(source), store)
    opened = open_source(Path(source), column)
    try:
        return _asked(
            opened,
            store,
            format_name=format,
            samples_per_shard=samples_per_shard,
            row_group_bytes=row_group_bytes,
            num_subfolders=num_subfolders,
            about={"classes": list(opened.classes)},
            num_threads=num_threads,
            progress=progress,
        ).build()
    finally:
        opened.close()


def _refuse_inside(source: Path, store: Store) -> None:
    """A dataset inside its own source would be imported again by the next run."""
    if store.spec.kind == "posix" and Path(store.spec.root).resolve().is_relative_to(source.resolve()):
        raise UsageError(f"the data dir {store.url} lies inside the source {source}", "choose a --data-dir outside of the source")


def _check_bounds(samples_per_shard: int, row_group_bytes: int, num_subfolders: int, num_threads: int) -> None:
    if samples_per_shard < 1 or row_group_bytes < 1 or num_subfolders < 0 or num_threads < 0:
        raise UsageError(
            f"samples_per_shard is {samples_per_shard}, row_group_bytes {row_group_bytes} (1 at least), num_subfolders {num_subfolders}, "
            f"num_threads {num_threads} (0 at least)",
            "choose values within these bounds",
        )


def _asked(
    source: Source,
    store: Store,
    *,
    format_name: str,
    samples_per_shard: int,
    row_group_bytes: int,
    num_subfolders: int,
    about: dict[str, Any],
    num_threads: int,
    progress: Progress | None,
) -> _Asked:
    _check_bounds(samples_per_shard, row_group_bytes, num_subfolders, num_threads)
    form = open_format(format_name)
    needed = PAYLOAD_OF_FORMAT.get(format_name)
    if needed in IMAGE_PAYLOADS and source.payload != needed:
        have = "plain bytes" if source.payload == "bytes" else source.payload
        raise UsageError(f"format {format_name} holds {needed.upper()} files, and the records are {have}", f"use --format raw, or --payload {needed}")
    mean_bytes = max(1, int(source.approx_bytes.sum()) // source.num_samples)
    options = {} if form.byte_addressed else {"row_group_samples": max(1, row_group_bytes // mean_bytes)}
    spec = {
        "kind": source.kind,
        "format": format_name,
        "payload": source.payload,
        "num_samples": source.num_samples,
        "samples_per_shard": 1 if form.one_sample_per_shard else samples_per_shard,
        "num_subfolders": num_subfolders,
        **options,
        **source.describe(),
        "encoder": {**source.encoder(), **_format_encoder(form)},
    }
    return _Asked(source, store, form, spec, about, options, samples_per_shard, num_subfolders, num_threads, progress)


@dataclass(frozen=True)
class _Asked:
    """A dataset to be made: `spec` determines its bytes, `options` are those of its format."""

    source: Source
    store: Store
    form: Format
    spec: dict[str, Any]
    about: dict[str, Any]
    options: dict[str, Any]
    samples_per_shard: int
    num_subfolders: int
    num_threads: int
    progress: Progress | None

    def layout(self, partition: Sequence[Sequence[int]] = ()) -> Layout:
        one = self.form.one_sample_per_shard
        return Layout.plan(self.source.approx_bytes, self.samples_per_shard, one, self.form.suffix, self.num_subfolders, partition)

    def build(self) -> Dataset:
        """Make it here, or finish it, or return it if it is complete."""
        layout = self.layout()
        ledger = Ledger(self.store, self.spec, layout, self.form)
        dataset = ledger.finished()
        if dataset is not None:
            return dataset
        done = ledger.begin()
        self.make(ledger, layout, [unit for unit in layout.units if unit.number not in done], len(layout.index))
        dataset = self.dataset(layout)
        ledger.finish(dataset)
        return dataset

    def make(
        self,
        ledger: Ledger,
        layout: Layout,
        units: Sequence[Unit],
        total: int,
        sharing: int = 1,
        on_makers: Callable[[Callable[[], None] | None], None] = lambda _: None,
    ) -> None:
        """Store these units; `total` samples are what the progress is of. So many processes (`sharing`) make shards on this host at the same time.
        `on_makers` is handed what stops the makers, and None when they have ended. Raises StoppedError where they were stopped so."""
        if not units:
            return
        makers = Makers(_makers(self.source, self.form, self.store, self.options, self.num_threads, sharing))
        try:
            on_makers(makers.stop)
            _write_shards(makers, ledger, layout, units, total, self.progress)
        finally:
            on_makers(None)
            makers.close()

    def dataset(self, layout: Layout, partition: Sequence[Sequence[int]] = ()) -> Dataset:
        parts = {PARTITION_OPTION: partition} if partition else {}
        origin = {**self.spec, **parts, **self.about, "storagebench_version": storagebench.__version__}
        return _dataset(self.form, self.source.payload, layout, origin, {**self.options, **parts})


def _dataset(form: Format, payload: str, layout: Layout, origin: dict[str, Any], options: dict[str, Any]) -> Dataset:
    columns = (layout.shard_bytes, layout.shard_crc32c, layout.first_sample, layout.shard_samples, layout.index)
    return Dataset(form.name, payload, layout.names, *columns, origin=origin, options=options)


def _format_encoder(form: Format) -> dict[str, str]:
    versions: Callable[[], dict[str, str]] | None = getattr(form, "encoder_versions", None)
    return versions() if versions is not None else {}


def _makers(source: Source, form: Format, store: Store, options: dict[str, Any], num_threads: int, sharing: int = 1) -> list[Maker]:
    """This process and others, one a core, where short records are more work than their writing (images, many to a shard) and the disk is local; else threads, which wait for
    the device most of the time: small files for an fsync each, large ones for 4 MiB at a time."""
    cores, longest = max(1, len(os.sched_getaffinity(0)) // sharing), int(source.approx_bytes.max())
    by_memory = max(1, _DEFAULT_MEMORY_BYTES // sharing // (longest + _STORE_BYTES_PER_THREAD))
    makes_most = store.spec.kind == "posix" and longest <= _SMALL_BYTES and (source.payload in IMAGE_PAYLOADS or not form.one_sample_per_shard)
    if not makes_most:
        threads = num_threads or min(max(cores, _LEAST_THREADS_SMALL if longest <= _SMALL_BYTES else _LEAST_THREADS), by_memory, _MOST_THREADS)
    else:
        threads = num_threads or min(cores, by_memory, _MOST_THREADS)
        pays = int(source.approx_bytes.sum()) >= (_LEAST_BYTES_IMAGES if source.payload in IMAGE_PAYLOADS else _LEAST_BYTES)
        if isinstance(source, SyntheticSource) and threads > 1 and pays:
            processes = [ProcessMaker(source, form, store.spec, options) for _ in range(threads - 1)]
            return [ThreadMaker(source, form, store, options), *processes]  # this process too: it begins before the others have started
    return [ThreadMaker(source, form, store, options)] * threads


def _write_shards(makers: Makers, ledger: Ledger, layout: Layout, units: Sequence[Unit], total: int, progress: Progress | None) -> None:
    last_of: dict[int, Unit] = {unit.stop - 1: unit for unit in units}
    done = total - sum(len(layout.rows(unit.first, unit.stop)) for unit in units)
    shards = (shard for unit in units for shard in range(unit.first, unit.stop))

    def make(shard: int) -> Made:
        return makers.make(layout.names[shard], int(layout.first_sample[shard]), int(layout.shard_samples[shard]))

    for shard, made in in_order(shards, make, len(makers), on_end=makers.stop):
        layout.take(shard, made.num_bytes, made.crc32c, made.rows)
        done += int(layout.shard_samples[shard])
        if shard in last_of:
            ledger.commit(last_of[shard])
        if progress is not None:
            progress(done, total)
