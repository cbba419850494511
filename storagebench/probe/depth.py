"""How many reads to have in flight, where the user leaves it open: a short probe of the dataset itself, local with O_DIRECT, or on S3."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from storagebench.manifest import Dataset
from storagebench.probe.ceiling import ceiling_group, probe_spec
from storagebench.probe.cells import Work, measure
from storagebench.probe.places import ObjectsPlace
from storagebench.probe.plan import Cell, Group, Requests, align, requests
from storagebench.probe.probe import mean_stored_sample
from storagebench.probe.workers import DeepFileReader
from storagebench.protocols import StoreSpec
from storagebench.storage import open_spec
from storagebench.storage.aio import is_available
from storagebench.storage.queues import DIRECT_READ_BYTES

Setting = TypeVar("Setting")
# (threads, reads in flight of each), in the order of what they cost; the first that comes near the best is taken.
CANDIDATES = ((1, 8), (1, 32), (2, 32), (4, 32))
_NEAR = 0.95
REQUESTS = (4, 8, 16, 32, 64)
# What is probed may come out of a cache below (a hypervisor's, a server's) when it is measured: so it is a hundredth of the dataset at most, at these rates.
_SHARE = 0.01


class _Haste(NamedTuple):
    """How long a cell is read, at most and at least, and how fast a storage it is meant for."""

    most_s: float
    least_s: float
    bytes_per_s: float

    def seconds(self, dataset: Dataset, num_cells: int) -> float | None:
        """Of each of so many cells; None where the dataset is too small."""
        seconds = min(self.most_s, _SHARE * dataset.stored_bytes / self.bytes_per_s / num_cells)
        return seconds if seconds >= self.least_s else None


_LOCAL = _Haste(0.08, 0.02, 4e9)
_S3 = _Haste(0.25, 0.1, 1e9)


def find_depth(dataset: Dataset, paths: Sequence[str]) -> tuple[int, int] | None:
    """(threads, reads in flight of each) of one rank that reads these shards; None where the dataset is too small to be probed, or without native AIO.

    Takes a third of a second. Raises StorageError, DatasetError.
    """
    seconds = _LOCAL.seconds(dataset, len(CANDIDATES))
    if seconds is None or not is_available():
        return None
    group = Group("read", "random", min(align(mean_stored_sample(dataset)), DIRECT_READ_BYTES), "direct")
    sizes, files = dataset.shard_bytes.tolist(), list(paths)

    def one_pass(seed: int) -> Requests:
        return requests(sizes, group.pattern, group.request_bytes, seed)

    rates = []
    for seed, (threads, depth) in enumerate(CANDIDATES):
        cell = Cell(group, threads, depth)
        work = Work(partial(DeepFileReader, files, group.request_bytes, depth), one_pass, None)
        rates.append(measure(cell, work, seconds, seed).bytes_per_s)
    return _first_near_the_best(CANDIDATES, rates)


def find_requests(spec: StoreSpec, dataset: Dataset) -> int | None:
    """Requests in flight of one rank that reads these objects; None where the dataset is too small to be probed.

    Takes a second or so. Raises StorageError, DatasetError.
    """
    seconds = _S3.seconds(dataset, len(REQUESTS))
    if seconds is None:
        return None
    group = ceiling_group(dataset, "sample", True, "cold", spec)
    store = open_spec(probe_spec(spec))
    try:
        place = ObjectsPlace(store, list(dataset.names), dataset.shard_bytes.tolist())
        cells = [Cell(group, threads, 1) for threads in REQUESTS]
        rates = [measure(cell, place.work(cell), seconds, seed).bytes_per_s for seed, cell in enumerate(cells)]
    finally:
        store.close()
    return _first_near_the_best(REQUESTS, rates)


def _first_near_the_best(settings: Sequence[Setting], rates: Sequence[float]) -> Setting:
    return next(setting for setting, rate in zip(settings, rates, strict=True) if rate >= _NEAR * max(rates))
