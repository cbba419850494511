"""Is AU right on storage of known bandwidth that we did not write: `rclone serve s3 --bwlimit`, and the kernel's throttle of a disk's reads?

For each rate, loader and I/O mode the bandwidth B is measured first by an outside tool (curl, dd) through the same throttle, on the same files, in the
same I/O mode and with as many readers as the loader has. Then the workload computes for as long as makes `c B / b` (closed form A2, N = 1) the AU that
is wanted, and `storagebench run` has to report it. B and b come from outside: the clock of this script, and the sizes of the files.

What the rigs do, seen on Linux 6.18 and rclone 1.75: rclone's bucket holds 4 MiB, which pass unshaped after a rest; cgroup v1 lets a disk's reads pass in
pulses of 0.1 s. So the reference leaves out its first bytes and is a line through all the others, a run begins with warm-up steps that hold more than
burst and prefetch together, and it lasts long enough that one pulse more or less is 1 % of it.

Neither rig gives its rate on a host that others keep busy: the throttle is an upper bound, and a loader that waits for a CPU is no longer limited by it.
So beside each answer stands what others took meanwhile, of the CPUs and of the disk. An answer that is off while they took much is taken again.

    python benchmarks/known_rates.py [--quick] [--folder DIR]       (root for the disk; 10 minutes, --quick 2)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from storagebench import s3server
from storagebench.build import generate
from storagebench.configfile import load_workload
from storagebench.errors import StorageBenchError, StorageError
from storagebench.launch import handling_signals
from storagebench.model.closed_forms import pipelined
from storagebench.storage import open_store

MiB = 2**20
TOLERANCE = 0.02
BATCH, PREFETCH, WORKERS, WARMUP_STEPS = 2, 2, 4, 10
# With the 128 bytes of npy's header a file is 1 MiB, so that neither O_DIRECT nor the page cache reads more of the device than is stored.
FILE_BYTES, NPY_HEADER_BYTES = MiB, 128
BURST_BYTES = 8 * MiB  # at the start of a reference, twice what rclone lets pass unshaped
REFERENCE_S = 4.0
# What others may take meanwhile before an answer that is off is taken again: a share of all CPUs, and of the bytes that the case itself moves.
BUSY_CPU, BUSY_DISK, TAKES = 0.1, 0.2, 3
_ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'  # of a shell that becomes the command, in the cgroup $0


class NoRig(Exception):
    """This machine cannot have the rig; the message says why."""


class NoThrottle(NoRig):
    """Its kernel has no throttle for this place: nothing that could be installed."""


@dataclass(frozen=True)
class Case:
    """`rate` in bytes/s; `io` is the value of --cache; `target` the AU to aim at; `window_s` about how long the measured steps take."""

    rate: int
    loader: str
    io: str
    target: float
    window_s: float

    @property
    def steps(self) -> int:
        return round(self.rate * self.window_s / (BATCH * FILE_BYTES))


@dataclass(frozen=True)
class Rig:
    """A throttle that is on. `enter` goes before a command that shall be under it; `read` starts the outside tool on files, which writes their bytes to
    its stdout."""

    name: str
    data_dir: str
    read: Callable[[Sequence[Path], str], subprocess.Popen[bytes]]
    enter: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    server_pid: int | None = None
    disk: str | None = None  # MAJ:MIN of the disk, where it is what is throttled


@dataclass(frozen=True)
class Row:
    """One answer; ratios 0..1. `device_share` is device bytes over stored bytes, 1 where the device is not what is throttled. Others took `others_cpu` of
    all CPUs and moved `others_disk` of the case's own bytes on its disk."""

    rig: str
    case: Case
    reference_bytes_per_s: float
    device_share: float
    expected: float
    measured: float
    others_cpu: float
    others_disk: float

    @property
    def difference(self) -> float:
        return self.measured - self.expected

    @property
    def passed(self) -> bool:
        return abs(self.difference) <= TOLERANCE

    @property
    def disturbed(self) -> bool:
        return self.others_cpu > BUSY_CPU or self.others_disk > BUSY_DISK

    @property
    def verdict(self) -> str:
        return "pass" if self.passed else "off, host busy" if self.disturbed else "OFF"


