"""What the runs of a sweep say: the figures of each cell, and a ranking of those that may be compared. Pure, on saved runs.

Cells stand in one ranking only where decode level, dataset, compute time and the like are the same, and the budget (workers, prefetch) is equal. One is
called better than another only where the interval of their ratio says so, at a level that holds for all pairs of the ranking together (Bonferroni:
Dunn, "Multiple comparisons among means", JASA 56, 1961), since the best is picked after the fact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from storagebench.checks.comparability import SavedRun, mixed_facts, ranking_facts
from storagebench.checks.comparison import verdict_of
from storagebench.checks.statistics import LEVEL, Ratio, Side, ratio_interval

FIGURES: Final = ("au_nominal", "samples_per_s", "delivered_bytes_per_s", "cpu_s_per_gb")


class CellRuns(NamedTuple):
    """A cell and its runs that ended by themselves, well or not, in the order of the rounds."""

    name: str
    settings: Mapping[str, str]
    runs: Sequence[SavedRun]


class Quartiles(NamedTuple):
    """Median and quartiles (linear between the runs) of the true runs."""

    num_runs: int
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Cell:
    """`figures` are over the true runs (complete and valid), None where there are none; `left_out` names the others with the reason; `bottlenecks`
    and `warnings` count the true runs that say so; `in_flight` is a rank's workers x the reads that each keeps in flight (`2 x 8`); `mixed` is why the runs are no repeats of one request, or empty."""

    name: str
    settings: Mapping[str, str]
    run_ids: tuple[str, ...]
    exit_codes: tuple[int | None, ...]
    figures: Mapping[str, Quartiles | None]
    values: Mapping[str, tuple[float, ...]]
    bottlenecks: Mapping[str, int]
    warnings: Mapping[str, int]
    left_out: Mapping[str, str]
    in_flight: str
    mixed: str
    au_threshold: float | None

    def as_dict(self) -> dict[str, Any]:
        plain = {name: None if found is None else found._asdict() for name, found in self.figures.items()}
        return {**self.__dict__, "figures": plain, "run_ids": list(self.run_ids)}


class Ranked(NamedTuple):
    """A cell's place: 1 + the number of cells shown to be better. `ratio` is to the best, None for the best itself and where none can be had."""

    cell: str
    rank: int
    verdict: str
    ratio: Ratio | None


@dataclass(frozen=True)
class Ranking:
    """Cells that may be compared, the highest median first. `level` is that of each pair, so that all hold together at LEVEL."""

    facts: Mapping[str, str]
    metric: str
    level: float
    ranked: tuple[Ranked, ...]

    @property
    def ties(self) -> list[str]:
        """Cells that are not distinguishable from the one with the highest median, itself among them."""
        return [row.cell for row in self.ranked if row.verdict != "worse"]

    def as_dict(self) -> dict[str, Any]:
        rows = [{**row._asdict(), "ratio": None if row.ratio is None else dict(row.ratio.__dict__)} for row in self.ranked]
        return {**self.__dict__, "ranked": rows}


def is_true(summary: Mapping[str, Any]) -> bool:
    """Complete and valid: its numbers may be used."""
    return bool(summary["status"] == "complete" and summary["valid"])


def why_left_out(summary: Mapping[str, Any]) -> str:
    """`invalid: ...` or `failed: ...`, with what is known."""
    if summary["status"] != "complete":
        return f"{summary['status']}: {summary['failure'] or 'it never ended'}"
    return next((f"invalid: {finding['message']}" for finding in summary["findings"] if finding["severity"] == "error"), "invalid")


