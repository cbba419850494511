"""What a probe does, as pure tables: which cells, and which requests make one pass over the data. No clock, no I/O.

A *group* is what a ceiling is told for: direction, pattern, request size and mode. A *cell* is one way to try it: so many threads, each with so many
requests in flight. A *pass* reads no byte twice, and every byte where the data has at most `MAX_REQUESTS` requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Direction = Literal["read", "write"]
# objects: whole files or objects, each one request, in random order.
Pattern = Literal["sequential", "random", "objects"]
# direct: O_DIRECT. cold, warm: buffered, pages dropped before each pass or filled. buffered: written through the page cache. client: a store's library.
Mode = Literal["direct", "cold", "warm", "buffered", "client"]

ALIGNMENT_BYTES = 4096
MAX_REQUESTS = 1_000_000
MAX_BUFFERS_BYTES = 2**30
# (threads, depth). Measured here on a memory-backed block device: threads with preadv lead from 128 KiB (6.8 against 5.9 GB/s), native AIO at 4 KiB (2.5 x).
_DIRECT_READ = ((1, 1), (4, 1), (16, 1), (1, 8), (1, 32), (4, 32))
_DIRECT_READ_THREADS = ((1, 1), (4, 1), (16, 1), (64, 1))
_BUFFERED_READ = ((1, 1), (4, 1), (16, 1))
_CLIENT = ((1, 1), (4, 1), (16, 1), (64, 1))
_WRITE = ((1, 1), (4, 1), (16, 1))


class Group(NamedTuple):
    """What a ceiling is told for. `request_bytes` is the mean object for the pattern objects."""

    direction: Direction
    pattern: Pattern
    request_bytes: int
    mode: Mode


class Cell(NamedTuple):
    """One way to try a group: `threads` x `depth` requests in flight."""

    group: Group
    threads: int
    depth: int


class Requests(NamedTuple):
    """One pass: columns over its requests, in order."""

    file: NDArray[np.int64]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]

    @property
    def num_bytes(self) -> int:
        return int(self.length.sum())

    def part(self, low: int, high: int) -> Requests:
        return Requests(self.file[low:high], self.offset[low:high], self.length[low:high])


def align(num_bytes: float) -> int:
    """The next multiple of 4096, at least 4096: a request size that O_DIRECT takes.

    >>> align(1), align(4096), align(114_660)
    (4096, 4096, 114688)
    """
    return max(1, -(-round(num_bytes) // ALIGNMENT_BYTES)) * ALIGNMENT_BYTES


def groups(
    sizes: Iterable[int], modes: Sequence[Mode], write_modes: Sequence[Mode], objects_bytes: int | None = None, largest_bytes: int = 2**62
) -> list[Group]:
    """The groups of a probe: reads in each mode, whole objects first where `objects_bytes` (their mean size) is given, then writes.

    A request size of which no file or object has that many bytes (`largest_bytes`) would only repeat a smaller one and is left out, the least one not.
    """
    ordered = sorted(set(sizes))
    wanted = [size for size in ordered if size <= align(largest_bytes)] or ordered[:1]
    found: list[Group] = []
    for mode in modes:
        if objects_bytes is not None:
            found.append(Group("read", "objects", objects_bytes, mode))
        found += [Group("read", pattern, size, mode) for size in wanted for pattern in _PATTERNS]
    for mode in write_modes:
        patterns: tuple[Pattern, ...] = ("objects",) if mode == "client" else _PATTERNS
        found += [Group("write", pattern, size, mode) for size in ordered for pattern in patterns]
    return found


_PATTERNS: tuple[Pattern, ...] = ("sequential", "random")


def cells(group: Group, *, has_aio: bool = True, buffer_bytes: int | None = None, also_threads: int | None = None) -> list[Cell]:
    """The cells of a group. `buffer_bytes`: memory of one request where it is not the request size; `also_threads`: a number of threads to try too.

    Cells that would hold more than 1 GiB of buffers are left out, the single request in flight never.
    """
    if group.direction == "write":
        table: tuple[tuple[int, int], ...] = _WRITE
    elif group.mode == "direct":
        table = _DIRECT_READ if has_aio else _DIRECT_READ_THREADS
    else:
        table = _CLIENT if group.mode == "client" else _BUFFERED_READ
    if also_threads is not None and (also_threads, 1) not in table:
        table = (*table, (also_threads, 1))
    most = MAX_BUFFERS_BYTES // max(buffer_bytes or group.request_bytes, 1)
    return [Cell(group, threads, depth) for threads, depth in table if threads * depth <= max(most, 1)]


def requests(sizes: Sequence[int], pattern: Pattern, request_bytes: int, seed: int, limit: int = MAX_REQUESTS) -> Requests:
    """One pass over files of these sizes (bytes). Another `seed` begins elsewhere (sequential) or is another order (random, objects).

    The last request of a file is shorter where the size is no multiple; files of no bytes have no request.
    """
    file_bytes = np.asarray(sizes, np.int64)
    counts = (file_bytes > 0).astype(np.int64) if pattern == "objects" else -(-file_bytes // request_bytes)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    rng = np.random.default_rng(seed)
    if total == 0:
        ids = np.empty(0, np.int64)
    elif pattern == "sequential":
        ids = (np.arange(min(total, limit)) + int(rng.integers(total))) % total
    elif total <= limit:
        ids = rng.permutation(total)
    else:
        ids = rng.choice(total, limit, replace=False)
    file = np.searchsorted(ends, ids, side="right")
    if pattern == "objects":
        return Requests(file, np.zeros(len(ids), np.int64), file_bytes[file])
    offset = (ids - (ends - counts)[file]) * request_bytes
    return Requests(file, offset, np.minimum(request_bytes, file_bytes[file] - offset))


def lanes(one_pass: Requests, pattern: Pattern, threads: int) -> list[Requests]:
    """The parts of a pass: in sequence each thread has a stretch of its own; otherwise all take from one list, so one part comes back."""
    if pattern != "sequential":
        return [one_pass]
    bounds = [len(one_pass.file) * thread // threads for thread in range(threads + 1)]
    return [one_pass.part(low, high) for low, high in pairwise(bounds)]
