"""What AU would be with more accelerators, a faster store, more workers: the limits of a measured run, moved. A prediction, and marked as one.

    rate = min(accelerators, cpu, storage, workers) x what this run reached of its own smallest limit
    AU = rate / accelerators' rate

The accelerators' limit grows with their number, as do the workers' (each accelerator brings its own); a store that is k times faster has k times the
limit and 1/k of the time in the fetch. The CPU and the storage are shared, and stay. Source: reference/measurement.md sections 1 (A2) and 2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from storagebench.diagnosis.verdict import Evidence
from storagebench.errors import UsageError, did_you_mean
from storagebench.model.closed_forms import fed_share

NAMES: Final = ("accelerators", "storage", "workers")
_FACTOR: Final = re.compile(r"(\d+(?:\.\d+)?)(x?)\Z")


@dataclass(frozen=True)
class Change:
    """One question: `accelerators=8`, `workers=16` (of one rank), `storage=2x`. `factor` is against the run as it was."""

    text: str
    name: str
    factor: float


@dataclass(frozen=True)
class Prediction:
    """An answer. `limited_by` is the limit that is the smallest then; `unknown` the limits that nothing is known of, which may be smaller yet."""

    text: str
    au: float
    samples_per_s: float
    limited_by: str
    unknown: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "unknown": list(self.unknown), "predicted": True}


def parse_change(text: str, setting: Any) -> Change:
    """`NAME=VALUE`; a value with an x is a factor. Raises UsageError."""
    name, equals, value = text.partition("=")
    if name not in NAMES or not equals:
        raise UsageError(f"--what-if {text!r} is not one of {', '.join(f'{known}=VALUE' for known in NAMES)}", did_you_mean(name, list(NAMES)))
    match = _FACTOR.match(value)
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"--what-if {text!r}: {value!r} is no number above 0", "such as accelerators=8, workers=16 or storage=2x")
    number, is_factor = float(match[1]), bool(match[2])
    if is_factor or name == "storage":
        return Change(text, name, number)
    now = setting.get("world_size" if name == "accelerators" else "num_workers")
    return Change(text, name, number / max(now or 1, 1))


def predict(e: Evidence, changes: Sequence[Change]) -> Prediction | None:
    """AU with all these changes at once; None where no accelerator is emulated."""
    if e.accelerator is None:
        return None
    factor = dict.fromkeys(NAMES, 1.0)
    for change in changes:
        factor[change.name] *= change.factor
    now = _limits(e, dict.fromkeys(NAMES, 1.0))
    then = _limits(e, factor)
    known = {name: rate for name, rate in then.items() if rate is not None}
    # What was reached of the smallest limit: losses of overlap and order stay as they are.
    reached = min(1.0, e.achieved / min(rate for rate in now.values() if rate is not None))
    smallest = min(known, key=lambda name: known[name])
    rate = known[smallest] * (1.0 if smallest == "accelerator" and reached >= 0.98 else reached)
    return Prediction(
        text=" ".join(change.text for change in changes),
        au=fed_share(known["accelerator"], rate),
        samples_per_s=rate,
        limited_by=smallest,
        unknown=tuple(name for name, value in then.items() if value is None),
    )


def _limits(e: Evidence, factor: dict[str, float]) -> dict[str, float | None]:
    """Samples per second of each part after the change. A fetch waits 1/k as long on a store that is k times faster; what comes after it does not."""
    assert e.accelerator is not None
    ranks = factor["accelerators"]
    fetch = e.fetch_share / factor["storage"] + (1.0 - e.fetch_share)
    return {
        "accelerator": e.accelerator * ranks,
        "cpu": e.cpu,
        "storage": None if e.storage is None else e.storage * factor["storage"],
        "workers": None if e.workers is None else e.workers * ranks * factor["workers"] / fetch,
    }
