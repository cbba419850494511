"""Our prober against fio on the local disk, at 1 MiB and at 128 KiB: is `probe`'s ceiling within 5 % of the best that fio reaches?

Each side's best setting is chosen in a pass of its own and then fixed. Then rounds of pairs in ABBA order (fio ours, ours fio), beside each the
same with fio on both sides, so that the noise of the device stands next to the difference. The first round is dropped. Every measurement reads each
byte of the same scratch files once with O_DIRECT, and none of them is in the page cache before it. Before each of our passes the device rests for as long
as fio takes to start and end: a disk with a limited rate saves up credit meanwhile (seen here: 10 % on 1 GiB after 0.5 s), and fio would have it alone.

    python benchmarks/probe_vs_fio.py --folder /data --size 1GiB --rounds 11
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from storagebench.errors import StorageBenchError, StorageError
from storagebench.launch import handling_signals
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
Reader = Callable[[], float]  # one pass; bytes per second


@dataclass(frozen=True)
class Result:
    """One request size. Ratios are ours/fio and fio/fio, one a round; rates are medians over the rounds' passes in bytes per second."""

    request_bytes: int
    fio_setting: str
    our_setting: str
    fio_bytes_per_s: float
    our_bytes_per_s: float
    ratios: tuple[float, ...]
    null_ratios: tuple[float, ...]

    @property
    def reached(self) -> bool:
        return median(self.ratios) >= TARGET


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Rest:
    """How long the device rests around a pass of fio: the median of what was seen so far, in seconds."""

    def __init__(self) -> None:
        self._seen: list[float] = []

    def note(self, seconds: float) -> None:
        self._seen.append(seconds)

    def take(self) -> None:
        time.sleep(median(self._seen) if self._seen else 0.0)


def our_reader(place: FilesPlace, cell: Cell, rest: Rest) -> Reader:
    """One pass of our prober; the pages are dropped and proved to be gone first."""

    def read() -> float:
        rest.take()
        row = measure(cell, place.work(cell), None, seed=0)
        _whole(row.num_bytes, sum(place.sizes), "our prober")
        return row.bytes_per_s

    return read


def fio_reader(place: FilesPlace, program: str, group: Group, setting: fio.Setting, rest: Rest) -> Reader:
    """One pass of fio over the same bytes, the pages dropped and proved to be gone first."""
    parts = fio.stretches(place.paths, place.sizes, setting.jobs, group.request_bytes)

    def read() -> float:
        place.pages.drop()
        begin = time.monotonic()
        rate, num_bytes = fio.read_once(program, group, setting, parts, None)
        rest.note(max(0.0, time.monotonic() - begin - num_bytes / rate))
        _whole(num_bytes, sum(place.sizes), "fio")
        return rate

    return read


def _whole(got: int, wanted: int, who: str) -> None:
    if got != wanted:
        raise StorageError(f"{who} read {got} of {wanted} bytes in a pass", "the comparison would be of unequal work: report it")


def choose(readers: dict[str, Reader], repeats: int) -> str:
    """The reader with the best median, all of them in turn, so that a drift of the device meets all alike."""
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(repeats):
        for name in list(readers) if turn % 2 == 0 else list(reversed(readers)):
            try:
                rates[name].append(readers[name]())
            except StorageError as error:
                if rates[name]:
                    raise
                say(f"  {name} is left out: {error.message}")
    for name, some in rates.items():
        say(f"  {name:<18} {' '.join(f'{rate / 1e6:7.1f}' for rate in sorted(some))} MB/s")
    return max((name for name in rates if rates[name]), key=lambda name: median(rates[name]))


def abba(a: Reader, b: Reader) -> tuple[float, list[float], list[float]]:
    """Four passes in the order a b b a: the ratio b/a in which a drift of the device cancels (geometric mean of both pairs), and the rates of each."""
    first, second, third, fourth = a(), b(), b(), a()
    return ((second * third) / (first * fourth)) ** 0.5, [first, fourth], [second, third]


