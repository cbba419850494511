"""How the members of a run find each other: over a TCPStore of torch at the launcher's address. There member 0 leaves the port on which it listens, and a
random word that every member has to know; that is all that the store is used for here (the ranks' gloo meets in it, too)."""

from __future__ import annotations

import hmac
import ipaddress
import json
import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from storagebench.cluster.crew import Alone, Crew
from storagebench.cluster.hub import Hub
from storagebench.cluster.spoke import Spoke
from storagebench.cluster.wire import Wire
from storagebench.errors import RankError
from storagebench.launchers import Launched
from storagebench.registry import refuse_missing
from storagebench.world import Rendezvous

# Launchers start their processes minutes apart where images are pulled or nodes boot.
JOIN_TIMEOUT_S = 300.0
_HELLO_TIMEOUT_S = 5.0
_stores: list[Any] = []  # a store of ours lives as long as the process: ranks meet in it


def join(launched: Launched | None, timeout_s: float = JOIN_TIMEOUT_S) -> Crew:
    """The crew of this command. Raises RankError where the others do not come within the time, and UsageError where torch is not there."""
    if launched is None:
        return Alone()
    refuse_missing(f"a command that {launched.launcher} started {launched.num_members} times", ("torch",))
    prefix = f"storagebench/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    meeting = Rendezvous(launched.address, launched.port, prefix)
    store = _open_store(launched, prefix, timeout_s)
    return _hub(launched, meeting, store, timeout_s) if launched.member == 0 else _spoke(launched, meeting, store, timeout_s)


def _open_store(launched: Launched, prefix: str, timeout_s: float) -> Any:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch.distributed as dist

    is_master = launched.member == 0 and not launched.agent_store
    try:
        store = dist.TCPStore(launched.address, launched.port, is_master=is_master, wait_for_workers=False, timeout=timedelta(seconds=timeout_s))
    except (RuntimeError, ValueError) as error:
        where, first = f"{launched.address}:{launched.port}", str(error).splitlines()[0]
        if is_master:
            raise RankError(
                f"cannot listen at {where}, where {launched.launcher} lets the members meet: {first}", "set MASTER_PORT to a free port"
            ) from None
        raise RankError(
            f"member {launched.member} of {launched.num_members} finds nobody at {where} within {timeout_s:g} s: {first}",
            "see whether the command of rank 0 has started, and set MASTER_ADDR and MASTER_PORT to an address of its host that all hosts reach",
        ) from None
    _stores.append(store)
    return dist.PrefixStore(prefix, store)


def _hub(launched: Launched, meeting: Rendezvous, store: Any, timeout_s: float) -> Hub:
    token = secrets.token_hex(16)
    with _listener(launched.address, launched.num_members) as listener:
        store.set("hub", json.dumps({"port": listener.getsockname()[1], "token": token}))
        found = _accept(listener, token, launched.num_members, timeout_s)
    meeting = replace(meeting, address=_address_for_all(launched.address, [wire for wire, _ in found]))
    hellos = [{"hostname": socket.gethostname(), "node": launched.node}, *(hello for _, hello in found)]
    hosts = host_labels([(hello["hostname"], hello["node"]) for hello in hellos])
    for wire, _ in found:
        wire.send({"kind": "welcome", "hosts": hosts, "address": meeting.address})
    return Hub(hosts, launched.launcher, meeting, [wire for wire, _ in found])


def _listener(address: str, backlog: int) -> socket.socket:
    """On the address where all meet; on all of them where its name leads to loopback here, as Debian's /etc/hosts does with a host's own name, and Kubeflow's
    PyTorchJob, which calls it localhost in its master pod only."""
    family, _, _, _, place = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
    anywhere = _is_loopback(str(place[0])) and place[0] != address
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(("" if anywhere else place[0], 0))
    listener.listen(backlog)
    return listener


def _address_for_all(address: str, wires: Sequence[Wire]) -> str:
    """Where the other hosts have reached this one. The address that the launcher gave may lead to loopback here, and then gloo would offer that to them."""
    return next((wire.own_address for wire in wires if not _is_loopback(wire.own_address)), address)


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _accept(listener: socket.socket, token: str, num_members: int, timeout_s: float) -> list[tuple[Wire, dict[str, Any]]]:
    found: dict[int, tuple[Wire, dict[str, Any]]] = {}
    end_s = time.monotonic() + timeout_s
    while len(found) < num_members - 1:
        listener.settimeout(max(0.01, end_s - time.monotonic()))
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            missing = ", ".join(str(member) for member in range(1, num_members) if member not in found)
            raise RankError(
                f"of {num_members} members {len(found) + 1} came within {timeout_s:g} s (not: {missing})",
                "see whether the command runs on every host, and whether the hosts reach this one",
            ) from None
        wire = Wire(connection)
        hello = _hello(connection, wire)
        if hmac.compare_digest(str(hello.get("token")), token) and hello.get("member") in range(1, num_members):
            found[hello["member"]] = wire, hello
        else:
            wire.close()  # no member of this run
    return [found[member] for member in sorted(found)]


def _hello(connection: socket.socket, wire: Wire) -> dict[str, Any]:
    """What a member says first; nothing from what is no member."""
    connection.settimeout(_HELLO_TIMEOUT_S)
    try:
        received = wire.receive()
    except (OSError, ValueError):
        return {}
    finally:
        connection.settimeout(None)
    return {} if received is None else received[0]


def _spoke(launched: Launched, meeting: Rendezvous, store: Any, timeout_s: float) -> Spoke:
    try:
        found = json.loads(store.get("hub"))
        connection = socket.create_connection((launched.address, found["port"]), timeout_s)
        wire = Wire(connection)
        wire.send({"kind": "hello", "member": launched.member, "token": found["token"], "hostname": socket.gethostname(), "node": launched.node})
        received = wire.receive()
    except (OSError, RuntimeError, ValueError) as error:
        raise RankError(
            f"member {launched.member} of {launched.num_members} cannot reach member 0 at {launched.address}: {str(error).splitlines()[0]}",
            "see whether the command of rank 0 runs, and whether its host is reached from here",
        ) from None
    if received is None:
        raise RankError(f"member 0 at {launched.address} sent member {launched.member} away", "see what it says on its own host")
    if _is_loopback(wire.peer_address):
        meeting = replace(meeting, address=received[0]["address"])  # a member on the host of member 0
    return Spoke(launched.member, tuple(received[0]["hosts"]), launched.launcher, meeting, wire)


def host_labels(names: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """A name for the host of each member, out of its hostname and the launcher's own id of the node: the id is added where two nodes share a hostname.

    >>> host_labels([("a", "0"), ("a", "0"), ("b", "1")])
    ('a', 'a', 'b')
    >>> host_labels([("vm", "0"), ("vm", "1")])
    ('vm-0', 'vm-1')
    """
    nodes = Counter(hostname for hostname, _ in dict.fromkeys(names))
    return tuple(hostname if nodes[hostname] == 1 else f"{hostname}-{node}" for hostname, node in names)
