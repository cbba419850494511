"""The stretch of the HTML page about real training runs: for each task the plot of accuracy against time, and beside it the same in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

from storagebench.report import wording as w
from storagebench.report.htmlparts import safe, small_table
from storagebench.report.load import LoadedRun
from storagebench.report.plotstyle import Figure
from storagebench.report.spans import long_time
from storagebench.report.trainingplot import accuracy_over_time, target_text
from storagebench.report.trainingseries import Group, Task, tasks

_HEADING: Final = "How long did it take to the target?"
_CAPTION: Final = (
    "A line is a real training, a point an evaluation on the held-out split. Time counts from opening the loader, with evaluations, and without what this "
    "harness does between epochs."
)
_SEEDS: Final = (
    "Of several seeds thin lines are the runs and the thick one is their median: of an even number the lower of the middle two, a run that ended at the target "
    "counting as above all others."
)
HEADINGS: Final = ("architecture", "store", "reached", "TTA", "range", "epochs", "stall share", "final accuracy")


class Part(NamedTuple):
    """Markup, and the figures of its boxes: (id of the box, figure)."""

    body: str
    figures: list[tuple[str, Figure]]


def training(loaded: Sequence[LoadedRun], names: Sequence[str]) -> Part:
    """A card for each task, with the box `accuracy-N`; nothing at all where no run trained a real model."""
    found = tasks(loaded, names)
    if not found:
        return Part("", [])
    figures = [(f"accuracy-{index}", accuracy_over_time(task)) for index, task in enumerate(found) if _is_drawn(task)]
    cards = "".join(_card(index, task, len(found) > 1) for index, task in enumerate(found))
    seeds = f" {_SEEDS}" if any(len(group.curves) > 1 for task in found for group in task.groups) else ""
    return Part(f'<h2>{_HEADING}</h2><p class="caption">{_CAPTION}{seeds}</p>{cards}', figures)


def _is_drawn(task: Task) -> bool:
    return any(curve.points for curve in task.curves)


def _card(index: int, task: Task, is_named: bool) -> str:
    heading = f'<h3 class="first">{safe(task.workload)}</h3>' if is_named else ""
    plot = f'<div class="plot" id="accuracy-{index}"></div>' if _is_drawn(task) else '<p class="soft">No epoch came to its evaluation.</p>'
    return f'<div class="card">{heading}{plot}{small_table(rows(task), 0, 1)}{_target_notes(task)}</div>'


def _target_notes(task: Task) -> str:
    """Each target with its source and date."""
    said = {
        f"{task.metric} {target_text(float(known['target']))} ({known['target_source'] or 'no source given'}, {known['target_date'] or 'no date'})": None
        for known in (curve.training for curve in task.curves)
        if known["target"] is not None
    }
    text = f"Target: {'; '.join(said)}." if said else "No target was set, so that there is no time to it."
    return f'<p class="caption">{safe(text)}</p>'


def rows(task: Task) -> list[tuple[str, ...]]:
    """A head, then a row a group: medians over its runs. The range is left out where no group has several runs."""
    several = any(len(group.curves) > 1 for group in task.groups)
    kept = [index for index, heading in enumerate(HEADINGS) if several or heading != "range"]
    return [tuple(cells[index] for index in kept) for cells in (HEADINGS, *map(_row, task.groups))]


def _row(group: Group) -> tuple[str, ...]:
    found = [curve.training for curve in group.curves]
    sign = next((curve.sign for curve in group.curves if curve.sign), "")
    times = [known["tta_s"] for known in found if known["reached"] and known["tta_s"] is not None]
    reached, tta, reach = f"{len(times)} of {len(found)}", w.UNKNOWN, w.UNKNOWN
    if all(known["target"] is None for known in found):
        reached = "no target"
    elif 2 * len(times) > len(found):
        # Runs that never reached it count as longer than all others.
        everything = sorted(times) + [float("inf")] * (len(found) - len(times))
        middle = median(everything)
        tta = w.marked(long_time(middle), sign) if middle < float("inf") else "not reached"
        reach = _range([long_time(min(times)), long_time(max(times))]) if len(found) > 1 else w.UNKNOWN
    else:
        tta = "not reached"
    epochs = [known["epochs_to_target"] or known["epochs_run"] for known in found]
    stalls = [known["stall_share"] for known in found if known["stall_share"] is not None]
    finals = [known["final_accuracy"] for known in found if known["final_accuracy"] is not None]
    return (
        group.model,
        ", ".join(filter(None, (group.store, group.alone))),
        reached,
        tta,
        reach,
        _range([str(min(epochs)), str(max(epochs))]),
        w.marked(w.share(median(stalls) if stalls else None), sign),
        w.marked(f"{median(finals):.2%}" if finals else w.UNKNOWN, sign),
    )


def _range(texts: Sequence[str]) -> str:
    return " to ".join(dict.fromkeys(texts))
