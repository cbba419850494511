"""The loader `direct` against DLIO 2.0.0 on the very same files, from memory, with two workers and no compute, in pairs.

DLIO reads our npz as they lie (its data folder is a link to the shards): 24 of 20 MB in five epochs, 10,000 of 115 KB in one. It checks the archive's
CRC and hands one constant array to the trainer; ours (`--decode touch`) checksums every byte and hands over all of them. The pages are read in right
before each pass. Samples/s: by DLIO's block stamps and by our trace alike, epochs 2 to 5, or one epoch without its first batch; CPU: all processes,
from the start of the first epoch to the end of the last. The small files are also read by the same release with its one debug line removed (in a copy).
The row `cropped` is the loader `files` on the large ones, decoded to the 2 MiB that DLIO's constant has.

    sh benchmarks/dlio_env.sh /data/dlio && python benchmarks/direct_vs_dlio.py --folder /data --dlio /data/dlio
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path

from common import AtMost, DataSet, Pass, Reader, Result, arguments, compare, data_set, finish, run_ours, say, scratch, tree_cpu_s, warm

from storagebench.errors import StorageError, UsageError

DEBUG_LINE = 'logging.debug(f"{self.global_index_map}")'
WORKERS = 2
LEAST_FROM_CACHE = 0.98
_WORKLOAD = """\
model: peer
framework: pytorch
workflow: {{generate_data: False, train: True}}
dataset: {{data_folder: {folder}, format: npz, num_files_train: {files}, num_samples_per_file: 1, record_length: {length}, record_length_resize: {resize}}}
reader: {{data_loader: pytorch, batch_size: {batch}, read_threads: {workers}, file_shuffle: seed, sample_shuffle: seed}}
train: {{epochs: {epochs}, computation_time: 0.0}}
"""


@dataclass(frozen=True)
class Cell:
    """One data set, and how both sides read it. `resize` is the constant that DLIO hands over, in bytes."""

    name: str
    what: str
    num_samples: int
    record_bytes: int
    batch: int
    epochs: int
    resize: int


LARGE = Cell("npz20x24", "20 MB npz", 24, 20_000_000, 2, 5, 2_097_152)
SMALL = Cell("npz115", "115 KB npz", 10_000, 115_000, 50, 1, 150_528)
SMOKE_LARGE = Cell("smoke-large", "1 MB npz", 4, 1_000_000, 2, 2, 2_097_152)
SMOKE_SMALL = Cell("smoke-small", "115 KB npz", 20, 115_000, 5, 1, 150_528)


class Dlio:
    """The release in a virtual environment, and a copy of it without the debug line."""

    def __init__(self, venv: Path, place: Path) -> None:
        self._program, self._place, self._numbers = venv.absolute() / "bin" / "dlio_benchmark", place, count()
        self._short: dict[str, str] = {}
        packages = sorted(venv.glob("lib/python3*/site-packages/dlio_benchmark"))
        if not self._program.exists() or not packages:
            raise UsageError(f"--dlio {venv} has no DLIO in it", "make it with: sh benchmarks/dlio_env.sh DIR")
        copy = place / "patched" / "dlio_benchmark"
        shutil.copytree(packages[0], copy)
        handler = copy / "reader" / "reader_handler.py"
        lines = handler.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.strip() != DEBUG_LINE]
        if len(lines) - len(kept) != 1:
            raise StorageError(f"{handler} has the debug line {len(lines) - len(kept)} times, not once", "use dlio-benchmark 2.0.0")
        handler.write_text("".join(kept))

    def reader(self, cell: Cell, data: DataSet, patched: bool) -> Reader:
        """A pass of DLIO over a data set. Its data folder has a short name, as the debug line prints all paths each time."""
        folder = self._place / self._short.setdefault(cell.name, str(len(self._short)))
        if not folder.exists():
            (folder / "valid").mkdir(parents=True)
            (folder / "train").symlink_to(data.folder.absolute() / "shards")
            workload = self._place / "conf" / "workload" / f"{cell.name}.yaml"
            workload.parent.mkdir(parents=True, exist_ok=True)
            names = {"folder": folder, "files": cell.num_samples, "length": cell.record_bytes, "resize": cell.resize}
            workload.write_text(_WORKLOAD.format(**names, batch=cell.batch, workers=WORKERS, epochs=cell.epochs))
        return lambda: self._run(cell, data, patched)

    def _run(self, cell: Cell, data: DataSet, patched: bool) -> Pass:
        output = self._place / f"out-{next(self._numbers)}"
        command = [str(self._program), f"--config-dir={self._place / 'conf'}", f"workload={cell.name}", f"++hydra.run.dir={output}"]
        environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        environment.pop("PYTHONPATH", None)  # ours is not DLIO's
        if patched:
            environment["PYTHONPATH"] = str(self._place / "patched")
        warm(data.paths)
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=self._place
        )
        try:
            lines, cpu_s = _watch(process, cell.epochs)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its workers, too
            process.wait()
        if len(cpu_s) != 2:
            raise StorageError(f"DLIO did not finish: {' '.join(lines[-5:])[-600:]}", f"run it by hand: {' '.join(command)}")
        rate = _rate(cell, json.loads((output / "per_epoch_stats.json").read_text()), lines)
        return Pass(rate, (cpu_s[1] - cpu_s[0]) / (cell.epochs * cell.num_samples * cell.record_bytes / 1e9))


def _watch(process: subprocess.Popen[str], epochs: int) -> tuple[list[str], list[float]]:
    """What DLIO says until it ends, and the CPU time of its processes when the first epoch began and the last one ended."""
    assert process.stderr is not None
    lines, cpu_s = [], []
    for line in process.stderr:
        if "Starting epoch 1:" in line or f"Ending epoch {epochs} " in line:
            cpu_s.append(tree_cpu_s(process.pid))
        lines.append(line.strip())
    return lines, cpu_s if process.wait() == 0 else []


def _rate(cell: Cell, stats: dict[str, dict[str, dict[str, str]]], lines: list[str]) -> float:
    """Samples per second by DLIO's stamps: blocks of the epochs after the first, or of the only one after its first batch."""
    if cell.epochs > 1:
        blocks = [stats[str(epoch)]["block1"] for epoch in range(2, cell.epochs + 1)]
        seconds = sum((datetime.fromisoformat(block["end"]) - datetime.fromisoformat(block["start"])).total_seconds() for block in blocks)
        return cell.num_samples * len(blocks) / seconds
    first = next(line for line in lines if " step 1 processed " in line)
    end = datetime.fromisoformat(stats["1"]["block1"]["end"])
    return (cell.num_samples - cell.batch) / (end - datetime.fromisoformat(first.split()[1])).total_seconds()