def cell_of(found: CellRuns) -> Cell:
    """The figures of a cell."""
    true = [run.summary for run in found.runs if is_true(run.summary)]
    values = {name: tuple(float(one[name]) for one in true if one[name] is not None) for name in FIGURES}
    codes = [code for one in true for code in {finding["code"] for finding in one["findings"] if finding["severity"] == "warning"}]
    mixed = mixed_facts([run for run in found.runs if is_true(run.summary)]) if len(true) > 1 else []
    digests = list(dict.fromkeys(str(one["dataset_digest"]) for one in true))
    mixed += [("dataset digest", " and ".join(digests))] if len(digests) > 1 else []
    return Cell(
        name=found.name,
        settings=found.settings,
        run_ids=tuple(run.summary["run_id"] for run in found.runs),
        exit_codes=tuple(run.summary["exit_code"] for run in found.runs),
        figures={name: quartiles(these) for name, these in values.items()},
        values=values,
        bottlenecks=dict(Counter(str(one["bottleneck"]) for one in true if one["bottleneck"]).most_common()),
        warnings=dict(sorted(Counter(codes).items())),
        left_out={run.summary["run_id"]: why_left_out(run.summary) for run in found.runs if not is_true(run.summary)},
        in_flight=_in_flight(found.runs),
        mixed="; ".join(f"{fact} {several}" for fact, several in mixed),
        au_threshold=next((one["au_threshold"] for one in true), None),
    )


def _in_flight(runs: Sequence[SavedRun]) -> str:
    """Loaders at equal budget have equally many workers; how many reads each of these keeps in flight is the loader's own doing, and shown."""
    workers = [run.run["plan"].get("workers_per_rank", run.run["config"]["loader"]["num_workers"]) for run in runs]
    depths = [run.run["config"]["loader"].get("io_depth") or 1 for run in runs]
    return " or ".join(dict.fromkeys(f"{max(count, 1)} x {depth}" for count, depth in zip(workers, depths, strict=True)))


def quartiles(values: Sequence[float]) -> Quartiles | None:
    """None for no value.

    >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
    Quartiles(num_runs=5, median=3.0, low=2.0, high=4.0)
    """
    if not values:
        return None
    low, middle, high = (float(value) for value in np.quantile(np.asarray(values, dtype=np.float64), (0.25, 0.5, 0.75)))
    return Quartiles(len(values), middle, low, high)


def rankings(found: Sequence[CellRuns], cells: Sequence[Cell]) -> list[Ranking]:
    """A ranking for each set of cells that may be compared, in the order of their first cells. Cells without a true run, or whose runs are no repeats of
    one request, stand in none."""
    groups: dict[tuple[tuple[str, str], ...], list[Cell]] = {}
    for one, cell in zip(found, cells, strict=True):
        first = next((run for run in one.runs if is_true(run.summary)), None)
        if first is not None and not cell.mixed:
            groups.setdefault(tuple(ranking_facts(first).items()), []).append(cell)
    return [_ranking(dict(facts), members) for facts, members in groups.items()]


def _ranking(facts: Mapping[str, str], cells: Sequence[Cell]) -> Ranking:
    metric = next((name for name in ("au_nominal", "samples_per_s") if all(_usable(cell.values[name]) for cell in cells)), "samples_per_s")
    pairs = len(cells) * (len(cells) - 1) // 2
    level = 1 - (1 - LEVEL) / max(pairs, 1)
    able = [cell for cell in cells if _usable(cell.values[metric])]
    order = sorted(able, key=lambda cell: -float(np.median(cell.values[metric])))
    rows = []
    for cell in order:
        better = sum(_verdict(other, cell, metric, level)[0] == "worse" for other in able if other is not cell)
        verdict, ratio = ("best", None) if cell is order[0] else _verdict(order[0], cell, metric, level)
        rows.append(Ranked(cell.name, 1 + better, verdict, ratio))
    return Ranking(facts, metric, level, tuple(rows))


def _usable(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0


def _verdict(base: Cell, new: Cell, metric: str, level: float) -> tuple[str, Ratio]:
    """Whether `new` is better or worse than `base`. Single runs decide nothing."""
    ratio = ratio_interval(Side(base.values[metric]), Side(new.values[metric]), level)
    return (verdict_of(ratio, True) if not ratio.weak else "not distinguishable"), ratio
