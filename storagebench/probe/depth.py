"""How many reads to have in flight, where the user leaves it open: a short probe of the dataset itself, for loaders that read it with O_DIRECT."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from storagebench.manifest import Dataset
from storagebench.probe.cells import Work, measure
from storagebench.probe.plan import Cell, Group, Requests, align, requests
from storagebench.probe.probe import mean_stored_sample
from storagebench.probe.workers import DeepFileReader
from storagebench.storage.aio import is_available
from storagebench.storage.queues import DIRECT_READ_BYTES

# (threads, reads in flight of each), in the order of what they cost; the first that comes near the best is taken.
CANDIDATES = ((1, 8), (1, 32), (2, 32), (4, 32))
_NEAR = 0.95
_CELL_S = 0.08
# What is probed may come out of a cache below (a hypervisor's) when it is measured: so it is a hundredth of the dataset at most, at this rate.
_SHARE, _FAST_BYTES_PER_S = 0.01, 4e9
_LEAST_CELL_S = 0.02


def find_depth(dataset: Dataset, paths: Sequence[str]) -> tuple[int, int] | None:
    """(threads, reads in flight of each) of one rank that reads these shards; None where the dataset is too small to be probed, or without native AIO.

    Takes a third of a second. Raises StorageError, DatasetError.
    """
    seconds = min(_CELL_S, _SHARE * dataset.stored_bytes / _FAST_BYTES_PER_S / len(CANDIDATES))
    if seconds < _LEAST_CELL_S or not is_available():
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
    return next(candidate for candidate, rate in zip(CANDIDATES, rates, strict=True) if rate >= _NEAR * max(rates))
