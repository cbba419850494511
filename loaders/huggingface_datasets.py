"""Hugging Face datasets as training scripts stream Parquet: `load_dataset("parquet", streaming=True)` in torch DataLoader workers, with its shuffle buffer.

Settings and where they are from (datasets 5.2.0, docs "Stream" and the source). `streaming=True`: without it the library first writes the whole dataset as Arrow into a
cache. `with_format("arrow")` and `.iter(batch_size)`: the docs' fast way, without a Python object a value. `columns=` the two that are wanted. `.shuffle(buffer_size)`
draws from up to 10 shards at once, its default. `fragment_scan_options` none, its default: its documented 128 MiB with prefetch are for the hub. A worker gets the
shards that the library would give it (every n-th), and its own dataset over them. The library looks for files by pattern, so names are escaped.

One setting is not the library's: at the end of each shuffled epoch over Parquet it sleeps for 5 s, so that pyarrow's threads are gone before a process might end
(SLEEP_TIME_ON_THREADS_SHUTDOWN in datasets/config.py, arrow issue 45214). Workers outlive their epochs here, so it is 0.

The checkout of storagebench has a folder `datasets` of its own, which must not be taken for the library.
"""

from __future__ import annotations

import glob
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is asked of the hub
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
_CHECKOUT = Path(__file__).resolve().parents[1]
with mock.patch.object(sys, "path", [entry for entry in sys.path if Path(entry or ".").resolve() != _CHECKOUT]):
    import datasets as huggingface

import numpy as np

from storagebench.datasets.parquet import row_group_records
from storagebench.errors import RankError
from storagebench.loaders.library_shards import LibraryStream
from storagebench.loaders.local_cache import LocalCache
from storagebench.loaders.sequential import SequentialRun, refuse_idle_ranks
from storagebench.protocols import LoaderRun, LoadJob
from storagebench.sampling import Indices

_COLUMNS = ["sample_id", "payload"]


class HuggingFaceDatasetsLoader:
    """UsageError where a rank would get no shard."""

    name = "huggingface-datasets"

    def open(self, job: LoadJob) -> LoaderRun:
        refuse_idle_ranks(self.name, job)
        if not hasattr(huggingface, "load_dataset"):
            raise RankError(
                "the module datasets that was imported is not Hugging Face's", "run outside of the checkout of storagebench, or with python -P"
            )
        settings = {"datasets": str(huggingface.__version__), "format": "arrow", "max_buffer_input_shards": 10}
        return SequentialRun(job, Tables(), settings, LibraryStream)


class Tables:
    """One streaming dataset an epoch and worker."""

    name = "huggingface-datasets"
    maps_files = False

    def prepare(self) -> None:
        huggingface.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
        logging.getLogger("datasets").setLevel(logging.CRITICAL)  # what it reports of a damaged file is raised, and said by us

    def chunks(self, job: LoadJob, shards: Indices, epoch: int, worker: int) -> Iterator[tuple[Indices, Sequence[Any]]]:
        names = [glob.escape(os.path.join(job.store.root, job.dataset.names[shard])) for shard in shards.tolist()]
        if not names:
            return
        home = LocalCache(self.name)  # the library makes folders there, and would do so in the user's home
        try:
            found = huggingface.load_dataset("parquet", data_files=names, split="train", streaming=True, columns=_COLUMNS, cache_dir=str(home.path))
            if job.shuffle:
                found = found.shuffle(seed=job.seed, buffer_size=max(job.shuffle_buffer // max(job.num_workers, 1), 1))
            found.set_epoch(epoch)
            with closing(found.with_format("arrow").iter(job.batch_size)) as tables:
                for table in tables:
                    yield np.asarray(table.column("sample_id").to_numpy(), np.int64), row_group_records(table)
        finally:
            home.close()
