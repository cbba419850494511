"""Which cell of a group is the fastest: all are tried once, the best two twice more in turn, and the better median of three is the ceiling.

Once each alone would report the luckiest draw of a noisy device; the medians of the repeats do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from storagebench.probe.cells import Measured
from storagebench.probe.plan import Cell, Group

FINALISTS = 2
REPEATS = 2


@dataclass(frozen=True)
class Ceiling:
    """The best median cell of a group; `rates` are its runs (bytes per second), in order."""

    group: Group
    cell: Cell
    bytes_per_s: float
    requests_per_s: float
    rates: tuple[float, ...]


def num_runs(cells: Mapping[Group, Sequence[Cell]]) -> int:
    """How many cells are run in all."""
    return sum(len(some) + REPEATS * min(FINALISTS, len(some)) for some in cells.values())


def search(
    cells: Mapping[Group, Sequence[Cell]], run: Callable[[Cell], Measured], done: Callable[[Measured], None] = lambda _: None
) -> tuple[list[Measured], list[Ceiling]]:
    """Run the cells of all groups; (every run in order, the ceiling of each group). `done` is told after each run."""
    measured: list[Measured] = []

    def one(cell: Cell) -> None:
        measured.append(run(cell))
        done(measured[-1])

    ceilings = []
    for group, some in cells.items():
        first = len(measured)
        for cell in some:
            one(cell)
        finalists = [row.cell for row in sorted(measured[first:], key=lambda row: -row.bytes_per_s)[:FINALISTS]]
        for _ in range(REPEATS):
            for cell in finalists:
                one(cell)
        ceilings.append(_best(group, finalists, measured[first:]))
    return measured, ceilings


def _best(group: Group, finalists: Sequence[Cell], measured: Sequence[Measured]) -> Ceiling:
    runs = {cell: [row for row in measured if row.cell == cell] for cell in finalists}
    cell = max(finalists, key=lambda cell: median(row.bytes_per_s for row in runs[cell]))
    rates = tuple(row.bytes_per_s for row in runs[cell])
    return Ceiling(group, cell, median(rates), median(row.requests_per_s for row in runs[cell]), rates)
