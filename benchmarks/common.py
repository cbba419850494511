"""What the benchmarks share: passes in pairs and their ratios, our side as a run, fio's side, the page cache, and the table at the end.

Not a benchmark itself. A pass reads each byte of a data set once; a comparison is pairs of passes in ABBA order, the first pair dropped, with the
reference against itself beside it. Rates of passes are bytes or samples per second.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from storagebench.errors import StorageBenchError, StorageError
from storagebench.launch import Interrupted, handling_signals
from storagebench.probe import fio
from storagebench.probe.places import PageState
from storagebench.records import rank_traces

CLI = (sys.executable, "-P", "-m", "storagebench")
FINALISTS = 3
WARM_ATTEMPTS = 3


@dataclass(frozen=True)
class Pass:
    """One measurement. `cpu_s_per_gb` is CPU time within what `rate` is of; `tree_cpu_s_per_gb` that of all processes from start to end."""

    rate: float
    cpu_s_per_gb: float | None = None
    tree_cpu_s_per_gb: float | None = None


Reader = Callable[[], Pass]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# Comparing


def choose(readers: Mapping[str, Reader], repeats: int, finalists: int | None = None) -> str:
    """The reader with the best median, all of them in turn, so that a drift of the device meets all alike. With `finalists` only the best so many of
    the first turn are repeated. Raises StorageError where none works."""
    if len(readers) == 1:
        return next(iter(readers))
    rates: dict[str, list[float]] = {name: [] for name in readers}
    names, problem = list(readers), ""
    for turn in range(repeats):
        for name in names if turn % 2 == 0 else reversed(names):
            try:
                rates[name].append(readers[name]().rate)
            except StorageError as error:
                if rates[name]:
                    raise
                problem = error.message
                say(f"  {name} is left out: {problem}")
        names = [name for name in names if rates[name]]
        if turn == 0 and finalists is not None:
            names = sorted(names, key=lambda name: -rates[name][0])[:finalists]
    if not names:
        raise StorageError(f"no setting of the reference works: {problem}", "run it by hand")
    for name, some in rates.items():
        say(f"  {name:<28} {' '.join(f'{rate / 1e6:7.1f}' for rate in sorted(some))} MB/s")
    return max(names, key=lambda name: median(rates[name]))


def abba(a: Reader, b: Reader) -> tuple[float, list[Pass], list[Pass]]:
    """Four passes in the order a b b a: the ratio b/a in which a drift of the device cancels (geometric mean of both pairs), and the passes of each."""
    first, second, third, fourth = a(), b(), b(), a()
    return ((second.rate * third.rate) / (first.rate * fourth.rate)) ** 0.5, [first, fourth], [second, third]


def pair(a: Reader, b: Reader, turn: int) -> tuple[float, list[Pass], list[Pass]]:
    """Two passes, a first in even turns: turn by turn the order is a b b a a b."""
    if turn % 2 == 0:
        first = a()
        second = b()
    else:
        second = b()
        first = a()
    return second.rate / first.rate, [first], [second]


@dataclass(frozen=True)
class Comparison:
    """Ratios are ours/reference and reference/reference, one a round; the passes are those of the rounds that count."""

    name: str
    reference: str
    bound: float | None
    ratios: tuple[float, ...]
    null_ratios: tuple[float, ...]
    theirs: tuple[Pass, ...]
    ours: tuple[Pass, ...]

    @property
    def reached(self) -> bool:
        return self.bound is None or median(self.ratios) >= self.bound

    def show(self, unit: str = "MB/s", scale: float = 1e6) -> str:
        lines = [self.name, f"  {self.reference}: {_rates(self.theirs, unit, scale)}", f"  ours: {_rates(self.ours, unit, scale)}"]
        bound = "" if self.bound is None else f"  {'at least' if self.reached else 'UNDER'} {self.bound}"
        lines.append(f"  ours/reference       {spread(self.ratios)}{bound}")
        if self.null_ratios:
            lines.append(f"  reference/reference  {spread(self.null_ratios)}")
        return "\n".join(lines)


def _rates(passes: Sequence[Pass], unit: str, scale: float) -> str:
    text = f"{median(one.rate for one in passes) / scale:.1f} {unit}"
    for label, values in (("", [one.cpu_s_per_gb for one in passes]), (" with start and end", [one.tree_cpu_s_per_gb for one in passes])):
        known = [value for value in values if value is not None]
        if known:
            text += f", {median(known):.3f} CPU s/GB{label}"
    return text


def compare(
    name: str, reference: str, theirs: Reader, ours: Reader, rounds: int, dropped: int, bound: float | None, whole: bool = False, null: bool = True
) -> Comparison:
    """Rounds of ours against the reference, and beside each one of the reference against itself. The first `dropped` do not count.

    A round is a pair whose order alternates, or with `whole` four passes a b b a.
    """
    ratios: list[float] = []
    nulls: list[float] = []
    their_passes: list[Pass] = []
    our_passes: list[Pass] = []
    for turn in range(-dropped, rounds):
        ratio, a, b = abba(theirs, ours) if whole else pair(theirs, ours, turn)
        null_ratio = (abba(theirs, theirs) if whole else pair(theirs, theirs, turn))[0] if null else None
        say(f"  {name} round {turn + 1}: ours/reference {ratio:.3f}" + ("" if null_ratio is None else f", reference/reference {null_ratio:.3f}"))
        if turn >= 0:
            ratios.append(ratio)
            nulls += [] if null_ratio is None else [null_ratio]
            their_passes += a
            our_passes += b
    return Comparison(name, reference, bound, tuple(ratios), tuple(nulls), tuple(their_passes), tuple(our_passes))


def spread(ratios: Sequence[float]) -> str:
    """Median, quartiles and range."""
    ordered = sorted(ratios)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return f"{median(ordered):.3f}  quartiles {low:.3f} to {high:.3f}  range {ordered[0]:.3f} to {ordered[-1]:.3f}  n {len(ordered)}"


@dataclass(frozen=True)
class AtMost:
    """A figure of ours that has an upper bound of its own, or none (then it is only shown)."""

    name: str
    values: tuple[float, ...]
    bound: float | None

    @property
    def reached(self) -> bool:
        return self.bound is None or median(self.values) <= self.bound

    def show(self) -> str:
        bound = "" if self.bound is None else f"  {'at most' if self.reached else 'OVER'} {self.bound:.3f}"
        return f"  {self.name:<36} {spread(self.values)}{bound}"


def total_cpu(passes: Sequence[Pass]) -> tuple[float, ...]:
    """CPU seconds per GB of each pass that knows it."""
    return tuple(one.cpu_s_per_gb for one in passes if one.cpu_s_per_gb is not None)


# Resting, and the page cache


class Rest:
    """A disk with a limited rate saves up credit while nothing reads it, so it rests equally long before every pass of every side.

    What starts slowly has its rest by that (the median of what was seen); the others wait as long, at least `least_s`.
    """

    def __init__(self, least_s: float = 0.0) -> None:
        self._least_s, self._last_end = least_s, time.monotonic()
        self._leads: dict[str, list[float]] = {}  # of each side, from being started to reading
        self._gaps: dict[str, list[float]] = {}  # of each side, from the last pass to reading, had it not waited
        self._asked = self._started = self._last_end

    def take(self, who: str) -> None:
        """Called before the pass of `who` is started."""
        self._asked = time.monotonic()
        target_s = max(self._least_s, *(median(gaps) for gaps in self._gaps.values()), 0.0)
        time.sleep(max(0.0, target_s - median(self._leads.get(who, [0.0])) - (self._asked - self._last_end)))
        self._started = time.monotonic()

    def note(self, who: str, began: float, ended: float) -> None:
        """When the pass really read, in seconds of CLOCK_MONOTONIC."""
        lead = max(0.0, began - self._started)
        self._leads.setdefault(who, []).append(lead)
        self._gaps.setdefault(who, []).append(self._asked - self._last_end + lead)
        self._last_end = ended


def cold(paths: Sequence[str]) -> None:
    """None of these pages in the cache, proved. Raises StorageError."""
    PageState(paths).drop()


def warm(paths: Sequence[str]) -> None:
    """All of these pages in the cache, proved. Raises StorageError, where they do not stay after several times either."""
    for attempt in range(WARM_ATTEMPTS):
        try:
            return PageState(paths).fill()
        except StorageError:
            if attempt == WARM_ATTEMPTS - 1:
                raise


# Our side


@dataclass(frozen=True)
class DataSet:
    """A data set of ours in a local folder: its shards in order."""

    folder: Path
    num_samples: int
    record_bytes: int
    paths: tuple[str, ...] = field(repr=False)

    @property
    def sizes(self) -> list[int]:
        return [os.stat(path).st_size for path in self.paths]


def data_set(folder: Path, options: Sequence[str]) -> DataSet:
    """The data set in `folder`, generated where it is not there (with these options, on top of the workload `quick`). Raises StorageError."""
    if not (folder / "manifest.json").exists():
        say(f"generating {folder}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = [*CLI, "generate", "quick", "--payload", "bytes", "--record-length-stdev", "0", *options, "--data-dir", str(folder)]
        _checked(command, None)
    manifest = json.loads((folder / "manifest.json").read_text())
    paths = tuple(sorted(str(path) for path in (folder / "shards").rglob("*") if path.is_file()))
    if len(paths) != manifest["num_shards"]:
        raise StorageError(f"{folder} has {len(paths)} files for {manifest['num_shards']} shards", "remove it, and the benchmark makes it again")
    return DataSet(folder, manifest["num_samples"], manifest["record_bytes"], paths)


@dataclass(frozen=True)
class Run:
    """One `storagebench run`: its summary, and when its first epoch began and its last one ended (CLOCK_MONOTONIC)."""

    summary: Mapping[str, Any]
    epoch_start_ns: int
    epoch_end_ns: int
    tree_cpu_s: float

    @property
    def epochs_s(self) -> float:
        """From the start of an epoch to its last batch taken, over all epochs."""
        return float(sum(row["duration_s"] for row in self.summary["per_epoch"]))

    def as_pass(self) -> Pass:
        """Bytes per second of whole epochs."""
        num_bytes = self.summary["delivered_bytes"]
        return Pass(num_bytes / self.epochs_s, self.summary["cpu_s"] / (num_bytes / 1e9), self.tree_cpu_s / (num_bytes / 1e9))


def run_ours(data_dir: str, options: Sequence[str], environment: Mapping[str, str] | None = None) -> Run:
    """Run the workload `quick` without compute, without its own probes. Raises StorageError where it fails or says that its figures are false."""
    with tempfile.TemporaryDirectory(prefix="storagebench-benchmark-") as results:
        command = [
            *CLI, "run", "quick", "--data-dir", data_dir, "--compute-time", "0", "--epochs", "1", "--null-duration", "0", "--headroom-duration", "0",
            "--warmup-steps", "0", "--remainder", "keep", "--verify", "off", *options, "--results-dir", results, "--run-id", "run",
        ]  # fmt: skip
        before = _children_cpu_s()
        _checked(command, environment)
        tree_cpu_s = _children_cpu_s() - before
        summary = json.loads(Path(results, "run", "summary.json").read_text())
        lines = [line for path in rank_traces(Path(results, "run")) for line in path.read_text().splitlines() if '"epoch_end"' in line]
    errors = [finding["message"] for finding in summary["findings"] if finding["severity"] == "error"]
    if summary["status"] != "complete" or errors:
        raise StorageError(
            f"the run over {data_dir} is {summary['status']}: {'; '.join(errors) or 'no error'}", "run it by hand: " + " ".join(command)
        )
    ends = [json.loads(line) for line in lines]
    return Run(summary, min(record["start_ns"] for record in ends), max(record["end_ns"] for record in ends), tree_cpu_s)


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process, of those it has reaped, and of the living below it."""
    root, total = psutil.Process(pid), 0.0
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.Error):  # it ended meanwhile, and its parent has its time
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _checked(command: Sequence[str], environment: Mapping[str, str] | None) -> None:
    done = subprocess.run(command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StorageError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-600:]}", "run it by hand")


