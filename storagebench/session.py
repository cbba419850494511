"""One run, put together: open the dataset, plan, write `run.json`, start the ranks, judge. The only place where adapters meet the engine.

`prepare` and `execute` run in the command; what runs in the ranks' processes is `storagebench.rankmain`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from storagebench import host
from storagebench.adapters import LoaderInfo
from storagebench.checks.judge import judge, write_summary
from storagebench.clock import SystemClock
from storagebench.configfile import Configured, changed
from storagebench.device import is_device
from storagebench.diagnosis.online import wants_headroom
from storagebench.errors import EXIT_OK, EXIT_RANK, DatasetError, StorageBenchError, UsageError
from storagebench.launch import Interrupted, Outcome, handling_signals, rank_failure, run_ranks
from storagebench.manifest import MANIFEST_KEY, Dataset, load_dataset
from storagebench.metrics import Summary
from storagebench.nvml import open_sampler
from storagebench.plan import make_plan, num_processes, refuse_if_too_large
from storagebench.probe.ceiling import ceiling_group, run_ceiling, run_headroom
from storagebench.probe.depth import find_depth, find_requests
from storagebench.probe.plan import Group
from storagebench.protocols import Store, StoreSpec
from storagebench.rankmain import dataset_of_run, process_main, shard_paths
from storagebench.records import (
    RUN_FILE,
    SCHEMA_VERSION,
    as_plain,
    create_run_dir,
    rank_traces,
    read_run,
    write_json,
)
from storagebench.registry import loader_info, misfit, refuse_missing
from storagebench.storage import data_spec, open_spec, parse_url
from storagebench.storage.posix import takes_odirect
from storagebench.storage.s3_config import endpoint_of_environment
from storagebench.traces import read_trace
from storagebench.units import format_bytes
from storagebench.workload import Workload
from storagebench.writers import refuse_unfit, remove_written

_OPENED_OBJECTS = 1000
_LAUNCHER_ENDS_US_WITHIN_S = 5.0


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


def prepare(request: Request) -> Path:
    """Check everything that can be checked before the first byte is timed, and write `run.json`; the run folder.

    Raises UsageError (does not fit, would not fit into memory), DatasetError (missing, incomplete, truncated), StorageError.
    """
    configured = request.configured
    workload = configured.workload
    info = loader_info(workload.loader.name)
    spec = store_spec(request)
    problem = misfit(workload.loader.name, info.formats[0], spec.kind, workload.run.cache == "direct")
    if problem is not None:
        raise problem
    store = open_spec(spec)
    try:
        dataset = load_dataset(store)
        problem = misfit(workload.loader.name, dataset.format, spec.kind, workload.run.cache == "direct") or _misfit_in_place(info, dataset)
        if problem is not None:
            raise problem
        refuse_missing(f"loader {workload.loader.name}", info.needs, info.extra)
        if is_device(workload.run.accelerator):
            refuse_missing(f"--accelerator {workload.run.accelerator}", ("torch",))
        if num_processes(workload) > 1:
            refuse_missing("a run with accelerators in several processes", ("torch",))
        manifest_spec = store.spec
        if dataset.data_root:
            store.close()
            store = open_spec(store_spec(request, dataset))
        listing = _find_shards(store, dataset, workload.run.listing == "list")
        spec = store.spec  # an S3 store has learned whether ranges work; the ranks need not ask again
    finally:
        store.close()
    configured = with_depth(configured, spec, dataset)
    workload = configured.workload
    ceiling = _ceiling_asked(request, info, dataset, spec)
    plan = make_plan(workload, workload.run.num_accelerators, dataset)
    refuse_if_too_large(plan, host.free(), workload.run.memory_limit_fraction)
    refuse_unfit(workload, dataset, request.run_id)
    in_process = spec.kind == "memory" or (spec.kind == "shaped" and spec.root.startswith("memory://"))
    if in_process and (plan.num_processes > 1 or (info.workers == "processes" and workload.loader.num_workers) or workload.run.writers):
        raise UsageError("a dataset in memory:// lives in one process", "use one accelerator, --num-workers 0 and --writers 0, or a path")
    run_dir = create_run_dir(request.results_dir, request.run_id)
    clock = SystemClock()
    write_json(
        run_dir / RUN_FILE,
        {
            "schema_version": SCHEMA_VERSION,
            "run_id": request.run_id,
            "command": list(request.command),
            "command_pid": os.getpid(),
            "command_start_ns": request.command_start_ns,
            "created": host.clock_pair(clock),
            "accelerator": workload.run.accelerator or f"{plan.compute_time_s:g} s a step",
            "config": workload.model_dump(),
            "provenance": dict(configured.provenance),
            "store": as_plain(spec),
            **({"manifest_store": as_plain(manifest_spec)} if dataset.data_root else {}),
            "ranges": _ranges_note(store, spec),
            "dataset": dataset.describe(),
            "listing": listing,
            "plan": as_plain(plan),
            "ceiling": ceiling,
            "host": host.facts(Path(spec.root) if spec.kind == "posix" else None, run_dir),
            "versions": host.versions(),
        },
    )
    return run_dir


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
    """Run the ranks of a prepared run and judge it. Raises the error that ended it, after the summary was written."""
    run = read_run(run_dir)
    clock = SystemClock()
    spec = StoreSpec(**run["store"])
    accelerator = run["config"]["run"]["accelerator"]
    devices = open_sampler(accelerator, os.environ) if is_device(accelerator) else None
    trace = host.HostTrace(run_dir, clock, Path(spec.root) if spec.kind == "posix" else None, devices)
    info = loader_info(run["config"]["loader"]["name"])
    failure: StorageBenchError | None = None
    outcome = Outcome(EXIT_RANK, reason="did not start")
    try:
        needs_workers = info.workers == "processes" and run["config"]["loader"]["num_workers"] > 0
        with handling_signals():
            _probe_ceiling(run, spec, trace, clock, "before")
            with trace.sampling():
                outcome = run_ranks(process_main, str(run_dir), run["plan"]["num_processes"], needs_workers, debug)
            if outcome.exit_code == EXIT_OK:
                _probe_ceiling(run, spec, trace, clock, "after")
                _probe_headroom(run_dir, run, spec, trace, clock)
    except StorageBenchError as error:
        failure = error
        outcome = Outcome(error.exit_code, reason=error.message)
    failed_rank = None
    if failure is None and outcome.exit_code != EXIT_OK:
        failure, failed_rank = _failure(run_dir, outcome, run["plan"]["world_size"], run["config"]["run"]["accelerators_per_process"])
        outcome = replace(outcome, exit_code=failure.exit_code)
    if run["config"]["run"]["writers"]:
        trace.written(remove_written(run_dir, run))
    trace.end({"exit_code": outcome.exit_code, "failed_rank": failed_rank, "failure": failure.message if failure else None})
    summary = write_summary(run_dir)
    if failure is not None:
        raise failure
    return summary


def _probe_ceiling(run: Mapping[str, Any], spec: StoreSpec, trace: host.HostTrace, clock: SystemClock, when: str) -> None:
    """Where --ceiling was given, what the storage gives raw at the run's cache state and request size, as a record of the host's trace."""
    if not run.get("ceiling"):
        return
    begin_ns = clock.now_ns()
    dataset = dataset_of_run(run)
    paths, _ = shard_paths(spec, dataset)
    trace.ceiling(when, begin_ns, run_ceiling(spec, dataset, Group(**run["ceiling"]), _readers(run), paths, run["config"]["run"]["cache"] == "warm"))


def _probe_headroom(run_dir: Path, run: Mapping[str, Any], spec: StoreSpec, trace: host.HostTrace, clock: SystemClock) -> None:
    """Where only that tells slow storage from a loader that asks too little: what the storage gives to more readers, as a record of the host's trace.
    The run is over and its figures stand, so an error here is written down and ends nothing. Not after a run with writers: what the storage gives to readers
    alone says nothing of what it had left for these."""
    config = run["config"]
    if config["run"]["writers"]:
        return
    seconds = config["run"]["headroom_duration_s"]
    if seconds <= 0 or config["run"]["cache"] == "as-is" or not wants_headroom(run, judge(run_dir)):
        return
    begin_ns = clock.now_ns()
    try:
        dataset = dataset_of_run(run)
        paths, _ = shard_paths(spec, dataset)
        info, cache = loader_info(config["loader"]["name"]), config["run"]["cache"]
        group = ceiling_group(dataset, info.unit_of(dataset.format), config["loader"]["shuffle"], cache, spec)
        found = run_headroom(spec, dataset, group, _readers(run), paths, cache == "warm", seconds)
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


def _readers(run: Mapping[str, Any]) -> int:
    """Requests that all ranks together have in flight, where each worker has one."""
    return int(run["plan"]["world_size"] * run["plan"]["workers_per_rank"])


def _failure(run_dir: Path, outcome: Outcome, world_size: int, per_process: int) -> tuple[StorageBenchError, int | None]:
    """What ended the run, and in which rank: the first error that a rank wrote down and that is not just the loss of a peer, else the death of a
    process, which is told as its first rank's."""
    traces = [read_trace(path) for path in rank_traces(run_dir)]
    errors = [(record, trace.header["rank"]) for trace in traces for record in trace.of_kind("error") if not record["lost_peer"]]
    if errors:
        first, rank = min(errors, key=lambda pair: pair[0]["monotonic_ns"])
        error = StorageBenchError(first["message"], first["hint"])
        error.exit_code = first["exit_code"]
        return error, rank
    return rank_failure(outcome, world_size, per_process), None if outcome.failed_process is None else outcome.failed_process * per_process


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
