"""Who reads which sample when: pure functions on indices. No clock, no I/O, no look-up of the rank.

Randomness is Philox (counter-based, its raw bits are stable over numpy versions) keyed by (seed, epoch, purpose), and the permutation is made
by sorting raw words, so an order is the same on every machine and with every numpy.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
# A run of samples, units or shards: from the first to before the second.
Span = tuple[int, int]

_PURPOSE_ORDER = 1
_PURPOSE_BUFFER = 2
_order_lock = threading.Lock()


def _words(seed: int, epoch: int, purpose: int, count: int) -> NDArray[np.uint64]:
    """`count` uniform 64-bit words; the first k of them do not depend on count."""
    key = np.array([seed & (2**64 - 1), (purpose << 48) ^ epoch], dtype=np.uint64)
    words = np.random.Philox(key=key).random_raw(count)
    return np.asarray(words, dtype=np.uint64)


def epoch_order(seed: int, epoch: int, count: int, shuffle: bool) -> Indices:
    """A permutation of range(count), to be read only: another one each epoch, the same for the same seed; the identity without shuffle."""
    with _order_lock:  # of threads that ask for the same order at once, one works it out
        return _epoch_order(seed, epoch, count, shuffle)


@lru_cache(maxsize=1)
def _epoch_order(seed: int, epoch: int, count: int, shuffle: bool) -> Indices:
    order = np.argsort(_words(seed, epoch, _PURPOSE_ORDER, count), kind="stable").astype(np.int64) if shuffle else np.arange(count, dtype=np.int64)
    order.flags.writeable = False  # it is kept for who asks next: the plan and the start of an epoch, and all ranks of this process
    return order


@dataclass(frozen=True)
class EpochPlan:
    """What one rank will do in one epoch.

    `sizes[k]` is the number of samples in step k of this rank (0 is an idle step); all ranks have the same number of steps.
    `planned` are the samples that may be delivered to this rank; with `drop`, `dropped_samples` of the whole dataset are left out.
    """

    sizes: tuple[int, ...]
    planned: Indices
    dropped_samples: int

    @property
    def num_samples(self) -> int:
        """Samples that this rank will deliver."""
        return sum(self.sizes)


def _step_sizes(available: Sequence[int], rank: int, batch_size: int, keep: bool) -> tuple[int, ...]:
    """Sizes of the steps of one rank when rank i has available[i] samples."""
    if not keep:
        return (batch_size,) * min(count // batch_size for count in available)
    num_steps = max(-(-count // batch_size) for count in available)
    left = available[rank]
    return tuple(max(0, min(batch_size, left - step * batch_size)) for step in range(num_steps))


def plan_by_sample(
    seed: int, epoch: int, num_samples: int, rank: int, world_size: int, batch_size: int, shuffle: bool, keep: bool
) -> tuple[EpochPlan, Indices]:
    """Map-style sharding: global batch k is a run of the epoch's order, and rank r takes the r-th part of it.

    Returns the plan and the ids in the order of delivery. With `keep` the last global batch is spread evenly over the ranks.
    """
    order = epoch_order(seed, epoch, num_samples, shuffle)
    global_batch = batch_size * world_size
    num_full = num_samples // global_batch
    full = order[: num_full * global_batch].reshape(num_full, world_size, batch_size)[:, rank, :].reshape(-1)
    rest = order[num_full * global_batch :]
    sizes = [batch_size] * num_full
    if keep and len(rest):
        share = [len(rest) // world_size + (1 if index < len(rest) % world_size else 0) for index in range(world_size)]
        start = sum(share[:rank])
        full = np.concatenate([full, rest[start : start + share[rank]]])
        sizes.append(share[rank])
    return EpochPlan(tuple(sizes), full, 0 if keep else len(rest)), full


def assign_units(seed: int, epoch: int, num_units: int, rank: int, world_size: int, shuffle: bool) -> Indices:
    """Shards or row groups of one rank in one epoch, in reading order: the epoch's order is dealt round robin."""
    return epoch_order(seed, epoch, num_units, shuffle)[rank::world_size]


