"""Closed forms of AU, ratios 0..1 (reference/measurement.md section 1, A1 to A8, under those names), and of what caches and several workloads make
of it.

In all of them `compute_s` is the compute time of a step, above 0; `batch_bytes` what one rank reads for a step; `bandwidth` bytes/s that all ranks
share, above 0, infinity for no limit; `latency_s` of one request, from 0; `ranks` and `requests` (in flight, of one rank) from 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def no_prefetch(compute_s: float, batch_bytes: float, bandwidth: float, latency_s: float = 0.0, ranks: int = 1) -> float:
    """A1, `c / (c + L + N b / B)`: read, compute, read. With several ranks: in step by a sync, so that all read at once and wait for the last."""
    return compute_s / (compute_s + latency_s + ranks * batch_bytes / bandwidth)


def pipelined(compute_s: float, batch_bytes: float, bandwidth: float, latency_s: float = 0.0, ranks: int = 1, requests: int = 1) -> float:
    """A2, `min(1, c B / (N b), c W / (L + b / B))`: the next batches are read during compute, in a steady state."""
    return knee_share(compute_s, knee_s(batch_bytes, bandwidth, latency_s, ranks, requests))


def exponential(compute_s: float, mean_read_s: float) -> float:
    """A3, `c / (c + r exp(-c / r))`: one batch is prefetched, and reads take exponential times of this mean, above 0 seconds."""
    return compute_s / (compute_s + mean_read_s * math.exp(-compute_s / mean_read_s))


def exponential_in_step(compute_s: float, mean_read_s: float, ranks: int) -> float:
    """A4, `c / (c + r sum_j (1 - (1 - exp(-c / r))^j) / j)`, j = 1 .. N: A3 with N ranks whose reads all begin when a step of all begins.

    A lower bound for storagebench's ranks, each of which asks for the next batch as soon as it has its own (`recurrence.pace`)."""
    late = math.exp(-compute_s / mean_read_s)
    return compute_s / (compute_s + mean_read_s * sum((1.0 - (1.0 - late) ** j) / j for j in range(1, ranks + 1)))


def null_storage(compute_s: float, harness_s: float) -> float:
    """A6, `c / (c + o)`: storage that takes no time, and a harness that takes `harness_s` (from 0) in each step."""
    return compute_s / (compute_s + harness_s)


def knee_s(batch_bytes: float, bandwidth: float, latency_s: float = 0.0, ranks: int = 1, requests: int = 1) -> float:
    """A7, `max(N b / B, (L + b / B) / W)`: the compute time in seconds from which on a pipelined loader keeps up."""
    return max(ranks * batch_bytes / bandwidth, (latency_s + batch_bytes / bandwidth) / requests)


def knee_share(compute_s: float, knee: float) -> float:
    """A7: 1 above the knee (seconds), `c / knee` below."""
    return 1.0 if compute_s >= knee else compute_s / knee


def fed_share(demand: float, *limits: float) -> float:
    """`min(1, smallest limit / demand)`: A2 with any number of things that are shared or private, all in the same unit per second (samples, bytes,
    requests)."""
    smallest = min(limits, default=math.inf)
    return 1.0 if smallest >= demand else smallest / demand


def requests_bound(compute_s: float, requests: float, requests_per_s: float, ranks: int = 1) -> float:
    """`min(1, c I / (N q))`: A2 where the store serves I requests per second, whatever their size, and a batch takes q of them."""
    return knee_share(compute_s, ranks * requests / requests_per_s)


def checkpointed(between_s: float, stall_s: float) -> float:
    """A8, `c m / (c m + d)`: the share of the time that is left to training, where all stands still for `stall_s` after each `between_s` seconds of
    it, above 0."""
    return between_s / (between_s + stall_s)


def no_evict_hits(cache_bytes: float, dataset_bytes: float) -> float:
    """`C / N`: a cache that keeps what it has (MinIO of Mohan et al., VLDB 2021) misses N - C samples in each epoch after the one that filled it,
    in any order.

    `dataset_bytes` above 0. So also, in the mean, of a cache on one of many hosts whose samples are dealt out anew each epoch."""
    return min(1.0, cache_bytes / dataset_bytes)


def lru_hits(cache_bytes: float, dataset_bytes: float) -> float:
    """`f + (1 - f) ln(1 - f)`, f = C / N: least recently used, all samples of one size, each epoch in a new random order.

    Derived: a sample stands at x of the one epoch and at y of the next (shares of the epoch, uniform). Read between the two are the 1 - x after it
    and the y before it, of which (1 - x) y are the same samples; it is still there if these 1 - x (1 - y) are fewer than f. P(u v > 1 - f) of two
    uniform numbers is 1 - a + a ln a with a = 1 - f. Of one cache that sees all samples; on one of many hosts more stays, up to C / N."""
    share = no_evict_hits(cache_bytes, dataset_bytes)
    return 1.0 if share >= 1.0 else share + (1.0 - share) * math.log1p(-share)


@dataclass(frozen=True)
class Stream:
    """One of several workloads on a wire: `ranks` accelerators of `batch_bytes` each step of `compute_s`, `in_flight` batches of each asked for at
    most."""

    ranks: int
    compute_s: float
    batch_bytes: float
    in_flight: float


def shared_fifo(streams: Sequence[Stream], bandwidth: float) -> tuple[float, ...]:
    """AU of each on one wire that serves what was asked for first, first: the shaped store's, and the simulation's.

    Derived: in a steady state all wait equally long, D, from asking to having. A rank that waits for its batches has all of its w in flight, and
    gets w / D of them a second; one that does not gets 1 / c. D is where they fill the wire: sum N b min(1 / c, w / D) = B. So who asks for more at
    once gets more."""
    demand = sum(stream.ranks * stream.batch_bytes / stream.compute_s for stream in streams)
    if demand <= bandwidth:
        return (1.0,) * len(streams)
    low = 0.0
    high = sum(stream.ranks * stream.batch_bytes * stream.in_flight for stream in streams) / bandwidth  # all in flight: no rank can wait for longer
    for _ in range(200):
        delay_s = (low + high) / 2
        taken = sum(stream.ranks * stream.batch_bytes * min(1 / stream.compute_s, stream.in_flight / delay_s) for stream in streams)
        low, high = (delay_s, high) if taken > bandwidth else (low, delay_s)
    return tuple(min(1.0, stream.compute_s * stream.in_flight / high) for stream in streams)


def shared_fairly(streams: Sequence[Stream], bandwidth: float) -> tuple[float, ...]:
    """AU of each where all ranks share the wire equally (processor sharing, TCP at best): max-min fair. A rank takes its demand or the fair share,
    the less.

    Filled up from the least demand: who wants less than an equal part leaves the rest to the others."""
    au = [1.0] * len(streams)
    left, ranks = bandwidth, sum(stream.ranks for stream in streams)
    for index in sorted(range(len(streams)), key=lambda place: streams[place].batch_bytes / streams[place].compute_s):
        stream = streams[index]
        demand = stream.batch_bytes / stream.compute_s
        taken = min(demand, left / ranks)
        au[index] = taken / demand
        left, ranks = left - taken * stream.ranks, ranks - stream.ranks
    return tuple(au)
