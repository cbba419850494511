"""What the simulation is asked about: accelerators of one or several jobs, the hosts that they are on, what lies between, and a store. Plain numbers.

Seconds, bytes, bytes/s; a rate that is infinite is no limit. One description for the closed form (`bound`) and for both engines
(`eventsim`, `fleet`), which all answer with a `Prediction`.

How a batch is read: it is cut into `reads_per_batch` equal reads, of which an accelerator has at most `readers` in flight, in order; a read asks
for its `requests_per_read` requests at once and is done when the last of them is. So loader `direct` on a store without O_DIRECT (a piece of a
batch at a time), and with one request a read every loader that keeps W requests in flight. Batches are asked for as `recurrence.pace` has it:
`prefetch_batches` are ready or in flight.

Each resource (the store's bandwidth, its requests per second, an uplink, a host's link, a host's cores) is a line that serves what comes first,
first, at its rate: the shaped store's wire (`storage.wire`) is one. A read takes its place on all of them when it is asked for, and bytes flow
through: it is done when the last line is done with it, and the store's latency after. Latency never occupies a line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from storagebench.errors import UsageError
from storagebench.model.closed_forms import lru_hits, no_evict_hits

Floats = NDArray[np.float64]
CacheRule = Literal["no-evict", "lru"]
Engine = Literal["closed form", "events", "steps"]
# Most groups in which the latencies of a read's requests are drawn: of more, each group stands for several, with the largest of their latencies.
MOST_GROUPS: Final = 8
# Reads are drawn between this share of their mean and as much above it, as the generator clips record lengths
# (`datasets.payload.record_length_bounds`).
LEAST_SHARE: Final = 1 / 16
# Store bandwidth and requests, uplinks, links and cores, in the order in which a tie is told.
LINES: Final = ("store bandwidth", "store requests", "uplink", "host link", "client CPU")
NONE_FULL: Final = "reads in flight"  # no line is full, and the accelerators wait: latency, a short queue, or jitter
ACCELERATORS: Final = "accelerators"


@dataclass(frozen=True)
class Latency:
    """How long the store takes beyond its lines: `constant_s`, an exponential time of mean `exponential_s` on top, and one of `sample_s`, drawn
    with equal chances. `of_read`: drawn once a read, as a run measures it, and not for each request."""

    constant_s: float = 0.0
    exponential_s: float = 0.0
    sample_s: tuple[float, ...] = ()
    of_read: bool = False

    @property
    def varies(self) -> bool:
        return self.exponential_s > 0 or len(self.sample_s) > 1

    @cached_property
    def _sorted_s(self) -> Floats:
        return np.sort(np.array(self.sample_s or (0.0,), dtype=np.float64))

    def groups(self, requests: int) -> int:
        """In how many groups the latencies of so many requests of one read are drawn."""
        return min(requests, MOST_GROUPS) if self.varies and not self.of_read else 1

    def largest_s(self, chances: Floats, requests: Floats | float) -> Floats:
        """The largest latency of so many requests, from chances uniform in [0, 1): P(max <= x) = F(x)^n. One of `exponential_s` and `sample_s` may
        vary."""
        found = np.full(np.shape(chances), self.constant_s)
        if not self.varies:
            return found + float(self._sorted_s[0])
        chances = chances ** (1.0 / np.maximum(requests, 1e-9))
        if self.exponential_s > 0:
            found = found - self.exponential_s * np.log1p(-np.minimum(chances, 1.0 - 2.0**-53))
        return found + self._sorted_s[np.minimum((chances * len(self._sorted_s)).astype(np.int64), len(self._sorted_s) - 1)]

    def mean_of_largest_s(self, requests: int) -> float:
        """Mean of the largest latency of so many requests (of a read's one draw, where it is of the read)."""
        middles = (np.arange(4096) + 0.5) / 4096
        return float(self.largest_s(middles, 1.0 if self.of_read else float(requests)).mean())


@dataclass(frozen=True)
class Job:
    """Accelerators that train one model. `record_bytes` are stored bytes of a sample, mean and standard deviation; `prefetch_batches` 0 reads a
    batch when it is asked for; `in_step`: all of them wait for the last after each step; `cpu_s_per_batch` of the client; `dataset_bytes` is what a
    cache may hold, 0 if unknown."""

    name: str
    accelerators: int
    compute_s: float
    batch_size: int
    record_bytes: float
    record_bytes_stdev: float = 0.0
    prefetch_batches: int = 2
    readers: int = 1
    reads_per_batch: int = 1
    requests_per_read: int = 1
    in_step: bool = True
    cpu_s_per_batch: float = 0.0
    dataset_bytes: float = 0.0

    def __post_init__(self) -> None:
        for name in ("accelerators", "batch_size", "record_bytes", "readers", "reads_per_batch", "requests_per_read", "compute_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(
                    f"{name} of {self.name} is {getattr(self, name)}, and must be above 0", "a simulation needs a workload that computes and reads"
                )
        for name in ("record_bytes_stdev", "prefetch_batches", "cpu_s_per_batch", "dataset_bytes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} of {self.name} is {getattr(self, name)}, and must be 0 or more", "choose another value")

    @property
    def batch_bytes(self) -> float:
        return self.batch_size * self.record_bytes

    @property
    def read_bytes(self) -> float:
        return self.batch_bytes / self.reads_per_batch

    @property
    def read_stdev_bytes(self) -> float:
        return self.record_bytes_stdev * math.sqrt(self.batch_size / self.reads_per_batch)

    @property
    def requests_per_batch(self) -> int:
        return self.reads_per_batch * self.requests_per_read

    @property
    def reads_in_flight(self) -> int:
        """As many as there are readers, and batches to read."""
        return min(self.readers, max(self.prefetch_batches, 1) * self.reads_per_batch)


@dataclass(frozen=True)
class Store:
    """What all hosts read from: one wire, one line of requests, and a latency that occupies neither."""

    bytes_per_s: float = math.inf
    requests_per_s: float = math.inf
    latency: Latency = Latency()


@dataclass(frozen=True)
class Hosts:
    """`accelerators` of one host (0: those of a job share one); jobs do not share hosts. `per_uplink` hosts share an uplink (0: all)."""

    accelerators: int = 0
    link_bytes_per_s: float = math.inf
    cores: float = math.inf
    cache_bytes: float = 0.0
    per_uplink: int = 0
    uplink_bytes_per_s: float = math.inf


@dataclass(frozen=True)
class System:
    """The whole. A cache holds the same share of each dataset; a host's own spares its link, the one that all hosts share lies before the store.
    `warm`: an epoch after the first, once the caches are full; in the first one nothing is in them."""

    jobs: tuple[Job, ...]
    store: Store = Store()
    hosts: Hosts = Hosts()
    shared_cache_bytes: float = 0.0
    cache_rule: CacheRule = "no-evict"
    warm: bool = True

    def __post_init__(self) -> None:
        rates = {
            "bandwidth of the store": self.store.bytes_per_s, "requests per second of the store": self.store.requests_per_s,
            "bandwidth of a host's link": self.hosts.link_bytes_per_s, "bandwidth of an uplink": self.hosts.uplink_bytes_per_s,
            "cores of a host": self.hosts.cores,
        }  # fmt: skip
        for name, rate in rates.items():
            if not rate > 0:
                raise UsageError(f"the {name} is {rate:g}, and must be above 0", "leave it out for no limit")
        if not self.jobs:
            raise UsageError("there is no job", "name a workload")

    @property
    def accelerators(self) -> int:
        return sum(job.accelerators for job in self.jobs)

    def hosts_of(self, job: Job) -> int:
        return -(-job.accelerators // self.hosts.accelerators) if self.hosts.accelerators else 1

    def reaching(self) -> tuple[float, float]:
        """Shares of what is read that pass a host's link, and that reach the store."""
        stored = sum(job.dataset_bytes for job in self.jobs)
        if not self.warm or not stored:
            return 1.0, 1.0
        hits = no_evict_hits if self.cache_rule == "no-evict" else lru_hits
        linked = 1.0 - hits(self.hosts.cache_bytes, stored)
        return linked, linked * (1.0 - hits(self.shared_cache_bytes, stored))


@dataclass(frozen=True)
class Prediction:
    """An answer, by `engine`. By job: AU (ratio, mean over its accelerators) and samples/s; what the store gives in bytes/s and requests/s; `busy`:
    of each kind of line, the share of the time in which the busiest one works; `limited_by`: the line that is full, `accelerators` where nothing
    keeps them waiting, else `reads in flight`."""

    au: Mapping[str, float]
    samples_per_s: Mapping[str, float]
    store_bytes_per_s: float
    store_requests_per_s: float
    busy: Mapping[str, float]
    limited_by: str
    engine: Engine

    @property
    def least_au(self) -> float:
        return min(self.au.values())

    @property
    def all_samples_per_s(self) -> float:
        return sum(self.samples_per_s.values())


# From these on accelerators are kept busy, and a line is full.
BUSY, FULL = 0.98, 0.9


def limited_by(au: Mapping[str, float], busy: Mapping[str, float]) -> str:
    """What is in the way."""
    if min(au.values()) >= BUSY:
        return ACCELERATORS
    fullest = max(busy, key=lambda name: busy[name], default=NONE_FULL)
    return fullest if busy.get(fullest, 0.0) >= FULL else NONE_FULL
