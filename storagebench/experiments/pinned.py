"""A part of a dataset, copied into memory (tmpfs): what a loader reads there costs all but the storage."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from storagebench.errors import UsageError
from storagebench.manifest import INDEX_KEY, MANIFEST_KEY, SHARDS_PREFIX, Dataset
from storagebench.protocols import Extent, Store
from storagebench.storage import open_store

MEMORY: Final = Path("/dev/shm")
MOST_BYTES: Final = 512 * 2**20
MOST_BATCHES: Final = 64
# Of what is free there: ranks and workers hand their batches over through the same memory.
SHARE_OF_FREE: Final = 0.25


def part_of(dataset: Dataset, global_batch: int, limit_bytes: int, least_batches: int) -> Dataset:
    """The first shards: 64 global batches of samples where they fit into the limit, and no more. UsageError where not even `least_batches` fit."""
    samples, num_bytes = dataset.shard_samples.cumsum(), dataset.shard_bytes.cumsum()
    wanted = int((samples < MOST_BATCHES * global_batch).sum()) + 1
    count = min(wanted, int((num_bytes <= limit_bytes).sum()), dataset.num_shards)
    have = int(samples[count - 1]) if count else 0
    if have < min(least_batches * global_batch, dataset.num_samples):
        raise UsageError(
            f"{least_batches} global batches of this dataset do not fit into {limit_bytes} bytes of {MEMORY}", "use a smaller --batch-size"
        )
    return replace(
        dataset,
        data_root="",
        names=tuple(f"{SHARDS_PREFIX}{name}" if dataset.data_root else name for name in dataset.names[:count]),
        shard_bytes=dataset.shard_bytes[:count],
        shard_crc32c=dataset.shard_crc32c[:count],
        first_sample=dataset.first_sample[:count],
        shard_samples=dataset.shard_samples[:count],
        index=dataset.index[:have],
    )


@contextmanager
def pinned_copy(store: Store, dataset: Dataset, global_batch: int, least_batches: int) -> Iterator[str]:
    """The path of a copy of the dataset's first shards in memory; it is removed, file by file, when the block ends.

    Raises UsageError where the machine has no /dev/shm or too little room there, StorageError, DatasetError.
    """
    if not os.access(MEMORY, os.W_OK):
        raise UsageError(f"{MEMORY} cannot be written", "mount a tmpfs there to have the rung `pinned`")
    limit = min(MOST_BYTES, int(SHARE_OF_FREE * shutil.disk_usage(MEMORY).free))
    part = part_of(dataset, global_batch, limit, least_batches)
    folder = MEMORY / f"storagebench-pinned-{os.getpid()}-{secrets.token_hex(4)}"
    copy = open_store(str(folder))
    manifest, index = part.to_bytes()
    try:
        for source, name, size in zip(dataset.names, part.names, part.shard_bytes.tolist(), strict=False):
            with copy.create(name) as sink:
                sink.write(store.read([Extent(source, 0, size)])[0])
        for key, data in ((INDEX_KEY, index), (MANIFEST_KEY, manifest)):
            with copy.create(key) as sink:
                sink.write(data)
        yield str(folder)
    finally:
        copy.delete([*part.names, INDEX_KEY, MANIFEST_KEY])
        copy.close()
        _remove_folders(folder, part.names)


def _remove_folders(folder: Path, names: tuple[str, ...]) -> None:
    """The folders that the copy's own names made, deepest first, where they are empty."""
    folders = {parent for name in names for parent in (folder / name).parents if parent.is_relative_to(folder)} | {folder}
    for path in sorted(folders, key=lambda found: -len(found.parts)):
        with suppress(OSError):
            path.rmdir()
