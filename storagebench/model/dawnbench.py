"""DAWNBench's rules and files: a table of epoch, hours and quality, and a JSON file beside it.

Source: README.md of stanford-futuredata/dawn-bench-entries (1edd089). The time to accuracy is that of the first row at or above the threshold; the cost is
`hours x costPerHour`, and exists only where the price of a public cloud is given.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from storagebench.errors import UsageError
from storagebench.model.target import first_crossing

SECONDS_PER_HOUR: Final = 3600.0
TOP1: Final = "top1Accuracy"
QUALITIES: Final = (TOP1, "top5Accuracy", "f1Score")


class Threshold(NamedTuple):
    """Which column of a task's table counts, and from which value on."""

    column: str
    value: float


THRESHOLDS: Final = {"CIFAR10": Threshold(TOP1, 94.0), "ImageNet": Threshold("top5Accuracy", 93.0), "SQuAD": Threshold("f1Score", 0.73)}


@dataclass(frozen=True)
class Row:
    """The end of an epoch: `epoch` as the table counts it (some begin at 0), `hours` since the start, `qualities` in the order of the columns
    (accuracies in percent, F1 from 0 to 1)."""

    epoch: float
    hours: float
    qualities: tuple[float, ...]

    @property
    def time_s(self) -> float:
        return self.hours * SECONDS_PER_HOUR


@dataclass(frozen=True)
class Table:
    """A TSV file: the names of its quality columns, and its rows in order."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def first_at(self, threshold: Threshold) -> Row | None:
        """The row that DAWNBench reads off, None where no row is at or above. Raises UsageError where the column is not there."""
        if threshold.column not in self.columns:
            raise UsageError(f"the table has no column {threshold.column} (it has {', '.join(self.columns)})", "it counts for this task: add it")
        index = self.columns.index(threshold.column)
        return first_crossing(((row, row.qualities[index]) for row in self.rows), threshold.value)


def cost(hours: float, cost_per_hour: float | None) -> float | None:
    """US dollars, None without the price of a public cloud."""
    return None if cost_per_hour is None else hours * cost_per_hour


def read_table(text: str) -> Table:
    """A TSV file (any white space parts the cells, as in the README's own examples). Raises UsageError with the line."""
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines or lines[0][1][:2] != ["epoch", "hours"] or not lines[0][1][2:] or set(lines[0][1][2:]) - set(QUALITIES):
        raise UsageError("this is no table of DAWNBench: line 1 is not its head", f"it is: epoch, hours, then {' or '.join(QUALITIES)}")
    columns = tuple(lines[0][1][2:])
    return Table(columns, tuple(_row(number, cells, len(columns)) for number, cells in lines[1:]))


def _row(number: int, cells: Sequence[str], qualities: int) -> Row:
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        values = []
    if len(values) != 2 + qualities or not all(map(math.isfinite, values)) or min(values[:2]) < 0:
        raise UsageError(
            f"line {number} of the table is {' '.join(cells)[:80]!r}", f"a row has an epoch, hours and {qualities} qualities, as numbers"
        )
    return Row(values[0], values[1], tuple(values[2:]))


def write_table(table: Table) -> str:
    """The TSV file; reading it gives the same table."""
    rows = ["\t".join(["epoch", "hours", *table.columns])]
    rows += ["\t".join([_number(row.epoch), repr(row.hours), *map(repr, row.qualities)]) for row in table.rows]
    return "\n".join(rows) + "\n"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def entry(fields: Mapping[str, Any], cost_per_hour: float | None) -> str:
    """The JSON file beside the table, with every key of the README in its order; what `fields` does not have is empty and for the submitter to fill.

    Without the price of a public cloud there is no `costPerHour`.
    """
    known = ("author", "authorEmail", "framework", "codeURL", "model", "hardware")
    values: dict[str, Any] = {"version": "v1.0", **{key: fields.get(key, "") for key in known}}
    if cost_per_hour is not None:
        values["costPerHour"] = cost_per_hour
    values |= {"timestamp": fields["timestamp"], "misc": fields.get("misc", {})}
    return json.dumps(values, indent=4, allow_nan=False) + "\n"
