"""Sharding, shuffling and work splitting: pure functions, checked over many shapes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storagebench import sampling

shapes = st.tuples(st.integers(1, 200), st.integers(1, 5), st.integers(1, 17), st.integers(0, 3), st.booleans())


@given(shapes)
@settings(max_examples=150, deadline=None)
def test_by_sample_every_sample_comes_once(shape: tuple[int, int, int, int, bool]) -> None:
    num_samples, world, batch, epoch, shuffle = shape
    plans = [sampling.plan_by_sample(3, epoch, num_samples, rank, world, batch, shuffle, True) for rank in range(world)]
    assert sorted(np.concatenate([ids for _, ids in plans]).tolist()) == list(range(num_samples))
    assert len({len(plan.sizes) for plan, _ in plans}) == 1  # all ranks take the same number of steps
    assert all(size <= batch for plan, _ in plans for size in plan.sizes)


@given(shapes)
@settings(max_examples=150, deadline=None)
def test_by_sample_drop_leaves_out_less_than_a_global_batch(shape: tuple[int, int, int, int, bool]) -> None:
    num_samples, world, batch, epoch, shuffle = shape
    plans = [sampling.plan_by_sample(3, epoch, num_samples, rank, world, batch, shuffle, False) for rank in range(world)]
    delivered = np.concatenate([ids for _, ids in plans])
    assert len(set(delivered.tolist())) == len(delivered) == sum(plan.num_samples for plan, _ in plans)
    assert {plan.dropped_samples for plan, _ in plans} == {num_samples - len(delivered)}
    assert num_samples - len(delivered) < world * batch
    assert all(size == batch for plan, _ in plans for size in plan.sizes)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 4), st.integers(1, 8), st.integers(0, 2), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_by_unit_units_are_dealt_and_steps_agree(sizes: list[int], world: int, batch: int, epoch: int, shuffle: bool, keep: bool) -> None:
    unit_sizes = np.array(sizes, np.int64)
    firsts = np.concatenate([[0], np.cumsum(unit_sizes)[:-1]])
    plans = [sampling.plan_by_unit(5, epoch, firsts, unit_sizes, rank, world, batch, shuffle, keep) for rank in range(world)]
    assert sorted(np.concatenate([units for _, units in plans]).tolist()) == list(range(len(sizes)))
    assert sorted(np.concatenate([plan.planned for plan, _ in plans]).tolist()) == list(range(sum(sizes)))
    assert len({len(plan.sizes) for plan, _ in plans}) == 1
    total = sum(plan.num_samples for plan, _ in plans)
    assert plans[0][0].dropped_samples == sum(sizes) - total
    if keep:
        assert total == sum(sizes)
    else:
        assert all(size == batch for plan, _ in plans for size in plan.sizes)


@given(st.integers(0, 2**62), st.integers(1, 300))
@settings(max_examples=50, deadline=None)
def test_order_is_a_permutation_that_repeats_by_seed(seed: int, count: int) -> None:
    first = sampling.epoch_order(seed, 0, count, True)
    assert sorted(first.tolist()) == list(range(count))
    assert (first == sampling.epoch_order(seed, 0, count, True)).all()
    if count > 20:
        assert (first != sampling.epoch_order(seed, 1, count, True)).any()
        assert (first != sampling.epoch_order(seed + 1, 0, count, True)).any()


def test_order_is_pinned() -> None:
    """The same on every machine and with every numpy: a published seed means something."""
    assert sampling.epoch_order(1, 0, 10, True).tolist() == PINNED_ORDER
    assert sampling.epoch_order(1, 0, 5, False).tolist() == [0, 1, 2, 3, 4]


PINNED_ORDER = [8, 2, 7, 0, 6, 3, 4, 9, 1, 5]


@given(st.integers(0, 99), st.integers(1, 200), st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_shuffle_buffer_gives_each_position_once_and_holds_no_more_than_its_size(seed: int, count: int, size: int) -> None:
    order = list(sampling.buffer_shuffle(seed, 0, 0, count, size))
    assert sorted(order) == list(range(count))
    assert all(position < index + size for index, position in enumerate(order))


@given(st.integers(1, 16), st.integers(1, 32), st.integers(1, 64))
@settings(max_examples=300, deadline=None)
def test_prefetch_means_what_it_says(prefetch: int, num_workers: int, batch: int) -> None:
    workers, pieces, held = sampling.split_work(prefetch, num_workers, batch)
    assert 1 <= workers <= num_workers
    assert pieces <= batch
    assert workers * held == prefetch * pieces  # exactly `prefetch` batches are in flight


def test_no_workers_means_none() -> None:
    assert sampling.split_work(4, 0, 8) == (0, 1, 0)


@pytest.mark.parametrize(
    ("num_samples", "per_shard", "one", "shards"),
    [(1000, 100, False, 64), (10_000, 100, False, 100), (10, 4, False, 10), (7, 1, True, 7), (1, 9, False, 1)],
)
def test_shards_are_at_least_64_or_one_a_sample(num_samples: int, per_shard: int, one: bool, shards: int) -> None:
    sizes = sampling.shard_sizes(num_samples, per_shard, one)
    assert len(sizes) == shards
    assert sizes.sum() == num_samples
    assert sizes.max() - sizes.min() <= 1


@given(st.integers(0, 50), st.integers(1, 9))
def test_cut_covers_without_gaps(count: int, pieces: int) -> None:
    parts = sampling.cut(count, pieces)
    assert [index for part in parts for index in range(part.start, part.stop)] == list(range(count))
    assert all(part.stop > part.start for part in parts)
