"""The table of runs as plain cells: one list of columns for text and HTML, so that both say the same.

The decode level is no column: it heads each table, since levels never share one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from storagebench.report import trainingwords
from storagebench.report import wording as w
from storagebench.report.wording import Summary


class Column(NamedTuple):
    """`headline` figures carry the mark of a warning too; every figure carries the mark of an error."""

    heading: str
    is_figure: bool
    cell: Callable[[Summary], str]
    headline: bool = False


def _quantile(summary: Summary, level: str) -> str:
    times = summary["fetch_quantiles_s"]
    return w.UNKNOWN if times is None else w.seconds(times[level])


COLUMNS = (
    Column("run", False, lambda s: w.printable(s["run_id"])),
    Column("loader", False, lambda s: w.printable(s["loader"])),
    Column("format", False, lambda s: w.printable(s["format"])),
    Column("storage", False, lambda s: w.printable(s["storage"])),
    Column("AU", True, lambda s: w.utilisation(s["au_nominal"], s["au_threshold"]), headline=True),
    Column("threshold", False, w.against_threshold),
    Column("in the way", True, lambda s: s["bottleneck"] or w.UNKNOWN),
    Column("AU null", False, lambda s: w.utilisation(s["au_null"])),
    Column("samples/s", True, lambda s: w.number(s["samples_per_s"]), headline=True),
    Column("MB/s", True, lambda s: w.megabytes_per_s(s["delivered_bytes_per_s"]), headline=True),
    Column("fetch p50", True, lambda s: _quantile(s, "p50")),
    Column("fetch p99", True, lambda s: _quantile(s, "p99")),
    Column("cached", True, lambda s: w.share(s["cached_fraction_served"])),
    Column("CPU s/GB", True, lambda s: w.number(s["cpu_s_per_gb"])),
    Column("validity", False, w.validity),
)
# Columns that are set flush right, so that their points and units stand under one another.
RIGHT = frozenset({"TTA (epochs)", "accuracy", "stall", "AU", "AU null", "samples/s", "MB/s", "fetch p50", "fetch p99", "cached", "CPU s/GB"})


# Of tables in which something was trained.
TRAINING_COLUMNS = (
    Column("TTA (epochs)", True, trainingwords.tta_cell, headline=True),
    Column("accuracy", True, trainingwords.accuracy_cell, headline=True),
    Column("stall", True, trainingwords.stall_cell),
)
# What a real training has not: its compute time is not nominal.
_OF_EMULATED = frozenset({"AU", "threshold", "AU null"})


def columns_of(summaries: Sequence[Summary]) -> tuple[Column, ...]:
    """The columns of a table of these runs."""
    trained = [bool(summary.get("training")) for summary in summaries]
    if not any(trained):
        return COLUMNS
    place = next(index for index, column in enumerate(COLUMNS) if column.heading == "samples/s")
    before = [column for column in COLUMNS[:place] if not all(trained) or column.heading not in _OF_EMULATED]
    return (*before, *TRAINING_COLUMNS, *COLUMNS[place:])


def cells(summary: Summary, columns: Sequence[Column] = COLUMNS) -> list[str]:
    """One row: every cell as plain text, with its mark."""
    sign = w.mark(summary)
    row = []
    for column in columns:
        marked = column.is_figure and (sign == w.ERROR_MARK or column.headline)
        row.append(w.marked(column.cell(summary), sign if marked else ""))
    return row


def marks_used(summaries: list[Summary]) -> list[tuple[str, str]]:
    """(mark, what it means) of the marks that stand in a table of these runs."""
    used = {w.mark(summary) for summary in summaries}
    return [(sign, meaning) for sign, meaning in w.LEGEND.items() if sign in used]
