"""The trace of a query run: one file a trial, `trace/queries-000.jsonl` and on, one record a sample, so a query of one sample is one record.

As in `records`, each record reaches the kernel by one write(), a row is an array whose columns the file names, and all else is an object with a `kind`:
header, cache, begin, error, footer. Stamps are CLOCK_MONOTONIC nanoseconds. A run with --find-max-qps has a file for each rate that was tried.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from storagebench.errors import DatasetError
from storagebench.records import TRACE_DIR

KIND: Final = "query"


class SampleRecord(msgspec.Struct, array_like=True):
    """One sample of a query: due at `scheduled_ns`, handed to the workers at `issued_ns`, taken by one at `started_ns`, in memory at the asked decode level
    at `done_ns`. `verified` and `bad`: its checksum was compared, and differed."""

    query: int
    sample: int
    scheduled_ns: int
    issued_ns: int
    started_ns: int
    done_ns: int
    record_bytes: int
    verified: bool = False
    bad: bool = False


COLUMNS: Final = SampleRecord.__struct_fields__
_decode_row = msgspec.json.Decoder(tuple[int, int, int, int, int, int, int, bool, bool]).decode
_TYPES: Final = {"verified": np.bool_, "bad": np.bool_}


class QueryTrace(NamedTuple):
    """One trial: its header, the samples' columns in order of completion, the other records, and whether the last line was cut."""

    header: Mapping[str, Any]
    columns: Mapping[str, NDArray[Any]]
    others: tuple[Mapping[str, Any], ...]
    truncated: bool

    def last(self, kind: str) -> Mapping[str, Any] | None:
        found = [record for record in self.others if record["kind"] == kind]
        return found[-1] if found else None


def query_trace_path(run_dir: Path, trial: int) -> Path:
    return run_dir / TRACE_DIR / f"queries-{trial:03d}.jsonl"


def query_traces(run_dir: Path) -> list[Path]:
    return sorted((run_dir / TRACE_DIR).glob("queries-*.jsonl"))


def is_query_run(run: Mapping[str, Any]) -> bool:
    """Whether this `run.json` is of `storagebench query`."""
    return run.get("kind") == KIND


def read_query_trace(path: Path) -> QueryTrace:
    """One trial's file. A cut last line is dropped and said; any other broken line is a DatasetError."""
    header: Mapping[str, Any] = {}
    others: list[Mapping[str, Any]] = []
    rows: list[tuple[Any, ...]] = []
    truncated = False
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if truncated:
                raise _damaged(path, number - 1)
            if not line.endswith(b"\n"):
                truncated = True
            elif line.startswith(b"["):
                try:
                    rows.append(_decode_row(line))
                except msgspec.MsgspecError:
                    raise _damaged(path, number) from None
            else:
                record = _object(path, line, number)
                if record["kind"] == "columns" and record.get("columns") != list(COLUMNS):
                    raise DatasetError(f"{path} has the columns {record.get('columns')}", "use the version that wrote it")
                if record["kind"] == "header":
                    header = record
                else:
                    others.append(record)
    return QueryTrace(header, _columns(rows), tuple(others), truncated)


def _object(path: Path, line: bytes, number: int) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        raise _damaged(path, number) from None
    if not isinstance(record, dict) or "kind" not in record:
        raise _damaged(path, number)
    return record


def _columns(rows: list[tuple[Any, ...]]) -> dict[str, NDArray[Any]]:
    table = zip(*rows, strict=True) if rows else ([] for _ in COLUMNS)
    return {name: np.array(values, _TYPES.get(name, np.int64)) for name, values in zip(COLUMNS, table, strict=True)}


def _damaged(path: Path, number: int) -> DatasetError:
    return DatasetError(f"{path} is damaged in line {number}", "the trace cannot be used")
