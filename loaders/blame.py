"""What a library's own error means for the user: which shard is missing or is not what was written. Looked up after the fact, never on the way.

Libraries say "corrupted record at 4096" and not of which file, or end early without a word, so the shards that were not read to their end are held against
the manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from crc32c import crc32c

from storagebench.errors import DatasetError, RankError, StorageBenchError
from storagebench.protocols import LoadJob
from storagebench.sampling import Indices
from storagebench.storage import open_spec

HINT = "run `storagebench verify`, then generate or import the dataset again"
_MOST_SUSPECTS = 64
_READ_BYTES = 2**20
_LONGEST_WORDS = 200


def explain(job: LoadJob, suspects: Iterable[int], library: str, error: BaseException | None) -> StorageBenchError:
    """The error to raise in place of the library's: DatasetError with the first of the suspected shards that is missing, short or changed; RankError where
    all of them are as they were written (at most 64 are read). `error` None: the library ended early and said nothing."""
    said = _words(error) if error is not None else "it ended before the last sample and said nothing"
    store = open_spec(job.store)
    try:
        for shard in list(suspects)[:_MOST_SUSPECTS]:
            name, expected = job.dataset.names[shard], int(job.dataset.shard_bytes[shard])
            try:
                with store.open_stream(name, expected) as stream:
                    found = _checksum(stream)
            except StorageBenchError as problem:
                return type(problem)(f"{problem.message} ({library}: {said})", problem.hint)
            if found != int(job.dataset.shard_crc32c[shard]):
                return DatasetError(f"shard {name} is not as it was written ({library}: {said})", HINT)
    finally:
        store.close()
    return RankError(f"{library} failed: {said}", "run with --debug and report it, or use another --loader")


def _words(error: BaseException) -> str:
    """An exception's first line, shortened, without a full stop."""
    text = str(error).strip().split("\n")[0] or type(error).__name__
    return f"{text[:_LONGEST_WORDS]}".rstrip(". ")


def _checksum(stream: Any) -> int:
    found = 0
    while data := stream.read(_READ_BYTES):
        found = crc32c(data, found)
    return found


def checked(
    job: LoadJob, shards: Indices, library: str, samples: Callable[[], Iterator[tuple[Indices, Sequence[Any]]]]
) -> Iterator[tuple[Indices, Sequence[Any]]]:
    """What a library makes of these shards, (ids, records) at a time: each sample of them once, with the length that the manifest has, or an error that
    names the shard."""
    dataset = job.dataset
    left = np.zeros(dataset.num_samples, dtype=np.bool_)
    for shard in shards.tolist():
        first = int(dataset.first_sample[shard])
        left[first : first + int(dataset.shard_samples[shard])] = True
    lengths = dataset.index["record_bytes"]
    failure: StorageBenchError | None = None
    try:
        for ids, records in samples():
            if not all(0 <= int(sample) < len(left) for sample in ids) or not left[ids].all():
                raise DatasetError(f"{library} gave the samples {ids[:5].tolist()} twice, or from shards that were not asked for", HINT)
            if [len(record) for record in records] != lengths[ids].tolist():
                raise ValueError(f"a record of the samples {ids[:5].tolist()} has another length than the manifest says")
            left[ids] = False
            yield ids, records
    except StorageBenchError:
        raise
    except Exception as error:  # of whatever kind: each library has its own
        failure = explain(job, _unread(job, shards, left), library, error)
    if failure is None and left.any():
        failure = explain(job, _unread(job, shards, left), library, None)
    if failure is not None:
        raise failure  # outside of the except clause: the library's error would come along, and with its frames the files that they have open


def _unread(job: LoadJob, shards: Indices, left: Any) -> list[int]:
    """Those shards of which a sample has not come, in reading order."""
    waiting = set(job.dataset.index["shard"][left].tolist())
    return [shard for shard in shards.tolist() if shard in waiting]
