"""Is the number that `search` finds right on a real disk: free, and with its reads throttled by the kernel (cgroup v1 blkio or v2 io.max; root)?

For each: what the loader gets from the disk when nothing computes (bytes/s, five accelerators), then a compute time with which between 4 and 5 accelerators
are kept busy by that (closed form A2: N = B c / (b x threshold) = 4.5), then `search`, and after it ten runs each with the N that it found and with N + 2, in
turns. Of these, eight must meet the threshold and eight must miss it. Runs that are invalid count for neither. Exit code 1 where a bound is missed.

What the disk gives may drift between the parts (a disk of limited rate saves up credit while it rests); the search sees the disk as it is then.

    python benchmarks/search_disk.py --folder DIR [--only free] [--only throttled] [--duration 10] [--runs 10] [--json FILE]    (16 minutes)
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from common import CLI, DataSet, data_set, say
from known_rates import NoRig, cgroup, whole_disk

from storagebench.errors import StorageBenchError, StorageError
from storagebench.launch import handling_signals

MiB = 2**20
THRESHOLD, TARGET = 0.9, 4.5
FILE_BYTES, NPY_HEADER_BYTES = MiB, 128
WARMUP_STEPS, PREFETCH, WORKERS, READERS = 8, 2, 2, 5
BATCH = {"free": 16, "throttled": 2}
ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
AT_LEAST = 0.8


@dataclass(frozen=True)
class Row:
    """A mode's answer. `meets` and `misses`: AU of the runs at N and at N + 2; `search` the search's own result."""

    mode: str
    bytes_per_s: float
    compute_s: float
    search: Mapping[str, Any]
    search_s: float
    meets: tuple[float, ...]
    misses: tuple[float, ...]
    runs: int

    @property
    def found(self) -> int:
        return int(self.search["answer"]["best"])

    @property
    def counts(self) -> tuple[int, int]:
        return sum(au >= THRESHOLD for au in self.meets), sum(au < THRESHOLD for au in self.misses)

    @property
    def passed(self) -> bool:
        return 3 <= self.found <= 6 and min(self.counts) >= AT_LEAST * self.runs

    def show(self) -> str:
        met, missed = self.counts
        answer, n = self.search["answer"], self.found
        tried = sum(len(point["au"]) for point in self.search["points"])
        return (
            f"{self.mode}: {self.bytes_per_s / 1e6:.0f} MB/s, {self.compute_s * 1e3:.1f} ms a step; search: {answer['state']}, {n} accelerators "
            f"({tried} runs in {self.search_s:.0f} s; knee {_knee(self.search)}; in the way: {self.search['resource']})\n"
            f"  with {n:>2}: {met} of {self.runs} meet {THRESHOLD}   AU {_range(self.meets)}\n"
            f"  with {n + 2:>2}: {missed} of {self.runs} miss {THRESHOLD}   AU {_range(self.misses)}   {'ok' if self.passed else 'MISSED'}"
        )


def _knee(search: Mapping[str, Any]) -> str:
    return "none" if search["knee"] is None else f"{search['knee']['accelerators']:.2f} at {search['knee']['plateau'] / 1e6:.0f} MB/s"


def _range(values: Sequence[float]) -> str:
    return f"{median(values):.3f} ({min(values):.3f} to {max(values):.3f})" if values else "-"


@dataclass(frozen=True)
class Job:
    """A mode's commands: `enter` goes before each of them."""

    mode: str
    enter: tuple[str, ...]
    data: DataSet
    results: Path
    seconds: float

    def settings(self, compute_s: float) -> list[str]:
        return [
            "quick", "--data-dir", str(self.data.folder), "--loader", "direct", "--cache", "direct", "--decode", "none", "--batch-size",
            str(BATCH[self.mode]), "--num-workers", str(WORKERS), "--io-depth", "4", "--prefetch-batches", str(PREFETCH), "--warmup-steps",
            str(WARMUP_STEPS), "--duration", f"{self.seconds}s", "--epochs", "1000", "--compute-time", f"{compute_s:.9f}s", "--au-threshold",
            str(THRESHOLD), "--accelerators-per-process", "64", "--null-duration", "0.5", "--results-dir", str(self.results), "--json",
        ]  # fmt: skip

    def run(self, compute_s: float, accelerators: int, *more: str) -> Mapping[str, Any]:
        """The summary of one run, also of an invalid one."""
        name = f"run-{time.monotonic_ns()}"
        return self._call(["run", *self.settings(compute_s), "--num-accelerators", str(accelerators), "--run-id", name, *more], (0, 6))

    def search(self, compute_s: float, *more: str) -> Mapping[str, Any]:
        return self._call(["search", *self.settings(compute_s), "--max-accelerators", "32", *more], (0, 7))

    def _call(self, arguments: Sequence[str], codes: Sequence[int]) -> Mapping[str, Any]:
        done = subprocess.run([*self.enter, *CLI, *arguments], capture_output=True, text=True, check=False)
        if done.returncode not in codes:
            raise StorageError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()[-600:]}", "run it by hand")
        return dict(json.loads(done.stdout))


