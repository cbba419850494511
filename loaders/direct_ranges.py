"""What the loader `direct` reads for a piece of a batch: the samples' places, sorted and coalesced to ranges, each with its memory. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from storagebench.loaders.delivery import Deliverer
from storagebench.storage.buffers import ALIGNMENT_BYTES, aligned
from storagebench.storage.queues import ReadQueue

# Samples this near one another are read in one go: what lies between is a tar header, not a sample.
MAX_GAP_BYTES = 8192


class Member(NamedTuple):
    """A sample in a range: its position in the piece, and its bytes in the range's memory."""

    position: int
    start: int
    length: int


@dataclass(slots=True, eq=False)
class Range:
    """Bytes of one shard that are read together. `offset` is aligned as the queue wants it; `left` reads of it are not done.

    `memory` is the caller's (longer than `length` where reads are aligned), or None until the store has brought its own. `record`, where it is to be
    checksummed part by part: the position of the only member, and where the record begins and ends in the range.
    """

    key: str
    offset: int
    length: int
    members: list[Member]
    memory: memoryview | None
    left: int = 1
    record: tuple[int, int, int] | None = None

    def part(self, low: int, length: int) -> memoryview | None:
        """The memory of one read."""
        return None if self.memory is None else self.memory[low : low + aligned(length)]


def memory_bytes(deliverer: Deliverer, ids: NDArray[np.int64], queue: ReadQueue) -> int:
    """Memory of the caller's that `ranges_of` may use for these samples; never less than it does."""
    lengths = deliverer.stored_lengths(ids)
    if not queue.in_place:
        lengths = lengths[lengths > (queue.split_bytes or np.inf)]
    slack = 0 if deliverer.whole_shard else MAX_GAP_BYTES
    return int((-(-lengths // ALIGNMENT_BYTES) * ALIGNMENT_BYTES + slack).sum())


def ranges_of(deliverer: Deliverer, ids: NDArray[np.int64], memory: memoryview | None, queue: ReadQueue) -> list[Range]:
    """The ranges of these samples, by shard and offset."""
    names = deliverer.dataset.names
    shards, lengths = deliverer.dataset.index["shard"][ids].tolist(), deliverer.stored_lengths(ids).tolist()
    if deliverer.whole_shard:
        found = [
            Range(names[shard], 0, length, [Member(position, 0, length)], None)
            for position, (shard, length) in enumerate(zip(shards, lengths, strict=True))
        ]
    else:
        found = _coalesced(names, shards, deliverer.dataset.index["offset"][ids].tolist(), lengths, queue)
    used = 0
    for some in found:
        if queue.in_place or (queue.split_bytes is not None and some.length > queue.split_bytes):
            assert memory is not None
            room = aligned(some.length)
            some.memory = memory[used : used + room]
            used += room
    return found


def _coalesced(names: tuple[str, ...], shards: list[int], offsets: list[int], lengths: list[int], queue: ReadQueue) -> list[Range]:
    found: list[Range] = []
    last_shard, alignment = -1, queue.alignment_bytes
    gap = -1 if queue.whole_pieces else MAX_GAP_BYTES
    longest = 0 if queue.split_bytes is None else queue.split_bytes
    for position in sorted(range(len(shards)), key=lambda place: (shards[place], offsets[place])):
        shard, offset, length = shards[position], offsets[position], lengths[position]
        if found and shard == last_shard:
            last = found[-1]
            end = last.offset + last.length
            joined = offset + length - last.offset
            if 0 <= offset - end <= gap and (queue.in_place or joined <= longest):
                last.members.append(Member(position, offset - last.offset, length))
                last.length = joined
                continue
        start = offset // alignment * alignment
        found.append(Range(names[shard], start, offset + length - start, [Member(position, offset - start, length)], None))
        last_shard = shard
    return found
