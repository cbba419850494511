"""A saved run as a request again: its config, dataset, store and ceiling, from its folder alone. No secret is in there: credentials come from the environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from storagebench import host
from storagebench.cluster.crew import Crew
from storagebench.configfile import Configured
from storagebench.errors import DatasetError, UsageError
from storagebench.manifest import load_dataset
from storagebench.members import first_host, members_of
from storagebench.queryrecords import is_query_run
from storagebench.records import read_run
from storagebench.request import Request
from storagebench.storage import open_store
from storagebench.workload import Workload

# Drawn anew for each run: the name of the shaped store's wire.
_NOT_ASKED: Final = ("clock_id",)
_FACTS: Final = ("host", "cpu", "usable_cores", "memory_bytes")


def request_of(
    run_dir: Path, results_dir: Path, run_id: str, command: Sequence[str], command_start_ns: int, debug: bool, crew: Crew, say: Callable[[str], None]
) -> Request:
    """The request that this run was, and what is no more as it was then, said. Options that the run had found out by itself (threads, reads in flight, O_DIRECT)
    are kept as they were.

    Raises UsageError for a folder that is no run of `storagebench run`, DatasetError where the dataset is another one now, StorageError.
    """
    run = read_run(run_dir)
    if is_query_run(run):
        raise UsageError(f"{run_dir} is a run of `storagebench query`", "repeat it with its own command, which its run.json has")
    try:
        configured = Configured(Workload.model_validate(run["config"]), run["provenance"])
    except ValidationError as error:
        raise UsageError(
            f"the config in {run_dir} is not one of this storagebench: {'; '.join(str(item['msg']) for item in error.errors())}",
            "use the version that wrote it",
        ) from None
    url, options = place_of(run)
    _refuse_other_dataset(run_dir, run, url, options)
    for line in _differences(run) if crew.member == 0 else ():
        say(f"note: {line}")
    return Request(
        configured=configured,
        data_dir=url,
        storage_options=options,
        results_dir=results_dir,
        run_id=run_id,
        command=command,
        command_start_ns=command_start_ns,
        debug=debug,
        ceiling=run["ceiling"] is not None,
        ranks=ranks_again(run_dir, run, crew.member, crew.num_members),
    )


def place_of(run: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """URL and options of the dataset (of its manifest, where the shards lie elsewhere)."""
    spec = run.get("manifest_store", run["store"])
    options = {name: str(value) for name, value in spec["options"].items() if name not in _NOT_ASKED}
    return (f"shaped+{spec['root']}" if spec["kind"] == "shaped" else str(spec["root"])), options


def _refuse_other_dataset(run_dir: Path, run: Mapping[str, Any], url: str, options: Mapping[str, str]) -> None:
    store = open_store(url, options)
    try:
        now, then = load_dataset(store).describe(), run["dataset"]
    finally:
        store.close()
    if now["digest"] == then["digest"]:
        return
    changes = [f"{name} was {then[name]!r} and is {now[name]!r}" for name in now if name != "digest" and then.get(name) != now[name]]
    changes = changes or ["its shards or samples have other checksums"]
    raise DatasetError(
        f"the dataset at {url} is not the one that {run_dir} read (digest {now['digest'][:12]} instead of {then['digest'][:12]}): {'; '.join(changes)}",
        "bring that dataset back, or start a new run with `storagebench run`",
    )


def _differences(run: Mapping[str, Any]) -> list[str]:
    """Versions and facts of the host that are not as they were; of the first host, where the run had several."""
    then, versions, facts = first_host(run), host.versions(), {"host": host.label(), **host.facts(None)}
    names = dict.fromkeys((*then["versions"], *versions))
    lines = [
        f"{name} was {then['versions'].get(name, 'not installed')} in that run, and is {versions.get(name, 'not installed')} now"
        for name in names
        if then["versions"].get(name) != versions.get(name)
    ]
    return lines + [f"{name} was {then.get(name)} in that run, and is {facts[name]} now" for name in _FACTS if then.get(name) != facts[name]]


def ranks_again(run_dir: Path, run: Mapping[str, Any], member: int, num_members: int) -> int:
    """How many accelerators this member of so many has, as in the saved run. Raises UsageError where it had another number of members."""
    members = members_of(run)
    if len(members) != num_members:
        by = f"{len(members)} commands that {run['launcher']} started" if run["launcher"] else "one command"
        raise UsageError(
            f"{run_dir} is a run of {by}, and this is rerun by {num_members}",
            f"start it as that run was: {len(members)} commands, or use `storagebench run` with its settings",
        )
    return int(members[member]["ranks"])
