"""Ways for one Python process to read a data set, side by side: why `direct` reads as it does (storagebench/storage/queues.py).

Cold with O_DIRECT: threads with preadv, native AIO, io_uring. Warm through the page cache, each byte checksummed: threads with preadv, memory mapping,
io_uring. Every pass reads each byte once, in requests of at most 2 MiB (cold) or 1 MiB (warm), in a new random order of the files; all ways take turns, their
order reversed every second round. Shown are rate and CPU seconds per GB. io_uring needs `pip install liburing==2024.5.3`: the releases after it take no
memory but a bytearray, which is not page-aligned; without it the row is left out.

    python benchmarks/read_ways.py --folder /data     (data sets npz20x100, npy115x10000 there, made where they are not)
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from common import DataSet, arguments, cold, data_set, say, scratch, spread, warm
from crc32c import crc32c

from storagebench.errors import StorageBenchError
from storagebench.launch import Interrupted, handling_signals
from storagebench.storage.aio import Ring
from storagebench.storage.buffers import address_of, aligned, aligned_buffer

Request = tuple[str, int, int]  # path, offset, bytes
Way = Callable[[Sequence[Request], int, bool], None]  # requests, how many at once, whether to checksum (and read through the page cache)
DIRECT_BYTES, BUFFERED_BYTES = 2 * 2**20, 2**20
IOSQE_ASYNC = 1 << 4  # linux/io_uring.h; the binding does not name it


def requests(data: DataSet, piece: int, seed: int) -> list[Request]:
    """All bytes of the data set, files in random order."""
    order = list(zip(data.paths, data.sizes, strict=True))
    random.Random(seed).shuffle(order)
    return [(path, low, min(piece, size - low)) for path, size in order for low in range(0, size, piece)]


def in_threads(work: Callable[[Iterator[Request]], None], wanted: Sequence[Request], num_threads: int) -> None:
    lock, rest = threading.Lock(), iter(wanted)

    def taken() -> Iterator[Request]:
        while True:
            with lock:
                request = next(rest, None)
            if request is None:
                return
            yield request

    threads = [threading.Thread(target=work, args=(taken(),)) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def preadv(wanted: Sequence[Request], num_threads: int, buffered: bool) -> None:
    """Threads, each with one read in flight."""
    longest = aligned(max(length for _, _, length in wanted))

    def work(some: Iterator[Request]) -> None:
        memory = aligned_buffer(longest)
        for path, offset, length in some:
            fd = os.open(path, os.O_RDONLY | (0 if buffered else os.O_DIRECT))
            got = os.preadv(fd, [memory[: length if buffered else aligned(length)]], offset)
            assert got >= length
            if buffered:
                crc32c(memory[:length])
            os.close(fd)

    in_threads(work, wanted, num_threads)


def mapping(wanted: Sequence[Request], num_threads: int, buffered: bool) -> None:
    """Threads that map each request and checksum it in place."""

    def work(some: Iterator[Request]) -> None:
        for path, offset, length in some:
            fd = os.open(path, os.O_RDONLY)
            with (
                mmap.mmap(fd, length, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=mmap.PROT_READ, offset=offset) as memory,
                memoryview(memory) as view,
            ):
                crc32c(view)
            os.close(fd)

    in_threads(work, wanted, num_threads)


def native_aio(wanted: Sequence[Request], depth: int, buffered: bool) -> None:
    """Two threads, each with half the depth."""
    longest = aligned(max(length for _, _, length in wanted))
    half = depth // 2

    def work(some: Iterator[Request]) -> None:
        memory, ring = aligned_buffer(half * longest), Ring(half)
        base, free, fds = address_of(memory), list(range(half)), {}
        more = True
        while True:
            while free and more:
                request = next(some, None)
                if request is None:
                    more = False
                    break
                slot = free.pop()
                fds[slot] = os.open(request[0], os.O_RDONLY | os.O_DIRECT), request[2]
                ring.put(slot, fds[slot][0], request[1], aligned(request[2]), base + slot * longest)
            if len(free) == half:
                break
            ring.send()
            for slot, got in ring.wait():
                fd, length = fds.pop(slot)
                assert got >= length
                os.close(fd)
                free.append(slot)
        ring.close()

    in_threads(work, wanted, 2)


def io_uring(wanted: Sequence[Request], depth: int, buffered: bool) -> None:
    """One ring from one thread; buffered reads go to the kernel's own threads."""
    import liburing as lib

    longest = aligned(max(length for _, _, length in wanted))
    memory = aligned_buffer(depth * longest)
    ring, done = lib.io_uring(), lib.io_uring_cqe()
    lib.io_uring_queue_init(depth, ring, 0)
    rest, free, fds = iter(wanted), list(range(depth)), {}
    more = True
    while True:
        while free and more:
            request = next(rest, None)
            if request is None:
                more = False
                break
            slot = free.pop()
            path, offset, length = request
            fds[slot] = os.open(path, os.O_RDONLY | (0 if buffered else os.O_DIRECT)), length
            size = length if buffered else aligned(length)
            entry = lib.io_uring_get_sqe(ring)
            lib.io_uring_prep_read(entry, fds[slot][0], memory[slot * longest : slot * longest + size], size, offset)
            lib.io_uring_sqe_set_data64(entry, slot)
            if buffered:
                lib.io_uring_sqe_set_flags(entry, IOSQE_ASYNC)
        if len(free) == depth:
            break
        lib.io_uring_submit(ring)
        lib.io_uring_wait_cqe(ring, done)
        for index in range(lib.io_uring_cq_ready(ring)):
            if index:
                lib.io_uring_wait_cqe(ring, done)
            slot, got = done.user_data, done.res
            fd, length = fds.pop(slot)
            assert got >= length
            if buffered:
                crc32c(memory[slot * longest : slot * longest + length])
            lib.io_uring_cqe_seen(ring, done)
            os.close(fd)
            free.append(slot)
    lib.io_uring_queue_exit(ring)


