"""One run, put together: open the dataset, plan, write `run.json`, start the ranks, judge. The only place where adapters meet the engine.

`prepare` and `execute` run in the command; what runs in the ranks' processes is `storagebench.rankmain`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from storagebench import __version__, host
from storagebench.adapters import LoaderInfo
from storagebench.checks.judge import judge, write_summary
from storagebench.clock import SystemClock
from storagebench.cluster.crew import Alone, Cause, Crew, agreed, error_of, from_first
from storagebench.cluster.membership import flat, make_folders, member_rows, refuse_different, sees_first_members_folder, trace_names
from storagebench.configfile import Configured, changed
from storagebench.device import is_device
from storagebench.diagnosis.online import wants_headroom
from storagebench.errors import EXIT_OK, EXIT_RANK, DatasetError, StorageBenchError, UsageError
from storagebench.launch import Interrupted, Outcome, handling_signals, rank_failure, run_ranks
from storagebench.manifest import MANIFEST_KEY, Dataset, load_dataset
from storagebench.members import hosts_of, is_first_of_host, members_of, ranks_of
from storagebench.metrics import Summary
from storagebench.nvml import open_sampler
from storagebench.placement import held, listed, refuse_misplaced, shares_of_parts, spans_of_hosts, spans_of_ranks
from storagebench.plan import Plan, make_plan, plan_of_host, refuse_if_too_large, refuse_unshared
from storagebench.probe.ceiling import ceiling_group, run_ceiling, run_headroom
from storagebench.probe.depth import find_depth, find_requests
from storagebench.probe.plan import Group
from storagebench.process import sweep
from storagebench.protocols import Store, StoreSpec
from storagebench.rankmain import dataset_of_run, process_main, rank_argument, shard_paths
from storagebench.records import SCHEMA_VERSION, as_plain, rank_trace_path, read_run
from storagebench.registry import loader_info, misfit, refuse_missing
from storagebench.storage import data_spec, open_spec, parse_url
from storagebench.storage.posix import takes_odirect
from storagebench.storage.s3_config import endpoint_of_environment
from storagebench.traces import read_trace
from storagebench.units import format_bytes
from storagebench.workload import Workload
from storagebench.writers import refuse_unfit, remove_written

_OPENED_OBJECTS = 1000
_LAUNCHER_TELLS_WITHIN_S = 1.5


@dataclass(frozen=True)
class Request:
    """A run as the user asked for it. `command_start_ns` is CLOCK_MONOTONIC when the command began."""

    configured: Configured
    data_dir: str
    storage_options: Mapping[str, str]
    results_dir: Path
    run_id: str
    command: Sequence[str]
    command_start_ns: int
    debug: bool = False
    ceiling: bool = False
    ranks: int | None = None

    @property
    def own_ranks(self) -> int:
        """Accelerators of this member: what --num-accelerators says, unless something else shares them out (0 lets it sit out)."""
        return self.configured.workload.run.num_accelerators if self.ranks is None else self.ranks


def prepare(request: Request, crew: Crew | None = None) -> Path:
    """Check everything that can be checked before the first byte is timed, on every host, and write `run.json`; the run folder of this member.

    Collective over the crew (None: nobody else takes part). Raises UsageError (does not fit, would not fit into memory), DatasetError (missing,
    incomplete, truncated), StorageError.
    """
    crew = crew or Alone()
    members = agreed(crew, lambda: _about_me(request, crew))
    refuse_different([row["asked"] for row in members], crew.hosts)
    workload = request.configured.workload
    per_process = workload.run.accelerators_per_process
    rows = member_rows(crew.hosts, [row["pid"] for row in members], [row["ranks"] for row in members], per_process)
    shares = {host: row["parts"] for row, host in zip(members, crew.hosts, strict=True) if row["parts"] is not None}
    planned = from_first(crew, lambda: _planned(request, rows, shares))
    found = agreed(crew, lambda: _checked_here(request, planned, rows, crew))
    hosts = [row for row in found if row is not None]
    return make_folders(crew, request.results_dir, {**planned, "launcher": crew.launcher, "hosts": hosts, "members": rows})


def _about_me(request: Request, crew: Crew) -> dict[str, Any]:
    """What this member brings, and what it was asked for. `parts`: what the first one of a host finds there of a partitioned dataset."""
    config = request.configured.workload.model_dump(mode="json")
    del config["run"]["num_accelerators"]
    asked = {**flat(config), "--data-dir": request.data_dir, "--ceiling": request.ceiling, "version of storagebench": __version__}
    options = {f"--storage-option {key}": value for key, value in request.storage_options.items()}
    return {"ranks": request.own_ranks, "pid": os.getpid(), "asked": {**asked, **options}, "parts": _parts_here(request, crew)}


def _parts_here(request: Request, crew: Crew) -> list[float] | None:
    if request.configured.workload.run.placement != "partitioned" or crew.hosts.index(crew.hosts[crew.member]) != crew.member:
        return None
    with closing(open_spec(store_spec(request))) as store:
        dataset = load_dataset(store)
        return shares_of_parts(dataset, listed(store, dataset))


def _planned(request: Request, members: Sequence[Mapping[str, Any]], shares: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """All of `run.json` but for who takes part. `shares`: of a partitioned dataset, how much of each part each host holds."""
    configured = request.configured
    workload = configured.workload
    info = loader_info(workload.loader.name)
    spec = store_spec(request)
    problem = misfit(workload.loader.name, info.formats[0], spec.kind, workload.run.cache == "direct")
    if problem is not None:
        raise problem
    world_size, processes = sum(row["ranks"] for row in members), sum(row["processes"] for row in members)
    store = open_spec(spec)
    try:
        dataset = load_dataset(store)
        problem = misfit(workload.loader.name, dataset.format, spec.kind, workload.run.cache == "direct") or _misfit_in_place(info, dataset)
        if problem is not None:
            raise problem
        refuse_missing(f"loader {workload.loader.name}", info.needs, info.extra)
        if is_device(workload.run.accelerator):
            refuse_missing(f"--accelerator {workload.run.accelerator}", ("torch",))
        refuse_unshared(workload)
        if processes > 1:
            refuse_missing("a run with accelerators in several processes", ("torch",))
        manifest_spec = store.spec
        if dataset.data_root:
            store.close()
            store = open_spec(store_spec(request, dataset))
        hosts = list(dict.fromkeys(row["host"] for row in members))
        refuse_misplaced(dataset, workload.run.placement, len(hosts))
        partition = spans_of_hosts(dataset, [shares[host] for host in hosts], hosts) if dataset.partition else ()
        here = dataset.part(*partition[0]) if partition else dataset
        listing = _find_shards(store, here, workload.run.listing == "list")
        spec = store.spec  # an S3 store has learned whether ranges work; the ranks need not ask again
    finally:
        store.close()
    configured = with_depth(configured, spec, here)
    workload = configured.workload
    ceiling = _ceiling_asked(request, info, dataset, spec)
    spans = spans_of_ranks(partition, [(hosts.index(row["host"]), row["ranks"]) for row in members]) if partition else ()
    plan = make_plan(workload, world_size, dataset, processes, spans)
    refuse_unfit(workload, dataset, request.run_id)
    in_process = spec.kind == "memory" or (spec.kind == "shaped" and spec.root.startswith("memory://"))
    if in_process and (plan.num_processes > 1 or (info.workers == "processes" and workload.loader.num_workers) or workload.run.writers):
        raise UsageError("a dataset in memory:// lives in one process", "use one accelerator, --num-workers 0 and --writers 0, or a path")
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": request.run_id,
        "command": list(request.command),
        "command_start_ns": request.command_start_ns,
        "created": host.clock_pair(SystemClock()),
        "accelerator": workload.run.accelerator or f"{plan.compute_time_s:g} s a step",
        "config": workload.model_dump(mode="json"),
        "provenance": dict(configured.provenance),
        "store": as_plain(spec),
        **({"manifest_store": as_plain(manifest_spec)} if dataset.data_root else {}),
        "ranges": _ranges_note(store, spec),
        "dataset": dataset.describe(),
        **({"partition": [list(span) for span in partition]} if partition else {}),
        "listing": listing,
        "plan": as_plain(plan),
        "ceiling": ceiling,
    }


def _checked_here(request: Request, planned: Mapping[str, Any], members: Sequence[Mapping[str, Any]], crew: Crew) -> dict[str, Any] | None:
    """What the first member of each host finds of it, None on the others. Raises where the run would not fit there, or its shards are not there."""
    label = crew.hosts[crew.member]
    here = [row for row in members if row["host"] == label]
    if not here or here[0]["member"] != crew.member:
        return None
    ranks, processes = sum(row["ranks"] for row in here), sum(row["processes"] for row in here)
    refuse_if_too_large(plan_of_host(Plan(**planned["plan"]), ranks, processes), host.free(), planned["config"]["run"]["memory_limit_fraction"])
    spec = StoreSpec(**planned["store"])
    if crew.member:
        dataset = dataset_of_run(planned)
        _refuse_other_dataset(planned, dataset, spec, crew)
        with closing(open_spec(spec)) as store:
            spans, number = planned.get("partition"), list(dict.fromkeys(row["host"] for row in members)).index(label)
            _find_shards(store, dataset.part(*spans[number]) if spans else dataset, timed=False)
    return host.described(label, Path(spec.root) if spec.kind == "posix" else None, request.results_dir)


def _refuse_other_dataset(planned: Mapping[str, Any], dataset: Dataset, spec: StoreSpec, crew: Crew) -> None:
    """Raises DatasetError where what lies on this host is not what member 0 has planned for, whatever the placement."""
    found, wanted = dataset.digest(), planned["dataset"]["digest"]
    if found != wanted:
        raise DatasetError(
            f"host {crew.hosts[crew.member]} has at {spec.url} the dataset {found[:12]}, and host {crew.hosts[0]} has {wanted[:12]}",
            "give all hosts one storage, or generate the dataset on all of them with the same command and --placement replicated",
        )


def with_depth(configured: Configured, spec: StoreSpec, dataset: Dataset) -> Configured:
    """Threads and reads in flight as a short probe finds them, where the user leaves them open and the loader keeps reads in flight."""
    loader = configured.workload.loader
    if loader.io_depth or not loader_info(loader.name).prefers_odirect or loader_info(loader.name).unit_of(dataset.format) != "sample":
        return configured
    settings: dict[str, int] = {}
    if spec.kind == "s3":
        requests = find_requests(spec, dataset)
        if requests is not None:
            settings["loader.io_depth"] = max(1, requests // max(loader.num_workers, 1))
    elif spec.kind == "posix" and spec.options.get("io") == "direct":
        found = find_depth(dataset, shard_paths(spec, dataset)[0])
        if found is not None:
            settings["loader.io_depth"] = found[1]
            if "loader.num_workers" not in configured.provenance:
                settings["loader.num_workers"] = found[0]
    return changed(configured, settings, "a short probe of the dataset") if settings else configured


def _misfit_in_place(info: LoaderInfo, dataset: Dataset) -> UsageError | None:
    """Loaders that read whole files go by the fields that storagebench writes; those of others are read by the places of their samples."""
    if not dataset.data_root or info.whole_files_in_place or info.unit_of(dataset.format) == "sample":
        return None
    return UsageError(
        "a dataset in place is read sample by sample, and this loader reads whole files as storagebench writes them", "use --loader direct or files"
    )


def store_spec(request: Request, dataset: Dataset | None = None) -> StoreSpec:
    """The store with what the job implies: O_DIRECT for --cache direct, the loader's own S3 client where the user names none. It is that of the
    manifest, or, where the dataset is given, that of its shards."""
    workload = request.configured.workload
    info = loader_info(workload.loader.name)
    spec, probed = parse_url(request.data_dir, request.storage_options), MANIFEST_KEY
    if dataset is not None and dataset.data_root:
        spec, probed = data_spec(spec, dataset), dataset.names[0]
    options = dict(spec.options)
    if spec.kind == "posix" and workload.run.cache == "direct":
        options["io"] = "direct"
    if spec.kind == "posix" and workload.run.cache == "cold" and info.prefers_odirect and takes_odirect(os.path.join(spec.root, probed)):
        options.setdefault("io", "direct")  # what is not cached is read the shortest way
    if spec.kind == "s3":
        options.setdefault("client", info.s3_client)
        endpoint = endpoint_of_environment()
        if endpoint:
            options.setdefault("endpoint_url", endpoint)  # written down, since it is what is measured
    return replace(spec, options=options)


def _ceiling_asked(request: Request, info: LoaderInfo, dataset: Dataset, spec: StoreSpec) -> dict[str, Any] | None:
    """What is probed before and after the run, or None. Raises UsageError where a ceiling would mean nothing."""
    workload = request.configured.workload
    if not request.ceiling:
        return None
    if workload.loader.name == "null":
        raise UsageError("--ceiling with loader null would be of bytes that nobody reads", "leave --ceiling out, or use another --loader")
    return ceiling_group(dataset, info.unit_of(dataset.format), workload.loader.shuffle, workload.run.cache, spec)._asdict()


def _ranges_note(store: Store, spec: StoreSpec) -> str | None:
    if spec.kind != "s3":
        return None
    return "native" if store.native_ranges else "not native: ranges through pyarrow.fs, whole objects through the client"


def _find_shards(store: Store, dataset: Dataset, timed: bool) -> dict[str, Any] | None:
    """List the shards and compare with the manifest before any byte is timed; with `timed` the cost of listing and opening is recorded."""
    begin = time.monotonic()
    found = {item.key: item.num_bytes for item in store.list(dataset.shard_prefix)}
    listing_s = time.monotonic() - begin
    hint = "run `storagebench verify`, then generate or import the dataset again"
    for name, expected in zip(dataset.names, dataset.shard_bytes, strict=True):
        size = found.get(name)
        if size is None:
            raise DatasetError(f"shard {name} of the dataset at {store.url} is missing", hint)
        if size != expected:
            raise DatasetError(f"shard {name} of the dataset at {store.url} has {size} bytes, and the manifest says {expected}", hint)
    if not timed:
        return None
    begin = time.monotonic()
    opened = dataset.names[:_OPENED_OBJECTS]
    for name in opened:
        store.exists(name)
    return {"listed": len(found), "listing_s": listing_s, "opened": len(opened), "open_s": time.monotonic() - begin}


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
    accelerator = run["config"]["run"]["accelerator"]
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


def default_run_id(workload: Workload, clock: SystemClock) -> str:
    """workload-loader-time, unique to the millisecond."""
    milliseconds = clock.wall_ns() // 1_000_000
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(milliseconds // 1000))
    return f"{workload.name}-{workload.loader.name}-{stamp}-{milliseconds % 1000:03d}"


def describe(summary: Summary) -> str:
    """One line for the progress output of several runs."""
    au = summary["au_nominal"]
    return (
        f"{summary['loader']} on {summary['format']}: AU {'n/a' if au is None else f'{au:.3f}'}, {format_bytes(summary['delivered_bytes'])} delivered"
    )
