"""`generate` against the disk's own write speed: fio's best sequential write and `dd`, and with --dlio the generation of DLIO 2.0.0 with two processes.

Sides write as many bytes to new files in the same folder, in pairs in alternating order, the first pair dropped, the reference against itself beside it;
what a pass wrote is removed before the next, which begins when the file system is synced (but many small files only at the end: ext4 without a journal
does not use an inode again for a while, and the search for others then takes most of a core). fio's setting is chosen in a pass of its own over buffered or
direct x engine x jobs x depth, with fsync at the end; `dd` writes zeros with O_DIRECT and fsync. All of ours is on the disk when it ends; what DLIO made
is not. Ours is timed twice in one run: the whole command, and its generation phase.

    python benchmarks/generation.py --folder /data
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path

from common import Comparison, Pass, Reader, Result, arguments, choose, compare, finish, say, scratch

from storagebench.errors import StorageError, UsageError
from storagebench.probe.fio import require_fio
from storagebench.units import parse_size

SETTLE_S = 3.0  # the same before each pass: the disk may save up credit while nothing is written
PHASE_BOUND, DLIO_PHASE_BOUND, DLIO_WHOLE_BOUND = 0.85, 2.0, 5.0
DLIO_FILES, DLIO_PROCESSES = 48, 2
# The command, with its generation phase timed in its own process.
_TIMED = """
import sys, time
from storagebench import build, cli
generate = build.generate
def timed(*arguments, **named):
    begin = time.monotonic()
    try:
        return generate(*arguments, **named)
    finally:
        print("generation_s", time.monotonic() - begin, file=sys.stderr)
build.generate = timed
cli.main()
"""
_WORKLOAD = """\
model: peer
framework: pytorch
workflow: {{generate_data: True, train: False}}
dataset: {{data_folder: {folder}, format: npz, num_files_train: {files}, num_samples_per_file: 1, record_length: {length}, record_length_resize: 2097152}}
reader: {{data_loader: pytorch, batch_size: 2, read_threads: 2, file_shuffle: seed, sample_shuffle: seed}}
train: {{epochs: 1, computation_time: 0.0}}
"""


@dataclass(frozen=True)
class Cell:
    """A data set to make. `bound`: what its generation phase must reach of fio's rate, None where it is only shown."""

    name: str
    options: tuple[str, ...]
    record_bytes: int
    bound: float | None

    def num_samples(self, num_bytes: int) -> int:
        return max(2, num_bytes // self.record_bytes)


LARGE = Cell("npz of 20 MB", ("--format", "npz"), 20_000_000, PHASE_BOUND)
SHARDS = Cell("webdataset of 115 KB, 500 a shard", ("--format", "webdataset", "--samples-per-shard", "500"), 115_000, PHASE_BOUND)
SMALL = Cell("npz of 115 KB (for information)", ("--format", "npz"), 115_000, None)
ROWS: dict[str, Cell | None] = {"npz20": LARGE, "wds115": SHARDS, "npz115": SMALL, "dd": None, "dlio": None}


@dataclass(frozen=True)
class WriteSetting:
    """How fio writes: `jobs` threads with a file each and `depth` requests of `block` in flight each (psync: one)."""

    direct: bool
    engine: str
    jobs: int
    depth: int
    block: str

    def __str__(self) -> str:
        return f"{'direct' if self.direct else 'buffered'} {self.engine} {self.jobs} x {self.depth}, {self.block}"


FIO_SETTINGS = (
    WriteSetting(False, "psync", 1, 1, "1m"),
    WriteSetting(False, "psync", 4, 1, "1m"),
    *(
        WriteSetting(True, engine, jobs, depth, block)
        for engine, jobs, depth in (("psync", 1, 1), ("psync", 4, 1), ("psync", 8, 1), ("libaio", 1, 16), ("io_uring", 1, 8), ("io_uring", 4, 8))
        for block in ("1m", "4m")
    ),
)


class Side:
    """Passes that write below a folder of their own each, which is gone before the next begins."""

    def __init__(self, place: Path) -> None:
        self._place, self._numbers = place, count()

    def pass_of(self, write: Callable[[Path], Pass], keep: bool = False) -> Pass:
        """With `keep` what it wrote stays until `place` goes."""
        os.sync()
        time.sleep(SETTLE_S)
        prefix = f"pass{next(self._numbers)}-"
        if keep:
            return write(Path(tempfile.mkdtemp(prefix=prefix, dir=self._place)))
        with tempfile.TemporaryDirectory(prefix=prefix, dir=self._place) as folder:
            return write(Path(folder))


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[subprocess.CompletedProcess[str], float, float]:
    """What it said, seconds and CPU seconds of it all. Raises StorageError where it fails."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False)
    seconds, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        words = (done.stderr or done.stdout).strip()[-400:]
        raise StorageError(f"{command[0]} ended with {done.returncode}: {words}", f"run it by hand: {' '.join(command)}")
    return done, seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Ours:
    """Passes of `generate`: `phase` gives the rate of the generation phase, and the whole commands' are kept in `whole`."""

    def __init__(self, side: Side, cell: Cell, num_bytes: int) -> None:
        self._side, self._cell, self._num_samples = side, cell, cell.num_samples(num_bytes)
        self.whole: list[Pass] = []

    def phase(self) -> Pass:
        """Bytes per second of the generation phase; that of the whole command goes to `whole`."""
        return self._side.pass_of(self._write, keep=self._cell is SMALL)

    def _write(self, folder: Path) -> Pass:
        cell = self._cell
        command = [
            sys.executable, "-P", "-c", _TIMED, "generate", "quick", "--payload", "bytes", *cell.options, "--num-samples", str(self._num_samples),
            "--record-length", str(cell.record_bytes), "--record-length-stdev", "0", "--data-dir", str(folder / "data"), "--json",
        ]  # fmt: skip
        done, seconds, cpu_s = _run(command)
        made, found = json.loads(done.stdout), re.search(r"generation_s ([0-9.]+)", done.stderr)
        if found is None or made["num_samples"] != self._num_samples:
            raise StorageError(f"generate made {made['num_samples']} of {self._num_samples} samples", "report it")
        num_bytes = made["stored_bytes"]
        self.whole.append(Pass(num_bytes / seconds, cpu_s / (num_bytes / 1e9)))
        return Pass(num_bytes / float(found.group(1)), cpu_s / (num_bytes / 1e9))


def fio_writer(side: Side, program: str, setting: WriteSetting, num_bytes: int) -> Reader:
    """A pass of fio: so many bytes to one new file a job, fsync at the end included."""
    per_job = num_bytes // setting.jobs // 2**22 * 2**22 or 2**22
    options = [
        "--rw=write", "--thread=1", "--group_reporting=1", "--end_fsync=1", "--fallocate=native", "--refill_buffers=0", "--output-format=json",
        f"--direct={int(setting.direct)}", f"--ioengine={setting.engine}", f"--iodepth={setting.depth}", f"--numjobs={setting.jobs}",
        f"--bs={setting.block}", f"--size={per_job}", "--filename_format=fio-$jobnum", "--name=write",
    ]  # fmt: skip

    def write(folder: Path) -> Pass:
        done, _, cpu_s = _run([program, *options, f"--directory={folder}"])
        written = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]["write"]
        if written["io_bytes"] != per_job * setting.jobs:
            raise StorageError(f"fio wrote {written['io_bytes']} of {per_job * setting.jobs} bytes", "the comparison would be of unequal work")
        return Pass(float(written["bw_bytes"]), cpu_s / (written["io_bytes"] / 1e9))

    return lambda: side.pass_of(write)


