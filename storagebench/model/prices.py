"""A table of prices, the user's own: every price has its source and the date on which it was taken. None is built in, and none is guessed.

`docs/prices.yaml` is an example of the file. What a figure needs and the file does not have is an error that says what to add.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, ValidationError

from storagebench.configfile import Path_, place_of, read_yaml
from storagebench.errors import UsageError, did_you_mean
from storagebench.workload import Day

_HINT: Final = "mend the file; docs/prices.yaml is one with every key"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Price(_Frozen):
    """An amount of the table's currency for one unit, from 0; `source` says where it stands, `date` when it was taken from there."""

    value: StrictFloat = Field(ge=0.0)
    source: str = Field(min_length=1)
    date: Day


class StoragePrices(_Frozen):
    """Of the storage, what it has: for a GB (10^9 bytes) kept over a month of 730 hours, for a GB that is read, for a request."""

    per_gb_month: Price | None = None
    per_gb_read: Price | None = None
    per_request: Price | None = None


class Prices(_Frozen):
    """The whole file. `accelerators`: the price of one accelerator for an hour, by name; of a machine with eight it is an eighth of the machine's."""

    currency: str = Field(min_length=1, max_length=16)
    accelerators: dict[str, Price] = Field(default_factory=dict)
    storage: StoragePrices = StoragePrices()

    def accelerator(self, name: str) -> Price:
        """The price of an hour of that accelerator. Raises UsageError that says what to add."""
        if name in self.accelerators:
            return self.accelerators[name]
        known = ", ".join(sorted(self.accelerators)) or "none"
        what = f"accelerator {name!r}" if name else "an accelerator that has no name, only a compute time"
        add = f"add accelerators.{name} with value, source and date to the file, or give" if name else "give"
        raise UsageError(f"the prices have none for {what} (they have: {known})", f"{add} --accelerator-price NAME with one that is there")


def read_prices(path: Path) -> Prices:
    """Read and check a table. Raises UsageError that tells every unknown, repeated, mistyped or missing key at once, with file and line."""
    document, lines = read_yaml(path, _unknown)
    try:
        return Prices.model_validate(document)
    except ValidationError as error:
        problems = [_sentence(item, path.name, lines) for item in error.errors()]
    raise UsageError("; ".join(problems), _HINT)


def _unknown(parts: Path_) -> str:
    """Why a key path does not belong into a table of prices, or an empty string."""
    known: list[str] = [*Prices.model_fields]
    if parts[0] in known and len(parts) > 1:
        known = [parts[1]] if parts[0] == "accelerators" else [*StoragePrices.model_fields] if parts[0] == "storage" else []
        if parts[1] in known and len(parts) > 2:
            known = [*Price.model_fields]
            return "" if len(parts) == 3 and parts[2] in known else _no_such(parts, parts[2], known)
        return "" if parts[1] in known else _no_such(parts, parts[1], known)
    return "" if parts[0] in known else _no_such(parts, parts[0], known)


def _no_such(parts: Path_, name: str, known: list[str]) -> str:
    path = ".".join(parts)
    return f"unknown key {path!r}: {did_you_mean(name, known)}" if known else f"key {path!r} goes below a single value"


def _sentence(item: Any, file: str, lines: Mapping[Path_, int]) -> str:
    path = tuple(str(part) for part in item["loc"])
    message = "is missing" if item["type"] == "missing" else str(item["msg"])
    given = "" if isinstance(item["input"], dict) else f" (given: {str(item['input'])[:80]!r})"
    return f"{place_of(path, file, lines)}: {'.'.join(path) or 'prices'}: {message}{given}"
