"""One rank's run: epochs of steps, each fetched, computed and synced, every one written down before the next.

The engine never imports an adapter: it is handed protocol objects (world, clock, loader, cache control, trace), so that the null run, the run on
the fake clock and the real run are the same code. It judges nothing; what it counts goes into the trace.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from storagebench.accelerator import EmulatedAccelerator
from storagebench.clock import Clock
from storagebench.errors import RankError
from storagebench.protocols import Batch, LoaderCounters, LoaderRun
from storagebench.records import StepRecord
from storagebench.usage import HostUsage, Usage, grown, read_host_usage, read_usage
from storagebench.world import World

_MIN_NULL_STEPS = 5
_LEAST_HANDOFF_NS = 50_000
_MAX_BAD_SAMPLES = 100


class CacheControl(Protocol):
    """Brings the page cache of one host into the asked state and proves it. Called by one rank of each host, between barriers."""

    def prepare(self, epoch: int) -> Mapping[str, Any]:
        """Do it; what was found goes into the trace (`cached_fraction_before`, `method`, `seconds` ...)."""

    def device_bytes(self) -> int | None:
        """Device reads of a server on this host that serves the dataset (our own `serve-s3`), since it started; None where there is none."""


class Trace(Protocol):
    """Where records go (`records.TraceWriter`)."""

    def step(self, record: StepRecord) -> None: ...

    def write(self, record: Mapping[str, Any]) -> None: ...

    def sync(self) -> None: ...


@dataclass(frozen=True)
class EngineJob:
    """What one rank does. `expected_crc32c` uint32[num_samples] is what each record must have; `shard_of` names the shard of a sample;
    `command_pid`: the process whose descendants all ranks and workers are."""

    epochs: int
    batch_size: int
    compute_ns: int
    warmup_steps: int
    sync: str
    max_steps: int | None
    duration_ns: int | None
    null_duration_ns: int
    expected_crc32c: NDArray[np.uint32]
    shard_of: Callable[[int], str]
    command_pid: int = field(default_factory=os.getpid)


class Engine:
    """Drives one loader for one rank. `run` may be called once."""

    def __init__(self, job: EngineJob, world: World, clock: Clock, trace: Trace, cache: CacheControl) -> None:
        self._job = job
        self._world = world
        self._clock = clock
        self._trace = trace
        self._cache = cache
        self._accelerator = EmulatedAccelerator(clock, job.compute_ns, _LEAST_HANDOFF_NS)
        self._steps_done = 0
        self._first_start_ns: int | None = None
        self._stopped = False
        self._samples_done = 0
        self._host_before: HostUsage | None = None
        self._is_first_of_host = world.place.rank_of_host == 0

    def run(self, loader: LoaderRun, null_loader: LoaderRun | None) -> None:
        """The whole run of this rank: the null loader, then the epochs. The loader is left drained and open."""
        if null_loader is not None and self._job.null_duration_ns > 0 and self._job.compute_ns > 0:
            self._run_null(null_loader)
        for epoch in range(self._job.epochs):
            self._epoch(loader, epoch)
            if self._stopped:
                break
        self._trace.write({"kind": "footer", "steps": self._steps_done, "samples": self._samples_done})
        self._trace.sync()
        self._world.barrier()

    # -- the null run: what the harness itself costs -------------------------------------------------------------------------------------------

    def _run_null(self, loader: LoaderRun) -> None:
        """Steps of the null loader in the same process, world, sync and pacing; also how long `next()` takes when a batch is ready."""
        begin_ns = self._world.max_ns(self._clock.now_ns())  # common to all, so that synced ranks stop after the same step
        loader.start(0)
        end_ns, step, handoffs = begin_ns, 0, []
        while True:
            record, _, end_ns, release_ns = self._step(loader, "null", 0, step, self._job.batch_size, end_ns)
            self._trace.step(record)
            handoffs.append(record.got_ns - record.asked_ns)
            step += 1
            if step >= _MIN_NULL_STEPS and release_ns - begin_ns >= self._job.null_duration_ns:
                break
        loader.drain()
        self._accelerator.handoff_ns = max(_LEAST_HANDOFF_NS, int(np.percentile(handoffs, 99)))
        self._world.barrier()

    # -- epochs --------------------------------------------------------------------------------------------------------------------------------

    def _epoch(self, loader: LoaderRun, epoch: int) -> None:
        self._prepare_cache(epoch)
        plan = loader.plan(epoch)
        server_before = self._cache.device_bytes()
        before = loader.counters()
        usage_before = read_usage()
        if self._first_start_ns is None:
            self._first_start_ns = self._world.max_ns(self._clock.now_ns())
        begin_ns = self._clock.now_ns()
        self._trace.write({"kind": "epoch_start", "epoch": epoch, "start_ns": begin_ns, "steps": len(plan.sizes), "samples": plan.num_samples})
        loader.start(epoch)
        seen = np.zeros(len(self._job.expected_crc32c), dtype=np.int32)
        end_ns, done, release_ns = begin_ns, 0, begin_ns
        for size in plan.sizes:
            if self._time_is_up(release_ns):
                self._stopped = True
                break
            kind = "idle" if size == 0 else "warmup" if self._steps_done < self._job.warmup_steps else "step"
            record, batch, end_ns, release_ns = self._step(loader, kind, epoch, self._steps_done, size, end_ns)
            if batch is not None:
                record = self._account(record, batch, seen)
                del batch
            self._trace.step(record)
            self._steps_done += 1
            done += 1
        loader.drain()
        if self._job.sync == "epoch":
            self._world.barrier()
        last_ns = self._clock.now_ns()
        planned = sum(plan.sizes[:done])
        self._end_epoch(loader, epoch, seen, planned, plan.dropped_samples, before, server_before, usage_before, begin_ns, last_ns)

    def _prepare_cache(self, epoch: int) -> None:
        self._world.barrier()
        if self._is_first_of_host:
            found = self._cache.prepare(epoch)
            self._trace.write({"kind": "cache", "epoch": epoch, **found})
            self._host_before = read_host_usage(self._job.command_pid)
        self._world.barrier()

    def _host_used(self) -> dict[str, float | None]:
        """Cores in use since the epoch was prepared, as core seconds: by anybody, and by this command."""
        before, self._host_before = self._host_before, None
        if before is None:
            return {}
        now = read_host_usage(self._job.command_pid)
        return {
            "host_span_s": grown(now.at_s, before.at_s),
            "host_busy_s": grown(now.busy_s, before.busy_s),
            "host_command_s": grown(now.command_s, before.command_s),
        }

    def _time_is_up(self, release_ns: int) -> bool:
        """Whether to stop before this step. The release is common to all ranks of a synced run, so they stop together."""
        if self._job.max_steps is not None and self._steps_done >= self._job.max_steps:
            return True
        if self._job.duration_ns is None or self._first_start_ns is None:
            return False
        return release_ns - self._first_start_ns >= self._job.duration_ns

    def _step(
        self, loader: LoaderRun, kind: str, epoch: int, step: int, size: int, previous_end_ns: int
    ) -> tuple[StepRecord, Batch | None, int, int]:
        """Fetch, compute, sync. Returns the record, the batch, the scheduled end, and the release that all ranks share."""
        clock, accelerator = self._clock, self._accelerator
        asked_ns = clock.now_ns()
        batch = loader.next() if size else None
        got_ns = clock.now_ns()
        if size and (batch is None or batch.num_samples != size):
            got = 0 if batch is None else batch.num_samples
            raise RankError(
                f"the loader gave {got} samples in epoch {epoch} step {step}, and {size} were planned",
                "this is a defect of the loader: run it with --debug and report it",
            )
        ready_ns = batch.ready_ns if batch else None
        start_ns = accelerator.start_ns(previous_end_ns, asked_ns, got_ns, ready_ns) if batch else previous_end_ns
        due_ns = start_ns + accelerator.step_compute_ns(size, self._job.batch_size)
        release_ns = self._world.max_ns(due_ns) if self._job.sync == "step" else due_ns
        wake = accelerator.wait(release_ns)
        record = StepRecord(
            kind=kind,
            epoch=epoch,
            step=step,
            asked_ns=asked_ns,
            ready_ns=ready_ns,
            got_ns=got_ns,
            start_ns=start_ns,
            due_ns=due_ns,
            compute_end_ns=max(start_ns, wake.woke_ns - (release_ns - due_ns)),
            release_ns=wake.end_ns,
            sync_end_ns=wake.woke_ns,
            host_delay_ns=wake.host_delay_ns,
            queue_level=batch.queue_level if batch else None,
            samples=size,
            record_bytes=batch.record_bytes if batch else 0,
            handover_bytes=batch.handover_bytes if batch else 0,
            spans_s={name: round(seconds, 9) for name, seconds in batch.spans_s.items()} if batch else {},
            prep_cpu_s=round(batch.prep_cpu_s, 9) if batch else 0.0,
            run_delay_s=round(batch.run_delay_s, 9) if batch else 0.0,
            ids_hash=crc32c(batch.sample_ids.tobytes()) if batch else 0,
        )
        return record, batch, wake.end_ns, release_ns

    # -- proof and totals ------------------------------------------------------------------------------------------------------------------------

    def _account(self, record: StepRecord, batch: Batch, seen: NDArray[np.int32]) -> StepRecord:
        """Count what arrived and compare checksums with the manifest's; the bad samples are named in the record."""
        np.add.at(seen, batch.sample_ids, 1)
        self._samples_done += batch.num_samples
        if batch.checksums is None or batch.checked is None:
            return record
        wrong = batch.checked & (batch.checksums != self._job.expected_crc32c[batch.sample_ids])
        bad = tuple((int(sample), self._job.shard_of(int(sample))) for sample in batch.sample_ids[wrong][:_MAX_BAD_SAMPLES])
        checksum = int(np.bitwise_xor.reduce(batch.checksums[batch.checked])) if batch.checked.any() else None
        return replace(record, checksum=checksum, verified=int(batch.checked.sum()), errors=int(wrong.sum()), bad_samples=bad)

    def _end_epoch(
        self,
        loader: LoaderRun,
        epoch: int,
        seen: NDArray[np.int32],
        planned: int,
        dropped: int,
        before: LoaderCounters,
        server_before: int | None,
        usage_before: Usage,
        begin_ns: int,
        last_ns: int,
    ) -> None:
        """Counters of this rank, and the proof over all ranks that each planned sample came once. Outside of every window."""
        after = loader.counters()
        usage = read_usage()
        server_after = self._cache.device_bytes()
        delivered = int(seen.sum())
        planned_of_all = sum(self._world.gather(planned))
        counts = self._world.sum_counts(seen)
        unique = int(np.count_nonzero(counts))
        self._trace.write(
            {
                "kind": "epoch_end",
                "epoch": epoch,
                "start_ns": begin_ns,
                "end_ns": last_ns,
                "samples": delivered,
                "planned_samples": planned,
                "dropped_samples_of_all": dropped,
                "missing_samples_of_all": planned_of_all - unique,
                "duplicate_samples_of_all": int(counts.sum()) - unique,
                "storage_bytes": _minus(after.storage_bytes, before.storage_bytes),
                "storage_method": after.storage_method,
                "device_read_bytes": _minus(after.device_read_bytes, before.device_read_bytes),
                "server_device_bytes": _minus(server_after, server_before),
                "rchar_bytes": _minus(after.rchar_bytes, before.rchar_bytes),
                "requests": _minus(after.requests, before.requests),
                "retries": after.retries - before.retries,
                "errors": after.errors - before.errors,
                "rank_cpu_s": round(usage.cpu_s - usage_before.cpu_s, 6),
                "rank_run_delay_s": grown(usage.run_delay_s, usage_before.run_delay_s),
                **self._host_used(),
                "worker_cpu_s": round(after.worker_cpu_s - before.worker_cpu_s, 6),
            }
        )
        self._trace.sync()


def _minus(after: int | None, before: int | None) -> int | None:
    """The difference; None (unknown) where the end is unknown, from 0 where only the start was."""
    return None if after is None else after - (before or 0)
