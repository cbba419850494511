"""Pieces of the HTML page about a search: the answer and its reasons, the plots' boxes, the curve in numbers. Whatever comes from a record is escaped."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from storagebench.experiments.searchresult import Found
from storagebench.report import scaling
from storagebench.report import wording as w
from storagebench.report.htmlparts import safe, small_table
from storagebench.report.provenance import without_secrets
from storagebench.report.search import RULE, headline, label, point_rows, reasons

_STATES: Final = {"found": "busy", "bounded": "busy", "undecided": "unrated", "ended": "incomplete"}
_AU: Final = "A point is a run. The dashed line is the threshold; the dotted one the largest number of accelerators that are kept busy."
_BANDWIDTH: Final = "Below the knee they get what they ask for; above it they share what there is, and wait."
_COST: Final = (
    "Up to the knee more accelerators are faster at the same cost; beyond it they are no faster, and each of them costs. A point is a run, the solid line "
    "what one bandwidth for all makes of it; the dotted line is the knee, the band its interval."
)
_NO_KNEE: Final = (
    "As long as each of them gets what it asks for, more accelerators are faster at the same cost. A point is a run, the dashed line what it would be if they "
    "never waited."
)
_WORTH: Final = (
    "Accelerator time that more bandwidth of the storage would save in an epoch. Below the knee it would lie idle and be worth nothing; above it, it saves "
    "waiting, and never more than all of it."
)


def searches(found: Sequence[Found], prices: scaling.Prices = scaling.NO_PRICES) -> str:
    """A card for each: the answer, then the plots, whose boxes are `search-au-N`, `search-bandwidth-N`, `search-cost-N` where a run has an AU, and
    `search-worth-N` where the storage has a knee."""
    return "".join(_card(index, one, prices.get(one.work.accelerator)) for index, one in enumerate(found))


def _card(index: int, found: Found, price: scaling.HourPrice | None) -> str:
    state = "incomplete" if found.answer is None else _STATES[found.answer.state]
    why = "".join(f"<li>{safe(reason)}</li>" for reason in reasons(found))
    what = f"{safe(found.workload)}, loader {safe(found.loader)}, {safe(without_secrets(found.store))}"
    rows = point_rows(found)
    plots = _plot("Were they kept busy?", _AU, f"search-au-{index}") + _plot("How much did they get?", _BANDWIDTH, f"search-bandwidth-{index}")
    return (
        f'<ul class="verdicts"><li class="{state}"><span class="state">{safe(label(found))}</span><span class="name">{safe(found.name)}</span>'
        f'<div class="say">{safe(headline(found))}<ul class="why">{why}</ul><span class="soft">{what}</span></div></li></ul>'
        f'<div class="card">{plots}<h3>The same in numbers</h3>{small_table(rows, len(rows[0]) - 1)}<p class="caption">{safe(RULE.format(error=found.error))}</p>'
        f'<details><summary>Command</summary><p class="mono">{safe(without_secrets(shlex.join(found.command)))}</p></details></div>'
        f"{_costs(index, found, price)}"
    )


def _costs(index: int, found: Found, price: scaling.HourPrice | None) -> str:
    """A second card, about time and money; none where no run has an AU."""
    if not scaling.rated(found):
        return ""
    epochs = scaling.epochs_text(found)
    notes = [
        f"Cost is accelerators x time at {price}; storage's own price is not in it."
        if price is not None
        else "Cost is accelerators x time, shown against accelerators that never wait: no price of an accelerator hour was given.",
        "" if found.work.samples is None else f"An epoch is one of {found.work.samples} samples, as the workload says.",
        f"The target ({found.work.target}) took {epochs}: a point is their middle, its bar the range." if epochs else "",
        _interval_note(found),
    ]
    body = _plot("How long does it take, and what does it cost?", _NO_KNEE if found.knee is None else _COST, f"search-cost-{index}")
    body += small_table(scaling.rows(found, price)) + f'<p class="caption">{safe(" ".join(filter(None, notes)))}</p>'
    return f'<div class="card">{body}{_worth(index, found, price)}</div>'


def _interval_note(found: Found) -> str:
    interval = scaling.knee_interval(found)
    if interval is None:
        return "" if found.knee is None else "The knee has no interval, for want of two runs beyond it."
    return f"The knee's interval: {w.number(interval.low)} to {w.number(interval.high)} accelerators ({interval.coverage:.1%}, {interval.method})."


def _worth(index: int, found: Found, price: scaling.HourPrice | None) -> str:
    """The plot of it, or why there is none."""
    if scaling.worth_is_known(found):
        text = scaling.worth_sentence(found, price)
        sentence = f"<p>{safe(text[:1].upper() + text[1:])}.</p>"
        return _plot("What would more bandwidth be worth?", _WORTH, f"search-worth-{index}") + sentence
    if found.knee is None:
        return (
            "<h3>What would more bandwidth be worth?</h3><p>Nothing to these runs: what they got grew with the accelerators as far as they went.</p>"
        )
    limit = scaling.limit_beyond_knee(found)
    if limit != "storage":
        why = (
            "what is in the way beyond the knee is not known"
            if limit is None
            else f"beyond the knee it is not the storage that is in the way, but: {limit}"
        )
        return f"<h3>What would more bandwidth be worth?</h3><p>It cannot be said: {safe(why)}.</p>"
    return ""


def _plot(heading: str, caption: str, box: str) -> str:
    return f'<h3>{heading}</h3><p class="caption">{caption}</p><div class="plot" id="{box}"></div>'