class Others:
    """What others take from now on, of the CPUs and of the rig's disk."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._before = self._now()

    def _now(self) -> tuple[float, ...]:
        """CPU seconds: of the host, idle, of the rig's server, of this script with its tools and runs; and bytes that the disk moved."""
        host = psutil.cpu_times()
        pid, disk = self._rig.server_pid, self._rig.disk
        server = sum(psutil.Process(pid).cpu_times()[:2]) if pid is not None else 0.0
        sectors = Path(f"/sys/dev/block/{disk}/stat").read_text().split() if disk else ["0"] * 7
        whole = sum(host) - host.guest - host.guest_nice  # which lie in user and nice already
        return whole, host.idle + host.iowait, server, sum(os.times()[:4]), 512.0 * (int(sectors[2]) + int(sectors[6]))

    def took(self, own_bytes: float, run_cpu_s: float) -> tuple[float, float]:
        """Shares of all CPUs, and of the bytes that the case itself moved on the disk. `run_cpu_s` is what the run counted for itself: its workers may end
        unseen by us, as the fork server is not reaped."""
        whole, idle, server, ours, moved = (after - before for after, before in zip(self._now(), self._before, strict=True))
        cpu = max(0.0, whole - idle - server - max(ours, run_cpu_s)) / whole
        return cpu, max(0.0, moved - own_bytes) / own_bytes if self._rig.disk else 0.0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def make_files(root: Path, cases: Sequence[Case]) -> list[Path]:
    """The dataset of all cases in `root`/bench/data, on the disk when this returns; its shards."""
    num_samples = BATCH * (max(case.steps for case in cases) + WARMUP_STEPS + PREFETCH)
    values = {
        "format": "npy",
        "payload": "bytes",
        "num_samples": num_samples,
        "record_length_bytes": FILE_BYTES - NPY_HEADER_BYTES,
        "record_length_bytes_stdev": 0,
    }
    place = root / "bench" / "data"
    place.mkdir(parents=True)
    dataset = generate(
        load_workload("quick", [(f"dataset.{name}", value, "here") for name, value in values.items()]).workload, open_store(str(place))
    )
    os.sync()  # a page that is not written yet cannot be dropped
    return [place / name for name in dataset.names]


@contextmanager
def s3_rig(root: Path, rate: int) -> Iterator[Rig]:
    """`rclone serve s3 --bwlimit` over `root`, on loopback; it is ended with the block, and by the kernel should this process be killed."""
    if shutil.which("curl") is None:
        raise NoRig("curl is not installed")
    try:
        server = s3server.start(root, bwlimit=str(rate))
    except StorageBenchError as error:
        raise NoRig(error.message) from error
    with server:

        def read(files: Sequence[Path], io: str) -> subprocess.Popen[bytes]:
            lines = [f'url="{server.endpoint_url}/{path.relative_to(root)}"\noutput="-"' for path in files]
            lines += ['aws-sigv4="aws:amz:us-east-1:s3"', 'header="x-amz-content-sha256: UNSIGNED-PAYLOAD"']
            lines += ["fail-early", "fail", "no-progress-meter", "parallel", "parallel-immediate", f"parallel-max={WORKERS}"]
            lines.append(f'user="{server.access_key}:{server.secret_key}"')  # on stdin, as `ps` shows the command line to all
            return start_tool(["curl", "-q", "-N", "-K", "-"], "\n".join(lines))

        options = ("--storage-option", f"endpoint_url={server.endpoint_url}")
        yield Rig("rclone s3", "s3://bench/data", read, (), options, server.environment(), server.pid)


@contextmanager
def disk_rig(root: Path, rate: int) -> Iterator[Rig]:
    """A cgroup whose processes read the disk under `root` at `rate`; it is removed with the block, and what should still run in it is killed."""
    device = whole_disk(root)
    with cgroup(device, rate) as group:
        enter = ("sh", "-c", _ENTER, str(group))

        def read(files: Sequence[Path], io: str) -> subprocess.Popen[bytes]:
            drop(files)
            flags = ["iflag=direct"] if io == "direct" else []
            tool = ["xargs", "-d", "\n", "-P", str(WORKERS), "-I", "{}", "dd", "if={}", "bs=1M", "status=none", *flags]
            return start_tool([*enter, *tool], "\n".join(map(str, files)))

        yield Rig(f"disk {device}", str(root / "bench" / "data"), read, enter, disk=device)


