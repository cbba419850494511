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
from storagebench.checks.queries import write_query_summary
from storagebench.checks.query_trial import judge_trial
from storagebench.clock import SystemClock
from storagebench.configfile import changed
from storagebench.errors import EXIT_OK, EXIT_RANK, DatasetError, StorageBenchError
from storagebench.loaders.delivery import ProcessMeter
from storagebench.manifest import Dataset, load_dataset
from storagebench.members import alone, first_host
from storagebench.placement import refuse_partitioned
from storagebench.protocols import LoadJob, Store, StoreSpec
from storagebench.queryengine import Pace, Pool, Reader, issue
from storagebench.queryplan import (
    QUERY_LOADER,
    START_QPS,
    check_shards,
    num_workers_of,
    query_plan,
    refuse_format,
    refuse_memory,
    refuse_settings,
)
from storagebench.queryrecords import COLUMNS, KIND, query_trace_path, read_query_trace
from storagebench.rankmain import shard_paths
from storagebench.records import RUN_FILE, SCHEMA_VERSION, TraceWriter, as_plain, config_digest, create_run_dir, read_run, write_json
from storagebench.request import Request, store_spec
from storagebench.scenarios.bisection import find_max
from storagebench.scenarios.early_stopping import most_over
from storagebench.scenarios.schedule import Plan, queries, server_queries
from storagebench.storage import open_spec
from storagebench.workload import Workload

Summary = Mapping[str, Any]
_SWITCH_S: Final = 0.2e-3


def prepare_queries(request: Request) -> Path:
    """Check everything that can be checked before the first query, and write `run.json`; the run folder.

    Raises UsageError (does not fit), DatasetError (missing, incomplete, truncated), StorageError.
    """
    request = replace(request, configured=changed(request.configured, {"loader.name": QUERY_LOADER}, "storagebench query"))
    workload = request.configured.workload
    refuse_settings(workload.query)
    spec = store_spec(request)
    store = open_spec(spec)
    try:
        dataset = load_dataset(store)
        refuse_partitioned(dataset, "query")
        refuse_format(dataset, spec, workload)
        check_shards(store, dataset)
        spec = store.spec
    finally:
        store.close()
    plan = query_plan(workload.query, dataset)
    num_workers = num_workers_of(workload, "loader.num_workers" in request.configured.provenance)
    refuse_memory(workload, dataset, num_workers)
    run_dir = create_run_dir(request.results_dir, request.run_id)
    write_json(run_dir / RUN_FILE, _run_record(request, spec, dataset, plan, num_workers))
    return run_dir


def _run_record(request: Request, spec: StoreSpec, dataset: Dataset, plan: Plan, num_workers: int) -> dict[str, Any]:
    """`run.json`: what was asked, planned and found."""
    workload = request.configured.workload
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "run_id": request.run_id,
        "command": list(request.command),
        "command_start_ns": request.command_start_ns,
        "created": host.clock_pair(SystemClock()),
        "config": workload.model_dump(),
        "provenance": dict(request.configured.provenance),
        "store": as_plain(spec),
        "dataset": dataset.describe(),
        "query": {**plan._asdict(), "seeds": plan.seeds._asdict(), "percentile": workload.query.percentile_or_default(), "num_workers": num_workers},
        "launcher": "",
        "hosts": [host.described(host.label(), Path(spec.root) if spec.kind == "posix" else None)],
        "members": alone(host.label(), os.getpid(), 1, 1),
    }


def execute_queries(run_dir: Path) -> Summary:
    """Run the queries of a prepared run and judge it. Raises the error that ended it, after the summary was written."""
    run = read_run(run_dir)
    clock, spec = SystemClock(), StoreSpec(**run["store"])
    trace = host.HostTrace(run_dir, 0, first_host(run)["host"], clock, Path(spec.root) if spec.kind == "posix" else None)
    failure: StorageBenchError | None = None
    end: dict[str, Any] = {"exit_code": EXIT_RANK, "failure": "an unexpected error ended it"}
    try:
        with trace.sampling(), _punctual():
            _Bench(run_dir, run, spec, clock).run()
        end = {"exit_code": EXIT_OK, "failure": None}
    except StorageBenchError as error:
        failure, end = error, {"exit_code": error.exit_code, "failure": error.message}
    finally:
        trace.end(end)
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
            start = query.target_qps or START_QPS
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
        "retries_by_kind": dict(store.retries_by_kind),
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
