"""What the members of a run have to agree on before it begins, and whose files are whose. Pure but for the run folder.

Each member has the workload from its own command line. All must be the same but for the number of accelerators, which may differ from host to host.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from storagebench.cluster.crew import Crew, agreed, from_first
from storagebench.errors import UsageError
from storagebench.members import is_first_of_host, members_of, number_of_host
from storagebench.records import RUN_FILE, create_run_dir, host_trace_path, write_json
from storagebench.world import Seats

Row = Mapping[str, Any]


def refuse_different(asked: Sequence[Row], hosts: Sequence[str]) -> None:
    """Raises UsageError where the members were not asked for the same: `asked` is a flat mapping for each of them."""
    for member, mine in enumerate(asked):
        for key in asked[0].keys() | mine.keys():
            if mine.get(key) != asked[0].get(key):
                raise UsageError(
                    f"{key} is {mine.get(key)} for member {member} on host {hosts[member]}, and {asked[0].get(key)} for member 0 on host {hosts[0]}",
                    "start the same command on every host; only --num-accelerators may differ",
                )


def flat(values: Row, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found.update(flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return found


def member_rows(hosts: Sequence[str], pids: Sequence[int], ranks: Sequence[int], per_process: int) -> list[dict[str, Any]]:
    """`members` of `run.json`. Those without ranks, which only sit by, are the last ones, and are left out."""
    return [
        {"member": member, "host": host, "pid": pid, "first_rank": sum(ranks[:member]), "ranks": count, "processes": -(-count // per_process)}
        for member, (host, pid, count) in enumerate(zip(hosts, pids, ranks, strict=True))
        if count
    ]


def share(accelerators: int, num_members: int, member: int) -> int:
    """Of so many accelerators those of one member, as even as can be, more on the first ones.

    >>> [share(5, 3, member) for member in range(3)], [share(2, 3, member) for member in range(3)]
    ([2, 2, 1], [1, 1, 0])
    """
    return accelerators // num_members + (member < accelerators % num_members)


def seats_of(run: Row) -> Seats:
    """Where the ranks of a run are."""
    return Seats(tuple((row["host"], row["ranks"]) for row in members_of(run)), run["config"]["run"]["accelerators_per_process"])


def trace_names(run: Row, member: int) -> Callable[[str], bool]:
    """Which trace files a member and its processes write: its ranks', its host file, and, of the first member of a host, the writers'."""
    row, writers = members_of(run)[member], run["config"]["run"]["writers"]
    names = {f"host-{member:05d}.jsonl", *(f"rank-{rank:05d}.jsonl" for rank in range(row["first_rank"], row["first_rank"] + row["ranks"]))}
    if writers and is_first_of_host(run, member):
        first = number_of_host(run, row["host"]) * writers
        names.update(f"writer-{number:05d}.jsonl" for number in range(first, first + writers))
    return names.__contains__


def make_folders(crew: Crew, results_dir: Path, run: Row) -> Path:
    """The run folder of this member, with `run.json` in it: member 0's, where this one sees it (one host, or a results directory that hosts share), else
    one of its own. Collective. Raises what `create_run_dir` does."""
    run_dir = results_dir / str(run["run_id"])

    def create() -> None:
        write_json(create_run_dir(results_dir, run["run_id"]) / RUN_FILE, run)

    from_first(crew, create)
    first = crew.hosts.index(crew.hosts[crew.member]) == crew.member
    agreed(crew, create if first and not _holds(run_dir, run) else lambda: None)
    agreed(crew, lambda: _refuse_foreign(run_dir, run))
    return run_dir


def _holds(run_dir: Path, run: Row) -> bool:
    """Whether the folder is of this very run."""
    try:
        return bool(json.loads((run_dir / RUN_FILE).read_bytes()) == run)
    except (OSError, ValueError):
        return False


def _refuse_foreign(run_dir: Path, run: Row) -> None:
    if not _holds(run_dir, run):
        raise UsageError(f"{run_dir} is not of this run", "give the same --results-dir to all commands of a host")


def sees_first_members_folder(run_dir: Path) -> bool:
    """Whether member 0 writes into this very folder. Asked once its host file is there."""
    return host_trace_path(run_dir, 0).exists()
