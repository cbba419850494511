"""The ceiling of one run: the same shards, cache state and request size, probed before and after it. What is probed is decided here, purely."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from storagebench.errors import UsageError
from storagebench.manifest import Dataset
from storagebench.probe.plan import MAX_BUFFERS_BYTES, Cell, Group, Mode, align, cells
from storagebench.probe.probe import Opened, mean_stored_sample, probe, shard_files, shard_objects
from storagebench.protocols import Store, StoreSpec
from storagebench.storage import open_spec
from storagebench.storage.aio import is_available

SECONDS = 1.0
MAX_ALSO_THREADS = 64
# The headroom probe has so many times the run's readers, and so many at least.
HEADROOM, LEAST_HEADROOM_THREADS = 4, 16
# A loader that streams shards has no request of a sample's size; the kernel or the library reads ahead.
STREAM_REQUEST_BYTES = 2**20


def ceiling_group(dataset: Dataset, unit: str, shuffle: bool, cache: str, spec: StoreSpec) -> Group:
    """The group that stands for a run's reads. `unit` is the loader's: sample, row_group or shard.

    The request is the mean stored sample (a whole file where each sample has one), the mean row group, or for streamed shards 1 MiB at least.
    Raises UsageError for --cache as-is, whose state a probe would change.
    """
    if cache == "as-is":
        raise UsageError("--ceiling with --cache as-is would fill the cache that the run then meets", "use --cache cold, warm or direct")
    modes: dict[str, Mode] = {"direct": "direct", "cold": "cold", "warm": "warm"}
    mode: Mode = modes[cache] if spec.kind == "posix" else "client"
    if mode == "cold" and spec.options.get("io") == "direct":
        mode = "direct"
    if unit == "shard":
        return Group("read", "sequential", max(align(mean_stored_sample(dataset)), STREAM_REQUEST_BYTES), mode)
    if unit == "row_group":
        return Group("read", "random", align(dataset.stored_bytes / len(dataset.row_groups()[0])), mode)
    if dataset.whole_shards:
        return Group("read", "objects", round(mean_stored_sample(dataset)), mode)
    return Group("read", "random" if shuffle else "sequential", align(mean_stored_sample(dataset)), mode)


def probe_spec(spec: StoreSpec) -> StoreSpec:
    """The run's store for a probe: on S3 through obstore with connections for the largest cell, else as it is."""
    return replace(spec, options={**spec.options, "client": "obstore", "concurrency": str(MAX_ALSO_THREADS)}) if spec.kind == "s3" else spec


def run_ceiling(
    spec: StoreSpec, dataset: Dataset, group: Group, threads: int, local_paths: Sequence[str], warm: bool, seconds: float = SECONDS
) -> Mapping[str, Any]:
    """Probe the group; a plain record with the best median and the runs of its cell.

    `threads`: the run's own number of readers, tried beside the usual cells; `local_paths`: the shards as files of this host, if it has them.
    Raises StorageError, DatasetError.
    """
    with _opened(spec, dataset, group, local_paths, warm) as place:
        buffer_bytes = place.reads.buffer_bytes(group)
        has_aio = group.pattern != "objects" and is_available()
        table: dict[Group, list[Cell]] = {
            group: cells(group, has_aio=has_aio, buffer_bytes=buffer_bytes, also_threads=max(1, min(threads, MAX_ALSO_THREADS)))
        }
        best = probe(place, seconds, table=table).ceilings[0]
    return {
        **group._asdict(),
        "threads": best.cell.threads,
        "depth": best.cell.depth,
        "bytes_per_s": best.bytes_per_s,
        "requests_per_s": best.requests_per_s,
        "rates": list(best.rates),
    }


def run_headroom(
    spec: StoreSpec, dataset: Dataset, group: Group, threads: int, local_paths: Sequence[str], warm: bool, seconds: float
) -> Mapping[str, Any]:
    """Read the group once with several times the run's readers (`threads`), for so many seconds: does the storage give more if it is asked for more?

    A plain record. Raises StorageError, DatasetError.
    """
    with _opened(spec, dataset, group, local_paths, warm) as place:
        most = max(1, MAX_BUFFERS_BYTES // max(place.reads.buffer_bytes(group), 1))
        asked = min(max(LEAST_HEADROOM_THREADS, HEADROOM * threads), MAX_ALSO_THREADS, most)
        found = place.run(Cell(group, asked, 1), seconds, seed=1)
    return {**group._asdict(), "threads": asked, "depth": 1, "bytes_per_s": found.bytes_per_s, "requests_per_s": found.requests_per_s}


@contextmanager
def _opened(spec: StoreSpec, dataset: Dataset, group: Group, local_paths: Sequence[str], warm: bool) -> Iterator[Opened]:
    store = open_spec(probe_spec(spec))
    try:
        yield _place(store, dataset, group, local_paths, warm)
    finally:
        store.close()


def _place(store: Store, dataset: Dataset, group: Group, local_paths: Sequence[str], warm: bool) -> Opened:
    if store.spec.kind == "posix":
        return Opened("dataset", shard_files(Path(store.spec.root), dataset), None, (group,), True)
    return Opened("dataset", shard_objects(store, dataset, local_paths, warm), None, (group,), False)
