"""What runs in each process of a run: its ranks, from the run folder alone. Live clients never cross processes, so everything is built anew here.

One rank runs in the process's main thread; several (`--accelerators-per-process`) in a thread each, over one dataset and one connection to the other
processes.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from storagebench import __version__, host
from storagebench.accelerator import Accelerator, EmulatedAccelerator
from storagebench.cachestate import HostCache
from storagebench.clock import Clock, SystemClock
from storagebench.cluster.membership import seats_of
from storagebench.consumers import ConsumerClock, ConsumerGroup, ConsumerWorld, PeerFailedError, run_consumers
from storagebench.device import is_device, open_device
from storagebench.engine import Engine, EngineJob
from storagebench.errors import EXIT_OK, EXIT_RANK, DatasetError, StorageBenchError
from storagebench.gate import wait_at_gate
from storagebench.launch import Interrupted
from storagebench.loaders.null import NullLoader
from storagebench.manifest import Dataset, load_dataset
from storagebench.members import pids_on
from storagebench.placement import held, shard_spans
from storagebench.protocols import LoadJob, StoreSpec
from storagebench.records import SCHEMA_VERSION, TraceWriter, as_plain, config_digest, rank_trace_path, read_run
from storagebench.registry import open_loader
from storagebench.s3server import find_server
from storagebench.sampling import Span
from storagebench.storage import open_spec, spec_of_reader
from storagebench.trainrank import open_trainer
from storagebench.workload import Workload
from storagebench.world import Place, Rendezvous, World, open_world
from storagebench.writers import Writers

_LAUNCHER_ENDS_US_WITHIN_S = 5.0


class _Shared(NamedTuple):
    """What the ranks of one process have in common."""

    run_dir: Path
    run: Mapping[str, Any]
    workload: Workload
    spec: StoreSpec
    dataset: Dataset


def rank_argument(run_dir: Path, member: int, rendezvous: Rendezvous | None) -> str:
    """What `process_main` is told."""
    return json.dumps({"run_dir": str(run_dir), "member": member, "rendezvous": None if rendezvous is None else as_plain(rendezvous)})


def process_main(argument: str, index: int) -> int:
    """All ranks of the process with this number among those of its member; the exit code. An error goes into the rank's trace, where `session.take_part`
    finds it."""
    told = json.loads(argument)
    run_dir, rendezvous = Path(told["run_dir"]), told["rendezvous"] and Rendezvous(**told["rendezvous"])
    run = read_run(run_dir)
    clock = SystemClock()
    place, places = seats_of(run).process(told["member"], index)
    with ExitStack() as stack:
        traces = []
        for each in places:
            traces.append(_open_trace(run_dir, run, each, clock))
            stack.callback(traces[-1].close)
        if run["config"]["run"]["accelerators_per_process"] == 1:
            return _told(traces[0], places[0], clock, lambda: _run_alone(run_dir, run, partial(open_world, place, rendezvous), clock, traces[0]))
        return _told(traces[0], places[0], clock, lambda: _run_together(run_dir, run, partial(open_world, place, rendezvous), places, traces))


def _run_alone(run_dir: Path, run: Mapping[str, Any], join: Callable[[], World], clock: Clock, trace: TraceWriter) -> int:
    shared = _open_shared(run_dir, run, [trace])
    world = join()
    _run_rank(shared, world, clock, trace)
    world.close()
    return EXIT_OK


def _run_together(run_dir: Path, run: Mapping[str, Any], join: Callable[[], World], places: list[Place], traces: list[TraceWriter]) -> int:
    shared = _open_shared(run_dir, run, traces)
    group = ConsumerGroup(join(), places)

    def consume(world: ConsumerWorld) -> int:
        clock = ConsumerClock(group, world.place)
        trace = traces[world.place.rank_of_process]

        def work() -> int:
            _run_rank(shared, world, clock, trace)
            return EXIT_OK

        return _told(trace, world.place, SystemClock(), work)

    code = run_consumers(group, consume)
    if code == EXIT_OK:
        group.close()
    return code


def _told(trace: TraceWriter, place: Place, clock: SystemClock, work: Callable[[], int]) -> int:
    """The exit code of a rank's work; what it raises is written into its trace."""
    try:
        return work()
    except Interrupted:
        raise  # a signal to the command, which this rank runs in
    except PeerFailedError:
        return EXIT_RANK
    except StorageBenchError as error:
        _write_error(trace, clock, error.message, error.hint, error.exit_code)
        return error.exit_code
    except Exception as error:
        _write_error(
            trace, clock, f"rank {place.rank} failed: {type(error).__name__}: {error}", "run it with --debug and report it", EXIT_RANK, error
        )
        if _lost_peer(error):
            time.sleep(_LAUNCHER_ENDS_US_WITHIN_S)  # so that the launcher sees the dead rank first, and names it
        return EXIT_RANK


def _open_trace(run_dir: Path, run: Mapping[str, Any], place: Place, clock: SystemClock) -> TraceWriter:
    trace = TraceWriter(rank_trace_path(run_dir, place.rank))
    trace.write(
        {
            "kind": "header",
            "schema_version": SCHEMA_VERSION,
            "run_id": run["run_id"],
            "rank": place.rank,
            "host": place.host,
            "pid": os.getpid(),
            "boot_id": host.boot_id(),
            "version": __version__,
            "config_digest": config_digest(run["config"]),
            "dataset_digest": run["dataset"]["digest"],
            **host.clock_pair(clock),
        }
    )
    return trace


def _lost_peer(error: Exception | None) -> bool:
    """Whether gloo lost another rank, which is not this rank's fault."""
    return error is not None and any(word in str(error) for word in ("Connection closed by peer", "Connection reset by peer", "gloo"))


