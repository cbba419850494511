"""fio beside our own prober, as a program: the same files, read-only, O_DIRECT, over engines x jobs x depth. Nothing of fio is in here but its options.

Each job has a stretch of the data of its own, so that one pass of all jobs reads each byte once.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from storagebench.errors import StorageError, UsageError
from storagebench.probe.cells import ramp_of
from storagebench.probe.plan import Group, align
from storagebench.probe.search import FINALISTS, REPEATS

MAX_FILES = 64
_LIMIT_S = 600.0


class Setting(NamedTuple):
    """How fio reads: `jobs` threads with `depth` requests in flight each (psync: one)."""

    engine: str
    jobs: int
    depth: int


SETTINGS = (
    Setting("psync", 4, 1),
    Setting("psync", 16, 1),
    Setting("libaio", 1, 32),
    Setting("libaio", 4, 8),
    Setting("io_uring", 1, 32),
    Setting("io_uring", 4, 8),
)


class Stretch(NamedTuple):
    """Files, and the part of each that one job reads (bytes)."""

    paths: tuple[str, ...]
    offset: int
    num_bytes: int


@dataclass(frozen=True)
class FioCeiling:
    """fio's best median setting for a group, and its runs (bytes per second). `covered_bytes`: what its files hold of the data."""

    group: Group
    setting: Setting
    bytes_per_s: float
    rates: tuple[float, ...]
    covered_bytes: int


def find_fio() -> str | None:
    """The program's path, or None where it is not installed."""
    return shutil.which("fio")


def require_fio() -> str:
    """Raises UsageError where fio is not installed."""
    found = find_fio()
    if found is None:
        raise UsageError("--fio was given, and fio is not installed", "apt-get install fio, or leave --fio out")
    return found


def usable(paths: Sequence[str], sizes: Sequence[int], request_bytes: int) -> tuple[list[str], list[int]]:
    """The files that fio can read with this request size, at most 64: the largest ones."""
    rows = sorted((row for row in zip(sizes, paths, strict=True) if row[0] >= request_bytes), reverse=True)[:MAX_FILES]
    return [path for _, path in rows], [size for size, _ in rows]


def stretches(paths: Sequence[str], sizes: Sequence[int], jobs: int, request_bytes: int) -> list[Stretch]:
    """Disjoint parts of the files for so many jobs (fewer where there is not a request for each), together all whole requests of the files.

    With at least as many files as jobs each job has whole files; otherwise the files are cut.
    """
    if len(paths) >= jobs:
        return [Stretch(tuple(paths[job::jobs]), 0, sum(size - size % request_bytes for size in sizes[job::jobs])) for job in range(jobs)]
    found = []
    for index, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        parts = jobs // len(paths) + (1 if index < jobs % len(paths) else 0)
        num_requests = size // request_bytes
        bounds = [num_requests * part // parts * request_bytes for part in range(parts + 1)]
        found += [Stretch((path,), low, high - low) for low, high in pairwise(bounds) if high > low]
    return found


def job_file(group: Group, setting: Setting, parts: Sequence[Stretch], seconds: float | None) -> str:
    """The text of a fio job file. `seconds` None: one pass, whole; otherwise so long after a ramp."""
    lines = [
        "[global]",
        "direct=1",
        "thread=1",
        "group_reporting=1",
        "invalidate=1",
        f"rw={'read' if group.pattern == 'sequential' else 'randread'}",
        f"bs={group.request_bytes}",
        f"ioengine={setting.engine}",
        f"iodepth={setting.depth}",
    ]
    if seconds is not None:
        lines += ["time_based=1", f"runtime={round(seconds * 1000)}ms", f"ramp_time={round(ramp_of(seconds) * 1000)}ms"]
    for number, part in enumerate(parts):
        names = ":".join(path.replace(":", "\\:") for path in part.paths)
        lines += [f"[job{number}]", f"filename={names}", f"offset={part.offset}", f"size={part.num_bytes}"]
    return "\n".join(lines) + "\n"


def rate_of(output: str) -> tuple[float, int]:
    """(bytes per second, bytes read) in fio's JSON output, which may have warnings before it. Raises StorageError where it is something else."""
    try:
        read = json.loads(output[output.index("{") :])["jobs"][0]["read"]
        return float(read["bw_bytes"]), int(read["io_bytes"])
    except (ValueError, KeyError, IndexError, TypeError):
        raise StorageError(f"fio gave no result that can be read: {output.strip()[:200]!r}", "run fio by hand, or leave --fio out") from None


def read_once(fio: str, group: Group, setting: Setting, parts: Sequence[Stretch], seconds: float | None) -> tuple[float, int]:
    """Run fio; (bytes per second, bytes read). Raises StorageError with fio's own words where it fails."""
    command = [fio, "--readonly", "--output-format=json", "-"]
    try:
        result = subprocess.run(
            command, input=job_file(group, setting, parts, seconds), capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StorageError(f"fio failed: {error}", "run fio by hand, or leave --fio out") from None
    if result.returncode != 0:
        words = (result.stderr or result.stdout).strip().splitlines()
        raise StorageError(f"fio ended with exit code {result.returncode}: {words[-1] if words else 'no message'}", "leave --fio out")
    return rate_of(result.stdout)


def fio_ceiling(
    fio: str, group: Group, paths: Sequence[str], sizes: Sequence[int], seconds: float, done: Callable[[Setting, float], None]
) -> FioCeiling | None:
    """fio's best median for a direct read group, found like our own: all settings once, the best two repeated. None where no file is large enough.

    An engine that this fio or kernel does not have is left out; StorageError where none works.
    """
    request_bytes = align(group.request_bytes)
    some_paths, some_sizes = usable(paths, sizes, request_bytes)
    if not some_paths:
        return None
    rates: dict[Setting, list[float]] = {}
    problem: StorageError | None = None

    def one(setting: Setting) -> None:
        parts = stretches(some_paths, some_sizes, setting.jobs, request_bytes)
        rate, _ = read_once(fio, group._replace(request_bytes=request_bytes), setting, parts, seconds)
        rates.setdefault(setting, []).append(rate)
        done(setting, rate)

    for setting in SETTINGS:
        try:
            one(setting)
        except StorageError as error:
            problem = error
    if not rates:
        raise problem or StorageError("fio read nothing", "leave --fio out")
    finalists = sorted(rates, key=lambda setting: -rates[setting][0])[:FINALISTS]
    for _ in range(REPEATS):
        for setting in finalists:
            one(setting)
    best = max(finalists, key=lambda setting: median(rates[setting]))
    return FioCeiling(group, best, median(rates[best]), tuple(rates[best]), sum(some_sizes))
