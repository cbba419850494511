"""A torch DataLoader as a stream of pieces of batches: started from the fork server, in order, errors raised, counters kept. Knows no dataset."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from storagebench.errors import RankError, StorageBenchError
from storagebench.loaders.delivery import Piece, ProcessCounters, ProcessMeter
from storagebench.loaders.packed import Sent, Slabs
from storagebench.process import die_with_parent, fork_server_context


def init_worker(_worker_id: int) -> None:
    """Runs first in each worker process."""
    die_with_parent()
    torch.set_num_threads(1)


def identity(value: Any) -> Any:
    """Collate nothing: pieces are whole already."""
    return value


def finished(piece: Piece, data: Any, meter: ProcessMeter) -> Piece:
    """The piece as it leaves the worker (`data` a `Sent`, without workers the samples), with all that the worker has counted so far."""
    info = torch.utils.data.get_worker_info()
    return replace(piece, data=data, finished_ns=time.monotonic_ns(), worker=info.id if info else 0, counters=meter.read())


@contextmanager
def _no_advice() -> Iterator[None]:
    """Without torch's warning that there are more workers than cores: how many there are is what the user measures."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        yield


@contextmanager
def _deaths_named() -> Iterator[None]:
    """What torch raises where a worker is gone, as a RankError; OSError and EOFError where the worker's memory is asked for."""
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        raise RankError(
            f"a loader worker died: {str(error).split(chr(10))[0]}", "look for the kernel's OOM killer, or a signal sent by hand"
        ) from error


class PieceStream:
    """The DataLoader itself: pieces in order, errors raised, the last counters of each worker kept, workers alive over epochs.

    `slabs` is the one that the dataset sends pieces with. What `next` gave is valid until `release`, `drain` or `close`.
    """

    def __init__(self, dataset: Any, sampler: Any, workers: int, prefetch: int, slabs: Slabs) -> None:
        self._slabs = slabs
        self._held: deque[tuple[int, int]] = deque()  # worker and serial of the pieces in the rank's hands
        more: dict[str, Any] = {}
        if workers:
            more = {
                "prefetch_factor": prefetch,
                "multiprocessing_context": fork_server_context(),
                "persistent_workers": True,
                "worker_init_fn": init_worker,
            }
        collate: Callable[[Any], Any] = identity
        with _no_advice():
            self._loader: DataLoader[Any] | None = DataLoader(
                dataset, batch_size=None, sampler=sampler, num_workers=workers, collate_fn=collate, **more
            )
        self._iterator: Any = None
        self._counters: dict[int, ProcessCounters] = {}

    def start(self) -> None:
        """Begin an epoch; the first one starts the workers."""
        if self._loader is None:
            raise RankError("the loader was closed before the epoch started", "this is a defect: run with --debug and report it")
        with _no_advice(), _deaths_named():
            self._iterator = iter(self._loader)

    def next(self) -> Piece:
        """The next piece; the end becomes a RankError, for the plan says how many there are."""
        piece = self._take()
        if piece is None:
            raise RankError("the loader's workers ended the epoch early", "run with --debug and report it")
        if isinstance(piece, StorageBenchError):
            raise piece
        return piece

    def _take(self) -> Piece | StorageBenchError | None:
        """The next item, None at the end."""
        try:
            with _deaths_named():
                piece: Piece | StorageBenchError = next(self._iterator)
        except StopIteration:
            return None
        if isinstance(piece, Piece):
            self._counters[piece.worker] = piece.counters
            if isinstance(piece.data, Sent):
                self._held.append((piece.worker, piece.data.serial))
                return replace(piece, data=self._slabs.receive(piece.worker, piece.data))
        return piece

    def release(self, keep: int = 0) -> None:
        """The pieces that `next` has given are done with, but for the last `keep`."""
        while len(self._held) > keep:
            self._slabs.release(*self._held.popleft())

    def drain(self) -> None:
        """Take what is in flight, for its counters; the source has been told to end. Afterwards all workers are idle."""
        try:
            while self._iterator is not None and self._take() is not None:
                pass
        finally:
            self._iterator = None
            self.release()

    def counters(self) -> list[ProcessCounters]:
        return list(self._counters.values())

    def close(self) -> None:
        """Join the workers, here and now: a traceback may still hold the DataLoader's iterator."""
        iterator, self._iterator = getattr(self._loader, "_iterator", None), None
        self._loader = None
        if iterator is not None:
            iterator._shutdown_workers()
        self._held.clear()
        self._slabs.close()
