"""One dataset made by the members of a crew: who makes which units, and who writes the manifest. What a unit is and how it is stored is `buildparts`'s.

- shared: one store that all see. The units are dealt over all members, and member 0 writes manifest and index.
- replicated: each host has a store of its own, in which its members make all of it; its first member writes the manifest.
- partitioned: each host makes a run of the shards in its own store, and what it knows of them goes to all others, so that manifest and index are complete
  and the same everywhere.

Sidecars in the store make it resumable, as in a build by one process: what a member had finished when it died is not made again. A member never lists what
others write meanwhile: it is told, and opens by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from storagebench import __version__
from storagebench.buildparts import SPEC_KEY, Layout, Ledger, Unit, begun_partition
from storagebench.cluster.crew import Crew, agreed, from_first
from storagebench.cluster.membership import flat, refuse_different
from storagebench.cluster.pieces import exchange_bytes
from storagebench.errors import DatasetError, StorageError, UsageError
from storagebench.manifest import MANIFEST_KEY, PARTITION_OPTION, Dataset
from storagebench.placement import assign_parts, listed, shares_of_parts, split_shards
from storagebench.protocols import Format, Store
from storagebench.shardmaking import StoppedError

Parts = Sequence[Sequence[int]]


class Asked(Protocol):
    """What is to be made (`storagebench.build`)."""

    @property
    def store(self) -> Store: ...
    @property
    def form(self) -> Format: ...
    @property
    def spec(self) -> dict[str, Any]: ...

    def layout(self, partition: Parts = ()) -> Layout: ...

    def make(
        self,
        ledger: Ledger,
        layout: Layout,
        units: Sequence[Unit],
        total: int,
        sharing: int = 1,
        on_makers: Callable[[Callable[[], None] | None], None] = ...,
    ) -> None: ...

    def dataset(self, layout: Layout, partition: Parts = ()) -> Dataset: ...


@dataclass(frozen=True)
class _Group:
    """The members that fill one store. `first` of them keeps its ledger, and `mine` is where this member stands in it."""

    members: tuple[int, ...]
    member: int

    @property
    def first(self) -> int:
        return self.members[0]

    @property
    def is_first(self) -> bool:
        return self.member == self.first

    def share(self, units: Sequence[Unit]) -> list[Unit]:
        """The units of this member: neighbours go to different ones, as they are about as large as each other."""
        return list(units[self.members.index(self.member) :: len(self.members)])


def build_together(crew: Crew, asked: Asked, placement: str, num_accelerators: int) -> Dataset | None:
    """Make it, finish it, or find it complete; the dataset at the first member of each store, None at the others. Collective."""
    hosts = list(dict.fromkeys(crew.hosts))
    sees = crew.hosts if placement != "shared" else [""] * crew.num_members
    group = _Group(tuple(member for member, host in enumerate(sees) if host == sees[crew.member]), crew.member)
    partition, lengths = _agree_on_partition(crew, asked, placement, num_accelerators, group, hosts)
    layout = asked.layout(partition)
    ledger = Ledger(asked.store, {**asked.spec, **({PARTITION_OPTION: partition} if partition else {})}, layout, asked.form)
    begun = _begin_all(crew, lambda: _begin(asked.store, ledger, layout, partition), asked.store, group)
    state = begun[group.first]
    agreed(crew, lambda: _refuse_unseen(crew, asked.store, ledger, group, state["complete"]))
    spans = _spans([begun[crew.hosts.index(host)]["shares"] for host in hosts], partition, lengths) if partition else []
    span = spans[hosts.index(crew.hosts[crew.member])] if partition else [0, len(layout.names)]
    done = set(state["done"])
    missing = [unit for unit in layout.units if unit.number not in done and span[0] <= unit.first < span[1]]
    mine = group.share([] if state["complete"] else missing)
    sharing = sum(host == crew.hosts[crew.member] for host in crew.hosts)
    _make(crew, asked, ledger, layout, mine, sharing)
    crew.exchange(None)
    agreed(crew, lambda: _collect(crew, ledger, group, missing, mine) if group.is_first and not state["complete"] else None)
    if partition:
        known = layout.columns(span[0], span[1]) if group.is_first else b""
        for member, data in enumerate(exchange_bytes(crew, known)):
            if data and member != crew.member:
                first, stop = spans[hosts.index(crew.hosts[member])]
                layout.take_columns(first, stop, data)
    return _commit(crew, asked, ledger, layout, partition, group)


def _agree_on_partition(
    crew: Crew, asked: Asked, placement: str, num_accelerators: int, group: _Group, hosts: Sequence[str]
) -> tuple[Parts, list[int]]:
    """Refuse what the members do not agree on; then the parts (as they were begun, where that was with the same hosts in another order), and how many shards
    each host is to have."""
    partitioned = placement == "partitioned"

    def about() -> dict[str, Any]:
        said = {**flat(asked.spec), "--placement": placement, "version of storagebench": __version__}
        begun = begun_partition(asked.store) if partitioned and group.is_first else None
        return {"asked": said, "accelerators": num_accelerators, "begun": begun}

    rows = agreed(crew, about)
    refuse_different([row["asked"] for row in rows], crew.hosts)
    if not partitioned:
        return (), []
    weights = [sum(row["accelerators"] for row, other in zip(rows, crew.hosts, strict=True) if other == host) for host in hosts]
    wanted = [list(part) for part in split_shards(len(asked.layout().names), weights)]
    begun: Parts | None = next((row["begun"] for row in rows if row["begun"]), None)
    lengths = [_length(part) for part in wanted]
    return (begun if begun and sorted(map(_length, begun)) == sorted(lengths) else wanted), lengths


def _length(part: Sequence[int]) -> int:
    return part[1] - part[0]


def _begin_all(crew: Crew, begin: Callable[[], dict[str, Any]], store: Store, group: _Group) -> list[dict[str, Any]]:
    """What `begin` returned at the first member of each group, by member. Raises UsageError where hosts that are to have a storage each share one: what the
    first of them has begun, the others then see, where there was nothing before."""

    def is_used() -> bool:
        return store.exists(SPEC_KEY) or store.exists(MANIFEST_KEY)

    used = agreed(crew, is_used)[crew.member]
    first = from_first(crew, begin)

    def begin_here() -> dict[str, Any] | None:
        if not group.is_first or crew.member == 0:
            return None
        if not used and is_used():
            raise UsageError(
                f"host {crew.hosts[crew.member]} sees at {store.url} what host {crew.hosts[0]} has begun there: they share this storage",
                "use --placement shared, or a --data-dir that is each host's own",
            )
        return begin()

    return [first, *agreed(crew, begin_here)[1:]]


def _begin(store: Store, ledger: Ledger, layout: Layout, partition: Parts) -> dict[str, Any]:
    """What is there of this dataset, the store being claimed for it: whether it is complete, the numbers of the finished units, and how much of each part."""
    dataset = ledger.finished()
    if dataset is not None:
        layout.take_dataset(dataset)
        return {"complete": True, "done": [], "shares": shares_of_parts(dataset, listed(store, dataset))}
    done = ledger.begin()
    stored = [sum(unit.stop - unit.first for unit in layout.units if unit.number in done and first <= unit.first < stop) for first, stop in partition]
    return {"complete": False, "done": sorted(done), "shares": [count / _length(part) for count, part in zip(stored, partition, strict=True)]}


def _refuse_unseen(crew: Crew, store: Store, ledger: Ledger, group: _Group, complete: bool) -> None:
    """Raises UsageError where this member does not see what the first one of its group has begun."""
    if group.is_first or (store.exists(MANIFEST_KEY) if complete else ledger.is_begun()):
        return
    first, here = crew.hosts[group.first], crew.hosts[crew.member]
    raise UsageError(
        f"host {here} does not see at {store.url} what host {first} has begun there",
        "give a storage that all hosts share, or --placement replicated or partitioned where each host has its own",
    )


def _spans(shares: Sequence[Sequence[float]], partition: Parts, lengths: Sequence[int]) -> list[list[int]]:
    """The part of each host: the one of which it has something already, and for the others one that is left, of their own length where there is one."""
    parts = assign_parts(shares)
    found = []
    for host, part in enumerate(parts):
        left = [number for number in range(len(partition)) if number not in parts]
        if part is None:
            part = parts[host] = min(left, key=lambda number: (abs(_length(partition[number]) - lengths[host]), number != host, number))
        found.append(list(partition[part]))
    return found


def _make(crew: Crew, asked: Asked, ledger: Ledger, layout: Layout, units: Sequence[Unit], sharing: int) -> None:
    """Store the units of this member, until they are done or the crew has to end."""
    total = sum(len(layout.rows(unit.first, unit.stop)) for unit in units)
    try:
        asked.make(ledger, layout, units, total, sharing, crew.on_end)
    except StoppedError:
        crew.exchange(None)  # raises: another member has ended it
        raise


def _collect(crew: Crew, ledger: Ledger, group: _Group, units: Sequence[Unit], mine: Sequence[Unit]) -> None:
    """Fill in what the others of the group have made. Raises StorageError where it cannot be read here."""
    for number, unit in enumerate(units):
        if unit not in mine and not ledger.take_unit(unit):
            maker = crew.hosts[group.members[number % len(group.members)]]
            raise StorageError(
                f"{unit.key}, which host {maker} has written, cannot be read on host {crew.hosts[crew.member]}",
                "see whether both have the same storage there, then give the same command again: it goes on where it was",
            )


def _commit(crew: Crew, asked: Asked, ledger: Ledger, layout: Layout, partition: Parts, group: _Group) -> Dataset | None:
    """Manifest and index in each store, once all agree on what is in them."""
    dataset = asked.dataset(layout, partition) if group.is_first else None
    digests = [digest for digest in crew.exchange(None if dataset is None else dataset.digest()) if digest]
    if len(set(digests)) > 1:
        raise DatasetError(f"the hosts have made different datasets ({', '.join(digest[:12] for digest in digests)})", "report this defect")

    def finish() -> None:
        if dataset is not None and ledger.finished() is None:
            ledger.finish(dataset)

    # Before anybody writes again, should hosts see one storage after all.
    agreed(crew, lambda: ledger.remove_leftovers() if dataset is not None else None)
    agreed(crew, finish)
    return dataset
