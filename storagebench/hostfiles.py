"""The files of hosts, as far as judging needs them: a sample each second of each of many hosts would not fit into memory, so their sums are taken instead.

A file is read whole, one at a time, and let go. What stays of its samples: the first and the last, the largest and the sums, and a few hundred of them,
evenly spread, for what is asked of a part of the run. A run of under 512 s keeps all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from storagebench.records import host_traces
from storagebench.traces import Trace, read_trace

_Row = Mapping[str, Any]
SAMPLE: Final = "host"
MOST_KEPT: Final = 512
_RATES: Final = ("utilisation", "pcie_rx_bytes_per_s", "pcie_tx_bytes_per_s")


@dataclass
class DeviceTotals:
    """A device over all samples: sums and counts of the known values of each rate, and the most memory in use."""

    name: Any
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_RATES, 0.0))
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_RATES, 0))
    memory_used_bytes: int | None = None

    def take(self, sample: _Row) -> None:
        for name in _RATES:
            if sample[name] is not None:
                self.sums[name] += sample[name]
                self.counts[name] += 1
        self._grow(sample["memory_used_bytes"])

    def add(self, other: DeviceTotals) -> None:
        """What another member saw of the same device."""
        for name in _RATES:
            self.sums[name] += other.sums[name]
            self.counts[name] += other.counts[name]
        self._grow(other.memory_used_bytes)

    def _grow(self, memory_used_bytes: int | None) -> None:
        if memory_used_bytes is not None:
            self.memory_used_bytes = max(self.memory_used_bytes or 0, memory_used_bytes)

    def mean(self, name: str) -> float | None:
        return self.sums[name] / self.counts[name] if self.counts[name] else None


@dataclass
class Samples:
    """The samples of a host file. `kept` are evenly spread, at most MOST_KEPT and the last one."""

    count: int = 0
    first: _Row | None = None
    last: _Row | None = None
    peak_rss_bytes: int | None = None
    devices: dict[int, DeviceTotals] = field(default_factory=dict)
    offsets_ns: tuple[int, int] | None = None  # least and largest wall clock less monotonic clock
    kept: list[_Row] = field(default_factory=list)
    _stride: int = 1

    @classmethod
    def of(cls, records: Iterable[_Row]) -> Samples:
        found = cls()
        for record in records:
            found._take(record)
        if found.last is not None and found.kept[-1] is not found.last:
            found.kept.append(found.last)
        return found

    def _take(self, record: _Row) -> None:
        self.first = self.first or record
        self.last = record
        if record.get("rss_bytes") is not None:
            self.peak_rss_bytes = max(self.peak_rss_bytes or 0, record["rss_bytes"])
        for device in record.get("devices", ()):
            self.devices.setdefault(device["index"], DeviceTotals(device["name"])).take(device)
        if "wall_ns" in record:
            offset_ns = record["wall_ns"] - record["monotonic_ns"]
            least, most = self.offsets_ns or (offset_ns, offset_ns)
            self.offsets_ns = (min(least, offset_ns), max(most, offset_ns))
        if self.count % self._stride == 0:
            self.kept.append(record)
            if len(self.kept) > MOST_KEPT:
                self.kept, self._stride = self.kept[::2], 2 * self._stride
        self.count += 1

    def growth(self, *names: str) -> float | None:
        """How much these cumulative counters grew, added up; None where one is not known."""
        if self.count < 2 or self.first is None or self.last is None or any(self.first[name] is None for name in names):
            return None
        return float(sum(self.last[name] - self.first[name] for name in names))


class HostFile:
    """A host file without its samples' records: `others` are all other ones."""

    __slots__ = ("header", "others", "samples", "truncated")

    def __init__(self, trace: Trace) -> None:
        self.header = trace.header
        self.truncated = trace.truncated
        self.samples = Samples.of(trace.of_kind(SAMPLE))
        self.others: Sequence[_Row] = tuple(record for record in trace.others if record["kind"] != SAMPLE)

    def of_kind(self, kind: str) -> list[_Row]:
        return [record for record in self.others if record["kind"] == kind]


HostRecords = Trace | HostFile


def samples_of(records: HostRecords) -> Samples:
    """The samples, of a file as it was read or of records in memory."""
    return records.samples if isinstance(records, HostFile) else Samples.of(records.of_kind(SAMPLE))


def read_host_files(run_dir: Path) -> list[HostRecords]:
    """The host files of a run folder, by number. Raises DatasetError where one is damaged."""
    return [HostFile(read_trace(path)) for path in host_traces(run_dir)]
