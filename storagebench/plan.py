"""Workload + world + dataset -> `Plan`: every derived number, once. Touches no storage and never writes back onto the request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from storagebench.adapters import LoaderInfo
from storagebench.errors import UsageError
from storagebench.manifest import Dataset
from storagebench.protocols import LoadJob
from storagebench.registry import loader_info, loaders
from storagebench.sampling import EpochPlan, Indices, Span, plan_by_sample, plan_by_unit, plan_own_samples, plan_own_units, split_work
from storagebench.trainname import is_training
from storagebench.units import format_gib
from storagebench.workload import Workload

# Resident memory of one process with what it imports, beyond the samples (measured here with torch 2.13 CPU; rounded up).
RANK_BASE_BYTES = 150 * 2**20
RANK_TORCH_BYTES = 350 * 2**20
WORKER_BASE_BYTES = 200 * 2**20
WRITER_BYTES = 100 * 2**20  # measured: 62 MB with records of 5 kB
# A rank that shares a process: its threads' stacks and buffers as far as they are touched, and what its loader holds beyond the batches.
SHARING_RANK_BYTES = 4 * 2**20
_DESCRIPTORS_OF_A_PROCESS = 64


@dataclass(frozen=True)
class Plan:
    """What a run will do and need. Bytes per second are of all accelerators at full utilisation; `write_demand_bytes_per_s` are stored bytes of all
    writers, None where they write as fast as they can (or there are none)."""

    world_size: int
    num_processes: int
    compute_time_s: float
    global_batch: int
    samples_per_epoch: int
    dropped_samples_per_epoch: int
    steps_per_epoch: int
    planned_steps: int
    record_bytes_per_epoch: int
    mean_record_bytes: float
    demand_samples_per_s: float | None
    demand_bytes_per_s: float | None
    compute_s: float
    workers_per_rank: int
    prefetch_batches: int
    batch_bytes: int
    memory_of_process_bytes: int
    memory_of_rank_bytes: int
    memory_bytes: int
    shared_memory_bytes: int
    descriptors: int
    writers: int
    write_demand_bytes_per_s: float | None


def refuse_unshared(workload: Workload) -> None:
    """Raises UsageError where accelerators share a process and the loader does not allow it."""
    share = workload.run.accelerators_per_process
    if share > 1 and not loader_info(workload.loader.name).shares_process:
        able = [name for name, row in loaders().items() if row.shares_process]
        raise UsageError(
            f"--accelerators-per-process is {share}, and loader {workload.loader.name} takes a process for each accelerator",
            f"use --loader {' or '.join(able)}, or --accelerators-per-process 1",
        )


def epoch_plan(
    loader: LoaderInfo, dataset: Dataset, workload: Workload, epoch: int, rank: int, world_size: int, shard_spans: tuple[Span, ...] = ()
) -> tuple[EpochPlan, Indices]:
    """What one rank does in one epoch with this kind of loader, and the sample ids (or unit ids) in reading order. `shard_spans` as in `LoadJob`."""
    return plan_epoch(
        loader.unit_of(dataset.format),
        dataset,
        epoch=epoch,
        rank=rank,
        world_size=world_size,
        batch_size=workload.train.batch_size,
        seed=workload.run.seed,
        shuffle=workload.loader.shuffle,
        keep=workload.run.remainder == "keep",
        shard_spans=shard_spans,
    )


def plan_epoch(
    unit: str,
    dataset: Dataset,
    *,
    epoch: int,
    rank: int,
    world_size: int,
    batch_size: int,
    seed: int,
    shuffle: bool,
    keep: bool,
    shard_spans: tuple[Span, ...] = (),
) -> tuple[EpochPlan, Indices]:
    """The same from its parts. `unit` is sample, shard or row_group."""
    if unit == "sample":
        if shard_spans:
            spans = _spans_of(shard_spans, lambda shard: int(dataset.first_sample[shard]) if shard < dataset.num_shards else dataset.num_samples)
            return plan_own_samples(seed, epoch, dataset.num_samples, spans, rank, batch_size, shuffle, keep)
        return plan_by_sample(seed, epoch, dataset.num_samples, rank, world_size, batch_size, shuffle, keep)
    if unit == "row_group":
        shards, firsts, sizes = dataset.row_groups()
        spans = _spans_of(shard_spans, lambda shard: int(np.searchsorted(shards, shard)))
    else:
        firsts, sizes, spans = dataset.first_sample, dataset.shard_samples, shard_spans
    if spans:
        return plan_own_units(seed, epoch, firsts, sizes, spans, rank, batch_size, shuffle, keep)
    return plan_by_unit(seed, epoch, firsts, sizes, rank, world_size, batch_size, shuffle, keep)


def _spans_of(shard_spans: tuple[Span, ...], begin: Callable[[int], int]) -> tuple[Span, ...]:
    """Spans of shards as spans of what lies in them; `begin` is where a shard's begin."""
    found = {span: (begin(span[0]), begin(span[1])) for span in dict.fromkeys(shard_spans)}
    return tuple(found[span] for span in shard_spans)


