"""What is left to chance in one read: its bytes, which of its requests a cache answers, the latency of those that reach the store.

Read i of an accelerator is the same in both engines, whatever the others do: their answers differ by how they work, and not by luck."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from storagebench.model.system import LEAST_SHARE, Floats, Job, System

# Reads of all accelerators that are drawn together, and of each of them at least.
_AT_ONCE, _LEAST_AT_ONCE = 4096, 8
Read = tuple[float, float, float, list[float]]


@dataclass(frozen=True)
class Reads:
    """Several reads: bytes over the host's link, bytes and requests that reach the store, and (in one more dimension, by group) latencies, 0 where
    none reaches it."""

    link_bytes: Floats
    store_bytes: Floats
    store_requests: Floats
    latencies_s: Floats

    def pick(self, which: tuple[NDArray[np.int64], ...] | int) -> Reads:
        return Reads(self.link_bytes[which], self.store_bytes[which], self.store_requests[which], self.latencies_s[which])


class Draws:
    """The reads of one job's accelerators, drawn in blocks and let go when all have had them; the same for the same seed and job."""

    def __init__(self, job: Job, system: System, seed: tuple[int, ...]) -> None:
        self._job, self._latency, self._seed = job, system.store.latency, seed
        self._linked, self._stored = system.reaching()
        self.groups = self._latency.groups(job.requests_per_read)
        self._at_once = max(_LEAST_AT_ONCE, _AT_ONCE // job.accelerators)
        self._blocks: dict[int, Reads] = {}
        self._left: defaultdict[int, int] = defaultdict(lambda: job.accelerators * self._at_once)

    def of_rank(self, rank: int) -> Iterator[Read]:
        """Of one accelerator, one by one, without end."""
        for number in count():
            row = self._block(number).pick(rank)
            self._let_go(number, self._at_once)
            yield from zip(row.link_bytes.tolist(), row.store_bytes.tolist(), row.store_requests.tolist(), row.latencies_s.tolist(), strict=True)

    def of_ranks(self, ranks: NDArray[np.int64], numbers: NDArray[np.int64]) -> Reads:
        """Of each of these accelerators the read of that number."""
        blocks, places = np.divmod(numbers, self._at_once)
        parts = []
        order = np.argsort(blocks, kind="stable")
        for number, some in self._by_block(blocks, order):
            parts.append(self._block(number).pick((ranks[some], places[some])))
            self._let_go(number, len(some))
        if len(parts) == 1:
            return parts[0]
        back = np.argsort(order, kind="stable")
        return Reads(*(np.concatenate([getattr(part, name) for part in parts])[back] for name in Reads.__dataclass_fields__))

    def _by_block(self, blocks: NDArray[np.int64], order: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        ordered = blocks[order]
        firsts = np.flatnonzero(np.diff(ordered, prepend=-1))
        for first, some in zip(firsts.tolist(), np.split(order, firsts[1:]), strict=True):
            yield int(ordered[first]), some

    def _let_go(self, number: int, taken: int) -> None:
        self._left[number] -= taken
        if not self._left[number]:
            del self._blocks[number], self._left[number]

    def _block(self, number: int) -> Reads:
        if number not in self._blocks:
            self._blocks[number] = self._draw(np.random.default_rng((*self._seed, number)))
        return self._blocks[number]

    def _draw(self, random: np.random.Generator) -> Reads:
        """[accelerators, reads] of the next block."""
        job, shape = self._job, (self._job.accelerators, self._at_once)
        each = np.full(shape, job.read_bytes / job.requests_per_read)
        if job.record_bytes_stdev:
            spread = np.clip(random.standard_normal(shape) * job.read_stdev_bytes / job.read_bytes, LEAST_SHARE - 1, 1 - LEAST_SHARE)
            each = each * (1 + spread)
        linked = self._part(random, np.full(shape, float(job.requests_per_read)), self._linked)
        stored = self._part(random, linked, self._stored / self._linked if self._linked else 0.0)
        return Reads(each * linked, each * stored, stored, self._latencies_s(random, stored))

    def _part(self, random: np.random.Generator, requests: Floats, share: float) -> Floats:
        """How many of these go on, each with this chance."""
        return requests if share >= 1.0 else random.binomial(requests.astype(np.int64), share).astype(np.float64)

    def _latencies_s(self, random: np.random.Generator, stored: Floats) -> Floats:
        """The requests of a read in equal groups, and of each the largest latency."""
        shape = (*stored.shape, self.groups)
        chances = random.random(shape) if self._latency.varies else np.zeros(shape)
        of_group = 1.0 if self._latency.of_read else (stored / self.groups)[..., None]
        return np.where(stored[..., None] > 0, self._latency.largest_s(chances, of_group), 0.0)