def dd_writer(side: Side, num_bytes: int) -> Reader:
    """A pass of dd: zeros to one file, O_DIRECT and fsync."""
    blocks = max(1, num_bytes // 2**22)

    def write(folder: Path) -> Pass:
        options = [f"of={folder / 'dd'}", "if=/dev/zero", "bs=4M", f"count={blocks}", "oflag=direct", "conv=fsync"]
        _, seconds, cpu_s = _run(["dd", *options])
        return Pass(blocks * 2**22 / seconds, cpu_s / (blocks * 2**22 / 1e9))

    return lambda: side.pass_of(write)


class Dlio:
    """Passes of DLIO's generation with two processes: its phase by its own stamps, and the whole command."""

    def __init__(self, side: Side, venv: Path, record_bytes: int, files: int) -> None:
        self._side, self._program, self._record_bytes, self._files = side, venv.absolute() / "bin" / "dlio_benchmark", record_bytes, files
        self.whole: list[Pass] = []
        if not self._program.exists():
            raise UsageError(f"--dlio {venv} has no DLIO in it", "make it with: sh benchmarks/dlio_env.sh DIR")

    def phase(self) -> Pass:
        return self._side.pass_of(self._write)

    def _write(self, folder: Path) -> Pass:
        workload = folder / "conf" / "workload" / "made.yaml"
        workload.parent.mkdir(parents=True)
        workload.write_text(_WORKLOAD.format(folder=folder / "data", files=self._files, length=self._record_bytes))
        command = [
            "mpirun", "-n", str(DLIO_PROCESSES), "--bind-to", "none", str(self._program), f"--config-dir={folder / 'conf'}", "workload=made",
            f"++hydra.run.dir={folder / 'out'}",
        ]  # fmt: skip
        environment = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "PYTHONPATH": ""}
        _, seconds, cpu_s = _run(command, environment)
        sizes = [path.stat().st_size for path in (folder / "data" / "train").iterdir()]
        if len(sizes) != self._files:
            raise StorageError(f"DLIO made {len(sizes)} of {self._files} files", "run it by hand")
        log = (folder / "out" / "dlio.log").read_text()
        begin, end = (_stamp(log, what) for what in ("Starting data generation", "Generation done"))
        self.whole.append(Pass(sum(sizes) / seconds, cpu_s / (sum(sizes) / 1e9)))
        return Pass(sum(sizes) / (end - begin).total_seconds(), cpu_s / (sum(sizes) / 1e9))


