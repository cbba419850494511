"""A diagnosis on disk: `diagnosis.json` in its folder holds what was measured; what it says is worked out anew from that, like a run's summary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from storagebench.diagnosis.ladder import Diagnosis, Trial, diagnose
from storagebench.diagnosis.verdict import Evidence
from storagebench.diagnosis.whatif import parse_change, predict
from storagebench.errors import DatasetError
from storagebench.records import write_json

DIAGNOSIS_FILE: Final = "diagnosis.json"
SCHEMA_VERSION: Final = 1


def measured(
    name: str,
    command: Sequence[str],
    rungs: Mapping[str, Sequence[float]],
    absent: Mapping[str, str],
    cold: Sequence[Evidence],
    pinned: Sequence[Evidence],
    invalid: str | None = None,
) -> dict[str, Any]:
    """What a ladder measured, as plain data; `trial` and `what_if` are added when they are known."""
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "command": list(command),
        "rungs": {rung: list(values) for rung, values in rungs.items()},
        "absent": dict(absent),
        "cold": [asdict(evidence) for evidence in cold],
        "pinned": [asdict(evidence) for evidence in pinned],
        "invalid": invalid,
        "trial": None,
        "what_if": [],
    }


def judged(record: Mapping[str, Any]) -> Diagnosis:
    """What a record says: pure, the same for the same record. Raises DatasetError for a record of another schema or none."""
    try:
        if record["schema_version"] != SCHEMA_VERSION:
            raise KeyError("schema_version")
        cold, pinned = ([Evidence(**values) for values in record[rung]] for rung in ("cold", "pinned"))
        found = diagnose(record["rungs"], record["absent"], cold, pinned)
        questions = [predict(found.evidence, [parse_change(text, found.evidence.setting)]) for text in record["what_if"]]
        trial, invalid = record["trial"], record["invalid"]
        turned = None if trial is None else Trial(trial["settings"], tuple(trial["before"]), tuple(trial["after"]))
    except (KeyError, TypeError, IndexError) as error:
        raise DatasetError(f"{DIAGNOSIS_FILE} is not one of this storagebench ({error})", "diagnose again") from None
    return replace(found, invalid=invalid, trial=turned, predictions=tuple(one for one in questions if one is not None))


def save(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record whole."""
    write_json(folder / DIAGNOSIS_FILE, record)


def load(folder: Path) -> Mapping[str, Any] | None:
    """The record in a folder; None where there is none. Raises DatasetError where it does not read."""
    path = folder / DIAGNOSIS_FILE
    if not path.is_file():
        return None
    try:
        record: Mapping[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} does not read: {error}", "diagnose again") from None
    return record
