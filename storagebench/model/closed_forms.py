"""Closed forms of AU, ratios 0..1 (reference/measurement.md section 1, A1 to A7, under those names).

In all of them `compute_s` is the compute time of a step, above 0; `batch_bytes` what one rank reads for a step; `bandwidth` bytes/s that all ranks
share, above 0, infinity for no limit; `latency_s` of one request, from 0; `ranks` and `requests` (in flight, of one rank) from 1.
"""

from __future__ import annotations

import math


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
