"""One rank's run: epochs of steps, each fetched, computed and synced, every one written down before the next.

The engine never imports an adapter: it is handed protocol objects (world, clock, loader, cache control, trace), so that the null run, the run on
the fake clock and the real run are the same code. It judges nothing; what it counts goes into the trace.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from storagebench.accelerator import LEAST_HANDOFF_NS, Accelerator, Begun, Trainer
from storagebench.clock import Clock
from storagebench.errors import RankError
from storagebench.protocols import Batch, LoaderCounters, LoaderRun, with_counts
from storagebench.records import StepRecord
from storagebench.usage import HostUsage, Usage, grown, read_host_usage, read_usage
from storagebench.world import Agreed, World

_MIN_NULL_STEPS = 5
_HANDOFFS, _BETWEEN_HANDOFFS_NS = 20, 1_000_000
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
    `command_pids`: the processes on this host whose descendants all ranks and workers here are."""

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
    command_pids: tuple[int, ...] = field(default_factory=lambda: (os.getpid(),))


class _Proof(NamedTuple):
    """What the checksums of a batch say: their combination, how many were compared, how many differ, and which (some of them)."""

    checksum: int | None = None
    verified: int = 0
    errors: int = 0
    bad_samples: tuple[tuple[int, str], ...] = ()


_NOTHING_CHECKED = _Proof()


