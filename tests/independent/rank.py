"""One rank's trace as figures: windows, AU, the parts of its steps. Half of the independent computation; see `recompute`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

NS = 1e9
Row = dict[str, Any]


def load(run_dir: Path) -> tuple[Row, list[list[Row]], list[list[Row]], list[list[Row]]]:
    """`run.json`, and the records of the ranks, hosts and writers as they stand in the files. A cut last line becomes a row of kind `cut`."""
    run = json.loads((run_dir / "run.json").read_text())
    ranks = [rows_of(path) for path in sorted((run_dir / "trace").glob("rank-*.jsonl"))]
    hosts, writers = ([rows_of(path) for path in sorted((run_dir / "trace").glob(f"{name}-*.jsonl"))] for name in ("host", "writer"))
    return run, [rows for rows in ranks if kind(rows, "header")], hosts, writers


def rows_of(path: Path) -> list[Row]:
    """The records as objects: a step stands in the file as an array, and a record of kind `columns` before it names its values."""
    lines = path.read_bytes().split(b"\n")
    rows: list[Row] = []
    names: list[str] = []
    for value in map(json.loads, lines[:-1]):
        row = dict(zip(names, value, strict=True)) if isinstance(value, list) else value
        names = row.get("columns", names)
        rows.append(row)
    return rows + ([{"kind": "cut"}] if lines[-1] else [])


def kind(rows: list[Row], *kinds: str) -> list[Row]:
    return [row for row in rows if row["kind"] in kinds]


def _column(rows: list[Row], name: str) -> Any:
    return np.array([row[name] for row in rows], dtype=np.int64)


def all_or_none(values: list[Any]) -> Any:
    return None if not values or None in values else sum(values)


def by_name(tables: list[dict[str, int]]) -> dict[str, int]:
    return {name: sum(table.get(name, 0) for table in tables) for name in sorted({name for table in tables for name in table})}


def average(values: list[Any]) -> Any:
    values = [value for value in values if value is not None]
    return sum(values) / len(values) if values else None


class RankFigures:
    """One rank: sums over its windows, in ns."""

    def __init__(self, rows: list[Row], prefetch: int, paced: bool = True) -> None:
        self.paced = paced  # else the compute was measured: there is no nominal AU
        self.rows = rows
        self.header = kind(rows, "header")[0]
        self.every = kind(rows, "warmup", "step", "idle")
        self.work = kind(rows, "warmup", "step")
        self.null = kind(rows, "null")
        self.starts = {row["epoch"]: row for row in kind(rows, "epoch_start")}
        self.total: Counter[str] = Counter()
        self.drop: dict[int, float] = {}  # of each window: batches ready at its start less those ready at its end
        self.idle: dict[int, bool] = {}  # whether the rank ever waited in it, or may have lived on what lay ready
        self.free: dict[int, float] = {}  # what of the drop counts
        self.fetches_s: list[float] = []
        self.steps_s: list[float] = []
        self.windows: list[tuple[int, int]] = []
        for epoch in sorted({row["epoch"] for row in self.every}):
            self._epoch(epoch, prefetch)

    def _epoch(self, epoch: int, prefetch: int) -> None:
        mine = [row for row in self.every if row["epoch"] == epoch]
        measured = [row for row in mine if row["kind"] == "step"]
        if not measured or epoch not in self.starts:
            return
        begin = self.starts[epoch]["start_ns"]
        release = _column(mine, "release_ns")
        before = np.concatenate([[begin], release[:-1]])
        chosen = np.array([row["kind"] == "step" for row in mine])
        self.fetches_s += list((_column(mine, "start_ns") - before)[chosen] / NS)
        self.steps_s += list((release - before)[chosen] / NS)
        warm = [row for row in mine if row["kind"] == "warmup"]
        opened = warm[-1]["sync_end_ns"] if warm else begin
        drop, unsure = _prefetched(measured, opened, len(mine) == self.starts[epoch]["steps"], prefetch) if warm else (0.0, 0.0)
        start, due, released, host = (_column(measured, name) for name in ("start_ns", "due_ns", "release_ns", "host_delay_ns"))
        self.idle[epoch] = len(measured) <= prefetch or bool((start[1:] > released[:-1]).any())
        self.windows.append((opened, measured[-1]["sync_end_ns"]))
        self.drop[epoch] = drop
        self.free[epoch] = drop if self.idle[epoch] else 0.0
        self.total.update(
            {
                "steps": len(measured),
                "samples": int(_column(measured, "samples").sum()),
                "bytes": int(_column(measured, "record_bytes").sum()),
                "window": measured[-1]["sync_end_ns"] - opened,
                "compute": int((due - start).sum()),
                "slept": int((_column(measured, "compute_end_ns") - start).sum()),
                "fetch": int((start - before[chosen]).sum()),
                "sync": int((released - host - due).sum()),
                "host": int(host.sum()),
                "unsure": unsure if self.idle[epoch] else 0.0,
            }
        )

    @property
    def kept(self) -> float:
        """The share of the window's steps whose batches were fetched in it. What lies ready at the end was not computed, so it adds nothing."""
        return 1 - max(0.0, sum(self.free.values())) / self.total["steps"] if self.total["steps"] else 1.0

    def au(self, busy_ns: float) -> float | None:
        return float(busy_ns / self.total["window"]) if self.total["window"] > 0 and self.total["compute"] > 0 else None

    @property
    def au_nominal(self) -> float | None:
        au = self.au(self.total["compute"] * self.kept) if self.paced else None
        return None if au is None else min(au, 1.0)

    @property
    def au_uncorrected(self) -> float | None:
        return self.au(self.total["compute"]) if self.paced else None

    @property
    def au_null(self) -> float | None:
        if len(self.null) < 2 or self.null[-1]["sync_end_ns"] <= self.null[0]["sync_end_ns"]:
            return None
        busy = sum(row["due_ns"] - row["start_ns"] for row in self.null[1:])
        return min(1.0, float(busy / (self.null[-1]["sync_end_ns"] - self.null[0]["sync_end_ns"])))

    @property
    def null_ns(self) -> int:
        return self.null[-1]["sync_end_ns"] - self.null[0]["asked_ns"] if self.null else 0

    @property
    def first_batch_s(self) -> float | None:
        loader, starts = kind(self.rows, "opened"), kind(self.rows, "epoch_start")
        if not (loader and starts and self.work):
            return None
        return float((loader[0]["open_end_ns"] - loader[0]["open_begin_ns"] + self.work[0]["got_ns"] - starts[0]["start_ns"]) / NS)


def _prefetched(measured: list[Row], opened: int, whole: bool, prefetch: int) -> tuple[float, float]:
    """How many batches lay ready before the window less those at its end (below 0 where the queue grew); how many steps are uncertain.

    c(S - dq)/T where readiness is known; else the window between the first and the last stalled step after a full queue was used; else k/S.
    """
    size = len(measured)
    start, release = _column(measured, "start_ns"), _column(measured, "release_ns")
    waits = 1 + np.flatnonzero(start[1:] > release[:-1])
    if not any(row["ready_ns"] is None for row in measured):
        ready = _column(measured, "ready_ns")
        if (ready < opened).all():
            return 0.0, float(size)
        left = int((_column(measured, "asked_ns") > ready.max()).sum()) if whole else measured[-1]["queue_level"]
        if left is not None:
            used = int((ready < opened).sum()) - left
            return float(used), float(used > 0)
    waits = waits[waits >= prefetch]
    if waits.size < 2 or 2 * (waits[-1] - waits[0]) < size:
        return 0.0, float(min(prefetch, size))
    pace = (waits[-1] - waits[0]) / float(release[waits[-1]] - release[waits[0]])
    return max(0.0, size - pace * (measured[-1]["sync_end_ns"] - opened)), 0.0
