"""Time and cost of a search's runs against the number of accelerators, as rows and sentences that text and HTML share. The formulas are `model.scaling`'s.

Cost is accelerator time: what storage itself costs is not in it. With a price of an accelerator hour it is money, else accelerator hours, and relative to
accelerators that never wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from storagebench.checks.statistics import Interval, median_interval
from storagebench.experiments.searching import plural
from storagebench.experiments.searchresult import Found, Point
from storagebench.model import scaling as model
from storagebench.model.costs import accelerator_cost
from storagebench.model.prices import Prices as PriceFile
from storagebench.report import wording as w
from storagebench.report.spans import unit_for


class HourPrice(NamedTuple):
    """Of an accelerator hour, as the user's price table has it. By the name of the accelerator: `Prices`."""

    value: float
    currency: str
    source: str
    date: str

    def __str__(self) -> str:
        return f"{amount(self.value)} {self.currency} an accelerator hour ({self.source}, {self.date})"


Prices = Mapping[str, HourPrice]
NO_PRICES: Final[Prices] = MappingProxyType({})


def hour_prices(searches: Sequence[Found], prices: PriceFile | None, name: str = "") -> Prices:
    """What the page and the text of these searches want: by each one's accelerator (of `cuda:0`: that of `cuda`) its price, or that of `name` where one is given.
    Raises UsageError that says what to add for an accelerator without one; empty without a table."""
    if prices is None:
        return NO_PRICES
    found = {one.work.accelerator: prices.accelerator(name or one.work.accelerator.partition(":")[0]) for one in searches}
    return {accelerator: HourPrice(price.value, prices.currency, price.source, str(price.date)) for accelerator, price in found.items()}


class CostUnit(NamedTuple):
    """What a cost is told in: `factor` takes accelerator seconds to it."""

    name: str
    factor: float

    def text(self, cost_s: float) -> str:
        return f"{amount(cost_s * self.factor)} {self.name}"


def amount(value: float) -> str:
    """Of money or accelerator time: two digits after the point, none of a large one, more of a small one.

    >>> amount(0.000423), amount(0.00104), amount(0.1), amount(2.5), amount(12345.6), amount(0)
    ('0.000423', '0.00104', '0.100', '2.50', '12346', '0')
    """
    if not value or abs(value) < 0.1:
        return f"{value:.3g}"
    return f"{value:.{0 if abs(value) >= 1000 else 2 if abs(value) >= 1 else 3}f}"


def cost_unit(costs_s: Sequence[float], price: HourPrice | None) -> CostUnit:
    """Money where there is a price, else the unit of time in which the largest of these reads best."""
    if price is not None:
        return CostUnit(price.currency, accelerator_cost(1.0, 1.0, price.value))
    unit = unit_for(max(costs_s, default=0.0))
    return CostUnit(f"accelerator {unit.name}", 1 / unit.seconds)


def rated(found: Found) -> list[Point]:
    """The numbers with an AU; without one there is neither time nor cost."""
    return [point for point in found.points if point.au and min(point.au) > 0]


def epochs_text(found: Found) -> str:
    """`37 to 41 epochs`, or nothing where they are not known."""
    if found.work.epochs is None:
        return ""
    fewest, most = found.work.epochs
    return f"{fewest} epochs" if fewest == most else f"{fewest} to {most} epochs"


def knee_interval(found: Found) -> Interval | None:
    """Of n*: that of the median rate of the runs beyond the knee, over the demand of one accelerator; None for a single such run."""
    knee, demand = found.knee, found.demand_bytes_per_s
    if knee is None or not demand:
        return None
    rates = [rate for point in found.points if point.accelerators > knee.accelerators for rate in point.bytes_per_s]
    interval = median_interval(rates)
    return None if interval is None else interval._replace(low=model.knee(interval.low, demand), high=model.knee(interval.high, demand))


def limit_beyond_knee(found: Found) -> str | None:
    """What most of the runs beyond the knee say is in the way; None without a knee, or where they do not know."""
    if found.knee is None:
        return None
    votes: Counter[str] = Counter()
    for point in found.points:
        if point.accelerators > found.knee.accelerators:
            votes.update(point.bottlenecks)
    first = votes.most_common(1)
    return first[0][0] if first and first[0][0] != "unknown" else None


def worth_is_known(found: Found) -> bool:
    """Whether more bandwidth of the storage would help: there is a knee, and it is the storage's."""
    return limit_beyond_knee(found) == "storage" and found.work.epoch_s is not None


def rows(found: Found, price: HourPrice | None = None) -> list[tuple[str, ...]]:
    """A head, then a row a number of accelerators with the median AU of its runs; only a head where no run has an AU. A column has one unit."""
    work, points = found.work, rated(found)
    aus = [median(point.au) for point in points]
    head = ["accelerators", "AU"]
    columns = [[str(point.accelerators) for point in points], [w.utilisation(au, found.rules.threshold) for au in aus]]
    times_s = [model.time_s(work.epoch_s or 1.0, point.accelerators, au) for point, au in zip(points, aus, strict=True)]
    if work.epoch_s is None:
        head += ["time, relative"]
        columns += [[w.share(time_s) for time_s in times_s]]
    else:
        unit = unit_for(max(times_s, default=0.0))
        head += [f"{unit.name} an epoch"]
        columns += [[w.number(time_s / unit.seconds) for time_s in times_s]]
        if work.epochs is not None:
            unit = unit_for(work.epochs[1] * max(times_s, default=0.0))
            head += [f"{unit.name} to the target"]
            columns += [[_range([w.number(epochs * time_s / unit.seconds) for epochs in work.epochs]) for time_s in times_s]]
        costs_s = [model.accelerator_s(work.epoch_s, au) for au in aus]
        cost = cost_unit(costs_s, price)
        head += [f"{cost.name} an epoch", "of it waiting"]
        columns += [[amount(cost.factor * cost_s) for cost_s in costs_s], [amount(cost.factor * model.stalled_s(work.epoch_s, au)) for au in aus]]
        if work.epochs is not None:
            cost = cost_unit([work.epochs[1] * cost_s for cost_s in costs_s], price)
            head += [f"{cost.name} to the target"]
            columns += [[_range([amount(cost.factor * epochs * cost_s) for epochs in work.epochs]) for cost_s in costs_s]]
    return [(*head, "cost, relative"), *zip(*columns, [_times(au) for au in aus], strict=True)]


