"""A prepared run from its start to its summary: the ranks of this member, what the storage gives before and after, how it ended, the judgement.

`take_part` runs in each command of a run; what runs in the ranks' processes is `storagebench.rankmain`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from storagebench import host
from storagebench.checks.judge import judge, write_summary
from storagebench.clock import SystemClock
from storagebench.cluster.crew import Alone, Cause, Crew, error_of, from_first
from storagebench.cluster.membership import sees_first_members_folder, trace_names
from storagebench.device import is_device
from storagebench.diagnosis.online import wants_headroom
from storagebench.errors import EXIT_OK, EXIT_RANK, StorageBenchError
from storagebench.launch import Interrupted, Outcome, handling_signals, rank_failure, run_ranks
from storagebench.manifest import Dataset
from storagebench.members import hosts_of, is_first_of_host, members_of, ranks_of
from storagebench.metrics import Summary
from storagebench.nvml import open_sampler
from storagebench.placement import held
from storagebench.probe.ceiling import ceiling_group, run_ceiling, run_headroom
from storagebench.probe.plan import Group
from storagebench.process import sweep
from storagebench.protocols import StoreSpec
from storagebench.rankmain import dataset_of_run, process_main, rank_argument, shard_paths
from storagebench.records import rank_trace_path, read_run
from storagebench.registry import loader_info
from storagebench.request import Request, store_spec
from storagebench.traces import read_trace
from storagebench.units import format_bytes
from storagebench.writers import remove_written

_LAUNCHER_TELLS_WITHIN_S = 1.5


def execute(run_dir: Path, debug: bool = False) -> Summary:
    """Run a prepared run that nobody else takes part in, and judge it. Raises the error that ended it, after the summary was written."""
    summary = take_part(run_dir, Alone(), debug)
    assert summary is not None
    return summary


def take_part(run_dir: Path, crew: Crew, debug: bool = False) -> Summary | None:
    """Run this member's ranks of a prepared run (one without any only sits by); member 0 judges it and returns the summary, the others None. Collective.

    Raises the error that ended it, on all members, after the summary was written.
    """
    run = read_run(run_dir)
    clock = SystemClock()
    crew.call([ranks_of(row) for row in members_of(run)])
    sits_by = crew.member >= len(members_of(run))
    trace = None if sits_by else _open_host_trace(run_dir, run, crew.member, clock)
    crew.exchange(None)  # member 0's file is there, which tells the others whether they write into the same folder
    nothing_to_send = crew.member == 0 or sits_by or sees_first_members_folder(run_dir)
    crew.gather_traces(run_dir, None if nothing_to_send else trace_names(run, crew.member))
    cause = _measure(run_dir, run, crew, trace, clock, debug)
    outcomes = crew.settle(None if cause is None else cause.exit_code)
    if crew.cause is None and not any(outcomes):
        cause = _probe_after(run_dir, run, crew, trace, clock)
        crew.settle(None)
    crew.on_end(None)
    return _conclude(run_dir, run, crew, trace, crew.cause or cause)


def _open_host_trace(run_dir: Path, run: Mapping[str, Any], member: int, clock: SystemClock) -> host.HostTrace:
    spec = StoreSpec(**run["store"])
    accelerator = run["training"]["device"] if run.get("training") else run["config"]["run"]["accelerator"]
    devices = open_sampler(accelerator, os.environ) if is_device(accelerator) else None
    return host.HostTrace(run_dir, member, members_of(run)[member]["host"], clock, Path(spec.root) if spec.kind == "posix" else None, devices)


def _measure(run_dir: Path, run: Mapping[str, Any], crew: Crew, trace: host.HostTrace | None, clock: SystemClock, debug: bool) -> Cause | None:
    """The ranks of this member from start to end; why they failed, which the other members have been told, or None."""
    info = loader_info(run["config"]["loader"]["name"])
    needs_workers = info.workers == "processes" and run["config"]["loader"]["num_workers"] > 0
    outcome, failure = Outcome(EXIT_RANK, reason="did not start"), None
    try:
        with handling_signals():
            crew.on_end(sweep)
            _probe_ceiling(run, crew, trace, clock, "before")
            argument = rank_argument(run_dir, crew.member, crew.rendezvous())
            if trace is None:
                return None
            processes = members_of(run)[crew.member]["processes"]
            with trace.sampling():
                outcome = run_ranks(process_main, argument, processes, needs_workers, debug, alone=crew.num_members == 1)
    except StorageBenchError as error:
        failure = error
        if isinstance(error, Interrupted):
            crew.await_cause(_LAUNCHER_TELLS_WITHIN_S)  # a launcher that ends us does so because of another one, most of the time
    if failure is None and outcome.exit_code == EXIT_OK:
        return None
    failed_rank = None
    if failure is None:
        failure, failed_rank = _failure(run_dir, run, crew.member, outcome)
    cause = Cause(crew.member, crew.hosts[crew.member], failure.message, failure.hint, failure.exit_code, failed_rank=failed_rank)
    crew.fail(cause)
    return cause


def _probe_after(run_dir: Path, run: Mapping[str, Any], crew: Crew, trace: host.HostTrace | None, clock: SystemClock) -> Cause | None:
    """What the storage gives when the ranks are done, on every host at once; why that failed, or None."""
    try:
        with handling_signals():
            _probe_ceiling(run, crew, trace, clock, "after")
            if from_first(crew, lambda: _wants_headroom(run_dir, run)):
                _probe_headroom(run, crew, trace, clock)
    except StorageBenchError as error:
        cause = Cause(crew.member, crew.hosts[crew.member], error.message, error.hint, error.exit_code)
        crew.fail(cause)
        return cause
    return None


def _conclude(run_dir: Path, run: Mapping[str, Any], crew: Crew, trace: host.HostTrace | None, cause: Cause | None) -> Summary | None:
    """Write how it ended, wait for the last bytes of all traces, and judge. Raises the error that ended the run."""
    if trace is not None:
        _end_trace(run_dir, run, crew, trace, cause)
    crew.settle(None)
    summary = write_summary(run_dir) if crew.member == 0 else None
    crew.settle(None)  # nobody leaves before the summary is there
    if cause is not None:
        raise cause.error()
    return summary


def _end_trace(run_dir: Path, run: Mapping[str, Any], crew: Crew, trace: host.HostTrace, cause: Cause | None) -> None:
    asked = run["config"]["run"]
    own_storage = asked["placement"] != "shared" and is_first_of_host(run, crew.member)
    if asked["writers"] and (crew.member == 0 or own_storage):
        trace.written(remove_written(run_dir, run))
    offset = crew.best_offset()
    if offset is not None:
        trace.clock(*offset)
    if cause is not None and cause.lost and crew.member == 0:
        ranks = [
            each for row in members_of(run) if row["member"] == cause.member for each in range(row["first_rank"], row["first_rank"] + row["ranks"])
        ]
        trace.lost(cause.member, cause.host, ranks, cause.why)
    trace.end(
        {
            "exit_code": EXIT_OK if cause is None else cause.exit_code,
            "failed_rank": None if cause is None else cause.failed_rank,
            "failed_host": None if cause is None else cause.host,
            "failure": None if cause is None else cause.why,
        }
    )


def _probe_ceiling(run: Mapping[str, Any], crew: Crew, trace: host.HostTrace | None, clock: SystemClock, when: str) -> None:
    """Where --ceiling was given, what the storage gives raw at the run's cache state and request size, as a record of the host's trace. On all hosts at
    the same time, so that what they got adds up."""
    if not run.get("ceiling"):
        return
    crew.exchange(None)
    if trace is not None and is_first_of_host(run, crew.member):
        begin_ns = clock.now_ns()
        spec, dataset = StoreSpec(**run["store"]), held(run, dataset_of_run(run), crew.hosts[crew.member])
        paths, _ = shard_paths(spec, dataset)
        readers, warm = _readers(run, crew), run["config"]["run"]["cache"] == "warm"
        trace.ceiling(when, begin_ns, run_ceiling(spec, dataset, Group(**run["ceiling"]), readers, paths, warm))
    crew.exchange(None)


def _wants_headroom(run_dir: Path, run: Mapping[str, Any]) -> bool:
    """Whether only that tells slow storage from a loader that asks too little. Not after a run with writers: what the storage gives to readers alone says
    nothing of what it had left for these."""
    asked = run["config"]["run"]
    if asked["writers"] or asked["headroom_duration_s"] <= 0 or asked["cache"] == "as-is":
        return False
    return bool(wants_headroom(run, judge(run_dir)))


def _probe_headroom(run: Mapping[str, Any], crew: Crew, trace: host.HostTrace | None, clock: SystemClock) -> None:
    """What the storage gives to more readers, as a record of the host's trace. The run is over and its figures stand, so an error here is written down and
    ends nothing."""
    if trace is None or not is_first_of_host(run, crew.member):
        return
    begin_ns = clock.now_ns()
    config, spec = run["config"], StoreSpec(**run["store"])
    try:
        dataset = held(run, dataset_of_run(run), crew.hosts[crew.member])
        paths, _ = shard_paths(spec, dataset)
        info, cache = loader_info(config["loader"]["name"]), config["run"]["cache"]
        group = ceiling_group(dataset, info.unit_of(dataset.format), config["loader"]["shuffle"], cache, spec)
        found = run_headroom(spec, dataset, group, _readers(run, crew), paths, cache == "warm", config["run"]["headroom_duration_s"])
    except Interrupted:
        raise
    except StorageBenchError as error:
        found = {"bytes_per_s": None, "error": error.message}
    trace.headroom(begin_ns, found)


def raw_rate(request: Request, dataset: Dataset, cache: str, seconds: float) -> float:
    """Bytes per second of raw reads as --ceiling makes them for this request, in this cache state, for so many seconds a try. Raises StorageError, DatasetError."""
    workload, spec = request.configured.workload, store_spec(request, dataset)
    group = ceiling_group(dataset, loader_info(workload.loader.name).unit_of(dataset.format), workload.loader.shuffle, cache, spec)
    paths, _ = shard_paths(spec, dataset)
    readers = workload.run.num_accelerators * max(workload.loader.num_workers, 1)
    return float(run_ceiling(spec, dataset, group, readers, paths, cache == "warm", seconds)["bytes_per_s"])


def _readers(run: Mapping[str, Any], crew: Crew) -> int:
    """Requests that all ranks of this host together have in flight, where each worker has one."""
    ranks = sum(row["ranks"] for row in members_of(run) if row["host"] == crew.hosts[crew.member])
    return int(ranks * run["plan"]["workers_per_rank"])


def _failure(run_dir: Path, run: Mapping[str, Any], member: int, outcome: Outcome) -> tuple[StorageBenchError, int | None]:
    """What ended this member's ranks, and in which of them: the first error that one wrote down and that is not just the loss of a peer, else the death of
    a process, which is told as its first rank's."""
    mine, per_process = members_of(run)[member], run["config"]["run"]["accelerators_per_process"]
    first, ranks = mine["first_rank"], mine["ranks"]
    traces = [read_trace(path) for path in map(partial(rank_trace_path, run_dir), range(first, first + ranks)) if path.exists()]
    errors = [(record, trace.header["rank"]) for trace in traces for record in trace.of_kind("error") if not record["lost_peer"]]
    where = f" on host {mine['host']}" if len(hosts_of(run)) > 1 else ""
    if errors:
        record, rank = min(errors, key=lambda pair: pair[0]["monotonic_ns"])
        message = f"rank {rank}{where}: {record['message']}" if where and not record["message"].startswith(f"rank {rank}") else record["message"]
        return error_of(record["exit_code"], message, record["hint"]), rank
    if outcome.failed_process is None:
        return rank_failure(range(first, first + ranks), run["plan"]["world_size"], where, outcome.reason), None
    failed = range(first + outcome.failed_process * per_process, first + ranks)[:per_process]
    return rank_failure(failed, run["plan"]["world_size"], where, outcome.reason), failed[0]


def describe(summary: Summary) -> str:
    """One line for the progress output of several runs."""
    au = summary["au_nominal"]
    return (
        f"{summary['loader']} on {summary['format']}: AU {'n/a' if au is None else f'{au:.3f}'}, {format_bytes(summary['delivered_bytes'])} delivered"
    )