def rounds_of(theirs: Reader, ours: Reader, rounds: int, dropped: int) -> tuple[list[float], list[float], list[float], list[float]]:
    """Each round once ours against fio and once fio against itself: the ratios of both, and the rates of fio and ours. The first `dropped` do not count."""
    ratios, nulls, fio_rates, our_rates = [], [], [], []
    for turn in range(1 - dropped, rounds + 1):
        ratio, a, b = abba(theirs, ours)
        null, _, _ = abba(theirs, theirs)
        if turn > 0:
            ratios.append(ratio)
            nulls.append(null)
            fio_rates += a
            our_rates += b
            say(f"  round {turn}: ours/fio {ratio:.3f}, fio/fio {null:.3f}")
    return ratios, nulls, fio_rates, our_rates


def compare(place: FilesPlace, program: str, request_bytes: int, rounds: int, repeats: int, dropped: int, settings: Sequence[fio.Setting]) -> Result:
    """Choose, fix, compare, at one request size."""
    group = Group("read", "sequential", request_bytes, "direct")
    rest = Rest()
    theirs = {f"{s.engine} {s.jobs} x {s.depth}": fio_reader(place, program, group, s, rest) for s in settings}
    ours = {f"{cell.threads} x {cell.depth}": our_reader(place, cell, rest) for cell in cells(group, has_aio=is_available())}
    say(f"{request_bytes // 1024} KiB: fio's settings (engine jobs x depth)")
    fio_best = choose(theirs, repeats)
    say(f"{request_bytes // 1024} KiB: ours (threads x depth)")
    our_best = choose(ours, repeats)
    ratios, nulls, fio_rates, our_rates = rounds_of(theirs[fio_best], ours[our_best], rounds, dropped)
    return Result(
        request_bytes=request_bytes,
        fio_setting=fio_best,
        our_setting=our_best,
        fio_bytes_per_s=median(fio_rates),
        our_bytes_per_s=median(our_rates),
        ratios=tuple(ratios),
        null_ratios=tuple(nulls),
    )


def spread(ratios: Sequence[float]) -> str:
    """Median, quartiles and range."""
    ordered = sorted(ratios)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return f"{median(ordered):.3f}  quartiles {low:.3f} to {high:.3f}  range {ordered[0]:.3f} to {ordered[-1]:.3f}  n {len(ordered)}"


def show(result: Result) -> str:
    return (
        f"{result.request_bytes // 1024} KiB: fio {result.fio_setting}, {result.fio_bytes_per_s / 1e6:.1f} MB/s; "
        f"ours {result.our_setting}, {result.our_bytes_per_s / 1e6:.1f} MB/s\n"
        f"  ours/fio  {spread(result.ratios)}  {'at least' if result.reached else 'UNDER'} {TARGET}\n"
        f"  fio/fio   {spread(result.null_ratios)}\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="folder on the disk (scratch files are made in it and removed); default: a new temporary one")
    parser.add_argument("--size", default="1GiB", help="bytes of one pass")
    parser.add_argument("--rounds", type=int, default=11, help="rounds of four passes compared and four of fio alone, after one that is dropped")
    parser.add_argument("--repeats", type=int, default=3, help="passes of each setting when the best one is chosen")
    parser.add_argument("--json", type=Path, help="write all ratios into this file")
    parser.add_argument("--smoke", action="store_true", help="a few seconds at a tiny size, to see that it works: the ratios mean nothing")
    asked = parser.parse_args()
    size = parse_size("16MiB" if asked.smoke else asked.size)
    rounds, repeats, dropped = (1, 1, 0) if asked.smoke else (asked.rounds, asked.repeats, 1)
    settings = FIO_SETTINGS[:1] if asked.smoke else FIO_SETTINGS
    try:
        program = fio.require_fio()
        with (
            handling_signals(),
            tempfile.TemporaryDirectory(prefix="probe-vs-fio-") as temporary,
            scratch_files(asked.folder or Path(temporary), size) as place,
        ):
            results = [compare(place, program, request_bytes, rounds, repeats, dropped, settings) for request_bytes in SIZES]
    except StorageBenchError as error:
        say(f"error: {error.message}\nhint: {error.hint}")
        return error.exit_code
    print("".join(show(result) for result in results), end="")
    if asked.json:
        asked.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    return 0 if asked.smoke or all(result.reached for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
