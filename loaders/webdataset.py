"""The webdataset library as training scripts use it: torch DataLoader workers that each read whole tar shards through the library's own pipeline."""

from __future__ import annotations

import os
import random
import tarfile
from collections.abc import Generator, Iterator
from typing import Any

import webdataset
from webdataset import filters, tariterators

from storagebench.loaders.sequential import SequentialRun, refuse_idle_ranks
from storagebench.protocols import LoaderRun, LoadJob, Store

# Of local files, in place of the library's 8 KiB: its tar reader asks for 10 KiB at a time, and this takes a fifth of its CPU time away.
GOPEN_BUFFER = str(128 * 1024)


class WebDatasetLoader:
    """UsageError where a rank would get no shard."""

    name = "webdataset"

    def open(self, job: LoadJob) -> LoaderRun:
        refuse_idle_ranks(self.name, job)
        environment = {"GOPEN_BUFFER": GOPEN_BUFFER} | {name: os.environ[name] for name in sorted(os.environ) if name.startswith(("GOPEN_", "WDS_"))}
        return SequentialRun(job, TarReader(), {"webdataset": str(webdataset.__version__), "environment": environment})


class TarReader:
    """The library's tar reader and its shuffle buffer."""

    what = "tar file"
    damages: tuple[type[Exception], ...] = (tarfile.TarError, ValueError, EOFError, AssertionError)  # the library asserts on what it reads

    def prepare(self) -> None:
        os.environ.setdefault("GOPEN_BUFFER", GOPEN_BUFFER)

    def samples(self, store: Store | None, root: str, name: str, num_bytes: int) -> Generator[tuple[int, memoryview]]:
        """A local path is opened by the library itself (gopen), on other storage it gets our store's stream."""
        raising = filters.reraise_exception
        source: dict[str, Any] = {"url": name}
        try:
            if store is None:
                source["url"] = os.path.join(root, name)
                samples: Iterator[dict[str, Any]] = tariterators.tarfile_samples(iter([source]), handler=raising)
            else:
                source["stream"] = store.open_stream(name, num_bytes)
                files = tariterators.tar_file_expander(iter([source]), handler=raising)
                samples = tariterators.group_by_keys(files, handler=raising)
            yield from map(_record, samples)
        finally:
            if "stream" in source:
                source["stream"].close()  # the library leaves that to the garbage collector

    def shuffled(self, samples: Iterator[tuple[int, memoryview]], buffer_samples: int, rng: random.Random) -> Iterator[tuple[int, memoryview]]:
        found: Iterator[tuple[int, memoryview]] = filters.shuffle(buffer_samples, rng=rng)(samples)
        return found


def _record(sample: dict[str, Any]) -> tuple[int, memoryview]:
    """Sample id and record of a sample as the library gives it: the member that is neither the label nor the library's own."""
    names = [name for name in sample if name != "cls" and not name.startswith("__")]
    if len(names) != 1:
        raise ValueError(f"sample {sample.get('__key__')} has the members {sorted(names)} beside its label, and one is expected")
    return int(sample["__key__"]), memoryview(sample[names[0]])
