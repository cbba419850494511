"""Our prober against fio on the local disk, at 1 MiB and at 128 KiB: is `probe`'s ceiling within 5 % of the best that fio reaches?

Each side's best setting is chosen in a pass of its own and then fixed. Then rounds of four passes in ABBA order (fio ours ours fio), beside each the
same with fio on both sides, so that the noise of the device stands next to the difference. The first round is dropped. Every measurement reads each
byte of the same scratch files once with O_DIRECT, and none of them is in the page cache before it. The device rests equally long before every pass: a
disk with a limited rate saves up credit meanwhile (seen here: 10 % on 1 GiB after 0.5 s), and the side that starts more slowly would have it alone.

    python benchmarks/probe_vs_fio.py --folder /data --size 1GiB --rounds 11
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

from common import Comparison, Pass, Reader, Rest, arguments, choose, compare, finish, say, scratch

from storagebench.errors import StorageError
from storagebench.probe import fio
from storagebench.probe.cells import measure
from storagebench.probe.places import FilesPlace, scratch_files
from storagebench.probe.plan import Cell, Group, cells
from storagebench.storage.aio import is_available
from storagebench.units import parse_size

TARGET = 0.95
SIZES = (2**20, 128 * 2**10)
FIO_SETTINGS = (
    fio.Setting("psync", 1, 1),
    fio.Setting("psync", 4, 1),
    fio.Setting("psync", 16, 1),
    *(fio.Setting(engine, jobs, depth) for engine in ("libaio", "io_uring") for jobs, depth in ((1, 8), (1, 32), (4, 8), (4, 32))),
)


def our_reader(place: FilesPlace, cell: Cell, rest: Rest) -> Reader:
    """One pass of our prober; the pages are dropped and proved to be gone first."""

    def read() -> Pass:
        rest.take("ours")
        row = measure(cell, place.work(cell), None, seed=0)
        ended = time.monotonic()
        rest.note("ours", ended - row.num_bytes / row.bytes_per_s, ended)
        _whole(row.num_bytes, sum(place.sizes), "our prober")
        return Pass(row.bytes_per_s)

    return read


def fio_reader(place: FilesPlace, program: str, group: Group, setting: fio.Setting, rest: Rest) -> Reader:
    """One pass of fio over the same bytes, the pages dropped and proved to be gone first."""
    parts = fio.stretches(place.paths, place.sizes, setting.jobs, group.request_bytes)

    def read() -> Pass:
        place.pages.drop()
        rest.take("fio")
        rate, num_bytes = fio.read_once(program, group, setting, parts, None)
        ended = time.monotonic()
        rest.note("fio", ended - num_bytes / rate, ended)
        _whole(num_bytes, sum(place.sizes), "fio")
        return Pass(rate)

    return read


def _whole(got: int, wanted: int, who: str) -> None:
    if got != wanted:
        raise StorageError(f"{who} read {got} of {wanted} bytes in a pass", "the comparison would be of unequal work: report it")


def results(asked: argparse.Namespace) -> Iterator[tuple[Comparison, str]]:
    """Choose, fix, compare, at each request size."""
    program = fio.require_fio()
    size = parse_size("16MiB" if asked.smoke else asked.size)
    rounds, repeats, dropped = (1, 1, 0) if asked.smoke else (asked.rounds, asked.repeats, 1)
    with scratch(asked.folder) as folder, scratch_files(folder, size) as place:
        for request_bytes in SIZES:
            group, rest, label = Group("read", "sequential", request_bytes, "direct"), Rest(), f"{request_bytes // 1024} KiB"
            theirs = {
                f"fio {s.engine} {s.jobs} x {s.depth}": fio_reader(place, program, group, s, rest)
                for s in (FIO_SETTINGS[:1] if asked.smoke else FIO_SETTINGS)
            }
            ours = {f"{cell.threads} x {cell.depth}": our_reader(place, cell, rest) for cell in cells(group, has_aio=is_available())}
            say(f"{label}: fio's settings (engine jobs x depth)")
            fio_best = choose(theirs, repeats)
            say(f"{label}: ours (threads x depth)")
            our_best = choose(ours, repeats)
            yield compare(f"{label}, ours {our_best}", fio_best, theirs[fio_best], ours[our_best], rounds, dropped, TARGET, whole=True), "MB/s"


def main() -> int:
    parser = arguments(__doc__, "folder on the disk (scratch files are made in it and removed)", rounds=11)
    parser.add_argument("--size", default="1GiB", help="bytes of one pass")
    parser.add_argument("--repeats", type=int, default=3, help="passes of each setting when the best one is chosen")
    asked = parser.parse_args()
    return finish(results(asked), asked)


if __name__ == "__main__":
    sys.exit(main())
