"""Where the data of a run over several hosts lie: `shared` in one storage, `replicated` whole on each host, `partitioned` in parts on each host's own disk.

A partitioned dataset has the same manifest and index everywhere; its option `partition` has the shards [first, stop) of each part. Which part a host
holds is found in its storage and not told, since launchers number hosts anew each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from storagebench.errors import DatasetError, UsageError
from storagebench.manifest import Dataset
from storagebench.members import hosts_of, members_of
from storagebench.protocols import Store
from storagebench.sampling import Span

_ELSEWHERE = "start the command with torchrun, srun or mpirun on each of the hosts that hold the dataset"


def split_shards(num_shards: int, weights: Sequence[int]) -> tuple[Span, ...]:
    """Runs of shards for hosts with so many accelerators, as near to their proportion as whole shards allow. Raises UsageError where a host would get none.

    >>> split_shards(64, (2, 1, 1))
    ((0, 32), (32, 48), (48, 64))
    """
    total = sum(weights)
    lengths = [num_shards * weight // total for weight in weights]
    # What is left over goes to the largest remainders, so that the lengths are the same for hosts in another order.
    largest = sorted(range(len(weights)), key=lambda host: (-(num_shards * weights[host] % total), host))
    for host in largest[: num_shards - sum(lengths)]:
        lengths[host] += 1
    spans = tuple(pairwise([0, *accumulate(lengths)]))
    if any(first == stop for first, stop in spans):
        raise UsageError(
            f"{num_shards} shards are too few to be partitioned over {len(weights)} hosts with {', '.join(map(str, weights))} accelerators",
            "use fewer hosts, smaller --samples-per-shard or more --num-samples",
        )
    return spans


def shares_of_parts(dataset: Dataset, sizes: Mapping[str, int]) -> list[float]:
    """How much of each part lies in a storage with objects of these `sizes`: 0 (nothing) to 1 (all shards, with the bytes of the manifest)."""
    found = [sizes.get(name) == expected for name, expected in zip(dataset.names, dataset.shard_bytes.tolist(), strict=True)]
    return [sum(found[first:stop]) / (stop - first) for first, stop in dataset.partition]


def listed(store: Store, dataset: Dataset) -> dict[str, int]:
    """Bytes of each object in the storage that may be a shard."""
    return {info.key: info.num_bytes for info in store.list(dataset.shard_prefix)}


def assign_parts(shares: Sequence[Sequence[float]]) -> list[int | None]:
    """Which part each host holds, out of `shares_of_parts` of each: whoever has most of a part gets it, each part and each host once.

    Where hosts have as much as one another, they take the parts in order, as all do who see one storage with all parts. None: nothing of a part that is left.

    >>> assign_parts([[0.0, 1.0], [1.0, 0.0]]), assign_parts([[1.0, 1.0], [1.0, 1.0]]), assign_parts([[1.0, 0.0], [0.9, 0.0]])
    ([1, 0], [0, 1], [0, None])
    """
    found: list[int | None] = [None] * len(shares)
    claims = sorted((-share, abs(host - part), host, part) for host, row in enumerate(shares) for part, share in enumerate(row) if share > 0)
    for _, _, host, part in claims:
        if found[host] is None and part not in found:
            found[host] = part
    return found


def part_held(dataset: Dataset, store: Store) -> int:
    """The part that a storage holds. Raises DatasetError where it has no shard of any."""
    part = assign_parts([shares_of_parts(dataset, listed(store, dataset))])[0]
    if part is None:
        raise DatasetError(
            f"{store.url} has the manifest of a dataset in {len(dataset.partition)} parts, and no whole shard of any of them",
            "see whether this is one of the hosts that it was generated on, then generate it again",
        )
    return part


def held_here(dataset: Dataset, store: Store) -> Dataset:
    """What this storage holds of a dataset: all of it, but of a partitioned one. Raises what `part_held` does."""
    return dataset.part(*dataset.partition[part_held(dataset, store)]) if dataset.partition else dataset


def spans_of_hosts(dataset: Dataset, shares: Sequence[Sequence[float]], hosts: Sequence[str]) -> tuple[Span, ...]:
    """The shards that each of these hosts holds, in their order. Raises UsageError where the hosts are not as many as the parts, DatasetError where one
    holds nothing."""
    partition = dataset.partition
    if len(hosts) != len(partition):
        raise UsageError(f"the dataset is partitioned over {len(partition)} hosts, and this runs on {len(hosts)} ({', '.join(hosts)})", _ELSEWHERE)
    found = assign_parts(shares)
    for host, part in zip(hosts, found, strict=True):
        if part is None:
            missing = next(number for number in range(len(partition)) if number not in found)
            first, stop = partition[missing]
            raise DatasetError(
                f"host {host} holds none of the shards {dataset.names[first]} to {dataset.names[stop - 1]}, and no other host does",
                "run `storagebench verify` with the same launcher, then generate the dataset again",
            )
    return tuple(partition[part] for part in found if part is not None)


def refuse_misplaced(dataset: Dataset, placement: str, num_hosts: int) -> None:
    """Raises UsageError where --placement is not that of the dataset."""
    parts = len(dataset.partition)
    if placement == "partitioned" and not parts:
        raise UsageError(
            "--placement is partitioned, and the dataset is whole wherever it lies",
            "use --placement shared or replicated, or generate the dataset with --placement partitioned",
        )
    if parts and num_hosts == 1 < parts:
        raise UsageError(f"the dataset is partitioned over {parts} hosts, and this runs on one", f"{_ELSEWHERE}, with --placement partitioned")
    if parts and placement != "partitioned":
        raise UsageError(f"the dataset is partitioned over {parts} hosts, and --placement is {placement}", "give --placement partitioned")


def refuse_partitioned(dataset: Dataset, what: str) -> None:
    """Raises UsageError for a verb that reads the whole dataset from one host."""
    if len(dataset.partition) > 1:
        raise UsageError(
            f"the dataset is partitioned over {len(dataset.partition)} hosts, and {what} reads all of it from one", "use a dataset that is whole here"
        )


def shard_spans(run: Mapping[str, Any]) -> tuple[Span, ...]:
    """`LoadJob.shard_spans` of a saved run."""
    spans = run.get("partition")
    if not spans:
        return ()
    numbers = {row["host"]: number for number, row in enumerate(hosts_of(run))}
    return spans_of_ranks(spans, [(numbers[row["host"]], row["ranks"]) for row in members_of(run)])


def spans_of_ranks(spans: Sequence[Sequence[int]], members: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
    """The span of each rank: `spans` of the hosts in their order, and the (host number, ranks) of each member.

    >>> spans_of_ranks(((0, 8), (8, 12)), ((0, 2), (1, 1)))
    ((0, 8), (0, 8), (8, 12))
    """
    return tuple((spans[host][0], spans[host][1]) for host, ranks in members for _ in range(ranks))


def held(run: Mapping[str, Any], dataset: Dataset, host: str) -> Dataset:
    """The part of a run's dataset that a host holds: all of it, but of a partitioned one."""
    spans = run.get("partition")
    if not spans:
        return dataset
    first, stop = spans[[row["host"] for row in hosts_of(run)].index(host)]
    return dataset.part(first, stop)
