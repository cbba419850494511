"""Crews of several members over real sockets in one process. Imported by its bare name (see conftest)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from storagebench.cluster.hub import Hub
from storagebench.cluster.spoke import Spoke
from storagebench.cluster.wire import Wire
from storagebench.errors import StorageBenchError
from storagebench.world import Rendezvous

_MEETING = Rendezvous("127.0.0.1", 1, "test")
MOST_S = 20.0


def connected() -> tuple[Wire, Wire]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        mine, _ = server.accept()
    return Wire(mine), Wire(theirs)


@contextmanager
def crew_of(hosts: Sequence[str]) -> Iterator[list[Any]]:
    """A member for each host's name; member 0 is the hub."""
    pairs = [connected() for _ in hosts[1:]]
    members: list[Any] = [Hub(tuple(hosts), "torchrun", _MEETING, [mine for mine, _ in pairs])]
    members += [Spoke(number, tuple(hosts), "torchrun", _MEETING, theirs) for number, (_, theirs) in enumerate(pairs, 1)]
    try:
        yield members
    finally:
        for member in reversed(members):
            member.close()


def everywhere(members: list[Any], work: Callable[[Any], Any]) -> list[Any]:
    """What `work` returned or raised on each member, all at the same time."""
    found: list[Any] = [None] * len(members)

    def call(index: int) -> None:
        try:
            found[index] = work(members[index])
        except StorageBenchError as error:
            found[index] = error

    threads = [threading.Thread(target=call, args=(index,), daemon=True) for index in range(len(members))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(MOST_S)
        assert not thread.is_alive()
    return found
