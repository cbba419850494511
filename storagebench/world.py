"""Who am I among the ranks, and the few collectives that the engine needs. One process needs no torch; several use gloo. Ranks that share a
process combine in `storagebench.consumers` first.

No collective here has a timeout that a slow fetch could meet: death is told by the process (see `storagebench.launch`), so gloo waits for a day.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from storagebench.errors import UsageError

_COLLECTIVE_TIMEOUT_S = 86_400


@dataclass(frozen=True)
class Place:
    """Rank and host of one consumer. `ranks_per_host` is of a full host, as the last one may have fewer; `rank_of_process` counts those that share a
    process."""

    rank: int = 0
    world_size: int = 1
    rank_of_host: int = 0
    ranks_per_host: int = 1
    host: str = ""
    rank_of_process: int = 0

    @property
    def num_hosts(self) -> int:
        return -(-self.world_size // self.ranks_per_host)

    def shared_by(self, per_process: int, world_size: int) -> list[Place]:
        """The places of the consumers in the process at this place: `per_process` of them in each, in the last one what is left of `world_size`.

        >>> [place.rank for place in Place(rank=1, world_size=2).shared_by(4, 6)]
        [4, 5]
        """
        return [
            Place(
                rank=self.rank * per_process + index,
                world_size=world_size,
                rank_of_host=self.rank_of_host * per_process + index,
                ranks_per_host=min(world_size, self.ranks_per_host * per_process),
                host=self.host,
                rank_of_process=index,
            )
            for index in range(min(per_process, world_size - self.rank * per_process))
        ]


class World(Protocol):
    """The ranks of a run. Every method is collective: all ranks call it, in the same order."""

    place: Place

    def barrier(self) -> None:
        """Return when all ranks have called it."""

    def max_ns(self, value: int) -> int:
        """The largest of the ranks' values."""

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

    def max_ns(self, value: int) -> int:
        return value

    def count_ids(self, ids: NDArray[np.int64], num_samples: int) -> NDArray[Any]:
        return np.bincount(ids, minlength=num_samples)

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def close(self) -> None:
        return


class GlooWorld:
    """Several ranks over torch.distributed with gloo, as the launcher's environment describes them."""

    def __init__(self, place: Place) -> None:
        from datetime import timedelta

        import torch
        import torch.distributed as dist

        self.place = place
        self._dist = dist
        self._torch = torch
        if place.num_hosts == 1:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group("gloo", timeout=timedelta(seconds=_COLLECTIVE_TIMEOUT_S))
        self._deadline = torch.zeros(1, dtype=torch.int64)

    def barrier(self) -> None:
        self._dist.barrier()

    def max_ns(self, value: int) -> int:
        self._deadline[0] = value
        self._dist.all_reduce(self._deadline, op=self._dist.ReduceOp.MAX)
        return int(self._deadline[0])

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


def place_from_environment(environment: Mapping[str, str]) -> Place:
    """The place that torchrun's variables describe (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE); one rank where there are none."""
    if "RANK" not in environment:
        return Place(host=socket.gethostname())
    try:
        rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local_rank, local_size = int(environment["LOCAL_RANK"]), int(environment["LOCAL_WORLD_SIZE"])
    except (KeyError, ValueError) as error:
        raise UsageError(f"RANK is set, but the launcher's environment is incomplete ({error})", "start it with torchrun, or unset RANK") from None
    return Place(rank, world_size, local_rank, local_size, socket.gethostname())


def open_world(place: Place) -> World:
    """Join the ranks."""
    return SingleWorld() if place.world_size == 1 else GlooWorld(place)