COLD: list[tuple[str, Way, int]] = [
    ("preadv, 4 threads", preadv, 4),
    ("preadv, 16 threads", preadv, 16),
    ("native AIO, 64 in flight", native_aio, 64),
    ("io_uring, 64 in flight", io_uring, 64),
]
WARM: list[tuple[str, Way, int]] = [("preadv, 2 threads", preadv, 2), ("mapping, 2 threads", mapping, 2), ("io_uring, 8 in flight", io_uring, 8)]


def one_pass(data: DataSet, way: Way, at_once: int, buffered: bool, seed: int) -> tuple[float, float]:
    """Bytes per second, CPU seconds per GB."""
    (warm if buffered else cold)(data.paths)
    wanted = requests(data, BUFFERED_BYTES if buffered else DIRECT_BYTES, seed)
    total = sum(length for _, _, length in wanted)
    begin, cpu = time.monotonic(), time.process_time()
    way(wanted, at_once, buffered)
    seconds, cpu_s = time.monotonic() - begin, time.process_time() - cpu
    return total / seconds, cpu_s / total * 1e9


def measure(data: DataSet, ways: Sequence[tuple[str, Way, int]], buffered: bool, rounds: int) -> None:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name, _, _ in ways}
    for turn in range(-1, rounds):
        for name, way, at_once in ways if turn % 2 == 0 else reversed(ways):
            result = one_pass(data, way, at_once, buffered, turn)
            if turn >= 0:
                found[name].append(result)
        say(f"  round {turn + 1} of {rounds}")
    for name, results in found.items():
        rates, cpu = [rate / 1e6 for rate, _ in results], [value for _, value in results]
        print(f"  {name:<26} MB/s {spread(rates)}   CPU s/GB {median(cpu):.3f}", flush=True)


def main() -> int:
    parser = arguments(__doc__, "where the data sets are", rounds=5)
    asked = parser.parse_args()
    has_uring = importlib.util.find_spec("liburing") is not None
    if not has_uring:
        say("liburing is not installed: no rows for io_uring")

    def usable(ways: Sequence[tuple[str, Any, int]]) -> list[tuple[str, Any, int]]:
        return [row for row in ways if has_uring or row[1] is not io_uring]

    def run(folder: Path, rounds: int, sizes: Sequence[tuple[str, Sequence[str]]]) -> None:
        for name, options in sizes:
            data = data_set(folder / name, options)
            for label, ways, buffered in (("cold, O_DIRECT", COLD, False), ("warm, checksummed", WARM, True)):
                print(f"{name} {label}", flush=True)
                measure(data, usable(ways), buffered, rounds)

    full = [
        ("npz20x100", ("--format", "npz", "--num-samples", "100", "--record-length", "20MB")),
        ("npy115x10000", ("--format", "npy", "--num-samples", "10000", "--record-length", "115KB")),
    ]
    tiny = [("npz1x8", ("--format", "npz", "--num-samples", "8", "--record-length", "3MB"))]
    try:
        with handling_signals():
            if asked.smoke:
                with scratch(asked.folder) as folder:
                    run(folder, 1, tiny)
            else:
                run(asked.folder, asked.rounds, full)
    except Interrupted as error:
        return error.exit_code
    except StorageBenchError as error:
        say(f"error: {error.message}\nhint: {error.hint}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