@contextmanager
def rig(mode: str, folder: Path, rate: int) -> Iterator[tuple[str, ...]]:
    """What goes before a command in this mode. Raises NoRig."""
    if mode == "free":
        yield ()
        return
    with cgroup(whole_disk(folder), rate) as group:
        yield ("sh", "-c", ENTER, str(group))


def measure(job: Job, runs: int, more: Sequence[str]) -> Row:
    """The rate, the search, and the runs that judge it."""
    free = job.run(0.0, READERS, "--headroom-duration", "0")
    rate = float(free["delivered_bytes_per_s"])
    batch_bytes = BATCH[job.mode] * job.data.record_bytes / job.data.num_samples
    compute_s = TARGET * THRESHOLD * batch_bytes / rate
    say(f"{job.mode}: {rate / 1e6:.0f} MB/s, so {compute_s * 1e3:.1f} ms a step")
    begin = time.monotonic()
    search = job.search(compute_s, "--search-id", f"search-{time.monotonic_ns()}", *more)
    search_s = time.monotonic() - begin
    best = search["answer"]["best"]
    say(f"{job.mode}: {search['answer']}")
    found: dict[int, list[float]] = {best: [], best + 2: []}
    for turn in range(runs if best else 0):
        for n in found if turn % 2 == 0 else reversed(found):
            summary = job.run(compute_s, n)
            wrong = [finding["message"] for finding in summary["findings"] if finding["severity"] == "error"]
            found[n] += [] if wrong else [summary["au_nominal"]]
            say(f"  {n} accelerators: AU {summary['au_nominal']:.3f}{' INVALID: ' + wrong[0] if wrong else ''}")
    return Row(job.mode, rate, compute_s, search, search_s, tuple(found[best]), tuple(found[best + 2]), runs)


def main() -> int:
    asked = _parser().parse_args()
    seconds, runs, files = (1.5, 2, 256) if asked.smoke else (asked.duration, asked.runs, asked.files)
    more = ["--confidence", "0.75", "--confirmations", "2"] if asked.smoke else []
    rows: list[Row] = []
    try:
        with handling_signals():
            options = ["--format", "npy", "--num-samples", str(files), "--record-length", str(FILE_BYTES - NPY_HEADER_BYTES)]
            data = data_set(asked.folder / f"npy-{files}", options)
            for mode in asked.only or ["free", "throttled"]:
                try:
                    with rig(mode, asked.folder, asked.rate * MiB) as enter:
                        rows.append(measure(Job(mode, enter, data, asked.folder / "results", seconds), runs, more))
                        print(rows[-1].show(), flush=True)
                except NoRig as error:
                    say(f"{mode} is left out: {error}")
    except StorageBenchError as error:
        say(f"error: {error.message}\nhint: {error.hint}")
        return error.exit_code
    if asked.json is not None:
        asked.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0 if asked.smoke or (rows and all(row.passed for row in rows)) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="on the disk: the data set (4 GiB) and the run folders are made there, and kept")
    parser.add_argument("--only", choices=["free", "throttled"], action="append", help="may be given twice")
    parser.add_argument("--rate", type=int, default=100, metavar="MIB", help="MiB/s of the throttled disk")
    parser.add_argument("--duration", type=float, default=10.0, metavar="SECONDS", help="of one run")
    parser.add_argument("--runs", type=int, default=10, help="so many with N and with N + 2")
    parser.add_argument("--files", type=int, default=4096, help="files of 1 MiB in the data set")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--smoke", action="store_true", help="short runs, two of each: does it work; no bound is judged")
    return parser


if __name__ == "__main__":
    sys.exit(main())