def whole_disk(folder: Path) -> str:
    """MAJ:MIN of the disk under a folder, not of its partition, which the throttle does not take. Raises NoRig."""
    number = folder.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not block.exists():
        raise NoThrottle(f"{folder} lies on no block device (set TMPDIR or --folder)")
    block = block.resolve()
    return ((block.parent if (block / "partition").exists() else block) / "dev").read_text().strip()


@contextmanager
def cgroup(device: str, rate: int) -> Iterator[Path]:
    """A new cgroup, of v1 or v2 as the kernel has the controller, with the read limit. Raises NoRig."""
    if os.geteuid() != 0:
        raise NoRig("a cgroup's throttle needs root")
    parent, version = throttle_place()
    group, enabled = parent / f"known-rates-{os.getpid()}", False
    try:
        if version == 2 and "io" not in (parent / "cgroup.subtree_control").read_text().split():
            (parent / "cgroup.subtree_control").write_text("+io")
            enabled = True
        group.mkdir()
        (group / ("io.max" if version == 2 else "blkio.throttle.read_bps_device")).write_text(f"{device} {'rbps=' if version == 2 else ''}{rate}")
        made = True
    except OSError as error:
        made, reason = False, f"{error.strerror}: {error.filename or group}"
    try:
        if not made:
            raise NoThrottle(f"no throttle of cgroup v{version} on {device}: {reason}")
        yield group
    finally:
        end(group)
        if enabled:
            (parent / "cgroup.subtree_control").write_text("-io")


def throttle_place() -> tuple[Path, int]:
    """Where the controller of block devices is mounted, and its version: it is in one of the two."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, options = line.split()[:4]
        if kind == "cgroup" and "blkio" in options.split(","):
            return Path(where), 1
        if kind == "cgroup2" and "io" in (Path(where) / "cgroup.controllers").read_text().split():
            return Path(where), 2
    raise NoThrottle("no cgroup controller of block devices is mounted (blkio of v1, io of v2)")


def end(group: Path) -> None:
    """Kill what is in the cgroup, if anything, and remove it."""
    deadline = time.monotonic() + 10
    while group.exists():
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            group.rmdir()
        except OSError:  # busy until the kernel has buried the last one
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def drop(files: Sequence[Path]) -> None:
    """Their pages out of the cache."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def start_tool(command: Sequence[str], standard_input: str) -> subprocess.Popen[bytes]:
    """The tool, reading its input from an unlinked file (a pipe might block both of us)."""
    with tempfile.TemporaryFile() as file:
        file.write(standard_input.encode())
        file.seek(0)
        return subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE)


def reference(rig: Rig, files: Sequence[Path], io: str) -> float:
    """Bytes per second of the outside tool behind its burst: the slope of a line through (time, bytes so far), as bytes may come in pulses."""
    times, totals, total = [], [], 0
    with rig.read(files, io) as process:
        assert process.stdout is not None
        while chunk := os.read(process.stdout.fileno(), MiB):
            total += len(chunk)
            if total > BURST_BYTES:
                times.append(time.monotonic())
                totals.append(total)
    expected = len(files) * FILE_BYTES
    if process.returncode or total != expected:
        raise StorageError(f"the reference read {total} of {expected} bytes, status {process.returncode}", "see its words above")
    return float(np.polyfit(np.array(times) - times[0], totals, 1)[0])