def _stamp(log: str, what: str) -> datetime:
    found = re.search(rf"(\S+) {what}", log)
    if found is None:
        raise StorageError(f"DLIO's log does not say {what!r}", "use dlio-benchmark 2.0.0")
    return datetime.fromisoformat(found.group(1))


def whole_command(name: str, reference: str, bound: float | None, theirs: Sequence[Pass], ours: Sequence[Pass]) -> Comparison:
    """The whole command of the very passes that were compared by their phases."""
    ratios = tuple(b.rate / a.rate for a, b in zip(theirs, ours, strict=True))
    return Comparison(f"{name}, whole command", reference, bound, ratios, (), tuple(theirs), tuple(ours))


def against(
    cell: Cell, reference: str, theirs: Reader, ours: Ours, rounds: int, dropped: int, bound: float | None, null: bool
) -> Iterator[tuple[Result, str]]:
    """The generation phase, then the whole command, against the same passes of a reference that has no start to speak of."""
    ours.whole.clear()
    found = compare(f"{cell.name}, generation phase", reference, theirs, ours.phase, rounds, dropped, bound, null=null)
    yield found, "MB/s"
    yield whole_command(cell.name, reference, None, found.theirs, ours.whole[dropped:]), "MB/s"


def against_fio(side: Side, cells: Sequence[Cell], num_bytes: int, smoke: bool, rounds: int, dropped: int) -> Iterator[tuple[Result, str]]:
    """Each data set against fio's best setting, which is chosen first."""
    program, settings = require_fio(), FIO_SETTINGS[-1:] if smoke else FIO_SETTINGS
    say("fio's settings (threads x depth, block)")
    writers = {str(setting): fio_writer(side, program, setting, num_bytes) for setting in settings}
    best = choose(writers, 1 if smoke else 3, finalists=3)
    for cell in cells:
        ours = Ours(side, cell, min(num_bytes, parse_size("500MB")) if cell is SMALL else num_bytes)
        yield from against(cell, f"fio {best}", writers[best], ours, rounds, dropped, cell.bound, not smoke and cell is not SMALL)


def results(asked: argparse.Namespace, place: Path) -> Iterator[tuple[Result, str]]:
    side, wanted = Side(place), asked.only or tuple(ROWS)
    num_bytes = parse_size("32MB" if asked.smoke else asked.size)
    rounds, dropped = (1, 0) if asked.smoke else (asked.rounds, 1)
    cells = [cell for name, cell in ROWS.items() if cell is not None and name in wanted]
    if cells:
        yield from against_fio(side, cells, num_bytes, asked.smoke, rounds, dropped)
    if "dd" in wanted:
        yield from against(LARGE, "dd direct, 4M", dd_writer(side, num_bytes), Ours(side, LARGE, num_bytes), rounds, dropped, None, False)
    if "dlio" in wanted and asked.dlio:
        cell, files = LARGE, 4 if asked.smoke else DLIO_FILES
        dlio, ours = Dlio(side, asked.dlio, cell.record_bytes, files), Ours(side, cell, files * cell.record_bytes)
        reference = f"DLIO 2.0.0, {DLIO_PROCESSES} processes, not synced"
        found = compare(f"{cell.name}, generation phase", reference, dlio.phase, ours.phase, rounds, dropped, DLIO_PHASE_BOUND, null=False)
        yield found, "MB/s"
        yield whole_command(cell.name, reference, DLIO_WHOLE_BOUND, dlio.whole[dropped:], ours.whole[dropped:]), "MB/s"


def main() -> int:
    parser = arguments(__doc__, "folder on the disk; all that is written there is removed", rounds=7)
    parser.add_argument("--size", default="4GB", help="bytes of one pass")
    parser.add_argument("--only", action="append", choices=tuple(ROWS), help="this row; may be given again")
    parser.add_argument("--dlio", type=Path, help="the environment that dlio_env.sh made: DLIO's generation beside ours")
    asked = parser.parse_args()
    with scratch(asked.folder.absolute()) as place:
        return finish(results(asked, place), asked)


if __name__ == "__main__":
    sys.exit(main())
