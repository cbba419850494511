"""Loaders that read whole shards in sequence: torch DataLoader workers, each with shards of its own and a shuffle buffer.

Shards are dealt over ranks and then over workers; batches are formed here, after the workers' streams are merged, so that they have exactly the
planned sizes however uneven the shards are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from storagebench.errors import UsageError
from storagebench.loaders.delivery import Piece, at_least_parse, join, refuse_io_modes, total_counters
from storagebench.loaders.local_cache import LocalCache
from storagebench.loaders.packed import Slabs
from storagebench.loaders.piece_stream import PieceStream
from storagebench.loaders.shard_stream import SampleStream, ShardStream, plan_shards
from storagebench.protocols import Batch, LoaderCounters, LoadJob
from storagebench.sampling import EpochPlan, split_work

_COPIED = "shards that the library copied into its local cache"


def refuse_idle_ranks(name: str, job: LoadJob) -> None:
    """Raises UsageError where a rank would get no shard, or where the job asks for an I/O mode that no such loader has."""
    refuse_io_modes(name, job)
    shards, sharing = len(job.shards_here), job.shard_spans.count(job.shard_spans[job.rank]) if job.shard_spans else job.world_size
    if shards < sharing:
        where = " on this host" if job.shard_spans else ""
        raise UsageError(
            f"the dataset has {shards} shards{where}, and {sharing} accelerators need one each at least",
            "use fewer accelerators, or generate the dataset with smaller --samples-per-shard",
        )


class SequentialRun:
    """One rank. `reader` is what `stream` takes (a `ShardReader` or a `ShardLibrary`), `cache` the library's own on local files, `release` what else is to be given
    back in the end. `settings`: what the report is to have of the loader's own. Its workers send pieces in turn; a worker whose shards are read out is passed over.

    Prefetch: workers x `prefetch_factor` x samples of a piece is `prefetch_batches` batches (as `sampling.split_work` has it, rounded up to whole
    pieces). What is held in the shuffle buffers comes on top: `shuffle_buffer` samples, split over the workers.
    """

    def __init__(
        self,
        job: LoadJob,
        reader: Any,
        settings: Mapping[str, Any],
        stream: type[SampleStream] = ShardStream,
        cache: LocalCache | None = None,
        release: Callable[[], None] | None = None,
    ) -> None:
        self._job, self._settings, self._cache, self._release = job, settings, cache, release
        self._cache_index_bytes = cache.num_bytes() if cache is not None else 0  # of what lay in it before anything was read
        self._maps_files = bool(getattr(reader, "maps_files", False))
        self._level = at_least_parse(job.decode)
        self._shards = job.num_dealt_shards
        self._workers, pieces, self._prefetch = split_work(job.prefetch_batches, min(job.num_workers, self._shards), job.batch_size)
        self._piece_samples = -(-job.batch_size // pieces)
        self._buffer_samples = max(1, job.shuffle_buffer // max(self._workers, 1))
        slabs = Slabs(self._workers)
        self._source = stream(replace(job, decode=self._level), reader, self._workers, self._piece_samples, self._buffer_samples, slabs)
        self._stream = PieceStream(self._source, None, self._workers, self._prefetch, slabs)
        self._sizes: deque[int] = deque()
        self._rest: Piece | None = None

    def plan(self, epoch: int) -> EpochPlan:
        return plan_shards(self._job, epoch)[0]

    def start(self, epoch: int) -> None:
        self._sizes = deque(size for size in self.plan(epoch).sizes if size)
        self._rest = None
        self._source.begin(epoch)
        self._stream.start()

    def next(self) -> Batch | None:
        """The next samples of the merged stream, as many as planned; a piece may end in one batch and go on in the next."""
        self._stream.release(keep=0 if self._rest is None else 1)
        if not self._sizes:
            return None
        need, parts = self._sizes.popleft(), []
        while need:
            piece = self._rest or self._stream.next()
            have = len(piece.sample_ids)
            take = min(need, have)
            if take:
                parts.append(piece.part(0, take))
            self._rest = piece.part(take, have) if take < have else None
            need -= take
        return join(parts, queue_level=None)

    def drain(self) -> None:
        """End the epoch: workers close their shard after the piece they are at, and send their last counters."""
        self._sizes.clear()
        self._rest = None
        self._source.end()
        self._stream.drain()

    def counters(self) -> LoaderCounters:
        own_io = self._job.store.kind == "posix" and self._cache is None
        found = total_counters(self._stream.counters(), in_rank=self._workers == 0, own_io=own_io)
        if self._maps_files:
            found = replace(found, storage_bytes=None, storage_method="unknown: the library maps the files, and what it looks at is no read()")
        if self._cache is None:
            return found
        return replace(found, local_cache_bytes=self._cache.num_bytes() - self._cache_index_bytes, storage_method=_COPIED)

    def effective(self) -> Mapping[str, Any]:
        notes = []
        if self._workers < self._job.num_workers:
            notes.append(
                f"{self._workers} of {self._job.num_workers} workers are used: rank {self._job.rank} has {self._shards} shards, "
                f"and {self._job.prefetch_batches} prefetched batches of {self._job.batch_size}"
            )
        return {
            "decode": self._level,
            "workers": self._workers,
            "samples_per_piece": self._piece_samples,
            "prefetch_factor": self._prefetch,
            "shuffle_buffer_of_a_worker": self._buffer_samples if self._job.shuffle else 0,
            "start_method": "forkserver",
            **self._settings,
            "notes": notes,
        }

    def close(self) -> None:
        self._stream.close()
        self._source.close()
        if self._release is not None:
            self._release()
            self._release = None
        if self._cache is not None:
            self._cache.close()