def plan_by_unit(
    seed: int, epoch: int, first_samples: Indices, unit_sizes: Indices, rank: int, world_size: int, batch_size: int, shuffle: bool, keep: bool
) -> tuple[EpochPlan, Indices]:
    """Sharding of whole units (shards, row groups): unit u holds samples first_samples[u] .. + unit_sizes[u].

    Returns the plan and the unit ids of this rank in reading order. With `drop`, all ranks do as many full steps as the poorest can.
    """
    order = epoch_order(seed, epoch, len(unit_sizes), shuffle)
    available = [int(unit_sizes[order[other::world_size]].sum()) for other in range(world_size)]
    sizes = _step_sizes(available, rank, batch_size, keep)
    mine = order[rank::world_size]
    planned = samples_of_units(mine, first_samples, unit_sizes)
    dropped = 0 if keep else int(unit_sizes.sum()) - len(sizes) * batch_size * world_size
    return EpochPlan(sizes, planned, dropped), mine


def _own_order(seed: int, epoch: int, count: int, shuffle: bool, span: Span) -> Indices:
    """The epoch's order of what one span holds."""
    with _order_lock:
        return _part_of_order(seed, epoch, count, shuffle, span)


@lru_cache(maxsize=1)
def _part_of_order(seed: int, epoch: int, count: int, shuffle: bool, span: Span) -> Indices:
    order = _epoch_order(seed, epoch, count, shuffle)
    part = order[(order >= span[0]) & (order < span[1])]
    part.flags.writeable = False  # as in `_epoch_order`
    return part


@lru_cache(maxsize=4)
def places_in_spans(spans: tuple[Span, ...]) -> list[tuple[int, int]]:
    """Of each rank: which of the ranks that share its span it is, and how many they are.

    >>> places_in_spans(((0, 5), (5, 9), (0, 5)))
    [(0, 2), (0, 1), (1, 2)]
    """
    sharing, met, found = Counter(spans), Counter[Span](), []
    for span in spans:
        found.append((met[span], sharing[span]))
        met[span] += 1
    return found