def measure(rig: Rig, case: Case, files: Sequence[Path], results: Path, reference_s: float = REFERENCE_S) -> Row:
    """The reference, and right after it the run. Raises StorageError where one of them fails."""
    others = Others(rig)
    some = files[: int(case.rate * reference_s) // FILE_BYTES]
    bandwidth = reference(rig, some, case.io)
    stored_bytes = BATCH * sum(path.stat().st_size for path in files) / len(files)
    compute_s = case.target * stored_bytes / bandwidth
    summary = run(rig, case, compute_s, results)
    # The throttle counts what the device reads: where that is more than is stored (readahead over the ends of files), there is less for the samples.
    device_share = summary["device_read_bytes"] / summary["storage_bytes"] if rig.disk else 1.0
    expected = pipelined(compute_s, stored_bytes * device_share, bandwidth)
    own_bytes = len(some) * FILE_BYTES + (summary["device_read_bytes"] or 0)
    return Row(rig.name, case, bandwidth, device_share, expected, summary["au_nominal"], *others.took(own_bytes, summary["cpu_s"] or 0.0))


def run(rig: Rig, case: Case, compute_s: float, results: Path) -> dict[str, Any]:
    """The summary of one `storagebench run` under the throttle."""
    run_id = f"run-{time.monotonic_ns()}"
    command = [
        *rig.enter, sys.executable, "-P", "-m", "storagebench", "run", "quick", "--data-dir", rig.data_dir, *rig.options, "--loader", case.loader,
        "--cache", case.io, "--batch-size", str(BATCH), "--prefetch-batches", str(PREFETCH), "--num-workers", str(WORKERS), "--epochs", "1",
        "--warmup-steps", str(WARMUP_STEPS), "--max-steps", str(WARMUP_STEPS + case.steps), "--compute-time", f"{compute_s:.9f}s",
        "--null-duration", "0", "--results-dir", str(results), "--run-id", run_id,
    ]  # fmt: skip
    result = subprocess.run(command, env={**os.environ, **rig.environment}, capture_output=True, text=True, check=False)
    if result.returncode:
        raise StorageError(f"{' '.join(command)} ended with {result.returncode}: {result.stderr}", "run it by hand")
    return dict(json.loads((results / run_id / "summary.json").read_text()))


def plan(quick: bool) -> list[tuple[Callable[[Path, int], AbstractContextManager[Rig]], list[Case]]]:
    """S3 first, while the page cache still holds the files."""
    rates, targets, window_s = ((50 * MiB,), (0.5,), 5.0) if quick else ((50 * MiB, 100 * MiB), (0.5, 0.8), 10.0)
    s3 = [Case(rate, loader, "as-is", target, window_s) for rate in rates for loader in ("s3", "direct", "files") for target in targets]
    disk = [
        Case(rate, loader, io, target, window_s)
        for rate in rates
        for loader in ("direct", "files")
        for io in ("direct", "cold")
        for target in targets
    ]
    return [(s3_rig, s3), (disk_rig, disk)]


def show(row: Row) -> str:
    case = row.case
    return (
        f"{row.rig:<11} {case.rate / MiB:>5.0f} {case.loader:<7} {case.io:<7} {row.reference_bytes_per_s / MiB:>10.2f} {row.device_share:>8.3f} "
        f"{row.expected:>9.4f} {row.measured:>9.4f} {row.difference:>+8.4f} {row.others_cpu:>6.0%} {row.others_disk:>6.0%}  {row.verdict}"
    )


def answer(rig: Rig, case: Case, files: Sequence[Path], results: Path) -> Row:
    """The first row that is right, or off on a host that was quiet; or the last of TAKES. Each is printed."""
    for _ in range(TAKES):
        row = measure(rig, case, files, results)
        print(show(row), flush=True)
        if row.passed or not row.disturbed:
            break
    return row


def answers(quick: bool, root: Path) -> list[Row]:
    """Print the table; the rows that count."""
    rows = []
    rigs = plan(quick)
    files = make_files(root / "served", [case for _, cases in rigs for case in cases])
    print("rig         MiB/s loader  --cache   B, MiB/s  dev/sto  expected au_nominal difference, and others' CPU and disk", flush=True)
    for make_rig, cases in rigs:
        try:
            for rate in sorted({case.rate for case in cases}):
                with make_rig(root / "served", rate) as rig:
                    rows += [answer(rig, case, files, root / "results") for case in cases if case.rate == rate]
        except NoRig as error:
            say(f"left out: {error}")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="folder on the disk (what is made in it is removed); default: that of temporary files")
    parser.add_argument("--quick", action="store_true", help="one rate and one AU, and shorter runs")
    asked = parser.parse_args()
    try:
        with handling_signals(), tempfile.TemporaryDirectory(prefix="known-rates-", dir=asked.folder) as temporary:
            rows = answers(asked.quick, Path(temporary))
    except StorageBenchError as error:
        say(f"error: {error.message}\nhint: {error.hint}")
        return error.exit_code
    return 0 if rows and all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
