"""What a training costs: time and bytes by prices, each formula once. Prices are arguments, with their source and date in `prices`; none is built in.

Source: reference/tta-cost-kubeflow.md sections 2 and 3; DAWNBench's `cost = hours x price` is `accelerator_cost` of one machine. Amounts are in the
currency of the prices, GB are 10^9 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SECONDS_PER_HOUR: Final = 3600.0
# 365 days of 24 hours in 12 parts: 730. A price for a month of storage is taken over the hours of the training.
HOURS_PER_MONTH: Final = 365 * 24 / 12


def accelerator_cost(time_s: float, accelerators: float, price_per_hour: float) -> float:
    """`TTA in hours x n x price of an accelerator hour` (section 2). The clock is the training's: idle ones cost as much as busy ones."""
    return time_s / SECONDS_PER_HOUR * accelerators * price_per_hour


def stall_cost(share: float, train_s: float, accelerators: float, price_per_hour: float) -> float:
    """What the accelerators' waiting for data costs: `stall share x accelerator cost of the training time` (section 3), without start-up and evaluation."""
    return share * accelerator_cost(train_s, accelerators, price_per_hour)


def keeping_cost(stored_gb: float, time_s: float, price_per_gb_month: float) -> float:
    """The part of a month's price of the stored bytes that the training lasts."""
    return stored_gb * price_per_gb_month * time_s / SECONDS_PER_HOUR / HOURS_PER_MONTH


@dataclass(frozen=True)
class Cost:
    """What one training costs, part by part; a part without a price, or of an unknown amount, is None and not in the total.

    `stalls` is contained in `accelerators`, `epoch` is the mean of an epoch of the total without what start-up took.
    """

    accelerators: float
    keeping: float | None
    reading: float | None
    requests: float | None
    stalls: float | None
    epoch: float

    @property
    def total(self) -> float:
        return self.accelerators + sum(part for part in (self.keeping, self.reading, self.requests) if part is not None)


def training_cost(
    *,
    time_s: float,
    train_s: float,
    start_s: float,
    epochs: float,
    share: float | None,
    accelerators: float,
    price_per_hour: float,
    stored_gb: float | None = None,
    price_per_gb_month: float | None = None,
    read_gb: float | None = None,
    price_per_gb_read: float | None = None,
    requests: float | None = None,
    price_per_request: float | None = None,
) -> Cost:
    """All parts of a training that takes `time_s` in all, of which `train_s` are steps and `start_s` go by before the first. `share` is the stalls' of `train_s`,
    None where unknown; `read_gb` and `requests` are of the whole training."""
    whole = accelerator_cost(time_s, accelerators, price_per_hour)
    parts = {
        "keeping": None if stored_gb is None or price_per_gb_month is None else keeping_cost(stored_gb, time_s, price_per_gb_month),
        "reading": _times(read_gb, price_per_gb_read),
        "requests": _times(requests, price_per_request),
    }
    total = whole + sum(part for part in parts.values() if part is not None)
    stalls = None if share is None else stall_cost(share, train_s, accelerators, price_per_hour)
    started = accelerator_cost(start_s, accelerators, price_per_hour)
    return Cost(accelerators=whole, stalls=stalls, epoch=(total - started) / epochs, **parts)


def _times(amount: float | None, price: float | None) -> float | None:
    return None if amount is None or price is None else amount * price
