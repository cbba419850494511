"""The page of a sweep as text: a ranking for each set of cells that may be compared, or the jobs beside their neighbours; then what was not run, and why.

The rows and sentences are those of the HTML page (`report.sweephtml`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from storagebench.checks.neighbours import LEAST_OVERLAP, Neighbours
from storagebench.checks.statistics import LEVEL, Ratio
from storagebench.checks.sweeps import Cell, Quartiles, Ranking
from storagebench.report import wording as w
from storagebench.report.sweepload import Sweep

NAMES: Final = {"au_nominal": "AU", "samples_per_s": "samples/s", "delivered_bytes_per_s": "MB/s", "cpu_s_per_gb": "CPU s/GB"}
CELL_HEADINGS: Final = ("cell", "rank", "against the best", "runs", *NAMES.values(), "reads in flight", "in the way", "validity")
# Set flush left, as texts are; the others are figures.
LEFT: Final = frozenset({"cell", "against the best", "in the way", "validity", "job", "figure", "together / alone"})
JOB_HEADINGS: Final = ("job", "figure", "alone", "together", "together / alone", "overlap")
_NOTE: Final = "Figures are medians of the true runs, with their quartiles in brackets."


def sweep_text(sweep: Sweep) -> str:
    """The page."""
    blocks = [headline(sweep)]
    cells = {cell.name: cell for cell in sweep.cells}
    for ranking in sweep.rankings:
        blocks.append("\n".join([*facts_lines(ranking), "", _table(CELL_HEADINGS, cell_rows(ranking, cells)), "", conclusion(ranking)]))
    if sweep.jobs:
        blocks.append("\n".join([_table(JOB_HEADINGS, job_rows(sweep.jobs)), "", *job_sentences(sweep)]))
    if sweep.rankings or sweep.jobs:
        blocks.append(_NOTE)
    blocks += ["\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in leftovers(sweep)]
    return "\n\n".join(blocks) + "\n"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    columns = []
    for heading, *cells in zip(headings, *rows, strict=True):
        width = max(map(len, (heading, *cells)))
        columns.append([text.ljust(width) if heading in LEFT else text.rjust(width) for text in (heading, *cells)])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def headline(sweep: Sweep) -> str:
    what = f"{len(sweep.cells)} cells" if sweep.suite.axes is not None else f"{len(sweep.suite.jobs)} jobs"
    missing = f", {sweep.missing} still to be made (the same command goes on)" if sweep.missing else ""
    return f"sweep {w.printable(sweep.name)}: {what}, {sweep.num_runs} runs in {sweep.suite.repeats} rounds{missing}"


def facts_lines(ranking: Ranking) -> list[str]:
    """What is the same for all cells of a ranking."""
    facts = {name: value for name, value in ranking.facts.items() if not (name in ("writers", "write rate") and value == "0")}
    half = -(-len(facts) // 2)
    items = [f"{name} {w.printable(value)}" for name, value in facts.items()]
    return [f"the same for all: {', '.join(items[:half])},", f"  {', '.join(items[half:])}"]


def cell_rows(ranking: Ranking, cells: Mapping[str, Cell]) -> list[list[str]]:
    """The cells under CELL_HEADINGS, the best first."""
    rows = []
    for place in ranking.ranked:
        cell = cells[place.cell]
        ways = ", ".join(f"{name} {count}" if len(cell.bottlenecks) > 1 else name for name, count in cell.bottlenecks.items())
        against = "best" if place.ratio is None else f"{place.verdict} {ratio_text(place.ratio)}"
        figures = [figure(name, cell.figures[name], cell.au_threshold) for name in NAMES]
        rows.append([cell.name, str(place.rank), against, str(len(cell.run_ids)), *figures, cell.in_flight, ways or w.UNKNOWN, validity(cell)])
    return rows


def figure(metric: str, found: Quartiles | None, threshold: float | None = None) -> str:
    """`0.912 (0.905 to 0.915)`."""
    if found is None:
        return w.UNKNOWN
    if metric == "au_nominal":
        middle, low, high = w.utilisation(found.median, threshold), w.utilisation(found.low), w.utilisation(found.high)
    else:
        write = w.megabytes_per_s if metric == "delivered_bytes_per_s" else w.number
        middle, low, high = write(found.median), write(found.low), write(found.high)
    return middle if found.num_runs == 1 else f"{middle} ({low} to {high})"


def ratio_text(ratio: Ratio) -> str:
    return f"x {ratio.value:.3f}" + ("" if ratio.low is None or ratio.high is None else f" ({ratio.low:.3f} to {ratio.high:.3f})")


def validity(cell: Cell) -> str:
    """`ok`, `warning`, or `1 of 3 left out`. Which they are stands below the tables."""
    if cell.left_out:
        return f"{len(cell.left_out)} of {len(cell.run_ids)} left out"
    return "warning" if cell.warnings else "ok"


def conclusion(ranking: Ranking) -> str:
    """What one may say of a ranking."""
    if len(ranking.ranked) < 2:
        return f"{ranking.ranked[0].cell} stands alone: nothing may be compared with it." if ranking.ranked else "No cell has a figure above 0."
    name, ties = NAMES[ranking.metric], ranking.ties
    level = f"{LEVEL:.0%} for all pairs together"
    if len(ties) == 1:
        return f"{ties[0]} is the best by {name} ({level})."
    others = ", ".join(ties[1:])
    end = "" if len(ties) < len(ranking.ranked) else ": no cell is shown to be better than another; repeat more often"
    return f"{ties[0]} has the highest median by {name}, and is not distinguishable from {others} ({level}){end}."


def job_rows(jobs: Sequence[Neighbours]) -> list[list[str]]:
    """The jobs under JOB_HEADINGS."""
    rows = []
    for job in jobs:
        change = w.UNKNOWN if job.slowdown is None else f"{ratio_text(job.slowdown)} {job.verdict}"
        rows.append([job.job, NAMES[job.metric], figure(job.metric, job.alone), figure(job.metric, job.together), change, w.share(job.overlap)])
    return rows


def job_sentences(sweep: Sweep) -> list[str]:
    """What the neighbours took, how much the writers wrote meanwhile, and what is weak about it."""
    lines = []
    for job in sweep.jobs:
        if job.slowdown is not None:
            lines.append(f"{job.job}: {_change(job)}")
        if job.together is None and not job.left_out:
            lines.append(f"{job.job}: no step was measured beside the others; give it a longer run.duration_s")
    for one in sweep.written:
        said = f"; it failed: {w.printable(one.error)}" if one.error else ""
        lines.append(f"{one.writer} wrote {figure('delivered_bytes_per_s', one.bytes_per_s)} MB/s while all jobs were measured{said}")
    for job in sweep.weak_overlaps:
        lines.append(
            f"weak: all jobs were measured at the same time in only {w.share(job.overlap)} of the window of {job.job} (at least {LEAST_OVERLAP:.0%} are "
            "wanted): give the jobs the same run.duration_s, and long epochs (what lies between them is not measured)"
        )
    return lines


def _change(job: Neighbours) -> str:
    ratio = job.slowdown
    assert ratio is not None
    name = NAMES[job.metric]
    if job.verdict == "not distinguishable":
        return f"beside the others its {name} is not distinguishable from that alone"
    return f"beside the others its {name} is {abs(1 - ratio.value):.1%} {'lower' if ratio.value < 1 else 'higher'} than alone"


def leftovers(sweep: Sweep) -> Iterator[tuple[str, list[str]]]:
    """(title, lines) of what is in no figure: what does not fit, what was refused, what failed or is false, what is no repeat."""
    if sweep.unfit:
        yield "Not run, since it does not fit:", [f"{name}: {w.printable(reason)}" for name, reason in sweep.unfit.items()]
    if sweep.refused:
        yield (
            "Refused before anything was measured:",
            [f"{name}: {w.printable(one.message)} (next: {w.printable(one.hint)})" for name, one in sweep.refused.items()],
        )
    if sweep.left_out:
        yield "Runs that are in no figure:", [f"{run_id}: {w.printable(why)}" for run_id, why in sweep.left_out.items()]
    weak: dict[str, list[str]] = {}
    for cell in sweep.cells:
        for code in cell.warnings:
            weak.setdefault(code, []).append(cell.name)
    if weak:
        yield (
            "Weak, by the runs' own warnings:",
            [f"{code}: {'all cells' if len(names) == len(sweep.cells) > 1 else ', '.join(names)}" for code, names in weak.items()],
        )
    mixed = [f"{cell.name}: {w.printable(cell.mixed)}" for cell in sweep.cells if cell.mixed]
    if mixed:
        yield "Cells that stand in no ranking, since their runs are no repeats of one request:", mixed
    unranked = [
        cell.name for cell in sweep.cells if not cell.mixed and not any(cell.name == row.cell for one in sweep.rankings for row in one.ranked)
    ]
    if unranked:
        yield "Cells without a figure:", unranked