def cold_run(data: DataSet, options: Sequence[str], rest: Rest) -> Reader:
    """A pass of ours over all of a local data set, none of it in the page cache before."""

    def read() -> Pass:
        cold(data.paths)
        rest.take("ours")
        run = run_ours(str(data.folder), options)
        rest.note("ours", run.epoch_start_ns / 1e9, run.epoch_end_ns / 1e9)
        if run.summary["samples"] != data.num_samples:
            raise StorageError(f"our pass took {run.summary['samples']} of {data.num_samples} samples", "the comparison would be of unequal work")
        return run.as_pass()

    return read


# fio's side


@dataclass(frozen=True)
class FioSetting:
    """`jobs` threads with `depth` requests of `block_bytes` in flight each (psync: one)."""

    engine: str
    jobs: int
    depth: int
    block_bytes: int

    def __str__(self) -> str:
        return f"{self.engine} {self.jobs} x {self.depth}, {self.block_bytes // 1024} KiB"


class FioFiles:
    """A pass of fio over files, through hard links (so that it needs no list of ten thousand names): each job has files of its own, and reads each of
    their whole blocks once, in the order of `paths` or with `pattern` randread at random over each file."""

    OPEN_FILES = 64  # of a job: files are opened while it reads, as ours are, and no limit of descriptors is met

    def __init__(self, program: str, paths: Sequence[str], scratch: Path, pattern: str, rest: Rest) -> None:
        self._program, self._paths, self._scratch, self._pattern, self._rest = program, paths, scratch, pattern, rest

    def reader(self, setting: FioSetting) -> Reader:
        def read() -> Pass:
            text, expected = self._job_file(setting), self._whole_blocks(setting)
            cold(self._paths)
            self._rest.take("fio")
            done = subprocess.run([self._program, "--readonly", "--output-format=json", "-"], input=text, capture_output=True, text=True, check=False)
            ended = time.monotonic()
            if done.returncode:
                raise StorageError(f"fio ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}", "run fio by hand")
            rate, num_bytes = fio.rate_of(done.stdout)
            self._rest.note("fio", ended - num_bytes / rate, ended)
            if num_bytes != expected:
                raise StorageError(f"fio read {num_bytes} of {expected} bytes in a pass", "the comparison would be of unequal work")
            job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
            cpu_s = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000
            return Pass(rate, cpu_s / (num_bytes / 1e9))

        return read

    def _whole_blocks(self, setting: FioSetting) -> int:
        return sum(size - size % setting.block_bytes for size in (os.stat(path).st_size for path in self._paths))

    def _job_file(self, setting: FioSetting) -> str:
        lines = [
            "[global]", "direct=1", "thread=1", "group_reporting=1", f"rw={self._pattern}", f"bs={setting.block_bytes}", f"ioengine={setting.engine}",
            f"iodepth={setting.depth}", f"openfiles={max(self.OPEN_FILES, setting.depth)}", "filename_format=$filenum", "norandommap=0",
            f"file_service_type={'sequential' if self._pattern == 'read' else 'random'}",
        ]  # fmt: skip
        for job in range(min(setting.jobs, len(self._paths))):
            folder, some = self._scratch / f"{setting.jobs}-{job}", self._paths[job :: setting.jobs]
            if not folder.exists():
                folder.mkdir(parents=True)
                for number, path in enumerate(some):
                    os.link(path, folder / str(number))
            lines += [f"[job{job}]", f"directory={folder}", f"nrfiles={len(some)}"]
        return "\n".join(lines) + "\n"


