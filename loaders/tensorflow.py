"""tf.data as training scripts use it on TFRecords: files read by TensorFlow's own threads, its shuffle buffer, its parser. TensorFlow's devices are not used.

Settings and where they are from. `num_parallel_calls=AUTOTUNE` for interleave and map, `prefetch(AUTOTUNE)`: TensorFlow's guide "Better performance with
the tf.data API". `options.threading.private_threadpool_size` = `--num-workers` and `max_intra_op_parallelism = 1`: the official ResNet-50 of TensorFlow's
models (official/legacy/image_classification/resnet/imagenet_preprocessing.py), whose flag `datasets_num_private_threads` it is; so the budget holds. Read buffer
8 MiB: MLPerf's MiniGo (`tf.data.TFRecordDataset(..., buffer_size=8*1024*1024)`). `cycle_length` = workers: as many files at once as there are threads, as DLIO's
`num_parallel_reads=read_threads`. `deterministic=True`, TensorFlow's default and DLIO's: False hands over whatever file is first, and then the same seed gives
another order, which the loaders' contract forbids. CRC-32C of each frame is always compared (TensorFlow has no switch).
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when the library is loaded
import tensorflow as tf

from storagebench.adapters import Unit
from storagebench.loaders.blame import checked
from storagebench.loaders.delivery import Deliverer, Piece, at_least_parse
from storagebench.loaders.in_process import InProcessRun, deliver
from storagebench.loaders.sequential import refuse_idle_ranks
from storagebench.plan import plan_job
from storagebench.protocols import IOCounters, LoaderRun, LoadJob
from storagebench.sampling import Indices

READ_BUFFER_BYTES = 8 * 2**20
_FEATURES = {"id": tf.io.FixedLenFeature([], tf.int64), "image": tf.io.FixedLenFeature([], tf.string)}


class TensorFlowLoader:
    """UsageError where a rank would get no shard."""

    name = "tensorflow"

    def open(self, job: LoadJob) -> LoaderRun:
        refuse_idle_ranks(self.name, job)
        tf.config.set_visible_devices([], "GPU")  # it would take all memory of the device that is to be measured
        job = replace(job, decode=at_least_parse(job.decode))
        return InProcessRun(job, Records(job), {"tensorflow": str(tf.__version__)})


class Records:
    """The pipeline over one rank's files."""

    unit: Unit = "shard"
    own_io = True

    def __init__(self, job: LoadJob) -> None:
        self._job = job
        self._deliverer = Deliverer(job)
        self._threads = max(job.num_workers, 1)

    def pieces(self, epoch: int) -> Generator[Piece]:
        _, shards = plan_job("shard", self._job, epoch)
        yield from deliver(self._deliverer, checked(self._job, shards, "tensorflow", lambda: self._chunks(shards, epoch)))

    def _chunks(self, shards: Indices, epoch: int) -> Iterator[tuple[Indices, Sequence[Any]]]:
        iterator = self._pipeline(shards, epoch).as_numpy_iterator()
        try:
            for example in iterator:
                yield np.asarray(example["id"], np.int64), [memoryview(record) for record in example["image"]]
        finally:
            del iterator  # TensorFlow closes its files with it

    def _pipeline(self, shards: Indices, epoch: int) -> Any:
        """The dataset of one epoch; without shuffle one file after the other, as they are stored."""
        job = self._job
        names = [os.path.join(job.store.root, job.dataset.names[shard]) for shard in shards.tolist()]
        compression = "ZLIB" if job.dataset.format == "tfrecord_zlib" else ""
        found = tf.data.Dataset.from_tensor_slices(names).interleave(
            lambda name: tf.data.TFRecordDataset(name, compression, READ_BUFFER_BYTES),
            cycle_length=min(self._threads, len(names)) if job.shuffle else 1,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        if job.shuffle:
            found = found.shuffle(job.shuffle_buffer, seed=_seed(job, epoch), reshuffle_each_iteration=False)
        found = found.map(lambda data: tf.io.parse_single_example(data, _FEATURES), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return found.batch(job.batch_size).prefetch(tf.data.AUTOTUNE).with_options(self._options())

    def _options(self) -> Any:
        options = tf.data.Options()
        options.deterministic = True
        options.threading.private_threadpool_size = self._threads
        options.threading.max_intra_op_parallelism = 1
        return options

    def store_counters(self) -> IOCounters | None:
        return None

    def about(self) -> Mapping[str, Any]:
        return {
            "private_threadpool_size": self._threads,
            "cycle_length": self._threads if self._job.shuffle else 1,
            "read_buffer_bytes": READ_BUFFER_BYTES,
            "shuffle_buffer": self._job.shuffle_buffer if self._job.shuffle else 0,
            "deterministic": True,
        }

    def close(self) -> None:
        """Nothing is open between epochs; TensorFlow's threads stay until the process ends."""


def _seed(job: LoadJob, epoch: int) -> int:
    """Another one for each epoch and rank; TensorFlow takes 64 bits with a sign."""
    return int(np.random.SeedSequence([job.seed, epoch, job.rank]).generate_state(1, np.uint64)[0] >> 1)
