"""Parquet files as a source of records: one binary column, or one image column as Hugging Face writes it (a struct with `bytes` and `path`)."""

from __future__ import annotations

import bisect
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storagebench.datasets.importers import NO_LABEL, SourceFile, fingerprint, open_beneath
from storagebench.datasets.parquet import binary_values
from storagebench.errors import DatasetError, UsageError
from storagebench.protocols import Record

_LABEL_COLUMN = "label"
# Row groups kept decoded: neighbouring shards are written at the same time and share one or two.
_GROUPS_KEPT = 2
_HINT = "check the file with another Parquet reader"


class ParquetSource:
    """A sample a row, file by file in sorted order. Column `label`, where it is an integer, gives the label."""

    kind = "imported"

    def __init__(self, root: Path, name: str, files: list[SourceFile], column: str | None) -> None:
        self._root, self._name, self._files = root, name, files
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, tuple[list[memoryview], list[int]]] = OrderedDict()
        self._groups: list[tuple[SourceFile, int]] = []  # file and row group within it
        rows: list[int] = []
        total_bytes = 0
        for number, file in enumerate(files):
            with self._open(file) as opened:
                if number == 0:
                    self._column, self._is_struct = _choose_column(opened.schema_arrow, column, file)
                    self.classes = _class_names(opened.schema_arrow)
                    self._has_label = _is_integer(opened.schema_arrow, _LABEL_COLUMN)
                self._check_schema(opened.schema_arrow, file)
                for group in range(opened.num_row_groups):
                    metadata = opened.metadata.row_group(group)
                    if metadata.num_rows:
                        self._groups.append((file, group))
                        rows.append(metadata.num_rows)
                        total_bytes += _column_bytes(metadata, self._column)
        self._first_row = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)]).tolist()
        self.num_samples = int(self._first_row[-1])
        if self.num_samples == 0:
            raise DatasetError(f"source {name} has no rows", "give Parquet files with rows")
        self.approx_bytes: NDArray[np.int64] = np.full(self.num_samples, max(1, total_bytes // self.num_samples), np.int64)
        first = next(self.records(0, 1))
        self.payload = "jpeg" if bytes(first.payload[:3]) == b"\xff\xd8\xff" else "bytes"
        self._suffix = "jpg" if self.payload == "jpeg" else "bin"

    _suffix = "bin"

    def describe(self) -> dict[str, Any]:
        """The source's own name (never its path), its column, and a digest of the files."""
        return {"source": self._name, "source_kind": "parquet", "column": self._column, "source_fingerprint": fingerprint(self._files)}

    def encoder(self) -> dict[str, str]:
        """Bytes stay as they are."""
        return {}

    def records(self, first: int, count: int) -> Iterator[Record]:
        """Rows first .. first + count over all files; the row groups they lie in are decoded whole."""
        row, stop = first, first + count
        while row < stop:
            number = bisect.bisect_right(self._first_row, row) - 1
            start = self._first_row[number]
            payloads, labels = self._group(number)
            for place in range(row - start, min(stop, self._first_row[number + 1]) - start):
                if len(payloads[place]) == 0:
                    raise DatasetError(f"row {start + place} of source {self._name} is empty, and a record has at least one byte", "remove the row")
                yield Record(start + place, payloads[place], labels[place], self._suffix)
            row = min(stop, self._first_row[number + 1])

    def close(self) -> None:
        """Forget what is kept."""
        self._kept.clear()

    @contextmanager
    def _open(self, file: SourceFile) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        name = "/".join(file.parts)
        with open(open_beneath(self._root, file.parts), "rb") as opened:
            try:
                yield pq.ParquetFile(opened, pre_buffer=False)
            except (pa.ArrowException, OSError) as error:
                raise DatasetError(f"source file {name!r} does not decode as Parquet ({error})", _HINT) from None

    def _check_schema(self, schema: Any, file: SourceFile) -> None:
        if (self._column, self._is_struct) not in _binary_columns(schema):
            raise DatasetError(
                f"source file {'/'.join(file.parts)!r} has no binary column {self._column!r} as the first file has", "import files of one schema"
            )
        if self._has_label and not _is_integer(schema, _LABEL_COLUMN):
            raise DatasetError(f"source file {'/'.join(file.parts)!r} has no column 'label' as the first file has", "import files of one schema")

    def _group(self, number: int) -> tuple[list[memoryview], list[int]]:
        with self._lock:
            if number not in self._kept:
                self._kept[number] = self._read_group(*self._groups[number])
                while len(self._kept) > _GROUPS_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(number)
            return self._kept[number]

    def _read_group(self, file: SourceFile, group: int) -> tuple[list[memoryview], list[int]]:
        wanted = f"{self._column}.bytes" if self._is_struct else self._column
        with self._open(file) as opened:
            table = opened.read_row_group(group, columns=[wanted, _LABEL_COLUMN] if self._has_label else [wanted])
        name = "/".join(file.parts)
        payloads = []
        for chunk in table.column(self._column).chunks:
            values = chunk.field("bytes") if self._is_struct else chunk
            if chunk.null_count or values.null_count:
                raise DatasetError(f"column {self._column!r} of source file {name!r} has rows without bytes", "remove these rows")
            payloads += binary_values(values)
        labels = table.column(_LABEL_COLUMN).fill_null(NO_LABEL).to_pylist() if self._has_label else [NO_LABEL] * len(payloads)
        if any(not -(2**31) <= label < 2**31 for label in labels):
            raise DatasetError(f"column 'label' of source file {name!r} has values outside of 32 bits", "number the classes from 0")
        return payloads, labels


def _binary_columns(schema: Any) -> list[tuple[str, bool]]:
    """Top-level columns that can hold records: (name, whether it is a struct with a binary field `bytes`)."""
    import pyarrow as pa

    def binary(kind: Any) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    found = []
    for field in schema:
        is_struct = pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0 and binary(field.type.field("bytes").type)
        if is_struct or binary(field.type):
            found.append((field.name, bool(is_struct)))
    return found


def _choose_column(schema: Any, wanted: str | None, file: SourceFile) -> tuple[str, bool]:
    found = _binary_columns(schema)
    names = ", ".join(repr(name) for name, _ in found) or "none"
    chosen = [entry for entry in found if wanted is None or entry[0] == wanted]
    if len(chosen) == 1:
        return chosen[0]
    where = f"source file {'/'.join(file.parts)!r}"
    if wanted is not None:
        raise UsageError(f"column {wanted!r} of {where} is not a binary or image column (these are: {names})", "name one of these with --column")
    raise UsageError(
        f"{where} has {len(found)} binary or image columns ({names}), and exactly one is needed",
        "name one with --column" if found else "give Parquet files with a binary column",
    )


def _is_integer(schema: Any, name: str) -> bool:
    import pyarrow as pa

    place = schema.get_field_index(name)
    return place >= 0 and bool(pa.types.is_integer(schema.field(place).type))


def _class_names(schema: Any) -> tuple[str, ...]:
    """Names of the classes, where Hugging Face wrote them into the schema's metadata."""
    import json

    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[_LABEL_COLUMN]["names"]
    except (KeyError, TypeError, ValueError):
        return ()
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def _column_bytes(row_group: Any, name: str) -> int:
    """Uncompressed bytes of a column with all its leaves, by the footer."""
    leaves = (row_group.column(place) for place in range(row_group.num_columns))
    return sum(int(leaf.total_uncompressed_size) for leaf in leaves if leaf.path_in_schema.split(".")[0] == name)