# A benchmark as a command


def arguments(doc: str | None, folder_help: str, rounds: int = 6) -> argparse.ArgumentParser:
    """The options that each of these commands has."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help=folder_help)
    parser.add_argument("--rounds", type=int, default=rounds, help="pairs that count, after one that is dropped")
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    parser.add_argument("--smoke", action="store_true", help="a few seconds at a tiny size, to see that it works: no bound is asked for")
    return parser


Result = Comparison | AtMost


def finish(results: Iterator[tuple[Result, str]], asked: argparse.Namespace) -> int:
    """Print each result as it comes (with the unit of its rates); 1 where a bound is missed, else 0. Errors are printed, with their exit code."""
    found: list[Result] = []
    try:
        with handling_signals():
            for result, unit in results:
                found.append(result)
                print(result.show(*((unit, 1e6 if unit == "MB/s" else 1.0) if isinstance(result, Comparison) else ())), flush=True)
    except Interrupted as error:
        say("interrupted: servers and scratch files are gone, data sets stay")
        return error.exit_code
    except StorageBenchError as error:
        say(f"error: {error.message}\nhint: {error.hint}")
        return error.exit_code
    if asked.json:
        asked.json.write_text(json.dumps([asdict(result) for result in found], indent=1) + "\n")
    missed = [result.name for result in found if not result.reached]
    if missed and not asked.smoke:
        print(f"missed: {'; '.join(missed)}")
    return 1 if missed and not asked.smoke else 0


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A new folder beside the data sets, gone when the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sb-", dir=folder) as name:
        yield Path(name)