class Engine:
    """Drives one loader for one rank. `run` may be called once."""

    def __init__(
        self,
        job: EngineJob,
        world: World,
        clock: Clock,
        trace: Trace,
        cache: CacheControl,
        accelerator: Accelerator,
        beside: AbstractContextManager[Any] | None = None,
        trainer: Trainer | None = None,
    ) -> None:
        """`beside`: what goes on from before the first epoch until after the last one, and not while the null loader runs. `trainer`: the accelerator itself,
        where it trains."""
        self._job = job
        self._world = world
        self._clock = clock
        self._trace = trace
        self._cache = cache
        self._accelerator = accelerator
        self._trainer = trainer
        self._beside: AbstractContextManager[Any] = nullcontext() if beside is None else beside
        self._steps_done = 0
        self._begin: Agreed | None = None
        self._stopped = False
        self._samples_done = 0
        self._seen: list[NDArray[np.int64]] = []
        self._host_before: HostUsage | None = None
        self._is_first_of_host = world.place.rank_of_host == 0
        self._is_first_of_process = world.place.rank_of_process == 0

    def run(self, loader: LoaderRun, null_loader: LoaderRun | None) -> None:
        """The whole run of this rank: the epochs, then the null loader, which nothing waits for. The loader is left drained and open."""
        if null_loader is not None and self._job.compute_ns > 0:
            self._calibrate_handoff(null_loader)
        with self._beside:
            for epoch in range(self._job.epochs):
                self._epoch(loader, epoch)
                if self._stopped:
                    break
        if null_loader is not None and self._job.null_duration_ns > 0 and self._job.compute_ns > 0:
            self._run_null(null_loader)
        self._trace.write({"kind": "footer", "steps": self._steps_done, "samples": self._samples_done})
        self._trace.sync()
        self._world.barrier()

    # -- the null run: what the harness itself costs -------------------------------------------------------------------------------------------

    def _calibrate_handoff(self, loader: LoaderRun) -> None:
        """How long `next()` takes when a batch is ready, for loaders that cannot tell when it was. After short sleeps, as in a run; a few hundredths of
        a second, in which no rank waits for another."""
        loader.start(0)
        longest_ns = LEAST_HANDOFF_NS
        between_ns = min(self._job.compute_ns, _BETWEEN_HANDOFFS_NS)
        for _ in range(_HANDOFFS):
            asked_ns = self._clock.sleep_until_ns(self._clock.now_ns() + between_ns)
            loader.next()
            longest_ns = max(longest_ns, self._clock.now_ns() - asked_ns)
        loader.drain()
        self._accelerator.handoff_ns = longest_ns

    def _run_null(self, loader: LoaderRun) -> None:
        """Steps of the null loader in the same process, world, sync and pacing."""
        self._world.barrier()
        self._begin = self._world.agree(self._clock.now_ns())
        loader.start(0)
        end_ns, step = self._begin.release_ns, 0
        while True:
            end_ns, elapsed_ns = self._step(loader, "null", 0, step, self._job.batch_size, end_ns)
            step += 1
            if step >= _MIN_NULL_STEPS and elapsed_ns >= self._job.null_duration_ns:
                break
        loader.drain()
        self._world.barrier()

    # -- epochs --------------------------------------------------------------------------------------------------------------------------------

    def _epoch(self, loader: LoaderRun, epoch: int) -> None:
        self._prepare_cache(epoch)
        plan = loader.plan(epoch)
        before = _Counters(self._cache.device_bytes(), loader.counters(), read_usage())
        started = self._world.agree(self._clock.now_ns())
        if self._begin is None:
            self._begin = started
        elapsed_ns = started.common_ns - self._begin.common_ns
        self._world.barrier()  # ranks of one process share its counters: all have read them before the first one starts
        begin_ns = self._clock.now_ns()
        self._trace.write({"kind": "epoch_start", "epoch": epoch, "start_ns": begin_ns, "steps": len(plan.sizes), "samples": plan.num_samples})
        loader.start(epoch)
        self._seen = []
        end_ns, done = begin_ns, 0
        for size in plan.sizes:
            if self._time_is_up(elapsed_ns):
                self._stopped = True
                break
            kind = "idle" if size == 0 else "warmup" if self._steps_done < self._job.warmup_steps else "step"
            end_ns, elapsed_ns = self._step(loader, kind, epoch, self._steps_done, size, end_ns)
            self._steps_done += 1
            done += 1
        loader.drain()
        if self._job.sync == "epoch":
            self._world.barrier()
        last_ns = self._clock.now_ns()
        self._world.barrier()  # and all are done before the first one reads them again
        self._end_epoch(loader, epoch, sum(plan.sizes[:done]), plan.dropped_samples, before, begin_ns, last_ns)
        if self._trainer is not None and done == len(plan.sizes) and self._trainer.end_epoch(epoch):
            self._stopped = True

    def _prepare_cache(self, epoch: int) -> None:
        self._world.barrier()
        if self._is_first_of_host:
            found = self._cache.prepare(epoch)
            self._trace.write({"kind": "cache", "epoch": epoch, **found})
            self._host_before = read_host_usage(self._job.command_pids)
        self._world.barrier()

    def _host_used(self) -> dict[str, float | None]:
        """Cores in use since the epoch was prepared, as core seconds: by anybody, and by this command."""
        before, self._host_before = self._host_before, None
        if before is None:
            return {}
        now = read_host_usage(self._job.command_pids)
        return {
            "host_span_s": grown(now.at_s, before.at_s),
            "host_busy_s": grown(now.busy_s, before.busy_s),
            "host_command_s": grown(now.command_s, before.command_s),
        }

    def _time_is_up(self, elapsed_ns: int) -> bool:
        """Whether to stop before this step. The time since the start is the same number on all ranks of a synced run, so they stop together."""
        if self._job.max_steps is not None and self._steps_done >= self._job.max_steps:
            return True
        return self._job.duration_ns is not None and elapsed_ns >= self._job.duration_ns

    def _agreed(self, due_ns: int) -> tuple[int, int]:
        """(when the ranks go on together, on this host's clock; ns since the start). Without a sync each goes on by itself."""
        assert self._begin is not None
        if self._job.sync != "step":
            return due_ns, due_ns - self._begin.release_ns
        agreed = self._world.agree(due_ns)
        return agreed.release_ns, agreed.common_ns - self._begin.common_ns

    def _step(self, loader: LoaderRun, kind: str, epoch: int, step: int, size: int, previous_end_ns: int) -> tuple[int, int]:
        """Fetch, compute, sync, and write it down. Returns the scheduled end, and the time since the start that ranks in step share. What can be done while the
        accelerator computes is done then, and not on the way from the wake-up to the next fetch."""
        clock, accelerator = self._clock, self._accelerator
        asked_ns = clock.now_ns()
        batch = loader.next() if size else None
        got_ns = clock.now_ns()
        if batch is None:
            if size:
                raise _wrong_size(0, epoch, step, size)
            begun = Begun(previous_end_ns, previous_end_ns)
        else:
            if batch.num_samples != size:
                raise _wrong_size(batch.num_samples, epoch, step, size)
            begun = accelerator.begin(batch, self._job.batch_size, previous_end_ns, asked_ns, got_ns)
        release_ns, elapsed_ns = self._agreed(begun.due_ns)
        if self._trainer is not None and batch is not None:
            begun = self._trainer.compute(begun)  # all ranks have their batch now, so waiting for that of another is no compute
        proof, ids_hash, spans_s = _NOTHING_CHECKED, 0, {}
        if batch is not None:
            ids_hash = crc32c(batch.sample_ids.tobytes())
            spans_s = {name: round(seconds, 9) for name, seconds in batch.spans_s.items()}
            if kind != "null":
                proof = self._account(batch)
        wake = accelerator.wait(begun, release_ns)
        self._trace.step(
            StepRecord(
                kind=kind,
                epoch=epoch,
                step=step,
                asked_ns=asked_ns,
                ready_ns=batch.ready_ns if batch else None,
                got_ns=got_ns,
                start_ns=begun.start_ns,
                due_ns=begun.due_ns,
                compute_end_ns=wake.compute_end_ns,
                release_ns=wake.end_ns,
                sync_end_ns=wake.woke_ns,
                host_delay_ns=wake.host_delay_ns,
                queue_level=batch.queue_level if batch else None,
                samples=size,
                record_bytes=batch.record_bytes if batch else 0,
                handover_bytes=batch.handover_bytes if batch else 0,
                errors=proof.errors,
                verified=proof.verified,
                spans_s=spans_s,
                prep_cpu_s=round(batch.prep_cpu_s, 9) if batch else 0.0,
                run_delay_s=round(batch.run_delay_s, 9) if batch else 0.0,
                ids_hash=ids_hash,
                checksum=proof.checksum,
                bad_samples=proof.bad_samples,
                copy_s=begun.copy_s,
            )
        )
        return wake.end_ns, elapsed_ns

    # -- proof and totals ------------------------------------------------------------------------------------------------------------------------

    def _account(self, batch: Batch) -> _Proof:
        """Count what arrived and compare checksums with the manifest's."""
        ids = batch.sample_ids
        self._seen.append(ids)
        self._samples_done += len(ids)
        if batch.checksums is None or batch.checked is None:
            return _NOTHING_CHECKED
        verified = int(np.count_nonzero(batch.checked))
        if verified == 0:
            return _NOTHING_CHECKED
        checksums = batch.checksums
        if verified < len(ids):
            ids, checksums = ids[batch.checked], checksums[batch.checked]
        wrong = checksums != self._job.expected_crc32c[ids]
        errors = int(np.count_nonzero(wrong))
        bad = tuple((int(sample), self._job.shard_of(int(sample))) for sample in ids[wrong][:_MAX_BAD_SAMPLES]) if errors else ()
        return _Proof(int(np.bitwise_xor.reduce(checksums)), verified, errors, bad)

    def _end_epoch(self, loader: LoaderRun, epoch: int, planned: int, dropped: int, before: _Counters, begin_ns: int, last_ns: int) -> None:
        """Counters of this rank, and the proof over all ranks that each planned sample came once. Outside of every window."""
        after = _Counters(self._cache.device_bytes(), loader.counters(), read_usage())
        seen = np.concatenate(self._seen) if self._seen else np.empty(0, np.int64)
        self._seen = []
        planned_of_all = sum(self._world.gather(planned))
        counts = self._world.count_ids(seen, len(self._job.expected_crc32c))
        unique = int(np.count_nonzero(counts))
        self._trace.write(
            {
                "kind": "epoch_end",
                "epoch": epoch,
                "start_ns": begin_ns,
                "end_ns": last_ns,
                "samples": len(seen),
                "planned_samples": planned,
                "dropped_samples_of_all": dropped,
                "missing_samples_of_all": planned_of_all - unique,
                "duplicate_samples_of_all": int(counts.sum()) - unique,
                "storage_bytes": _minus(after.loader.storage_bytes, before.loader.storage_bytes),
                "storage_method": after.loader.storage_method,
                "device_read_bytes": _minus(after.loader.device_read_bytes, before.loader.device_read_bytes),
                "server_device_bytes": _minus(after.server_device_bytes, before.server_device_bytes),
                "rchar_bytes": _minus(after.loader.rchar_bytes, before.loader.rchar_bytes),
                "requests": _minus(after.loader.requests, before.loader.requests),
                "local_cache_bytes_before": before.loader.local_cache_bytes,
                "local_cache_bytes": after.loader.local_cache_bytes,
                "retries": _minus(after.loader.retries, before.loader.retries),
                "retries_by_kind": dict(with_counts(after.loader.retries_by_kind, before.loader.retries_by_kind, -1)),
                "bytes_by_endpoint": dict(with_counts(after.loader.bytes_by_endpoint, before.loader.bytes_by_endpoint, -1)),
                "errors": after.loader.errors - before.loader.errors,
                # Of the whole process, which its first rank reports for all that share it.
                "rank_cpu_s": round(after.usage.cpu_s - before.usage.cpu_s, 6) if self._is_first_of_process else 0.0,
                "rank_run_delay_s": grown(after.usage.run_delay_s, before.usage.run_delay_s),
                **self._host_used(),
                "worker_cpu_s": round(after.loader.worker_cpu_s - before.loader.worker_cpu_s, 6),
            }
        )
        self._trace.sync()


class _Counters(NamedTuple):
    """What is read before and after an epoch."""

    server_device_bytes: int | None
    loader: LoaderCounters
    usage: Usage


def _wrong_size(got: int, epoch: int, step: int, planned: int) -> RankError:
    return RankError(
        f"the loader gave {got} samples in epoch {epoch} step {step}, and {planned} were planned",
        "this is a defect of the loader: run it with --debug and report it",
    )


def _minus(after: int | None, before: int | None) -> int | None:
    """The difference; None (unknown) where the end is unknown, from 0 where only the start was."""
    return None if after is None else after - (before or 0)
