"""What is left to chance in one read: its bytes, which of its requests a cache answers, the latency of those that reach the store. For both engines alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from storagebench.model.system import LEAST_SHARE, Floats, Job, System

_AT_ONCE = 512


@dataclass(frozen=True)
class Reads:
    """Several reads, a row each: bytes over the host's link, bytes and requests that reach the store, and [reads, groups] latencies, 0 where none reaches it."""

    link_bytes: Floats
    store_bytes: Floats
    store_requests: Floats
    latencies_s: Floats


class Draws:
    """The reads of one job, in the order in which they are asked for; the same for the same seed."""

    def __init__(self, job: Job, system: System, seed: int) -> None:
        self._job, self._latency = job, system.store.latency
        self._linked, self._stored = system.reaching()
        self.groups = self._latency.groups(job.requests_per_read)
        self._random = np.random.default_rng(seed)

    def take(self, count: int) -> Reads:
        """The next `count` reads."""
        job, requests = self._job, np.full(count, float(self._job.requests_per_read))
        each = np.full(count, job.read_bytes / job.requests_per_read)
        if job.record_bytes_stdev:
            spread = np.clip(self._random.standard_normal(count) * job.read_stdev_bytes / job.read_bytes, LEAST_SHARE - 1, 1 - LEAST_SHARE)
            each = each * (1 + spread)
        linked = self._part(requests, self._linked)
        stored = self._part(linked, self._stored / self._linked if self._linked else 0.0)
        return Reads(each * linked, each * stored, stored, self._latencies_s(stored, count))

    def _part(self, requests: Floats, share: float) -> Floats:
        """How many of these go on, each with this chance."""
        return requests if share >= 1.0 else self._random.binomial(requests.astype(np.int64), share).astype(np.float64)

    def _latencies_s(self, stored: Floats, count: int) -> Floats:
        of_group = np.ones((count, 1)) if self._latency.of_read else (stored / self.groups)[:, None]
        chances = self._random.random((count, self.groups)) if self._latency.varies else np.zeros((count, 1))
        return np.where(stored[:, None] > 0, self._latency.largest_s(chances, of_group), 0.0)

    def __iter__(self) -> Iterator[tuple[float, float, float, list[float]]]:
        """The same one by one, without end."""
        while True:
            some = self.take(_AT_ONCE)
            yield from zip(some.link_bytes.tolist(), some.store_bytes.tolist(), some.store_requests.tolist(), some.latencies_s.tolist(), strict=True)
