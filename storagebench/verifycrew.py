"""A dataset verified by the members of a crew: each reads its share of the shards, and all know what was found, by host.

- shared: the shards are dealt over all members; what else lies in the storage is looked at once.
- replicated: each host's members read all shards of its copy, and all copies have one manifest.
- partitioned: each host's members read the shards of the part that is found there, and each part has to be on some host.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from storagebench.cluster.crew import Crew, agreed
from storagebench.cluster.membership import refuse_different
from storagebench.cluster.pieces import exchange_bytes
from storagebench.errors import DatasetError, UsageError
from storagebench.manifest import Dataset, load_dataset
from storagebench.placement import assign_parts, listed, part_held, shares_of_parts
from storagebench.protocols import Store
from storagebench.verify import Problem, verify


@dataclass(frozen=True)
class Found:
    """A problem, and the host that has it ("" in a storage that all share)."""

    host: str
    problem: Problem


@dataclass(frozen=True)
class Verified:
    """What was found. `spans` are the shards [first, stop) that each host was asked for, by its label."""

    dataset: Dataset
    found: list[Found]
    spans: dict[str, tuple[int, int]]


def verify_here(store: Store, placement: str | None, num_threads: int, progress: Callable[[int, int], None] | None) -> Verified:
    """By a command that is alone. Of a partitioned dataset it is the part that this storage holds. Raises DatasetError where it holds none."""
    dataset = load_dataset(store)
    _placement(placement, dataset)
    span = dataset.partition[part_held(dataset, store)] if dataset.partition else (0, dataset.num_shards)
    problems = verify(store, dataset, num_threads=num_threads, progress=progress, shards=range(*span), beside=range(*span))
    return Verified(dataset, [Found("", problem) for problem in problems], {"": span})


def verify_together(
    crew: Crew, store: Store, placement: str | None, num_threads: int, progress: Callable[[int, int], None] | None = None
) -> Verified:
    """By all members of a crew, each of which gets the same answer. `placement` None takes what the manifest says. Collective."""
    datasets: list[Dataset] = []

    def about() -> dict[str, object]:
        datasets.append(load_dataset(store))
        return {
            "asked": {"--placement": placement},
            "digest": datasets[0].digest(),
            "shares": shares_of_parts(datasets[0], listed(store, datasets[0])),
        }

    rows = agreed(crew, about)
    dataset = datasets[0]
    refuse_different([row["asked"] for row in rows], crew.hosts)
    _refuse_different_copies([row["digest"] for row in rows], crew, store)
    how = _placement(placement, dataset)
    hosts = list(dict.fromkeys(crew.hosts))
    span: tuple[int, int] = (0, dataset.num_shards)
    here = crew.hosts[crew.member]
    mine = [member for member, host in enumerate(crew.hosts) if how == "shared" or host == here]
    spans: dict[str, tuple[int, int]] = dict.fromkeys(hosts, span)
    problems: list[Found] = []
    if how == "partitioned":
        spans, problems = _parts(dataset, [rows[crew.hosts.index(host)]["shares"] for host in hosts], hosts)
        span = spans.get(here, (0, 0))
    shards = range(*span)[mine.index(crew.member) :: len(mine)]
    beside = range(*span) if crew.member == mine[0] else range(0)
    text = json.dumps([asdict(problem) for problem in _verified(crew, store, dataset, num_threads, progress, shards, beside)])
    for member, data in enumerate(exchange_bytes(crew, text.encode())):
        problems += [Found("" if how == "shared" else crew.hosts[member], Problem(**row)) for row in json.loads(data)]
    return Verified(dataset, problems, spans)


def _verified(
    crew: Crew, store: Store, dataset: Dataset, num_threads: int, progress: Callable[[int, int], None] | None, shards: range, beside: range
) -> list[Problem]:
    """This member's share, unless another one ends the crew meanwhile."""

    def follow(done: int, total: int) -> None:
        if crew.cause is not None:
            crew.exchange(None)  # raises
        if progress is not None:
            progress(done, total)

    found: list[Problem] = []

    def work() -> None:
        found.extend(verify(store, dataset, num_threads=num_threads, progress=follow, shards=shards, beside=beside))

    agreed(crew, work)
    return found


def _refuse_different_copies(digests: list[str], crew: Crew, store: Store) -> None:
    other = next((member for member, digest in enumerate(digests) if digest != digests[0]), None)
    if other is not None:
        raise DatasetError(
            f"host {crew.hosts[other]} has at {store.url} the dataset {digests[other][:12]}, and host {crew.hosts[0]} has {digests[0][:12]}",
            "generate it on all hosts with the same command and --placement replicated or partitioned",
        )


def _placement(asked: str | None, dataset: Dataset) -> str:
    """Raises UsageError where what was asked for is not what the manifest says."""
    if dataset.partition:
        if asked not in (None, "partitioned"):
            raise UsageError(f"the dataset is partitioned over {len(dataset.partition)} hosts, and --placement is {asked}", "leave --placement out")
        return "partitioned"
    if asked == "partitioned":
        raise UsageError("--placement is partitioned, and the dataset is whole wherever it lies", "use --placement shared or replicated")
    return asked or "shared"


def _parts(dataset: Dataset, shares: list[list[float]], hosts: list[str]) -> tuple[dict[str, tuple[int, int]], list[Found]]:
    """The shards of each host that has a part, and a problem for each part that no host has."""
    found = assign_parts(shares)
    spans = {host: dataset.partition[part] for host, part in zip(hosts, found, strict=True) if part is not None}
    problems = []
    for part, (first, stop) in enumerate(dataset.partition):
        if part not in found:
            name = dataset.names[first] if stop - first == 1 else f"{dataset.names[first]} to {dataset.names[stop - 1]}"
            problems.append(Found("", Problem(name, None, f"on none of the hosts {', '.join(hosts)}: part {part + 1} of {len(dataset.partition)}")))
    return spans, problems
