"""Repeats as text: the table of runs, then median, range, spread and interval of each figure, and what stands behind the interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from storagebench.checks.statistics import Interval, Spread
from storagebench.experiments.repeat import UNSTABLE_SPREAD, UNSTABLE_VARIATION, Repeats
from storagebench.report import wording as w
from storagebench.report.text import run_table

HEADINGS: Final = ("runs", "median", "min", "max", "spread")
_NAMES: Final = {"au_nominal": "AU", "samples_per_s": "samples/s", "delivered_bytes_per_s": "MB/s"}


def figure(metric: str, value: float) -> str:
    """A metric's value as tables show it: rates of bytes in MB/s, ratios with three digits, seconds with their unit."""
    if metric == "delivered_bytes_per_s":
        return w.megabytes_per_s(value)
    if metric == "au_nominal":
        return w.utilisation(value)
    return w.seconds(value) if metric == "time_to_first_batch_s" else w.number(value)


def spread_cells(metric: str, spread: Spread) -> list[str]:
    """The cells under HEADINGS."""
    return [str(spread.num_runs), *(figure(metric, value) for value in (spread.median, spread.minimum, spread.maximum)), w.share(spread.spread)]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equally many cells as lines, the first column flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def repeats_text(repeats: Repeats) -> str:
    """The page of several runs of one request."""
    lines = [run_table(repeats.summaries), aligned([["", *HEADINGS, "interval"], *_rows(repeats)]), *_methods(repeats)]
    lines += _trainings(repeats)
    if repeats.left_out:
        names = ", ".join(f"{w.printable(run_id)} ({why})" for run_id, why in repeats.left_out.items())
        lines.append(f"{len(repeats.left_out)} of {len(repeats.summaries)} runs are not in these figures: {names}")
    if repeats.unstable:
        names = ", ".join(_NAMES[name] for name in repeats.unstable)
        bounds = f"a spread of {UNSTABLE_SPREAD:.0%} or a standard deviation of {UNSTABLE_VARIATION:.0%}"
        lines.append(f"unstable: {names} of the runs lie further apart than {bounds}; find out what else ran, and repeat")
    return "\n".join(lines) + "\n"


def _rows(repeats: Repeats) -> list[list[str]]:
    rows = []
    for metric, spread in repeats.spreads.items():
        cells = [w.UNKNOWN] * (len(HEADINGS) + 1) if spread is None else [*spread_cells(metric, spread), _interval(metric, spread.interval)]
        rows.append([_NAMES[metric], *cells])
    return rows


def _interval(metric: str, interval: Interval | None) -> str:
    return w.UNKNOWN if interval is None else f"{figure(metric, interval.low)} to {figure(metric, interval.high)}"


def _methods(repeats: Repeats) -> list[str]:
    intervals = [spread.interval for spread in repeats.spreads.values() if spread is not None and spread.interval is not None]
    if not intervals:
        return ["interval: none, for want of two runs"]
    return list(dict.fromkeys(f"interval: {interval.coverage:.1%}, {interval.method}" for interval in intervals))


_TRAINED: Final = {"tta_s": "time to target", "epochs_to_target": "epochs to target"}


def _trainings(repeats: Repeats) -> list[str]:
    """Of trainings: time and epochs to the target over the seeds, with the mean as MLPerf Training takes it."""
    spreads = repeats.trainings
    if not spreads:
        return []
    rows = [["", "reached", "median", "min", "max", "olympic mean"]]
    for name, spread in spreads.items():
        show = w.seconds if name == "tta_s" else w.number
        reached = sum(value is not None for value in spread.values)
        figures = (spread.median, spread.minimum, spread.maximum, spread.olympic.value)
        rows.append([_TRAINED[name], f"{reached} of {len(spread.values)}", *(show(value) for value in figures)])
    why = next(iter(spreads.values())).olympic.why
    seeds = ", ".join(str(summary["training"]["seed"]) for summary in repeats.summaries if summary.get("training") is not None)
    return ["", aligned(rows), f"seeds {seeds}" + (f"; olympic mean: {why}" if why else "; olympic mean: without the fastest and the slowest")]
