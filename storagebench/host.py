"""Facts of this host and its counters over time. Written down, never judged here."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from storagebench.clock import Clock
from storagebench.nvml import DeviceSampler
from storagebench.plan import Free
from storagebench.records import SCHEMA_VERSION, TraceWriter, host_trace_path, rank_traces, writer_traces

_PACKAGES = (
    "storagebench", "torch", "numpy", "pyarrow", "webdataset", "s3fs", "fsspec", "obstore", "pillow", "crc32c", "cryptography", "pydantic", "plotly"
)  # fmt: skip
_SAMPLE_PERIOD_S = 1.0
_SYNC_EVERY = 5


def boot_id() -> str:
    """Identity of this boot of the kernel; stamps of two boots are never compared."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def versions() -> dict[str, str]:
    """Installed versions of what takes part, and of Python and the kernel."""
    found = {"python": platform.python_version(), "kernel": platform.release()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def facts(data_path: Path | None, results_path: Path | None = None) -> dict[str, Any]:
    """Hardware, kernel, and the file systems under the dataset (None where it is not local) and under the results (where they are given)."""
    return {
        "boot_id": boot_id(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": os.getloadavg()[0],
        "data_filesystem": _filesystem(data_path) if data_path else None,
        "results_filesystem": _filesystem(results_path) if results_path else None,
    }


def label() -> str:
    """What this host is called where no launcher names it."""
    return socket.gethostname()


def described(name: str, data_path: Path | None, results_path: Path | None = None) -> dict[str, Any]:
    """This host as an entry of `hosts` in `run.json`: its label, facts and versions."""
    return {"host": name, **facts(data_path, results_path), "versions": versions()}


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def _filesystem(path: Path) -> dict[str, Any] | None:
    existing = path.resolve()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    best = None
    for part in psutil.disk_partitions(all=True):
        if existing.is_relative_to(part.mountpoint) and (best is None or len(part.mountpoint) > len(best.mountpoint)):
            best = part
    if best is None:
        return None
    return {"mount": best.mountpoint, "type": best.fstype, "device": best.device, "options": best.opts}


def free() -> Free:
    """What this host has to spare. Raises the soft limit of descriptors to the hard one first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    shared = Path("/dev/shm")
    return Free(
        memory_bytes=psutil.virtual_memory().available,
        shared_memory_bytes=shutil.disk_usage(shared).free if shared.exists() else 0,
        descriptors=hard if hard != resource.RLIM_INFINITY else 2**20,
    )


def clock_pair(clock: Clock) -> dict[str, int]:
    """Both clocks at one moment, so that wall times can be worked out later."""
    return {"monotonic_ns": clock.now_ns(), "wall_ns": clock.wall_ns()}


class HostTrace:
    """A member's file of its host in the run folder: a sample each second from a thread of its own, and the run's end as the last record."""

    def __init__(self, run_dir: Path, member: int, host: str, clock: Clock, data_path: Path | None, devices: DeviceSampler | None = None) -> None:
        """`host` is the label of this host in `run.json`. `devices` are sampled too, and closed with the trace."""
        self._clock = clock
        self._devices = devices
        self._trace = TraceWriter(host_trace_path(run_dir, member))
        self._run_dir = run_dir
        self._stat = _device_stat(data_path)
        self._trace.write(
            {"kind": "header", "schema_version": SCHEMA_VERSION, "host": host, "member": member, **clock_pair(clock), "boot_id": boot_id()}
        )
        self._stop = threading.Event()

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Sample until the block ends."""
        thread = threading.Thread(target=self._loop, name="host-samples", daemon=True)
        self._stop.clear()
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def ceiling(self, when: str, begin_ns: int, found: Mapping[str, Any]) -> None:
        """Write down what the storage gave raw, `before` or `after` the run; `begin_ns` when that probe began."""
        self._trace.write({"kind": "ceiling", "when": when, "begin_ns": begin_ns, **clock_pair(self._clock), **found})

    def headroom(self, begin_ns: int, found: Mapping[str, Any]) -> None:
        """Write down what the storage gave when it was asked for more than the run had asked for."""
        self._trace.write({"kind": "headroom", "begin_ns": begin_ns, **clock_pair(self._clock), **found})

    def written(self, removed: Mapping[str, Any]) -> None:
        """Write down that what the writers wrote was deleted, or why it was not."""
        self._trace.write({"kind": "written", **clock_pair(self._clock), **removed})

    def clock(self, wall_offset_s: float, uncertainty_s: float) -> None:
        """Write down how far this host's wall clock is ahead of member 0's (below 0: behind it), and half the round trip that it was measured with."""
        self._trace.write({"kind": "clock", "wall_offset_s": wall_offset_s, "uncertainty_s": uncertainty_s, **clock_pair(self._clock)})

    def lost(self, member: int, host: str, ranks: Sequence[int], why: str) -> None:
        """Write down, in member 0's file, that a member is gone: with all of its ranks, or with those that are named."""
        self._trace.write({"kind": "lost", "member": member, "host": host, "ranks": list(ranks), "why": why, **clock_pair(self._clock)})

    def end(self, outcome: Mapping[str, Any]) -> None:
        """Write how the run ended, and close."""
        self._trace.write({"kind": "end", **clock_pair(self._clock), **outcome})
        self._trace.close()
        if self._devices is not None:
            self._devices.close()

    def _loop(self) -> None:
        count = 0
        while True:
            self._trace.write(self._sample())
            count += 1
            if count % _SYNC_EVERY == 0:
                self._sync_traces()
            if self._stop.wait(_SAMPLE_PERIOD_S):
                self._trace.write(self._sample())
                return

    def _sync_traces(self) -> None:
        """Make the traces of ranks and writers durable from here, so that no step ever waits for the disk. A host crash loses 5 s at most."""
        for path in (*rank_traces(self._run_dir), *writer_traces(self._run_dir)):
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)

    def _sample(self) -> dict[str, Any]:
        cpu = psutil.cpu_times()
        net = psutil.net_io_counters()
        return {
            "kind": "host",
            **clock_pair(self._clock),
            "cpu_user_s": cpu.user,
            "cpu_system_s": cpu.system,
            "cpu_idle_s": cpu.idle,
            "cpu_iowait_s": cpu.iowait,
            "cpu_steal_s": cpu.steal,
            "load_average": os.getloadavg()[0],
            "pressure": {name: _pressure(name) for name in ("cpu", "io", "memory")},
            "device_read_bytes": self._device_read_bytes(),
            "net_received_bytes": net.bytes_recv if net else None,
            "memory_available_bytes": psutil.virtual_memory().available,
            "rss_bytes": _rss_of_tree(),
            **({} if self._devices is None else {"devices": self._devices.sample()}),
        }

    def _device_read_bytes(self) -> int | None:
        if self._stat is None:
            return None
        try:
            return int(self._stat.read_text().split()[2]) * 512
        except OSError:
            return None


def _device_stat(path: Path | None) -> Path | None:
    """The kernel's counters of the block device under a path, if there is one."""
    if path is None or not path.exists():
        return None
    device = path.stat().st_dev
    stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    return stat if stat.exists() else None


def _pressure(name: str) -> float | None:
    """Total seconds in which some task waited for it; None where the kernel does not say."""
    try:
        first = Path(f"/proc/pressure/{name}").read_text().splitlines()[0]
    except OSError:
        return None
    return int(first.rpartition("total=")[2]) / 1e6


def _rss_of_tree() -> int:
    """Resident bytes of this process and its descendants; pages that they share count once in each, so this is an upper bound."""
    total = 0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total
