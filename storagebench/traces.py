"""Reading traces: one file at a time, its steps as columns. Only a broken *last* line is tolerated: a killed rank may leave one.

A step takes some 200 bytes here, and some microseconds to read, so that a run of 10,000 ranks can be judged file by file on one core.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from storagebench.errors import DatasetError
from storagebench.records import STEP_COLUMNS, StepRecord

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

KINDS: Final = ("null", "warmup", "step", "idle")
NULL, WARMUP, STEP, IDLE = range(len(KINDS))
UNKNOWN: Final = int(np.iinfo(np.int64).min)  # in a column of whole numbers, where a record has None
MAX_LINE_BYTES: Final = 64 * 2**20
_CHUNK_BYTES: Final = 4 * 2**20

# A line of a step: the types of STEP_COLUMNS, in their order.
_Row = tuple[
    Literal["null", "warmup", "step", "idle"], int, int, int, int | None, int, int, int, int, int, int, int, int | None, int, int, int, int | None,
    int, int, int, dict[str, float], float, float, int, int | None, tuple[tuple[int, str], ...], float,
]  # fmt: skip
_decode_row = msgspec.json.Decoder(_Row).decode
_CODES: Final = {kind: code for code, kind in enumerate(KINDS)}


class Steps(Sequence[StepRecord]):
    """The steps of one rank in order: a column for each field of `StepRecord`, by its name.

    `kind` has NULL, WARMUP, STEP or IDLE; whole numbers are int64, with UNKNOWN for None; `spans_s` has a column for each name, NaN where a step has
    no such span; `bad_samples` is a column of tuples. As a sequence it gives the records themselves, made anew each time: for a few, not for all.
    """

    __slots__ = STEP_COLUMNS

    kind: NDArray[np.int8]
    epoch: Ints
    step: Ints
    asked_ns: Ints
    ready_ns: Ints
    got_ns: Ints
    start_ns: Ints
    due_ns: Ints
    compute_end_ns: Ints
    release_ns: Ints
    sync_end_ns: Ints
    host_delay_ns: Ints
    queue_level: Ints
    samples: Ints
    record_bytes: Ints
    handover_bytes: Ints
    storage_bytes: Ints
    retries: Ints
    errors: Ints
    verified: Ints
    spans_s: Mapping[str, Floats]
    prep_cpu_s: Floats
    run_delay_s: Floats
    ids_hash: Ints
    checksum: Ints
    bad_samples: NDArray[np.object_]
    copy_s: Floats

    def __init__(self, columns: Mapping[str, Any]) -> None:
        for name in STEP_COLUMNS:
            setattr(self, name, columns[name])

    @classmethod
    def of(cls, records: Iterable[StepRecord]) -> Steps:
        """The columns of these records. Raises OverflowError, TypeError or ValueError for values that have no place there."""
        return cls.of_rows([tuple(getattr(record, name) for name in STEP_COLUMNS) for record in records])

    @classmethod
    def of_rows(cls, rows: Sequence[tuple[Any, ...]]) -> Steps:
        """The same from the values of each step, in the order of STEP_COLUMNS."""
        columns = zip(*rows, strict=True) if rows else ((),) * len(STEP_COLUMNS)
        return cls({name: _column(name, values) for name, values in zip(STEP_COLUMNS, columns, strict=True)})

    @classmethod
    def joined(cls, parts: Sequence[Steps]) -> Steps:
        """The steps of all parts, one after another."""
        if len(parts) == 1:
            return parts[0]
        columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in STEP_COLUMNS if name != "spans_s"}
        names = dict.fromkeys(name for part in parts for name in part.spans_s)
        nothing = [np.full(len(part), np.nan) for part in parts]
        spans_s = {name: np.concatenate([part.spans_s.get(name, no) for part, no in zip(parts, nothing, strict=True)]) for name in names}
        return cls({**columns, "spans_s": spans_s})

    def __len__(self) -> int:
        return len(self.kind)

    @overload
    def __getitem__(self, index: int) -> StepRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Steps: ...
    def __getitem__(self, index: int | slice) -> StepRecord | Steps:
        return self.pick(index) if isinstance(index, slice) else self._record(index)

    def __iter__(self) -> Iterator[StepRecord]:
        return map(self._record, range(len(self)))

    def pick(self, which: slice | NDArray[np.bool_]) -> Steps:
        """These steps: of a slice a view, of a mask a copy."""
        columns: dict[str, Any] = {name: getattr(self, name)[which] for name in STEP_COLUMNS if name != "spans_s"}
        return Steps({**columns, "spans_s": {name: column[which] for name, column in self.spans_s.items()}})

    def _record(self, index: int) -> StepRecord:
        values = {name: _plain(getattr(self, name)[index]) for name in STEP_COLUMNS if name not in ("kind", "spans_s")}
        spans_s = {name: float(column[index]) for name, column in self.spans_s.items() if not np.isnan(column[index])}
        return StepRecord(**{**values, "kind": KINDS[self.kind[index]], "spans_s": spans_s})


def _plain(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    return None if plain == UNKNOWN else plain


_FLOATS: Final = frozenset({"prep_cpu_s", "run_delay_s", "copy_s"})


def _column(name: str, values: Sequence[Any]) -> Any:
    if name == "kind":
        return np.array([_CODES[kind] for kind in values], dtype=np.int8)
    if name == "spans_s":
        names = dict.fromkeys(span for spans in values for span in spans)
        return {span: np.array([spans.get(span, np.nan) for spans in values], dtype=np.float64) for span in names}
    if name == "bad_samples":
        return np.fromiter(values, dtype=np.object_, count=len(values))
    if name in _FLOATS:
        return np.array(values, dtype=np.float64)
    if None in values:
        values = [UNKNOWN if value is None else value for value in values]
    return np.array(values, dtype=np.int64)


def parse_step(line: bytes) -> StepRecord:
    """The step of one line. Raises msgspec.DecodeError for another line."""
    return StepRecord(*_decode_row(line))


class Trace(NamedTuple):
    """One rank's trace: the header, the steps in order, the other records in order, and whether the last line was cut."""

    header: Mapping[str, Any]
    steps: Steps
    others: tuple[Mapping[str, Any], ...]
    truncated: bool

    def of_kind(self, kind: str) -> list[Mapping[str, Any]]:
        return [record for record in self.others if record["kind"] == kind]


