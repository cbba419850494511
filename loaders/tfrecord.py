"""TFRecord shards read in sequence by torch DataLoader workers, both checksums of each frame compared: tf.data's way of reading, without TensorFlow."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from storagebench.datasets.tfrecord import FRAME_BYTES, FRAME_HEAD_BYTES, SUFFIX_ZLIB, Inflated, read_example, read_frames
from storagebench.errors import DatasetError
from storagebench.loaders.sequential import SequentialRun, refuse_idle_ranks
from storagebench.manifest import Dataset
from storagebench.protocols import LoaderRun, LoadJob, Store

# tf.data's own default is 256 KiB, and MLPerf's MiniGo sets 8 MiB; between them a buffered read costs the same.
READ_BUFFER_BYTES = 2**20
_HINT = "something changed it since it was imported in place: import it again into a new --data-dir"


class TFRecordLoader:
    """UsageError where a rank would get no shard."""

    name = "tfrecord"

    def open(self, job: LoadJob) -> LoaderRun:
        refuse_idle_ranks(self.name, job)
        reader = PlacedFrameReader(job.dataset) if job.dataset.data_root else FrameReader()
        return SequentialRun(job, reader, {"read_buffer_bytes": READ_BUFFER_BYTES})


class FrameReader:
    """Frames of a plain or a zlib-compressed file; its records are those of its Examples."""

    what = "TFRecord file"
    damages: tuple[type[Exception], ...] = (DatasetError,)

    def prepare(self) -> None:
        """Nothing to be set."""

    def samples(self, store: Store | None, root: str, name: str, num_bytes: int) -> Generator[tuple[int, memoryview]]:
        with Path(root, name).open("rb", READ_BUFFER_BYTES) if store is None else store.open_stream(name, num_bytes) as stream:
            source: Any = Inflated(stream) if name.endswith(SUFFIX_ZLIB) else stream
            for data in read_frames(source):
                example = read_example(data)
                yield example.sample_id, example.record

    def shuffled(self, samples: Iterator[tuple[int, memoryview]], buffer_samples: int, rng: random.Random) -> Iterator[tuple[int, memoryview]]:
        """As tf.data does it: the buffer is filled first, then each sample that comes takes the place of one that goes."""
        held: list[tuple[int, memoryview]] = []
        for sample in samples:
            if len(held) < buffer_samples:
                held.append(sample)
                continue
            place = rng.randrange(buffer_samples)
            yield held[place]
            held[place] = sample
        rng.shuffle(held)
        yield from held


class PlacedFrameReader(FrameReader):
    """Frames of files that others made: a record is where the manifest has it in its frame, and its id is that of its place."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._shard_of = {name: shard for shard, name in enumerate(dataset.names)}

    def samples(self, store: Store | None, root: str, name: str, num_bytes: int) -> Generator[tuple[int, memoryview]]:
        shard = self._shard_of[name]
        first, count = int(self._dataset.first_sample[shard]), int(self._dataset.shard_samples[shard])
        rows, frame = self._dataset.index[first : first + count], 0
        with Path(root, name).open("rb", READ_BUFFER_BYTES) if store is None else store.open_stream(name, num_bytes) as stream:
            for number, data in enumerate(read_frames(stream)):
                if number == count:
                    raise DatasetError(f"TFRecord file {name} has more than the {count} frames of the manifest", _HINT)
                start, size = int(rows["offset"][number]) - frame - FRAME_HEAD_BYTES, int(rows["record_bytes"][number])
                if start < 0 or start + size > len(data):
                    raise DatasetError(f"TFRecord file {name} has another frame {number} than the manifest", _HINT)
                yield first + number, data[start : start + size]
                frame += FRAME_BYTES + len(data)
