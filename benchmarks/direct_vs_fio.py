"""The loader `direct` against fio's best on the same local files, cold, in pairs; and the CPU time that it takes per GB, at each decode level.

fio's setting (engine x jobs x depth x block) is chosen in a pass of its own and then fixed: sequential reads of the large files, one read of each small
file, random reads of 128 KiB of the tar shards. Both sides read each byte once with nothing of it in the page cache; fio leaves out the end of a file
that is no whole block. Ours is one epoch of `storagebench run`, from its start to the last batch taken, small samples shuffled (fio has the small
files in a random order, too).

    python benchmarks/direct_vs_fio.py --folder /data       (data sets npz20, npz147, npz115, npy115, wds115 there, made where they are not)
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from common import (
    FINALISTS,
    AtMost,
    DataSet,
    FioFiles,
    FioSetting,
    Pass,
    Reader,
    Rest,
    Result,
    arguments,
    choose,
    cold_run,
    compare,
    data_set,
    finish,
    scratch,
    total_cpu,
)

from storagebench.probe import fio

KiB, MiB = 2**10, 2**20
LEVELS = ("touch", "parse", "full")
DEEP = tuple((engine, jobs, depth) for engine in ("libaio", "io_uring") for jobs, depth in ((1, 8), (1, 32), (4, 8), (4, 32)))
THREADS = tuple(("psync", jobs, 1) for jobs in (1, 4, 8))
LEAST_REST_S = 1.0


@dataclass(frozen=True)
class Cell:
    """One data set: how it is generated, how fio reads it (`blocks` in bytes, None: one block a file), what ours is told, and the bounds."""

    name: str
    what: str
    generate: tuple[str, ...]
    pattern: str
    blocks: tuple[int | None, ...]
    run: tuple[str, ...]
    bound: float
    cpu_bound: float | None


def _made(form: str, num_samples: int, record_bytes: int) -> tuple[str, ...]:
    return ("--format", form, "--num-samples", str(num_samples), "--record-length", str(record_bytes), "--samples-per-shard", "500")


LARGE, SMALL = ("--set", "loader.shuffle=false", "--batch-size"), ("--batch-size", "64")
BLOCKS = (MiB, 256 * KiB, 4 * MiB)
CELLS = (
    Cell("npz20", "20 MB npz", _made("npz", 100, 20_000_000), "read", BLOCKS, (*LARGE, "4"), 0.95, 0.25),
    Cell("npz147", "147 MB npz", _made("npz", 14, 147_000_000), "read", BLOCKS, (*LARGE, "1"), 0.95, None),
    Cell("npz115", "115 KB npz", _made("npz", 10_000, 115_000), "read", (None,), SMALL, 0.90, 0.5),
    Cell("npy115", "115 KB npy", _made("npy", 10_000, 115_000), "read", (None,), SMALL, 0.90, 0.5),
    Cell("wds115", "115 KB in tar", _made("webdataset", 10_000, 115_000), "randread", (128 * KiB,), SMALL, 0.90, 0.5),
)
SMOKE = (
    Cell("smoke-npz", "1 MB npz", _made("npz", 4, 1_000_000), "read", (MiB // 4,), (*LARGE, "1"), 0.95, 0.25),
    Cell("smoke-npy", "115 KB npy", _made("npy", 16, 115_000), "read", (None,), SMALL, 0.90, 0.5),
    Cell("smoke-wds", "115 KB in tar", _made("webdataset", 16, 115_000), "randread", (64 * KiB,), SMALL, 0.90, 0.5),
)


def settings(cell: Cell, data: DataSet, block: int | None, smoke: bool) -> list[FioSetting]:
    """All engines x jobs x depths at a block size."""
    if block is None:
        block = min(data.sizes) // (4 * KiB) * 4 * KiB
    rows = (("psync", 2, 1),) if smoke else (*THREADS, *DEEP)
    return [FioSetting(*row, block) for row in rows]


def fio_best(cell: Cell, data: DataSet, files: FioFiles, smoke: bool) -> FioSetting:
    """Engine, jobs and depth at the first block size; then the other block sizes with the best of them."""
    by_name = {str(setting): setting for setting in settings(cell, data, cell.blocks[0], smoke)}
    best = by_name[choose({name: files.reader(setting) for name, setting in by_name.items()}, 3, FINALISTS)]
    if len(cell.blocks) == 1:
        return best
    others = [FioSetting(best.engine, best.jobs, best.depth, block) for block in cell.blocks if block is not None]
    by_name = {str(setting): setting for setting in others}
    return by_name[choose({name: files.reader(setting) for name, setting in by_name.items()}, 2)]


def level_cost(level: str, read: Reader, times: int) -> Iterator[tuple[Result, str]]:
    passes: list[Pass] = [read() for _ in range(times)]
    yield AtMost(f"CPU s/GB at --decode {level} ({median(one.rate for one in passes) / 1e6:.0f} MB/s)", total_cpu(passes), None), ""


def results(asked: argparse.Namespace, place: Path) -> Iterator[tuple[Result, str]]:
    program = fio.require_fio()
    for cell in SMOKE if asked.smoke else CELLS:
        if asked.only and cell.name not in asked.only:
            continue
        data = data_set((place if asked.smoke else asked.folder) / cell.name, cell.generate)
        paths = list(data.paths)
        if cell.blocks == (None,):
            random.Random(0).shuffle(paths)
        rest = Rest(0.0 if asked.smoke else LEAST_REST_S)
        files = FioFiles(program, paths, place / f"links-{cell.name}", cell.pattern, rest)
        print(f"{cell.what}: {data.num_samples} samples, {sum(data.sizes) / 1e6:.0f} MB in {len(paths)} files", file=sys.stderr, flush=True)
        best = fio_best(cell, data, files, asked.smoke)
        common_options = ("--loader", "direct", "--cache", asked.cache, *cell.run, *asked.run_option.split())
        ours = cold_run(data, (*common_options, "--decode", "none"), rest)
        rounds, dropped = (1, 0) if asked.smoke else (asked.rounds, 1)
        found = compare(cell.what, f"fio {best}", files.reader(best), ours, rounds, dropped, cell.bound, null=not asked.smoke)
        yield found, "MB/s"
        yield AtMost("CPU s/GB at --decode none", total_cpu(found.ours), cell.cpu_bound), ""
        for level in () if cell.cpu_bound is None else LEVELS[:1] if asked.smoke else LEVELS:
            reader = cold_run(data, (*common_options, "--decode", level), rest)
            yield from level_cost(level, reader, 1 if asked.smoke else 3)


def main() -> int:
    parser = arguments(__doc__, "folder on the disk, for the data sets (kept for the next time) and links to their files (removed)")
    parser.add_argument("--cache", default="direct", choices=("direct", "cold"), help="what ours is told; nothing is in the page cache either way")
    parser.add_argument("--run-option", default="", help="more options of ours, in one string, such as '--num-workers 4'")
    parser.add_argument("--only", action="append", choices=[cell.name for cell in CELLS], help="only these data sets")
    asked = parser.parse_args()
    with scratch(asked.folder) as place:
        return finish(results(asked, place), asked)


if __name__ == "__main__":
    sys.exit(main())
