"""Who took part in a run: its members and their hosts, as `run.json` and the headers of the hosts' files have them. Pure look-ups.

A *member* is one `storagebench` process that a launcher started; a run started by hand has one. Each has ranks of its own, contiguous; several may be
on one host, whose counters its first member writes down for all. Labels of hosts are unique strings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from storagebench.hostfiles import HostRecords

_Run = Mapping[str, Any]
_Row = Mapping[str, Any]


def hosts_of(run: _Run) -> Sequence[_Row]:
    """What was found of each host (`host.described`), first that of rank 0."""
    hosts: Sequence[_Row] = run["hosts"]
    return hosts


def first_host(run: _Run) -> _Row:
    """The host of rank 0, where the run was planned."""
    return hosts_of(run)[0]


def members_of(run: _Run) -> Sequence[_Row]:
    """The members in their order: `member`, `host`, `pid`, `first_rank`, `ranks`, `processes`."""
    members: Sequence[_Row] = run["members"]
    return members


def alone(host: str, pid: int, ranks: int, processes: int) -> list[dict[str, Any]]:
    """The members of a run that was started by hand: one, with all ranks."""
    return [{"member": 0, "host": host, "pid": pid, "first_rank": 0, "ranks": ranks, "processes": processes}]


def member_of_rank(run: _Run, rank: int) -> _Row:
    """The member that has this rank. Raises KeyError where none has it."""
    for member in members_of(run):
        if 0 <= rank - member["first_rank"] < member["ranks"]:
            return member
    raise KeyError(f"no member has rank {rank}")


def ranks_of(member: _Row) -> str:
    """What messages call a member: by its ranks.

    >>> ranks_of({"member": 1, "first_rank": 4, "ranks": 2})
    'ranks 4 to 5'
    """
    first, count = member["first_rank"], member["ranks"]
    return f"rank {first}" if count == 1 else f"ranks {first} to {first + count - 1}" if count else f"member {member['member']}"


def host_of_rank(run: _Run, rank: int) -> str:
    """The label of the host that this rank runs on."""
    return str(member_of_rank(run, rank)["host"])


def number_of_host(run: _Run, host: str) -> int:
    """Where this host stands in the run's list of hosts. Raises ValueError for one that is not there."""
    return [row["host"] for row in hosts_of(run)].index(host)


def pids_on(run: _Run, host: str) -> tuple[int, ...]:
    """The processes on a host whose descendants are what the run started there."""
    return tuple(int(member["pid"]) for member in members_of(run) if member["host"] == host)


def is_first_of_host(run: _Run, member: int) -> bool:
    """Whether this member writes down, for all on its host, what is counted once for a host."""
    mine = members_of(run)[member]["host"]
    return bool(next(one["member"] for one in members_of(run) if one["host"] == mine) == member)


def files_of_members(hosts: Iterable[HostRecords]) -> dict[int, HostRecords]:
    """The host file that each member wrote, in the order of the members. A file without a header (of a process that died at once) is nobody's."""
    found = {int(trace.header["member"]): trace for trace in hosts if "member" in trace.header}
    return dict(sorted(found.items()))


def first_files(hosts: Iterable[HostRecords]) -> dict[Any, HostRecords]:
    """The file of each host's first member, by the host's label: what is counted once for a host stands there."""
    found: dict[Any, HostRecords] = {}
    for trace in files_of_members(hosts).values():
        found.setdefault(trace.header.get("host"), trace)
    return found


def end_of_run(hosts: Iterable[HostRecords]) -> _Row | None:
    """How the run ended: the `end` record of member 0, whose word counts, whatever the order of the files. Where it died before it could write one, what
    the first of the others says that saw it die; None where nobody says anything."""
    files = files_of_members(hosts)
    ends = [end for member in sorted(files) for end in files[member].of_kind("end") if member == 0 or end.get("failure")]
    return ends[0] if ends else None
