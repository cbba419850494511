"""Who am I among the ranks, and the few collectives that the engine needs. One process needs no torch; several use gloo. Ranks that share a
process combine in `storagebench.consumers` first.

No collective here has a timeout that a slow fetch could meet: death is told by the process (see `storagebench.launch`), so gloo waits for a day.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from storagebench.errors import RankError

_COLLECTIVE_TIMEOUT_S = 86_400


@dataclass(frozen=True)
class Place:
    """Rank and host of one consumer, or of one process among the processes. `rank_of_process` counts those that share a process, `host_number` the hosts
    in the order of their first ranks."""

    rank: int = 0
    world_size: int = 1
    rank_of_host: int = 0
    host: str = ""
    rank_of_process: int = 0
    host_number: int = 0
    num_hosts: int = 1


@dataclass(frozen=True)
class Seats:
    """Where the ranks of a run are. `members`: host and number of ranks of each command process of the run (one, or those that a launcher started), in
    order; a process of ranks holds `per_process` of them, the last one of a member what is left."""

    members: tuple[tuple[str, int], ...]
    per_process: int = 1

    @property
    def world_size(self) -> int:
        return sum(ranks for _, ranks in self.members)

    def processes_of(self, member: int) -> int:
        return -(-self.members[member][1] // self.per_process)

    @property
    def num_processes(self) -> int:
        return sum(map(self.processes_of, range(len(self.members))))

    def process(self, member: int, index: int) -> tuple[Place, list[Place]]:
        """The place of one of a member's processes among all processes, and the places of its ranks.

        >>> [place.rank for place in Seats((("a", 2), ("b", 6)), per_process=4).process(1, 1)[1]]
        [6, 7]
        """
        hosts = list(dict.fromkeys(host for host, _ in self.members))
        host = self.members[member][0]
        before = range(member)
        here = [other for other in before if self.members[other][0] == host]
        first_rank = sum(self.members[other][1] for other in before)
        first_of_host = sum(self.members[other][1] for other in here)
        process = Place(
            rank=sum(map(self.processes_of, before)) + index,
            world_size=self.num_processes,
            rank_of_host=sum(map(self.processes_of, here)) + index,
            host=host,
            host_number=hosts.index(host),
            num_hosts=len(hosts),
        )
        begin = index * self.per_process
        ranks = [
            replace(
                process, rank=first_rank + number, world_size=self.world_size, rank_of_host=first_of_host + number, rank_of_process=number - begin
            )
            for number in range(begin, min(begin + self.per_process, self.members[member][1]))
        ]
        return process, ranks


class Agreed(NamedTuple):
    """`release_ns`: when the last rank is due, on the clock of this host; `common_ns` the same for decisions that all ranks must take alike: one number
    on all of them, whose differences are nanoseconds."""

    release_ns: int
    common_ns: int


class World(Protocol):
    """The ranks of a run. Every method is collective: all ranks call it, in the same order."""

    place: Place

    def barrier(self) -> None:
        """Return when all ranks have called it."""

    def agree(self, due_ns: int) -> Agreed:
        """The latest of the ranks' due times, each given on its own host's clock."""

    def count_ids(self, ids: NDArray[np.int64], num_samples: int) -> NDArray[Any]:
        """How often each of the sample ids 0 .. num_samples - 1 occurs over all ranks. To be read only."""

    def gather(self, value: Any) -> list[Any]:
        """The JSON-like values of all ranks, by rank, on every rank."""

    def close(self) -> None:
        """Leave; may be called twice."""


class SingleWorld:
    """One rank: every collective is the identity, and costs nothing."""

    def __init__(self) -> None:
        self.place = Place(host=socket.gethostname())

    def barrier(self) -> None:
        return

    def agree(self, due_ns: int) -> Agreed:
        return Agreed(due_ns, due_ns)

    def count_ids(self, ids: NDArray[np.int64], num_samples: int) -> NDArray[Any]:
        return np.bincount(ids, minlength=num_samples)

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def close(self) -> None:
        return


class HostsAgreement:
    """Ranks on several hosts agree when the last of them is due, without comparing the clocks of two hosts.

    The end of a first collective, which all have joined, is an event that every rank sees on its own clock; how long after it each is due is a duration, and
    the longest one counts from that event everywhere. Both collectives run while the accelerator computes, so their latency costs nothing until it outlasts
    the compute; then the release is when they ended. What stays is how far apart the ranks see the first one end: at most its latency, in the one direction of a later release.
    `largest` is the collective: the largest of the ranks' values, one by one.
    """

    def __init__(self, largest: Callable[[Sequence[int]], Sequence[int]], now_ns: Callable[[], int]) -> None:
        self._largest, self._now_ns = largest, now_ns
        self._base_ns: int | None = None

    def agree(self, due_ns: int) -> Agreed:
        """See `World.agree`; `due_ns` is of the clock that `now_ns` reads."""
        self._largest([0])
        event_ns = self._now_ns()
        if self._base_ns is None:
            self._base_ns = event_ns
        longest_ns, elapsed_ns = self._largest([due_ns - event_ns, event_ns - self._base_ns])
        # What a collective takes beyond the last due is the network's or a peer's doing, and no host woke an accelerator late.
        return Agreed(max(event_ns + longest_ns, self._now_ns()), elapsed_ns + longest_ns)


@dataclass(frozen=True)
class Rendezvous:
    """Where the processes of several hosts meet: a TCPStore that one of them has open, and the prefix of this run's keys in it."""

    address: str
    port: int
    prefix: str


