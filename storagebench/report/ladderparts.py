"""Pieces of the HTML page about a diagnosis: verdict, reasons, knob, numbers, predictions. Whatever comes from a record is escaped, in `safe`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from statistics import median
from typing import Final

from storagebench.diagnosis.ladder import Diagnosis, Trial
from storagebench.report.diagnosis import headline, knob_setting, ladder_rows, prediction_rows, split_rows
from storagebench.report.htmlparts import safe
from storagebench.report.load import LoadedDiagnosis
from storagebench.report.provenance import without_secrets

_LADDER: Final = (
    "The same job with one thing changed a rung. The gap between a bar and the dashed line is the accelerators' time that is lost at this rung; the "
    "thin line on a bar is the range over the repeats. Bars with two strokes go on beyond the plot."
)
_SPLIT: Final = (
    "How the lost time divides by the differences between the rungs, with the 95 % interval. The parts add up in each repeat; medians need not."
)

_STATES: Final = {"accelerator": "busy", None: "unrated"}


def diagnoses(found: Sequence[LoadedDiagnosis]) -> str:
    """A card for each: what stands in the way and what to do, then the plots, whose boxes are `ladder-N`, `split-N` and `trial-N`."""
    return "".join(_card(index, one, len(found) == 1) for index, one in enumerate(found))


def _card(index: int, one: LoadedDiagnosis, is_open: bool) -> str:
    found = one.found
    plots = _plot("The ladder", _LADDER, f"ladder-{index}") + _plot("What takes the accelerators' time?", _SPLIT, f"split-{index}")
    summary = "The ladder, and what the differences between its rungs say"
    return (
        f'<ul class="verdicts">{_verdict(one)}</ul><div class="card">'
        f"<details{' open' if is_open else ''}><summary>{summary}</summary>{plots}{_turned(index, found)}</details>{_predictions(found)}"
        f"<details><summary>The same in numbers, and the command</summary>{_numbers(found)}"
        f'<h3>Command</h3><p class="mono">{safe(without_secrets(shlex.join(one.command)))}</p></details></div>'
    )


def _verdict(one: LoadedDiagnosis) -> str:
    """What is in the way, why, and what to do next."""
    found = one.found
    label, state = (found.verdict.bottleneck or "undecided").upper(), _STATES.get(found.verdict.bottleneck, "starved")
    said = safe(headline(found))
    if found.invalid:
        label, state, said = "INVALID", "invalid", f"Do not use this: {safe(found.invalid)}. It says: {said}"
    tried = "" if found.trial is None else f" <b>Tried:</b> {_change(found.trial)}"
    because = "".join(f"<li>{safe(reason)}</li>" for reason in found.verdict.why)
    return (
        f'<li class="{state}"><span class="state">{safe(label)}</span><span class="name">{safe(one.name)}</span>'
        f'<div class="say">{said}<ul class="why">{because}</ul><b>Next:</b> {safe(found.verdict.knob)}{tried}</div></li>'
    )


def _plot(heading: str, caption: str, box: str) -> str:
    return f'<h3>{heading}</h3><p class="caption">{caption}</p><div class="plot" id="{box}"></div>'


def _change(turned: Trial) -> str:
    return f"AU {median(turned.before):.3f} &rarr; {median(turned.after):.3f}"


def _turned(index: int, found: Diagnosis) -> str:
    """What turning the knob did."""
    if found.trial is None:
        settings = knob_setting(found.verdict.settings)
        return f'<p class="soft">Not tried: <span class="mono">{safe(settings)}</span>.</p>' if settings else ""
    return (
        f'<h3>What did turning the knob do? {_change(found.trial)}</h3><p class="caption">Measured with '
        f'<span class="mono">{safe(knob_setting(found.trial.settings))}</span>: medians of {len(found.trial.after)} runs each, taken in turns.</p>'
        f'<div class="plot" id="trial-{index}"></div>'
    )


def _predictions(found: Diagnosis) -> str:
    if not found.predictions:
        return ""
    return f'<h3>What if? &nbsp;<span class="chip warning">predicted, not measured</span></h3>{_table(prediction_rows(found))}'


def _numbers(found: Diagnosis) -> str:
    stall = "The stall (share of the accelerators' time, with its 95 % interval)"
    return f"<h3>The ladder</h3>{_table(ladder_rows(found))}<h3>{stall}</h3>{_table(split_rows(found))}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the head. Figures are flush right: all columns but the first, the last, and what limits a prediction."""
    head, *body = rows
    kinds = ["" if index in (0, len(head) - 1) or name == "limited by" else " class=right" for index, name in enumerate(head)]
    top = "".join(f"<th{kind}>{name}</th>" for kind, name in zip(kinds, head, strict=True))
    lines = "".join(
        "<tr>" + "".join(f"<td{kind}>{safe(cell) if cell else ''}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>" for row in body
    )
    return f'<div class="scroll"><table class=small><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'