def as_dict(found: Found, price: HourPrice | None = None) -> dict[str, Any]:
    """The same as plain data for JSON: seconds and accelerator seconds, and money where there is a price; what is not known is None. Of the training to the target
    (at the fewest and at the most of its epochs) as of an epoch."""
    work = found.work

    def piece(work_s: float | None, accelerators: int, au: float) -> dict[str, float | None]:
        if work_s is None:
            return dict.fromkeys(("time_s", "accelerator_s", "stalled_s", "cost", "cost_of_stalls"))
        paid_s, lost_s = model.accelerator_s(work_s, au), model.stalled_s(work_s, au)
        money = [None if price is None else accelerator_cost(seconds, 1.0, price.value) for seconds in (paid_s, lost_s)]
        return {
            "time_s": model.time_s(work_s, accelerators, au),
            "accelerator_s": paid_s,
            "stalled_s": lost_s,
            "cost": money[0],
            "cost_of_stalls": money[1],
        }

    trainings = [] if work.epochs is None or work.epoch_s is None else [(epochs, epochs * work.epoch_s) for epochs in dict.fromkeys(work.epochs)]
    shown = [(point.accelerators, median(point.au)) for point in rated(found)]
    return {
        "price": None if price is None else price._asdict(),
        "points": [
            {
                "accelerators": accelerators,
                "au": au,
                "epoch": piece(work.epoch_s, accelerators, au),
                "to_target": [{"epochs": epochs, **piece(work_s, accelerators, au)} for epochs, work_s in trainings],
            }
            for accelerators, au in shown
        ],
    }


def _range(texts: Sequence[str]) -> str:
    return " to ".join(dict.fromkeys(texts))


def _times(au: float) -> str:
    return f"{model.relative_cost(au):.2f} x"


def sentences(found: Found, price: HourPrice | None = None) -> list[str]:
    """What the curve says of cost: at the answer and at the most that were tried, and what more bandwidth would be worth there."""
    points = rated(found)
    if not points:
        return []
    lines = [_cost_sentence(found, points, price)]
    if worth_is_known(found):
        lines.append(worth_sentence(found, price))
    return lines if price is None else [*lines, f"price: {price}"]


def _cost_sentence(found: Found, points: Sequence[Point], price: HourPrice | None) -> str:
    last = points[-1]
    best = found.answer.best if found.answer is not None else 0
    shown = [point for point in points if point.accelerators == best and point is not last]
    text = "; ".join(f"{_at(found, point, price)} with {point.accelerators}, the most kept busy" for point in shown)
    rest = f"{_at(found, last, price)} with {last.accelerators}, the most tried"
    if shown:
        ratio = model.time_s(1.0, last.accelerators, median(last.au)) / model.time_s(1.0, best, median(shown[0].au))
        rest += f", which take {w.share(ratio)} of the time"
    return f"cost of an epoch, against accelerators that never wait: {'; '.join(filter(None, (text, rest)))}"


def _at(found: Found, point: Point, price: HourPrice | None) -> str:
    au, work = median(point.au), found.work
    if work.epoch_s is None:
        return _times(au)
    cost_s = model.accelerator_s(work.epoch_s, au)
    return f"{_times(au)} ({cost_unit([cost_s], price).text(cost_s)})"


def worth_sentence(found: Found, price: HourPrice | None = None) -> str:
    """What the next piece of bandwidth would save with the most accelerators that were tried; a knee and an epoch have to be known."""
    knee, work, last = found.knee, found.work, rated(found)[-1]
    assert knee is not None and work.epoch_s is not None
    more = model.step_of(knee.plateau)
    saved_s = model.worth_of_more(work.epoch_s, last.accelerators, knee.accelerators, knee.plateau, more)
    share = saved_s / model.accelerator_s(work.epoch_s, model.busy_share(last.accelerators, knee.accelerators))
    training = ""
    if work.epochs is not None:
        unit = cost_unit([epochs * saved_s for epochs in work.epochs], price)
        training = f", {_range([amount(epochs * saved_s * unit.factor) for epochs in work.epochs])} {unit.name} to the target ({epochs_text(found)})"
    return (
        f"the next {step_text(more)} of the storage would save {cost_unit([saved_s], price).text(saved_s)} an epoch with {plural(last.accelerators)} "
        f"({w.share(share)} of the cost){training}; up to the knee it would save nothing"
    )


def step_text(bytes_per_s: float) -> str:
    """`1 GB/s`, `100 MB/s`: a power of ten."""
    return f"{w.size(bytes_per_s)}/s"
