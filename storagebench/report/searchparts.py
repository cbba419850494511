"""Pieces of the HTML page about a search: the answer and its reasons, the plots' boxes, the curve in numbers. Whatever comes from a record is escaped."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from storagebench.experiments.searchresult import Found
from storagebench.report.htmlparts import safe
from storagebench.report.provenance import without_secrets
from storagebench.report.search import RULE, headline, label, point_rows, reasons

_STATES: Final = {"found": "busy", "bounded": "busy", "undecided": "unrated", "ended": "incomplete"}
_AU: Final = "A point is a run. The dashed line is the threshold; the dotted one the largest number of accelerators that are kept busy."
_BANDWIDTH: Final = "Below the knee they get what they ask for; above it they share what there is, and wait."


def searches(found: Sequence[Found]) -> str:
    """A card for each: the answer, then the plots, whose boxes are `search-au-N` and `search-bandwidth-N`."""
    return "".join(_card(index, one) for index, one in enumerate(found))


def _card(index: int, found: Found) -> str:
    state = "incomplete" if found.answer is None else _STATES[found.answer.state]
    why = "".join(f"<li>{safe(reason)}</li>" for reason in reasons(found))
    what = f"{safe(found.workload)}, loader {safe(found.loader)}, {safe(without_secrets(found.store))}"
    plots = _plot("Were they kept busy?", _AU, f"search-au-{index}") + _plot("How much did they get?", _BANDWIDTH, f"search-bandwidth-{index}")
    return (
        f'<ul class="verdicts"><li class="{state}"><span class="state">{safe(label(found))}</span><span class="name">{safe(found.name)}</span>'
        f'<div class="say">{safe(headline(found))}<ul class="why">{why}</ul><span class="soft">{what}</span></div></li></ul>'
        f'<div class="card">{plots}<h3>The same in numbers</h3>{_table(point_rows(found))}<p class="caption">{safe(RULE.format(error=found.error))}</p>'
        f'<details><summary>Command</summary><p class="mono">{safe(without_secrets(shlex.join(found.command)))}</p></details></div>'
    )


def _plot(heading: str, caption: str, box: str) -> str:
    return f'<h3>{heading}</h3><p class="caption">{caption}</p><div class="plot" id="{box}"></div>'


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    kinds = ["" if index == len(head) - 1 else " class=right" for index in range(len(head))]
    top = "".join(f"<th{kind}>{safe(name)}</th>" for kind, name in zip(kinds, head, strict=True))
    lines = "".join(
        "<tr>" + "".join(f"<td{kind}>{safe(cell) if cell else ''}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>" for row in body
    )
    return f'<div class="scroll"><table class=small><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'
