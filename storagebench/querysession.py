"""One query run put together: prepare (check everything, write `run.json`), execute (cache state, queries, a trace for each trial), judge.

It runs in the command's own process: the workers are threads. A search for the largest rate is many trials in one run folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from storagebench import __version__, host
from storagebench.cachestate import HostCache
from storagebench.checks.queries import judge_trial, write_query_summary
from storagebench.clock import SystemClock
from storagebench.configfile import changed
from storagebench.errors import EXIT_OK, DatasetError, StorageBenchError, UsageError
from storagebench.loaders.delivery import ProcessMeter
from storagebench.manifest import Dataset, load_dataset
from storagebench.protocols import LoadJob, Store, StoreSpec
from storagebench.queryengine import Pace, Pool, Reader, issue, longest_bytes
from storagebench.queryrecords import COLUMNS, KIND, query_trace_path, read_query_trace
from storagebench.rankmain import shard_paths
from storagebench.records import RUN_FILE, SCHEMA_VERSION, TraceWriter, as_plain, config_digest, create_run_dir, read_run, write_json
from storagebench.registry import format_info, misfit, open_format, refuse_missing
from storagebench.scenarios.bisection import find_max
from storagebench.scenarios.early_stopping import most_over, queries_needed
from storagebench.scenarios.schedule import Plan, Seeds, offline_samples, queries, server_queries
from storagebench.session import Request, store_spec
from storagebench.storage import open_spec
from storagebench.units import format_gib
from storagebench.workload import QuerySpec, Workload

Summary = Mapping[str, Any]
_LOADER: Final = "direct"  # whose S3 client and way of reading a query run has
_START_QPS: Final = 100.0  # of a search that is given no rate
# A trial of a search has so many queries that some over the limit still prove the percentile: else one outlier decides, or a low rate fails for its count.
_SEARCH_OVER: Final = 10
_SWITCH_S: Final = 0.2e-3


def prepare_queries(request: Request) -> Path:
    """Check everything that can be checked before the first query, and write `run.json`; the run folder.

    Raises UsageError (does not fit), DatasetError (missing, incomplete, truncated), StorageError.
    """
    request = replace(request, configured=changed(request.configured, {"loader.name": _LOADER}, "storagebench query"))
    workload = request.configured.workload
    _refuse_settings(workload.query)
    spec = store_spec(request)
    store = open_spec(spec)
    try:
        dataset = load_dataset(store)
        _refuse_format(dataset, spec, workload)
        _check_shards(store, dataset)
        spec = store.spec
    finally:
        store.close()
    plan = query_plan(workload.query, dataset)
    num_workers = _num_workers(workload, "loader.num_workers" in request.configured.provenance)
    _refuse_memory(workload, dataset, num_workers)
    run_dir = create_run_dir(request.results_dir, request.run_id)
    write_json(
        run_dir / RUN_FILE,
        {
            "schema_version": SCHEMA_VERSION,
            "kind": KIND,
            "run_id": request.run_id,
            "command": list(request.command),
            "command_pid": os.getpid(),
            "command_start_ns": request.command_start_ns,
            "created": host.clock_pair(SystemClock()),
            "config": workload.model_dump(),
            "provenance": dict(request.configured.provenance),
            "store": as_plain(spec),
            "dataset": _described(dataset),
            "query": {
                **plan._asdict(),
                "seeds": plan.seeds._asdict(),
                "percentile": workload.query.percentile_or_default(),
                "num_workers": num_workers,
            },
            "host": host.facts(Path(spec.root) if spec.kind == "posix" else None),
            "versions": host.versions(),
        },
    )
    return run_dir


def _described(dataset: Dataset) -> dict[str, Any]:
    return {
        "digest": dataset.digest(),
        "format": dataset.format,
        "payload": dataset.payload,
        "num_samples": dataset.num_samples,
        "num_shards": dataset.num_shards,
        "record_bytes": dataset.record_bytes,
        "stored_bytes": dataset.stored_bytes,
        "options": dataset.options,
        "origin": dataset.origin,
    }


def _refuse_settings(query: QuerySpec) -> None:
    if query.scenario == "server" and query.target_qps is None and not query.find_max_qps:
        raise UsageError("scenario server needs a rate", "give --target-qps N, or --find-max-qps to look for the largest")
    if query.find_max_qps and query.scenario != "server":
        raise UsageError(f"--find-max-qps is for scenario server, and this is {query.scenario}", "use --scenario server, or leave it out")


def _refuse_format(dataset: Dataset, spec: StoreSpec, workload: Workload) -> None:
    problem = misfit(_LOADER, dataset.format, spec.kind, workload.run.cache == "direct")
    if problem is not None:
        raise problem
    form = open_format(dataset.format)
    if not (form.one_sample_per_shard or form.byte_addressed):
        raise UsageError(
            f"samples of format {dataset.format} have no places of their own, and a query asks for single samples",
            "use a dataset of npz, npy, jpeg, raw or webdataset",
        )
    if workload.run.decode == "full" and dataset.payload == "jpeg":
        refuse_missing("--decode full of JPEG images", ("PIL",))
    refuse_missing(f"format {dataset.format}", format_info(dataset.format).needs if workload.run.decode in ("parse", "full") else ())


def _check_shards(store: Store, dataset: Dataset) -> None:
    found = {item.key: item.num_bytes for item in store.list("shards/")}
    for name, expected in zip(dataset.names, dataset.shard_bytes, strict=True):
        if found.get(name) != expected:
            have = "is missing" if name not in found else f"has {found[name]} bytes, and the manifest says {expected}"
            raise DatasetError(
                f"shard {name} of the dataset at {store.url} {have}", "run `storagebench verify`, then generate or import the dataset again"
            )


def query_plan(query: QuerySpec, dataset: Dataset, target_qps: float | None = None) -> Plan:
    """What the queries follow from. Raises UsageError where the QSL is larger than the dataset."""
    qsl_samples = query.qsl_samples or dataset.num_samples
    if qsl_samples > dataset.num_samples:
        raise UsageError(
            f"query.qsl_samples is {qsl_samples}, and the dataset has {dataset.num_samples} samples",
            "generate more samples, or give --set query.qsl_samples=0 for all of them",
        )
    width = {"multi-stream": query.samples_per_query}.get(query.scenario, 1)
    if query.scenario == "offline":
        width = offline_samples(query.offline_samples, query.min_duration_s, query.target_qps)
    least = query.min_queries_or_default()
    if query.find_max_qps:
        least = max(least, queries_needed(_SEARCH_OVER, query.percentile_or_default()))
    rate = target_qps or query.target_qps or _START_QPS
    seeds = Seeds(query.qsl_seed, query.sample_index_seed, query.schedule_seed)
    return Plan(query.scenario, qsl_samples, width, least, rate, seeds)


def _num_workers(workload: Workload, asked: bool) -> int:
    """Reads in flight at most. Where nobody says, multi-stream has one for each sample of a query: it is the gather of so many."""
    if workload.query.scenario == "single-stream":
        return 1
    if workload.query.scenario == "multi-stream" and not asked:
        return workload.query.samples_per_query
    return max(workload.loader.num_workers, 1)


def _refuse_memory(workload: Workload, dataset: Dataset, num_workers: int) -> None:
    need = num_workers * longest_bytes(dataset, open_format(dataset.format).one_sample_per_shard)
    have, share = host.free().memory_bytes, workload.run.memory_limit_fraction
    if need > share * have:
        raise UsageError(
            f"{num_workers} workers with the longest sample each need {format_gib(need)}, over {share:.0%} of the {format_gib(have)} free",
            "use fewer --num-workers, or raise it with --set run.memory_limit_fraction=X",
        )


def execute_queries(run_dir: Path) -> Summary:
    """Run the queries of a prepared run and judge it. Raises the error that ended it, after the summary was written."""
    run = read_run(run_dir)
    clock, spec = SystemClock(), StoreSpec(**run["store"])
    trace = host.HostTrace(run_dir, clock, Path(spec.root) if spec.kind == "posix" else None)
    failure: StorageBenchError | None = None
    try:
        with trace.sampling(), _punctual():
            _Bench(run_dir, run, spec, clock).run()
    except StorageBenchError as error:
        failure = error
    finally:
        trace.end({"exit_code": failure.exit_code if failure else EXIT_OK, "failure": failure.message if failure else None})
    summary = write_query_summary(run_dir)
    if failure is not None:
        raise failure
    return summary


@contextmanager
def _punctual() -> Iterator[None]:
    """Within the block a thread that wakes up (the issuer, for one) waits for the interpreter 0.2 ms at most, not Python's 5 ms."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class _Bench:
    """The trials of one run, on one store with one set of readers."""

    def __init__(self, run_dir: Path, run: Mapping[str, Any], spec: StoreSpec, clock: SystemClock) -> None:
        self._run_dir, self._run, self._spec, self._clock = run_dir, run, spec, clock
        self._workload = Workload.model_validate(run["config"])
        self._trials = 0

    def run(self) -> None:
        store = open_spec(self._spec)
        try:
            dataset = load_dataset(store)
            if dataset.digest() != self._run["dataset"]["digest"]:
                raise DatasetError(f"the dataset at {self._spec.url} changed since the run was planned", "nothing may write to it during a run")
            readers = [Reader(store, _job(self._workload, self._spec, dataset)) for _ in range(self._run["query"]["num_workers"])]
            query = self._workload.query
            if not query.find_max_qps:
                self._trial(store, dataset, readers, query.target_qps)
                return
            start = query.target_qps or _START_QPS
            find_max(lambda rate: self._holds(store, dataset, readers, rate), start, query.qps_tolerance, query.most_trials)
        finally:
            store.close()

    def _holds(self, store: Store, dataset: Dataset, readers: list[Reader], rate: float) -> bool:
        """Whether a server trial at this rate is VALID, judged from what was written down of it."""
        self._trial(store, dataset, readers, rate)
        return judge_trial(self._run, read_query_trace(query_trace_path(self._run_dir, self._trials - 1))).valid

    def _trial(self, store: Store, dataset: Dataset, readers: list[Reader], rate: float | None) -> None:
        query = self._workload.query
        plan = query_plan(query, dataset, rate)
        some = list(server_queries(plan, query.min_duration_s)) if plan.scenario == "server" else queries(plan)
        limit_ns = round(query.latency_limit_s * 1e9) if plan.scenario == "server" else None
        allowed = max(most_over(len(some), query.percentile_or_default()), 0) if isinstance(some, list) and query.find_max_qps else None
        pace = Pace(plan.scenario, plan.min_query_count, round(query.min_duration_s * 1e9), limit_ns, allowed)
        with self._writing(plan, rate, allowed) as trace:
            trace.write({"kind": "cache", **_host_cache(self._workload, self._spec, dataset).prepare(self._trials)})
            meter = ProcessMeter(store.counters)
            pool = Pool([reader.read for reader in readers], self._clock, trace.row, in_place=plan.scenario == "single-stream")
            try:
                issued = issue(some, pace, pool, self._clock)
            finally:
                pool.close()
                counted = meter.read()
                meter.close()
            trace.write({"kind": "footer", **issued.as_dict(), **_counts(counted), **host.clock_pair(self._clock)})
        self._trials += 1

    @contextmanager
    def _writing(self, plan: Plan, rate: float | None, allowed: int | None) -> Iterator[TraceWriter]:
        """The trial's file with its header; what ends the trial is written into it."""
        trace = TraceWriter(query_trace_path(self._run_dir, self._trials))
        try:
            trace.write(
                {
                    "kind": "header",
                    "schema_version": SCHEMA_VERSION,
                    "run_id": self._run["run_id"],
                    "trial": self._trials,
                    "target_qps": rate,
                    "gives_up_after": allowed,
                    "samples_per_query": plan.samples_per_query,
                    "boot_id": host.boot_id(),
                    "version": __version__,
                    "config_digest": config_digest(self._run["config"]),
                    "dataset_digest": self._run["dataset"]["digest"],
                    **host.clock_pair(self._clock),
                }
            )
            trace.write({"kind": "columns", "columns": COLUMNS})
            yield trace
        except StorageBenchError as error:
            trace.write({"kind": "error", "message": error.message, "hint": error.hint, "exit_code": error.exit_code, **host.clock_pair(self._clock)})
            raise
        finally:
            trace.close()


def _counts(counted: Any) -> dict[str, Any]:
    store = counted.store
    return {
        "storage_bytes": store.num_bytes,
        "requests": store.requests,
        "retries": store.retries,
        "errors": store.errors,
        "device_read_bytes": counted.device_read_bytes,
        "cpu_s": round(counted.cpu_s, 6),
    }


def _job(workload: Workload, spec: StoreSpec, dataset: Dataset) -> LoadJob:
    return LoadJob(
        store=spec,
        dataset=dataset,
        rank=0,
        world_size=1,
        batch_size=1,
        decode=workload.run.decode,
        verify=workload.run.verify,
        handover_bytes_per_sample=workload.dataset.record_length_bytes_resize,
    )


def _host_cache(workload: Workload, spec: StoreSpec, dataset: Dataset) -> HostCache:
    return HostCache(workload.run.cache, *shard_paths(spec, dataset))
