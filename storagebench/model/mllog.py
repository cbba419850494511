"""MLPerf Training's log lines, `:::MLLOG {...}`: written as mlperf_logging writes them, and read again; v0.5's `:::MLPv0.5.0` lines are read too.

Source: mlcommons/logging, mlperf_logging/mllog/mllog.py and constants.py (399280c, 0257c34), and compliance_checker/training_3.0.0/common.yaml for what a log has
and in which order. The result of a log is the time from `run_start` to `run_stop`; whether it converged is what `run_stop` says, not where it ends.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from storagebench.errors import UsageError
from storagebench.model.target import first_crossing

TOKEN: Final = ":::MLLOG "
START, END, POINT = "INTERVAL_START", "INTERVAL_END", "POINT_IN_TIME"
_OLD: Final = re.compile(r":::MLPv(\d+\.\d+\.\d+) (\w+) ([\d.]+) \(([^: ]+):(\d+)\) ([A-Za-z0-9_]+)\s*(?::\s*(.+))?$")
_MS: Final = 1000.0


@dataclass(frozen=True)
class Event:
    """One line. `time_ms`: milliseconds since 1970 (v0.5 with a fraction); `kind` is the event type, empty in v0.5."""

    time_ms: float
    kind: str
    key: str
    value: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    namespace: str = ""


def line_of(event: Event) -> str:
    """The line, with its keys in the order of mlperf_logging."""
    values = {"namespace": event.namespace, "time_ms": round(event.time_ms), "event_type": event.kind, "key": event.key, "value": event.value}
    return TOKEN + json.dumps({**values, "metadata": dict(event.metadata)}, allow_nan=False)


def read_events(lines: Iterable[str]) -> list[Event]:
    """The events in the order of the lines, each line that stands there twice (rank's prefix and all before the token apart) once. Lines without a token are the program's own.

    Raises UsageError with the number of a line that has a token and cannot be read.
    """
    seen: set[str] = set()
    found = []
    for number, line in enumerate(lines, 1):
        begin = max(line.rfind(TOKEN), line.rfind(":::MLPv"))
        text = line[begin:].strip()
        if begin < 0 or text in seen:
            continue
        seen.add(text)
        event = _new(text) if text.startswith(TOKEN) else _old(text)
        if event is None:
            raise UsageError(f"line {number} of the log is {text[:80]!r}, which cannot be read", "a line is `:::MLLOG` and a JSON object")
        found.append(event)
    return found


def _new(text: str) -> Event | None:
    try:
        values = json.loads(text[len(TOKEN) :])
        metadata = values.get("metadata") or {}
        event = Event(
            float(values["time_ms"]), str(values["event_type"]), str(values["key"]), values.get("value"), metadata, values.get("namespace", "")
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return event if isinstance(metadata, dict) else None


def _old(text: str) -> Event | None:
    match = _OLD.match(text)
    if match is None:
        return None
    _, benchmark, seconds, file, line, key, value = match.groups()
    try:
        return Event(float(seconds) * _MS, "", key, None if value is None else json.loads(value), {"file": file, "lineno": int(line)}, benchmark)
    except ValueError:
        return None


@dataclass(frozen=True)
class Evaluation:
    """`epoch` as the log counts it (v0.5 often from 0), None where the line has none; `time_s` since `run_start`."""

    epoch: float | None
    time_s: float
    quality: float


@dataclass(frozen=True)
class TrainingLog:
    """What a log says of one training. `time_s` from `run_start` to `run_stop`, None without both; `success` is what `run_stop` says. `epoch_starts`: how many
    epochs were begun, whatever numbers they have; an epoch that was cut off by the end counts."""

    benchmark: str | None
    seed: int | None
    global_batch_size: int | None
    train_samples: int | None
    eval_samples: int | None
    time_s: float | None
    success: bool
    epoch_starts: int
    evaluations: tuple[Evaluation, ...]

    def first_at(self, target: float, lower_is_better: bool = False) -> Evaluation | None:
        """The first evaluation at the target; None where none is, which is no proof that the training was cut off."""
        return first_crossing(((one, one.quality) for one in self.evaluations), target, lower_is_better)


def training_of(events: Iterable[Event]) -> TrainingLog:
    """Fold the events of one training."""
    all_events = list(events)
    last = {event.key: event for event in all_events}
    first = {event.key: event for event in reversed(all_events)}
    start, stop = first.get("run_start"), last.get("run_stop")
    old = bool(all_events) and not all_events[0].kind
    return TrainingLog(
        benchmark=_value(last, "submission_benchmark") or (all_events[0].namespace if old else None),
        seed=_count(_value(first, "seed")),
        global_batch_size=_count(_value(last, "global_batch_size")),
        train_samples=_count(_value(last, "train_samples")),
        eval_samples=_count(_value(last, "eval_samples")),
        time_s=(stop.time_ms - start.time_ms) / _MS if start and stop else None,
        success=stop is not None and _succeeded(stop),
        epoch_starts=sum(event.key in ("epoch_start", "train_epoch") for event in all_events),
        evaluations=tuple(_evaluations(all_events, start.time_ms if start else 0.0)),
    )


def _value(events: Mapping[str, Event], key: str) -> Any:
    return events[key].value if key in events else None


def _count(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _succeeded(stop: Event) -> bool:
    """v0.5 has `{"success": true}` as the value, later versions the status among the metadata."""
    return (isinstance(stop.value, dict) and stop.value.get("success") is True) or stop.metadata.get("status") == "success"


def _evaluations(events: Iterable[Event], start_ms: float) -> Iterator[Evaluation]:
    for event in events:
        if event.key not in ("eval_accuracy", "eval_error"):
            continue
        value: Any = event.value
        inner = value if isinstance(value, dict) else {"value": value, "epoch": event.metadata.get("epoch_num")}  # v0.5: {"epoch": 3, "value": 0.75}
        value, epoch = inner.get("value"), inner.get("epoch")
        if isinstance(value, int | float):
            yield Evaluation(epoch if isinstance(epoch, int | float) else None, (event.time_ms - start_ms) / _MS, float(value))
