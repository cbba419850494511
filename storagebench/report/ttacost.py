"""A training's amounts against a table of prices: which of them the run knows, which of them have a price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storagebench.model.costs import training_cost
from storagebench.model.prices import Price, Prices

_GB = 1e9
_UNITS = {"per_gb_month": "GB and month kept", "per_gb_read": "GB read", "per_request": "request"}


@dataclass(frozen=True)
class Amounts:
    """Of a whole training: GB (10^9 bytes) kept, GB read from the store and requests to it; None where the run does not know."""

    stored_gb: float | None
    read_gb: float | None
    requests: float | None

    @staticmethod
    def of(summary: Mapping[str, Any], kept_samples: float, read_samples: float, left_out: list[str]) -> Amounts:
        """Out of what the run needed for a sample. `kept_samples`: of the dataset; `read_samples`: over all epochs. Notes go to `left_out`."""
        samples = summary["samples"]
        if not samples:
            return Amounts(None, None, None)
        read = summary["storage_bytes"]
        if read is None and summary["delivered_bytes"]:
            left_out.append("storage bytes: the run does not know what its store returned, so the records' own bytes count as read")
        per_sample = (summary["delivered_bytes"] if read is None else read) / samples
        requests = None if summary["requests"] is None else summary["requests"] / samples * read_samples
        return Amounts(summary["delivered_bytes"] / samples * kept_samples / _GB, per_sample * read_samples / _GB, requests)


def priced(
    prices: Prices | None,
    name: str,
    accelerators: int,
    point: Mapping[str, Any],
    start_s: float,
    share: float | None,
    amounts: Amounts,
    left_out: list[str],
) -> dict[str, Any] | None:
    """The cost of a training that takes what `point` says; None without prices. What has no price or no amount is None, and named in `left_out`.

    Raises UsageError where the table has no price of that accelerator.
    """
    if prices is None:
        return None
    storage = prices.storage
    cost = training_cost(
        time_s=point["tta_s"],
        train_s=point["train_s"],
        start_s=start_s,
        epochs=point["epochs"],
        share=share,
        accelerators=accelerators,
        price_per_hour=prices.accelerator(name).value,
        stored_gb=amounts.stored_gb,
        price_per_gb_month=_value(storage.per_gb_month),
        read_gb=amounts.read_gb,
        price_per_gb_read=_value(storage.per_gb_read),
        requests=amounts.requests,
        price_per_request=_value(storage.per_request),
    )
    for part, key in (("keeping", "per_gb_month"), ("reading", "per_gb_read"), ("requests", "per_request")):
        if getattr(cost, part) is None:
            no_price = getattr(storage, key) is None
            left_out.append(
                f"cost of {part}: the prices have no storage.{key}: add it, with value, source and date"
                if no_price
                else f"cost of {part}: the run did not count it"
            )
    return {name: getattr(cost, name) for name in ("total", "accelerators", "keeping", "reading", "requests", "stalls", "epoch")}


def prices_used(prices: Prices, name: str) -> list[dict[str, Any]]:
    """The prices that a cost was made of, each with its unit, source and date."""
    rows = [{"of": name, "per": "accelerator and hour", **prices.accelerator(name).model_dump()}]
    for key, unit in _UNITS.items():
        price: Price | None = getattr(prices.storage, key)
        if price is not None:
            rows.append({"of": f"storage.{key}", "per": unit, **price.model_dump()})
    return rows


def _value(price: Price | None) -> float | None:
    return None if price is None else price.value
