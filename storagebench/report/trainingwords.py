"""A real training in words: the cells of the table, the block of one run's page, its verdict. Pure functions on `summary.json`, as `wording`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from storagebench.report import wording as w
from storagebench.report.wording import Summary

_MOST_EPOCHS: Final = 60
Training = Mapping[str, Any]


def accuracy(value: float | None, target: float | None = None) -> str:
    """Four digits; more where rounding would carry it over its target."""
    if value is None:
        return w.UNKNOWN
    texts = [f"{value:.{digits}f}" for digits in range(4, 9)]
    return texts[0] if target is None else next((text for text in texts if (float(text) >= target) == (value >= target)), texts[-1])


def tta_cell(summary: Summary) -> str:
    """`31.2 s (7)`: time to the target and the epochs that it took; `not reached (40)`."""
    t = summary.get("training")
    if t is None or t["target"] is None:
        return w.UNKNOWN
    return f"{w.seconds(t['tta_s'])} ({t['epochs_to_target']})" if t["reached"] else f"not reached ({t['epochs_run']})"


def accuracy_cell(summary: Summary) -> str:
    t = summary.get("training")
    return w.UNKNOWN if t is None else accuracy(t["final_accuracy"], t["target"])


def stall_cell(summary: Summary) -> str:
    t = summary.get("training")
    return w.UNKNOWN if t is None else w.share(t["stall_share"])


def label(t: Training) -> str:
    """The headline of a finished training."""
    return "TRAINED" if t["target"] is None else "TARGET REACHED" if t["reached"] else "TARGET NOT REACHED"


def sentence(summary: Summary, t: Training) -> str:
    """The one thing to know about it."""
    what = f"{summary['loader']} on {summary['format']} over {summary['storage']}"
    sign = w.mark(summary)
    if t["reached"]:
        came = (
            f"{t['metric']} {accuracy(t['final_accuracy'], t['target'])} (target {t['target']:g}) in {_epochs(t['epochs_to_target'])}: "
            f"time to target {w.marked(w.seconds(t['tta_s']), sign)}"
        )
    else:
        wanted = "" if t["target"] is None else f" (target {t['target']:g})"
        came = f"{t['metric']} {w.marked(accuracy(t['best_accuracy'], t['target']), sign)} at best{wanted} in {_epochs(t['epochs_run'])}"
    waited = f"the accelerator waited for its data {w.share(t['stall_share'])} of the training time"
    clauses = [f"{what} trained {t['model']} on {t['device']} to {came}", waited, w.in_the_way(summary)]
    return "; ".join(filter(None, clauses)) + "."


def _epochs(count: int) -> str:
    return f"{count} epoch{'' if count == 1 else 's'}"


def rows(summary: Summary, t: Training) -> list[tuple[str, str]]:
    """The block of one run's page."""
    source = ", ".join(str(part) for part in (t["target_source"], t["target_date"]) if part)
    target = "none" if t["target"] is None else f"{t['metric']} {t['target']:g}" + (f" ({source})" if source else "")
    return [
        ("model", f"{t['model']}, {w.count(t['parameters'])} parameters, seed {t['seed']}"),
        ("device", w.printable(t["device"])),
        ("target", w.printable(target)),
        ("reached", _reached(t)),
        ("time to target", w.marked(w.seconds(t["tta_s"]), w.mark(summary))),
        ("opening the loader", w.seconds(t["start_s"])),
        ("training", f"{w.seconds(t['train_s'])} in {_epochs(t['epochs_run'])}"),
        ("of it waiting for data", f"{w.seconds(t['stall_s'])} ({w.share(t['stall_share'])})"),
        ("evaluation", w.seconds(t["eval_s"])),
        ("compute of a step (median)", w.seconds(t["step_compute_s"])),
        ("accuracy", f"{accuracy(t['final_accuracy'], t['target'])} at the end, {accuracy(t['best_accuracy'], t['target'])} at best"),
        ("of each epoch", _curve(t)),
    ]


def _reached(t: Training) -> str:
    if t["target"] is None:
        return "no target was given"
    return f"after {_epochs(t['epochs_to_target'])}" if t["reached"] else f"not in {_epochs(t['epochs_run'])}"


def _curve(t: Training) -> str:
    """All epochs in one line, of many the first and the last."""
    texts = [f"{point['accuracy']:.3f}" for point in t["curve"]]
    if len(texts) > _MOST_EPOCHS:
        half = _MOST_EPOCHS // 2
        texts = [*texts[:half], f"({len(texts) - 2 * half} more)", *texts[-half:]]
    return " ".join(texts) or w.UNKNOWN
