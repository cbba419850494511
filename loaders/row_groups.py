"""Reads Parquet row groups with pyarrow: footers once, at open, then a row group at a time. Knows nothing of order, batches or threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storagebench.datasets.parquet import PAYLOAD_COLUMN, row_group_records
from storagebench.errors import DatasetError
from storagebench.manifest import Dataset
from storagebench.protocols import IOCounters, StoreSpec
from storagebench.storage.arrow import ArrowFiles
from storagebench.usage import Watch

_FOOTER_THREADS = 16
_PYARROW_ERRORS = (pa.ArrowException, OSError, KeyError, ValueError)
_HINT = "run `storagebench verify`, then generate or import the dataset again"
_COPY_BELOW = 4
_COLUMNS = ["sample_id", PAYLOAD_COLUMN]  # what a training script would take: pyarrow reads no other column chunk


class Cost(NamedTuple):
    """Seconds of the thread that read, and how many of them it had no core."""

    fetch_s: float = 0.0
    run_delay_s: float = 0.0


class RowGroup:
    """The records of one row group until they are taken, each once. Thread-safe.

    Records are views on pyarrow's memory. When three quarters are taken, the others are copied out of it: the last samples of a row group leave a
    shuffle buffer late, and would keep all of it alive meanwhile.
    """

    def __init__(self, records: list[memoryview], cost: Cost) -> None:
        self._lock = threading.Lock()
        self._records: list[memoryview | None] = list(records)
        self._left = len(records)
        self._is_view = True
        self._cost = cost

    def take(self, row: int) -> tuple[memoryview, Cost]:
        """The record, and what reading the row group took, to be counted by the first who asks."""
        with self._lock:
            record, self._records[row] = self._records[row], None
            assert record is not None, "a record is taken once"
            self._left -= 1
            if self._is_view and self._left * _COPY_BELOW <= len(self._records):
                self._records = [None if other is None else memoryview(bytes(other)) for other in self._records]
                self._is_view = False
            cost, self._cost = self._cost, Cost()
            return record, cost


def _import_what_pyarrow_imports_late() -> None:
    """The first array that pyarrow makes imports pandas where that is installed: 10 MB of files, a tenth of a second and more. In the first step they would count as the
    dataset's bytes and as waiting for it."""
    pa.array([0]).to_numpy()


class RowGroupReader:
    """All row groups of a dataset, numbered as `Dataset.row_groups` has them; those of `shards_here` can be read. Holds the footers, and no open file.
    Thread-safe."""

    def __init__(self, store: StoreSpec, dataset: Dataset, shards_here: range) -> None:
        self._dataset = dataset
        self.shards, self.firsts, self.sizes = dataset.row_groups()
        self._first_of_shard = np.searchsorted(self.shards, np.arange(dataset.num_shards))
        self.own_io = store.kind == "posix"
        # Requests with a latency are merged and sent in parallel; on local files that only hands the work to one more thread.
        self.pre_buffer = store.kind != "posix"
        self._files = ArrowFiles(store)
        _import_what_pyarrow_imports_late()
        try:
            with ThreadPoolExecutor(_FOOTER_THREADS, thread_name_prefix="footers") as threads:
                self._footers = dict(zip(shards_here, threads.map(self._footer, shards_here), strict=True))
        except BaseException:
            self._files.close()
            raise

    def _footer(self, shard: int) -> Any:
        """The metadata of a shard; DatasetError where it does not have the row groups of the manifest."""
        name = self._dataset.names[shard]
        try:
            with self._files.open(name, int(self._dataset.shard_bytes[shard])) as source:
                footer = pq.ParquetFile(source, pre_buffer=False).metadata
        except _PYARROW_ERRORS as error:
            raise self._files.explain(error, name) from None
        found = [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]
        expected = self.sizes[self.shards == shard].tolist()
        if found != expected:
            raise DatasetError(f"shard {name} has row groups of {found[:5]} rows, and the manifest says {expected[:5]}", _HINT)
        return footer

    def read(self, group: int) -> RowGroup:
        """Open the shard, read the row group (with no threads of pyarrow's), close. Raises DatasetError, StorageError."""
        shard = int(self.shards[group])
        name = self._dataset.names[shard]
        watch = Watch()
        try:
            with self._files.open(name, int(self._dataset.shard_bytes[shard])) as source:
                file = pq.ParquetFile(source, metadata=self._footers[shard], pre_buffer=self.pre_buffer)
                table = file.read_row_group(group - int(self._first_of_shard[shard]), columns=_COLUMNS, use_threads=False)
            records = row_group_records(table)
            ids = table.column("sample_id").to_numpy()
        except DatasetError as error:
            raise DatasetError(f"shard {name} is damaged: {error.message}", _HINT) from None
        except _PYARROW_ERRORS as error:
            raise self._files.explain(error, name) from None
        self._check(group, name, ids, records)
        return RowGroup(records, Cost(watch.wall_s(), watch.delay_s()))

    def _check(self, group: int, name: str, ids: Any, records: list[memoryview]) -> None:
        """The rows are the samples that the manifest has there, by their own ids and lengths."""
        first, size = int(self.firsts[group]), int(self.sizes[group])
        expected = self._dataset.index["record_bytes"][first : first + size]
        if not np.array_equal(ids, np.arange(first, first + size)) or [len(record) for record in records] != expected.tolist():
            raise DatasetError(f"shard {name} does not hold the samples {first} to {first + size - 1} where the manifest has them", _HINT)

    def counters(self) -> IOCounters | None:
        """What our store counted since open, footers included; None where pyarrow does its own I/O."""
        return self._files.counters()

    def about(self) -> dict[str, Any]:
        """The settings in force."""
        return {"pre_buffer": self.pre_buffer, "page_checksum_verification": False, "pyarrow": str(pa.__version__)}

    def close(self) -> None:
        """Release the client. May be called twice."""
        self._files.close()