def _write_error(trace: TraceWriter, clock: SystemClock, message: str, hint: str, code: int, error: Exception | None = None) -> None:
    lost_peer = _lost_peer(error)
    text = "".join(traceback.format_exception(error)) if error else ""
    trace.write(
        {"kind": "error", "message": message, "hint": hint, "exit_code": code, "lost_peer": lost_peer, "traceback": text, **host.clock_pair(clock)}
    )


def _open_shared(run_dir: Path, run: Mapping[str, Any], traces: list[TraceWriter]) -> _Shared:
    """The dataset, as this process reads it. Raises DatasetError where it is not the one that was planned."""
    spec = StoreSpec(**run["store"])
    dataset = dataset_of_run(run)
    digest = dataset.digest()
    for trace in traces:
        trace.write({"kind": "dataset", "digest": digest})
    if digest != run["dataset"]["digest"]:
        raise DatasetError(f"the dataset at {spec.url} changed since the run was planned", "nothing may write to it during a run")
    return _Shared(run_dir, run, Workload.model_validate(run["config"]), spec, dataset)


def dataset_of_run(run: Mapping[str, Any]) -> Dataset:
    """The dataset that a run was planned for, read anew: its manifest lies with its shards, or where `manifest_store` says."""
    store = open_spec(StoreSpec(**run.get("manifest_store", run["store"])))
    try:
        return load_dataset(store)
    finally:
        store.close()


def _run_rank(shared: _Shared, world: World, clock: Clock, trace: TraceWriter) -> None:
    workload, dataset = shared.workload, shared.dataset
    job = load_job(workload, shared.spec, dataset, world.place, shard_spans(shared.run))
    trainer = open_trainer(shared.run, workload, job, world, clock, trace)
    null_loader = NullLoader().open_endless(job)
    begin_ns = clock.now_ns()
    loader = open_loader(workload.loader.name).open(job)
    try:
        trace.write({"kind": "opened", "open_begin_ns": begin_ns, "open_end_ns": clock.now_ns(), "effective": dict(loader.effective())})
        cache = _host_cache(workload, shared.spec, held(shared.run, dataset, world.place.host))
        steps = _engine_job(shared.run, workload, dataset, world.place)
        with closing(trainer or _accelerator(workload, clock, steps, world.place)) as accelerator:
            if world.place.rank == 0:
                wait_at_gate()
            Engine(steps, world, clock, trace, cache, accelerator, _writers(shared, world.place), trainer).run(loader, null_loader)
    finally:
        loader.close()


def _writers(shared: _Shared, place: Place) -> Writers | None:
    """Those of this host, which its first rank starts."""
    count = shared.workload.run.writers
    if not count or place.rank_of_host:
        return None
    return Writers(shared.run_dir, count, place.host_number)


def _accelerator(workload: Workload, clock: Clock, job: EngineJob, place: Place) -> Accelerator:
    name = workload.run.accelerator
    if is_device(name):
        return open_device(name, clock, job.compute_ns, place.rank_of_host)
    return EmulatedAccelerator(clock, job.compute_ns)


def load_job(workload: Workload, spec: StoreSpec, dataset: Dataset, place: Place, shard_spans: tuple[Span, ...] = ()) -> LoadJob:
    """What the loader of one rank is asked to do."""
    return LoadJob(
        store=spec_of_reader(spec, place.rank),
        dataset=dataset,
        rank=place.rank,
        world_size=place.world_size,
        batch_size=workload.train.batch_size,
        seed=workload.run.seed,
        shuffle=workload.loader.shuffle,
        keep_remainder=workload.run.remainder == "keep",
        num_workers=workload.loader.num_workers,
        prefetch_batches=workload.loader.prefetch_batches,
        io_depth=workload.loader.io_depth,
        shuffle_buffer=workload.loader.shuffle_buffer,
        decode=workload.run.decode,
        verify=workload.run.verify,
        handover_bytes_per_sample=workload.dataset.record_length_bytes_resize,
        counts_process=place.rank_of_process == 0,
        shard_spans=shard_spans,
    )


def _engine_job(run: Mapping[str, Any], workload: Workload, dataset: Dataset, place: Place) -> EngineJob:
    duration_s = workload.run.duration_s
    return EngineJob(
        epochs=workload.train.epochs,
        batch_size=workload.train.batch_size,
        compute_ns=round(run["plan"]["compute_time_s"] * 1e9),
        warmup_steps=workload.run.warmup_steps,
        sync=workload.run.sync,
        max_steps=workload.run.max_steps,
        duration_ns=None if duration_s is None else round(duration_s * 1e9),
        null_duration_ns=round(workload.run.null_duration_s * 1e9),
        expected_crc32c=dataset.index["crc32c"],
        shard_of=dataset.shard_of,
        command_pids=pids_on(run, place.host),
    )


def _host_cache(workload: Workload, spec: StoreSpec, dataset: Dataset) -> HostCache:
    """The files behind the shards, where this host has them: a local path, or the folder of our own `serve-s3`."""
    mode = workload.run.cache
    if workload.loader.name == "null":
        return HostCache("as-is", [])
    return HostCache(mode, *shard_paths(spec, dataset))


def shard_paths(spec: StoreSpec, dataset: Dataset) -> tuple[list[str], int | None]:
    """The shards as files of this host (none where it has them not), and the pid of our own server that reads them."""
    if spec.kind == "posix":
        return [os.path.join(spec.root, name) for name in dataset.names], None
    served = find_server(spec.options.get("endpoint_url", "")) if spec.kind == "s3" else None
    if served is None:
        return [], None
    folder = Path(served.directory) / spec.root.removeprefix("s3://")
    return [str(folder / name) for name in dataset.names], served.pid