def our_reader(cell: Cell, data: DataSet, kind: tuple[str, ...], more: list[str]) -> Reader:
    """A pass of ours, with the same stamps; `kind` is the loader and how far it takes a sample."""
    options = [
        *kind, "--cache", "as-is", "--batch-size", str(cell.batch), "--num-workers", str(WORKERS), *more,
        "--epochs", str(cell.epochs), "--warmup-steps", "1",
    ]  # fmt: skip

    def read() -> Pass:
        warm(data.paths)
        run = run_ours(str(data.folder), options)
        if run.summary["samples"] != cell.num_samples * cell.epochs:
            raise StorageError(f"our pass took {run.summary['samples']} samples, not {cell.num_samples * cell.epochs}", "report it")
        served = run.summary["cached_fraction_served"]
        if served is not None and served < LEAST_FROM_CACHE:
            raise StorageError(f"only {served:.1%} of our pass came from the page cache", "free memory, or leave out options that read past it")
        whole = run.as_pass()
        if cell.epochs > 1:
            seconds = sum(row["duration_s"] for row in run.summary["per_epoch"][1:])
            rate = cell.num_samples * (cell.epochs - 1) / seconds
        else:
            rate = run.summary["samples_per_s"]  # behind the one warm-up step
        return Pass(rate, whole.cpu_s_per_gb, whole.tree_cpu_s_per_gb)

    return read


def results(asked: argparse.Namespace, place: Path) -> Iterator[tuple[Result, str]]:
    dlio = Dlio(asked.dlio, place)
    rounds, dropped = (1, 0) if asked.smoke else (asked.rounds, 1)
    large, small = (SMOKE_LARGE, SMOKE_SMALL) if asked.smoke else (LARGE, SMALL)
    more = asked.run_option.split()
    # With null: DLIO against itself, too, which as shipped would take several minutes more.
    direct = ("--loader", "direct", "--decode", "touch")
    cropped = ("--loader", "files", "--decode", "full", "--record-length-resize", str(large.resize))
    rows: dict[str, tuple[Cell, bool, tuple[str, ...], float, float | None, bool]] = {
        "large": (large, False, direct, 1.5, 0.5, True),
        "patched": (small, True, direct, 2.0, 0.5, True),
        "shipped": (small, False, direct, 15.0, None, False),
        "cropped": (large, False, cropped, 1.0, None, False),
    }
    for cell, patched, kind, bound, cpu_bound, null in (rows[name] for name in asked.only or rows):
        made = ("--format", "npz", "--num-samples", str(cell.num_samples), "--record-length", str(cell.record_bytes))
        data = data_set((place if asked.smoke else asked.folder) / cell.name, made)
        release = "DLIO 2.0.0 without its debug line" if patched else "DLIO 2.0.0"
        what = f"{cell.what}, {kind[1]} at --decode {kind[3]}"
        say(f"{what}: {release}")
        ours = our_reader(cell, data, kind, more)
        found = compare(what, release, dlio.reader(cell, data, patched), ours, rounds, dropped, bound, null=null and not asked.smoke)
        yield found, "samples/s"
        both = zip(found.ours, found.theirs, strict=True)
        ratios = tuple(ours.cpu_s_per_gb / theirs.cpu_s_per_gb for ours, theirs in both if ours.cpu_s_per_gb is not None and theirs.cpu_s_per_gb)
        if ratios:
            yield AtMost("CPU s/GB, ours/reference", ratios, cpu_bound), ""


def main() -> int:
    parser = arguments(__doc__, "folder on a local disk, for the data sets (kept for the next time) and what DLIO writes (removed)")
    parser.add_argument("--dlio", type=Path, required=True, help="the environment that dlio_env.sh made")
    parser.add_argument("--run-option", default="", help="more options of ours, in one string, such as '--prefetch-batches 4'")
    parser.add_argument("--only", action="append", choices=("large", "patched", "shipped", "cropped"), help="this comparison; may be given again")
    asked = parser.parse_args()
    with scratch(asked.folder.absolute()) as place:
        return finish(results(asked, place), asked)


if __name__ == "__main__":
    sys.exit(main())