class TraceFiles(Sequence[Trace]):
    """The traces in these files, each read anew when it is asked for and held by nobody here."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Trace: ...
    @overload
    def __getitem__(self, index: slice) -> TraceFiles: ...
    def __getitem__(self, index: int | slice) -> Trace | TraceFiles:
        return TraceFiles(self._paths[index]) if isinstance(index, slice) else read_trace(self._paths[index])


def read_trace(path: Path) -> Trace:
    """One trace file, as long as it is now. A cut last line is dropped and said; any other broken line, or a step of another shape, is a DatasetError."""
    reader = _Reader(path)
    with open(path, "rb") as file:
        # Not until there is no more: of a run that goes on, what was a cut last line would have got its other half meanwhile, as a line of its own.
        now_bytes = os.fstat(file.fileno()).st_size
        while file.tell() < now_bytes and (lines := file.readlines(_CHUNK_BYTES)):
            reader.read(lines)
    return Trace(reader.header, Steps.joined(reader.parts or [Steps.of_rows(())]), tuple(reader.others), bool(reader.broken))


class _Reader:
    """What was read of a file so far. `broken`: the number of a line that does not read, which must be the last."""

    def __init__(self, path: Path) -> None:
        self.header: Mapping[str, Any] = {}
        self.parts: list[Steps] = []
        self.others: list[Mapping[str, Any]] = []
        self.broken = 0
        self._path = path
        self._lines = 0
        self._named = False

    def read(self, lines: Sequence[bytes]) -> None:
        rows: list[tuple[Any, ...]] = []
        for number, line in enumerate(lines, self._lines + 1):
            if self.broken:
                raise DatasetError(f"{self._path} is damaged in line {self.broken}", "the trace cannot be used")
            if line[-1] != 10 or len(line) > MAX_LINE_BYTES:
                self.broken = number
            elif line[0] == 91 and self._named:  # [
                try:
                    rows.append(_decode_row(line))
                except msgspec.ValidationError as error:
                    raise self._misshapen(str(error), number) from None
                except msgspec.DecodeError:
                    self.broken = number
            else:
                self._other(line, number)
        self._lines += len(lines)
        if rows:
            try:
                self.parts.append(Steps.of_rows(rows))
            except OverflowError as error:
                raise self._misshapen(str(error), self._lines) from None

    def _other(self, line: bytes, number: int) -> None:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, list):
            raise self._misshapen("no record named its columns", number)
        kind = record.get("kind") if isinstance(record, dict) else None
        if kind is None:
            self.broken = number
        elif kind == "columns":
            if record.get("columns") != list(STEP_COLUMNS):
                raise self._misshapen(f"its columns are {record.get('columns')}", number)
            self._named = True
        elif kind in _CODES:
            raise self._misshapen("it is an object", number)
        elif kind == "header":
            self.header = record
        else:
            self.others.append(record)

    def _misshapen(self, why: str, number: int) -> DatasetError:
        return DatasetError(f"{self._path} has a step record of another shape in line {number} ({why})", "the trace cannot be used")