class GlooWorld:
    """Several processes over torch.distributed with gloo: as torch's launcher describes them where they are of one command, else at the rendezvous."""

    def __init__(self, place: Place, rendezvous: Rendezvous | None = None) -> None:
        from datetime import timedelta

        import torch
        import torch.distributed as dist

        self.place = place
        self._dist = dist
        self._torch = torch
        timeout = timedelta(seconds=_COLLECTIVE_TIMEOUT_S)
        if rendezvous is None:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            dist.init_process_group("gloo", timeout=timeout)
        else:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface_towards(rendezvous.address, rendezvous.port))
            store = dist.TCPStore(rendezvous.address, rendezvous.port, is_master=False, timeout=timeout)
            prefixed = dist.PrefixStore(rendezvous.prefix, store)
            dist.init_process_group("gloo", store=prefixed, rank=place.rank, world_size=place.world_size, timeout=timeout)
        self._deadline = torch.zeros(1, dtype=torch.int64)
        self._between_hosts = None if place.num_hosts == 1 else HostsAgreement(self._largest, time.monotonic_ns)

    def barrier(self) -> None:
        self._dist.barrier()

    def agree(self, due_ns: int) -> Agreed:
        if self._between_hosts is not None:
            return self._between_hosts.agree(due_ns)
        self._deadline[0] = due_ns
        self._dist.all_reduce(self._deadline, op=self._dist.ReduceOp.MAX)
        latest_ns = int(self._deadline[0])
        return Agreed(latest_ns, latest_ns)

    def _largest(self, values: Sequence[int]) -> list[int]:
        tensor = self._torch.tensor(values, dtype=self._torch.int64)
        self._dist.all_reduce(tensor, op=self._dist.ReduceOp.MAX)
        found: list[int] = tensor.tolist()
        return found

    def count_ids(self, ids: NDArray[np.int64], num_samples: int) -> NDArray[Any]:
        tensor = self._torch.from_numpy(np.bincount(ids, minlength=num_samples).astype(np.int32))
        self._dist.all_reduce(tensor, op=self._dist.ReduceOp.SUM)
        result: NDArray[np.int32] = tensor.numpy()
        return result

    def gather(self, value: Any) -> list[Any]:
        import json

        mine = self._torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=self._torch.uint8)
        sizes = [self._torch.zeros(1, dtype=self._torch.int64) for _ in range(self.place.world_size)]
        self._dist.all_gather(sizes, self._torch.tensor([len(mine)]))
        longest = max(int(size) for size in sizes)
        padded = self._torch.zeros(longest, dtype=self._torch.uint8)
        padded[: len(mine)] = mine
        everything = [self._torch.zeros(longest, dtype=self._torch.uint8) for _ in sizes]
        self._dist.all_gather(everything, padded)
        return [json.loads(bytes(data[: int(size)].numpy())) for data, size in zip(everything, sizes, strict=True)]

    def close(self) -> None:
        if self._dist.is_initialized():
            self._dist.destroy_process_group()


def interface_towards(address: str, port: int) -> str:
    """The network interface of this host from which packets go to that address; for an address of this host the one that has it."""
    import psutil

    with socket.socket(socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0][0], socket.SOCK_DGRAM) as probe:
        probe.connect((address, port))  # sends nothing
        own = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == own for each in addresses):
            return name
    raise RankError(f"no network interface of this host has the address {own} that leads to {address}", "set GLOO_SOCKET_IFNAME to its name")


def open_world(place: Place, rendezvous: Rendezvous | None = None) -> World:
    """Join the processes of the ranks."""
    return SingleWorld() if place.world_size == 1 else GlooWorld(place, rendezvous)