def plan_own_samples(
    seed: int, epoch: int, num_samples: int, spans: tuple[Span, ...], rank: int, batch_size: int, shuffle: bool, keep: bool
) -> tuple[EpochPlan, Indices]:
    """`plan_by_sample` where rank r may only read the samples spans[r][0] .. spans[r][1] - 1; ranks of one host have the same span.

    Within a host it is `plan_by_sample`. All ranks take the same number of steps: with `drop` as many as the host can whose accelerators have the fewest
    samples, with `keep` as many as the one whose have the most needs, where the others are idle at the end.
    """
    local, sharing = places_in_spans(spans)[rank]
    order = _own_order(seed, epoch, num_samples, shuffle, spans[rank])
    counts = [(stop - first, ranks * batch_size) for (first, stop), ranks in Counter(spans).items()]
    if not keep:
        num_steps = min(count // batch for count, batch in counts)
        mine = order[: num_steps * batch_size * sharing].reshape(num_steps, sharing, batch_size)[:, local, :].reshape(-1)
        return EpochPlan((batch_size,) * num_steps, mine, num_samples - num_steps * batch_size * len(spans)), mine
    num_steps = max(-(-count // batch) for count, batch in counts)
    num_full = len(order) // (batch_size * sharing)
    full = order[: num_full * batch_size * sharing].reshape(num_full, sharing, batch_size)[:, local, :].reshape(-1)
    rest = order[num_full * batch_size * sharing :]
    share = [len(rest) // sharing + (index < len(rest) % sharing) for index in range(sharing)]
    mine = np.concatenate([full, rest[sum(share[:local]) :][: share[local]]])
    sizes = [batch_size] * num_full + [share[local]] * (len(rest) > 0)
    return EpochPlan((*sizes, *[0] * (num_steps - len(sizes))), mine, 0), mine


def plan_own_units(
    seed: int,
    epoch: int,
    first_samples: Indices,
    unit_sizes: Indices,
    spans: tuple[Span, ...],
    rank: int,
    batch_size: int,
    shuffle: bool,
    keep: bool,
) -> tuple[EpochPlan, Indices]:
    """`plan_by_unit` where rank r may only read the units spans[r][0] .. spans[r][1] - 1: those of a span are dealt round robin to its ranks."""
    order = epoch_order(seed, epoch, len(unit_sizes), shuffle)
    parts = {span: order[(order >= span[0]) & (order < span[1])] for span in dict.fromkeys(spans)}
    dealt = [parts[span][local::sharing] for span, (local, sharing) in zip(spans, places_in_spans(spans), strict=True)]
    sizes = _step_sizes([int(unit_sizes[units].sum()) for units in dealt], rank, batch_size, keep)
    planned = samples_of_units(dealt[rank], first_samples, unit_sizes)
    dropped = 0 if keep else int(unit_sizes.sum()) - len(sizes) * batch_size * len(spans)
    return EpochPlan(sizes, planned, dropped), dealt[rank]


def samples_of_units(units: Indices, first_samples: Indices, unit_sizes: Indices) -> Indices:
    """Sample ids of these units, unit after unit."""
    if len(units) == 0:
        return np.empty(0, dtype=np.int64)
    return np.concatenate([np.arange(first_samples[u], first_samples[u] + unit_sizes[u], dtype=np.int64) for u in units])


def buffer_shuffle(seed: int, epoch: int, rank: int, count: int, buffer_size: int) -> Iterator[int]:
    """The order in which a shuffle buffer of `buffer_size` gives back positions 0..count-1 that enter it one after another.

    Position p comes out once and not before p - buffer_size + 1 others have; a buffer of 1 is the identity.
    """
    words = _words(seed + 0x9E37 * (rank + 1), epoch, _PURPOSE_BUFFER, count)
    buffer = list(range(min(buffer_size, count)))
    entered = len(buffer)
    for word in words:
        slot = int(word) % len(buffer)
        yield buffer[slot]
        if entered < count:
            buffer[slot] = entered
            entered += 1
        else:
            buffer[slot] = buffer[-1]
            buffer.pop()


def split_work(prefetch_batches: int, num_workers: int, batch_size: int) -> tuple[int, int, int]:
    """How many workers to use, into how many pieces to cut a batch, and how many pieces each worker may hold.

    A prefetch of k batches then is k batches, with all workers busy: workers x pieces held = k x pieces of a batch. A batch cannot be cut
    below one sample, so at most k x batch_size workers have work; the rest are not started.
    """
    if num_workers == 0:
        return 0, 1, 0
    workers = min(num_workers, prefetch_batches * batch_size)
    while workers > 1:
        pieces = workers // int(np.gcd(workers, prefetch_batches))
        if pieces <= batch_size:
            return workers, pieces, prefetch_batches * pieces // workers
        workers -= 1
    return 1, 1, prefetch_batches


def cut(count: int, pieces: int) -> list[slice]:
    """Cut range(count) into at most `pieces` runs of nearly equal length, none empty."""
    pieces = min(pieces, count)
    bounds = [count * index // pieces for index in range(pieces + 1)] if pieces else [0]
    return [slice(low, high) for low, high in pairwise(bounds)]


def shard_sizes(num_samples: int, samples_per_shard: int, one_per_shard: bool) -> Indices:
    """Samples of each shard: nearly equal, at most samples_per_shard, and at least min(num_samples, 64) shards."""
    num_shards = num_samples if one_per_shard else max(-(-num_samples // samples_per_shard), min(num_samples, 64))
    base, extra = divmod(num_samples, num_shards)
    sizes = np.full(num_shards, base, dtype=np.int64)
    sizes[:extra] += 1
    return sizes
