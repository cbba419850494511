"""How a loader reads a batch: what it asks the store for, and how much of it at once. By loader and format, or as a saved run found it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from storagebench.model.measured import Measured
from storagebench.registry import loader_info
from storagebench.workload import Workload

Origin = Literal["asked", "workload", "computed", "measured", "assumed", "unknown", "predicted"]
# What loaders ask a store for: `direct` parts of long samples (storage.queues.DIRECT_READ_BYTES), those that read shards in sequence such chunks
# (storage.counting.STREAM_BUFFER_BYTES).
DIRECT_READ_BYTES: Final = 2 * 2**20
STREAM_READ_BYTES: Final = 2**20
DIRECT_DEPTH: Final = 32  # reads in flight of one worker of `direct` where --io-depth is not given (storage.queues.DIRECT_DEPTH)
# A simulated batch has at most so many reads; where a loader sends more requests, each read stands for several that are in flight together.
MOST_READS: Final = 8


@dataclass(frozen=True)
class Reading:
    """How a workload's loader asks for a batch: requests of a batch, how many of them an accelerator has in flight, and why so."""

    requests_per_batch: float
    in_flight: int
    why: str
    why_in_flight: str
    origin: Origin = "assumed"


def reading_of(workload: Workload, in_flight: int | None, request_bytes: int | None, measured: Measured | None) -> Reading:
    """By loader and format, where neither --request-size nor a run says. `in_flight`: --reads-in-flight."""
    loader, data, batch = workload.loader, workload.dataset, workload.train.batch_size
    record, unit = data.record_length_bytes, loader_info(loader.name).unit_of(data.format)
    workers = max(loader.num_workers, 1)
    flight, why_flight = workers, f"loader {loader.name}: {workers} workers, a read each"
    if loader.name == "direct" and unit == "sample":
        depth = loader.io_depth or DIRECT_DEPTH
        flight, why_flight = workers * depth, f"loader direct: {workers} workers with {depth} reads each"
    if in_flight is not None:
        flight, why_flight = in_flight, "--reads-in-flight"
    if measured is not None and measured.requests_per_sample is not None:
        return Reading(
            batch * measured.requests_per_sample, flight, f"{measured.requests_per_sample:.3g} a sample in {measured.run_id}", why_flight, "measured"
        )
    if request_bytes is not None:
        return Reading(batch * -(-record // request_bytes), flight, "--request-size", why_flight, "asked")
    if unit == "sample":
        parts = -(-record // DIRECT_READ_BYTES) if loader.name == "direct" else 1
        return Reading(
            batch * parts, flight, f"loader {loader.name}: " + ("a read a sample" if parts == 1 else f"{parts} reads of 2 MiB a sample"), why_flight
        )
    chunk = data.row_group_bytes if unit == "row_group" else STREAM_READ_BYTES
    what = "row groups" if unit == "row_group" else "chunks of 1 MiB of a shard"
    return Reading(max(batch * record / chunk, 1e-3), flight, f"loader {loader.name}: {what}", why_flight)


def shaped_reads(requests_per_batch: float, in_flight: int) -> tuple[int, int, int]:
    """(readers, reads of a batch, requests of a read) that stand for so many requests of a batch with so many in flight: `MOST_READS` reads of a
    batch, where so many requests may be in flight that each can stand for several, and never more in flight than that.

    >>> shaped_reads(7, 4), shaped_reads(400, 32), shaped_reads(0.5, 8)
    ((4, 7, 1), (1, 13, 32), (8, 1, 1))
    """
    requests = max(1, math.ceil(requests_per_batch))
    if requests <= MOST_READS:
        return in_flight, requests, 1
    each = min(in_flight, -(-requests // MOST_READS))
    return in_flight // each, -(-requests // each), each
