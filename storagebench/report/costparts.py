"""The stretch of the HTML page about what each run's training costs; nothing where no run has a cost. Amounts are `report --tta`'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from storagebench.report.costplot import Entry, bars, cost
from storagebench.report.htmlparts import safe
from storagebench.report.plotstyle import Figure

_CAPTION: Final = (
    "The training to the target, at the fewest epochs that it is known to take; beside the bar the total, over the range of epochs where there is one. Accelerators are "
    "paid for whether they compute or wait. A part of the storage's cost without a price, or that the run did not count, is no part of the bar."
)


def costs(entries: Sequence[Entry], names: Sequence[str]) -> tuple[str, list[tuple[str, Figure]]]:
    """(markup, figure of the box `plot-cost`) of one entry for each run; each price is named with its source and date."""
    found = bars(entries, names)
    if not found:
        return "", []
    currency = next(str(entry["currency"]) for entry in entries if entry["currency"])
    used = {
        f"{price['value']:g} {currency} for {price['of']}, per {price['per']} ({price['source']}, {price['date']})": None
        for entry in entries
        for price in entry["prices"]
    }
    body = f'<h2>What does the training cost?</h2><p class="caption">{_CAPTION}</p><div class="card"><div class="plot" id="plot-cost"></div>'
    return f'{body}<p class="caption">Prices: {safe("; ".join(used))}.</p></div>', [("plot-cost", cost(found, currency))]
