"""Libraries that are told all shards of a worker at once, and read ahead over their ends: in torch DataLoader workers, checked against the manifest."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any, Protocol, cast

from storagebench.loaders.blame import checked
from storagebench.loaders.shard_stream import SampleStream
from storagebench.protocols import LoadJob
from storagebench.sampling import Indices


class ShardLibrary(Protocol):
    """How a library reads shards. Plain data: it goes to the worker processes. `maps_files`: what it reads of local files is no read() that the kernel
    would count."""

    name: str
    maps_files: bool

    def prepare(self) -> None:
        """Once in each process that reads."""

    def chunks(self, job: LoadJob, shards: Indices, epoch: int, worker: int) -> Iterator[tuple[Indices, Sequence[Any]]]:
        """(ids, records) of these shards, some at a time, in the library's order. What it opened is closed when it ends or is closed."""


class LibraryStream(SampleStream):
    """The samples that the library makes of a worker's shards."""

    def _samples(self, shards: Indices, epoch: int, worker: int) -> Generator[tuple[int, memoryview]]:
        library = cast(ShardLibrary, self._reader)
        for ids, records in checked(self._job, shards, library.name, lambda: library.chunks(self._job, shards, epoch, worker)):
            yield from zip(ids.tolist(), records, strict=True)
