"""Before a run: everything that can be checked on every host before the first byte is timed, the plan, and `run.json`. The only place where adapters meet the
plan."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from storagebench import __version__, host
from storagebench.adapters import LoaderInfo
from storagebench.clock import SystemClock
from storagebench.cluster.crew import Alone, Crew, agreed, from_first
from storagebench.cluster.membership import flat, make_folders, member_rows, refuse_different
from storagebench.device import is_device
from storagebench.errors import DatasetError, UsageError
from storagebench.manifest import Dataset, load_dataset
from storagebench.placement import listed, refuse_misplaced, shares_of_parts, spans_of_hosts, spans_of_ranks
from storagebench.plan import Plan, make_plan, plan_of_host, refuse_if_too_large, refuse_unshared
from storagebench.probe.ceiling import ceiling_group
from storagebench.protocols import Store, StoreSpec
from storagebench.rankmain import dataset_of_run
from storagebench.records import SCHEMA_VERSION, as_plain
from storagebench.registry import loader_info, misfit, refuse_missing
from storagebench.request import Request, store_spec, with_depth
from storagebench.storage import open_spec
from storagebench.trainprep import training_asked
from storagebench.writers import refuse_unfit

_OPENED_OBJECTS = 1000


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
    training = training_asked(request, dataset, world_size)
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
        "accelerator": training["accelerator"] if training else workload.run.accelerator or f"{plan.compute_time_s:g} s a step",
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
        **({"training": training} if training else {}),
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


def _misfit_in_place(info: LoaderInfo, dataset: Dataset) -> UsageError | None:
    """Loaders that read whole files go by the fields that storagebench writes; those of others are read by the places of their samples."""
    if not dataset.data_root or info.whole_files_in_place or info.unit_of(dataset.format) == "sample":
        return None
    return UsageError(
        "a dataset in place is read sample by sample, and this loader reads whole files as storagebench writes them", "use --loader direct or files"
    )


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