def plan_job(unit: str, job: LoadJob, epoch: int) -> tuple[EpochPlan, Indices]:
    """What the rank of a job does in one epoch, as its loader plans it."""
    return plan_epoch(
        unit,
        job.dataset,
        epoch=epoch,
        rank=job.rank,
        world_size=job.world_size,
        batch_size=job.batch_size,
        seed=job.seed,
        shuffle=job.shuffle,
        keep=job.keep_remainder,
        shard_spans=job.shard_spans,
    )


def make_plan(
    workload: Workload, world_size: int, dataset: Dataset | None = None, num_processes: int | None = None, shard_spans: tuple[Span, ...] = ()
) -> Plan:
    """Every derived number of a run, over all hosts. Without a dataset the workload's own numbers stand in for it. `num_processes` of the ranks, where they
    are not of one command (which has as many as the accelerators need); `shard_spans` as in `LoadJob`.

    Raises UsageError where nothing would be run: fewer samples than one global batch with --remainder drop.
    """
    info = loader_info(workload.loader.name)
    unit = info.unit_of(dataset.format if dataset is not None else workload.dataset.format)
    batch_size = workload.train.batch_size
    compute_time_s = workload.compute_time_of_step_s()
    if dataset is None:
        num_samples, mean = workload.dataset.num_samples, float(workload.dataset.record_length_bytes)
        record_bytes, steps = round(num_samples * mean), num_samples // (batch_size * world_size)
        dropped = num_samples - steps * batch_size * world_size
        largest = mean + 2 * workload.dataset.record_length_bytes_stdev
    else:
        num_samples, record_bytes = dataset.num_samples, dataset.record_bytes
        mean = record_bytes / num_samples
        largest = float(np.quantile(dataset.index["record_bytes"], 0.95))
        epoch, _ = epoch_plan(info, dataset, workload, 0, 0, world_size, shard_spans)
        steps, dropped = len(epoch.sizes), epoch.dropped_samples
        _check_units(unit, dataset, world_size, shard_spans)
    if workload.run.remainder == "keep" and dataset is None:
        steps, dropped = -(-num_samples // (batch_size * world_size)), 0
    _check_steps(steps, num_samples, batch_size, world_size, unit)
    planned = steps * workload.train.epochs
    if workload.run.max_steps is not None:
        planned = min(planned, workload.run.max_steps)
    if planned <= workload.run.warmup_steps:
        raise UsageError(
            f"the run has {planned} steps, and the first {workload.run.warmup_steps} are warm-up: nothing would be measured",
            "use more --num-samples, --epochs or --max-steps, or fewer --warmup-steps",
        )
    workers, _, _ = split_work(workload.loader.prefetch_batches, workload.loader.num_workers, batch_size)
    batch_bytes = round(batch_size * (mean + (largest - mean) / batch_size**0.5))
    buffer_bytes = _shuffle_buffer_bytes(workload, unit, _most_samples_of_a_rank(num_samples, world_size, dataset, shard_spans), mean)
    in_flight = workload.loader.prefetch_batches + 1  # and the one that the accelerator holds
    process_workers = workers if info.workers == "processes" else 0
    refuse_unshared(workload)
    per_process = min(workload.run.accelerators_per_process, world_size)
    processes = num_processes or -(-world_size // per_process)
    needs_torch = info.needs_torch or processes > 1 or is_training(workload.run.accelerator)
    base = RANK_BASE_BYTES + (RANK_TORCH_BYTES if needs_torch else 0) + process_workers * WORKER_BASE_BYTES
    sharing_bytes = SHARING_RANK_BYTES if per_process > 1 else 0
    data_bytes = 0 if workload.loader.name == "null" else in_flight * batch_bytes
    demand = world_size * batch_size / compute_time_s if compute_time_s > 0 else None
    return Plan(
        world_size=world_size,
        num_processes=processes,
        compute_time_s=compute_time_s,
        global_batch=batch_size * world_size,
        samples_per_epoch=num_samples - dropped,
        dropped_samples_per_epoch=dropped,
        steps_per_epoch=steps,
        planned_steps=planned,
        record_bytes_per_epoch=record_bytes,
        mean_record_bytes=mean,
        demand_samples_per_s=demand,
        demand_bytes_per_s=None if demand is None else demand * mean,
        compute_s=planned * compute_time_s,
        workers_per_rank=workers,
        prefetch_batches=workload.loader.prefetch_batches,
        batch_bytes=batch_bytes,
        memory_of_process_bytes=base,
        memory_of_rank_bytes=sharing_bytes + data_bytes + buffer_bytes,
        memory_bytes=processes * base + world_size * (sharing_bytes + data_bytes + buffer_bytes) + workload.run.writers * WRITER_BYTES,
        shared_memory_bytes=world_size * data_bytes if process_workers else 0,
        descriptors=_DESCRIPTORS_OF_A_PROCESS + per_process * in_flight * (workers + 1) * 2,
        writers=workload.run.writers,
        write_demand_bytes_per_s=float(workload.run.write_rate) if workload.run.writers and workload.run.write_rate else None,
    )


def _shuffle_buffer_bytes(workload: Workload, unit: str, samples_of_rank: int, mean_record_bytes: float) -> int:
    """What a rank's shuffle buffer holds, for loaders that read shards in sequence; half as much again for the row groups that it pins."""
    if unit == "sample" or not workload.loader.shuffle:
        return 0
    return round(1.5 * min(workload.loader.shuffle_buffer, samples_of_rank) * mean_record_bytes)


def _most_samples_of_a_rank(num_samples: int, world_size: int, dataset: Dataset | None, shard_spans: tuple[Span, ...]) -> int:
    if dataset is None or not shard_spans:
        return num_samples // world_size
    return max(int(dataset.shard_samples[slice(*span)].sum()) // shard_spans.count(span) for span in dict.fromkeys(shard_spans))


def _check_units(unit: str, dataset: Dataset, world_size: int, shard_spans: tuple[Span, ...]) -> None:
    """Loaders that read whole shards give each rank at least one."""
    for first, stop in dict.fromkeys(shard_spans if unit == "shard" else ()):
        if stop - first < shard_spans.count((first, stop)):
            raise UsageError(
                f"a host holds {stop - first} shards of the dataset for {shard_spans.count((first, stop))} accelerators, and each needs one of its own",
                f"use at most {stop - first} accelerators there, or generate the dataset with the same --num-accelerators or fewer --samples-per-shard",
            )
    if unit == "shard" and dataset.num_shards < world_size:
        raise UsageError(
            f"the dataset has {dataset.num_shards} shards for {world_size} accelerators, and each needs one of its own",
            f"use at most {dataset.num_shards} accelerators, or generate the dataset with fewer --samples-per-shard",
        )


def _check_steps(steps: int, num_samples: int, batch_size: int, world_size: int, unit: str) -> None:
    if steps > 0:
        return
    what = "" if unit == "sample" else f" in whole {unit.replace('_', ' ')}s for each rank"
    raise UsageError(
        f"{num_samples} samples{what} make no full step of batch size {batch_size} x {world_size} accelerators",
        "use a smaller --batch-size or fewer accelerators, more samples, or --remainder keep",
    )


def plan_of_host(plan: Plan, ranks: int, processes: int) -> Plan:
    """The part of a plan that one host has to carry: its ranks, their processes, and what these need. Rates and steps stay those of the run."""
    return replace(
        plan,
        world_size=ranks,
        num_processes=processes,
        memory_bytes=processes * plan.memory_of_process_bytes + ranks * plan.memory_of_rank_bytes + plan.writers * WRITER_BYTES,
        shared_memory_bytes=plan.shared_memory_bytes * ranks // plan.world_size,
    )


@dataclass(frozen=True)
class Free:
    """What the host has to spare: memory, /dev/shm, and descriptors that one process may have."""

    memory_bytes: int
    shared_memory_bytes: int
    descriptors: int


def refuse_if_too_large(plan: Plan, free: Free, limit_fraction: float) -> None:
    """Raises UsageError with the arithmetic where the run needs more than this share of memory, shared memory or descriptors."""
    arithmetic = (
        f"{plan.world_size} rank{'s' if plan.world_size > 1 else ''} x ({plan.prefetch_batches} prefetched + 1 in use) batches "
        f"x {format_gib(plan.batch_bytes)} + {plan.num_processes} process{'es' if plan.num_processes > 1 else ''} ({plan.workers_per_rank} workers a rank)"
        + (f" + {plan.writers} writers" if plan.writers else "")
    )
    for what, need, have in (
        ("memory", plan.memory_bytes, free.memory_bytes),
        ("shared memory in /dev/shm", plan.shared_memory_bytes, free.shared_memory_bytes),
    ):
        if need > limit_fraction * have:
            raise UsageError(
                f"the run needs {format_gib(need)} of {what}, over {limit_fraction:.0%} of the {format_gib(have)} free: {arithmetic}",
                "use a smaller --batch-size, --prefetch-batches or --num-accelerators; or raise --memory-limit",
            )
    if plan.descriptors > limit_fraction * free.descriptors:
        raise UsageError(
            f"a process needs {plan.descriptors} file descriptors, over {limit_fraction:.0%} of the limit of {free.descriptors}",
            "raise it with `ulimit -n`, or use fewer workers or prefetched batches",
        )
