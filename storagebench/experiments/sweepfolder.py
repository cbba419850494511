"""The folder of a sweep: `sweep.json` (the suite and its units, written once), `sweep.jsonl` (what ended and what was refused), and the run folders.

Everything that the comparing page needs is in it, so that `report` makes the page again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from storagebench.errors import DatasetError, UsageError
from storagebench.experiments.journal import Row, read_rows
from storagebench.experiments.suite import Suite
from storagebench.experiments.sweep import INTERRUPTED_CODES, JOURNAL_FILE, SWEEP_FILE, SWEEP_SCHEMA, Refused, Standing, differences, standing
from storagebench.experiments.units_of_suite import Job, Unit
from storagebench.records import RUN_FILE, SUMMARY_FILE, write_json

WRITERS_DIR: Final = "writers"
_DIFFERENCES_SHOWN: Final = 8


def is_sweep(folder: Path) -> bool:
    return (folder / SWEEP_FILE).is_file()


def begin(folder: Path, suite: Suite, units: Sequence[Unit], command: Sequence[str]) -> None:
    """Make the folder, or go on in it. Raises UsageError where it holds another suite (with the difference) or no sweep, StorageError."""
    asked = json.loads(json.dumps(suite.model_dump()))
    if not is_sweep(folder):
        if folder.exists() and any(child.name != JOURNAL_FILE for child in folder.iterdir()):
            raise UsageError(f"{folder} exists and holds no sweep", "choose another --sweep-id")
        folder.mkdir(parents=True, exist_ok=True)
        plain = [asdict(unit) for unit in units]
        write_json(folder / SWEEP_FILE, {"schema_version": SWEEP_SCHEMA, "command": list(command), "suite": asked, "units": plain})
        return
    changed = list(differences(load(folder)["suite"], asked))
    if changed:
        more = f" and {len(changed) - _DIFFERENCES_SHOWN} more" if len(changed) > _DIFFERENCES_SHOWN else ""
        raise UsageError(
            f"{folder} was begun with another suite: {'; '.join(changed[:_DIFFERENCES_SHOWN])}{more}",
            "change it back to go on, or choose another --sweep-id",
        )


def load(folder: Path) -> dict[str, Any]:
    """`sweep.json`. Raises UsageError for another schema, DatasetError where it is damaged."""
    path = folder / SWEEP_FILE
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        version = record["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} cannot be read ({error})", "the folder is damaged: sweep into another one") from None
    if version != SWEEP_SCHEMA:
        raise UsageError(f"{path} has schema {version}, and this storagebench reads {SWEEP_SCHEMA}", "use the version that wrote it")
    return record


def suite_of(record: Mapping[str, Any]) -> Suite:
    return Suite.model_validate(record["suite"])


def units_of_record(record: Mapping[str, Any]) -> list[Unit]:
    """The units as they were when the sweep began: what fitted then is what was run."""
    return [Unit(**{**unit, "jobs": _jobs(unit["jobs"]), "writers": _jobs(unit["writers"])}) for unit in record["units"]]


def _jobs(plain: Sequence[Mapping[str, Any]]) -> tuple[Job, ...]:
    return tuple(Job(**{**job, "overrides": tuple((key, value, origin) for key, value, origin in job["overrides"])}) for job in plain)


class FolderPast:
    """What earlier commands left in the folder of a sweep (`experiments.sweep.Past`)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.rows: list[Row] = read_rows(folder / JOURNAL_FILE)
        self._ended = {row["run_id"] for row in self.rows if row.get("kind") == "ended" and row["exit_code"] not in INTERRUPTED_CODES}

    def exists(self, run_id: str) -> bool:
        return (self._folder / run_id).exists()

    def finished(self, run_id: str) -> bool:
        """The journal says so, or, where the sweep was killed in between, the run's own summary."""
        return (run_id in self._ended and (self._folder / run_id / RUN_FILE).is_file()) or self._is_complete(run_id)

    def _is_complete(self, run_id: str) -> bool:
        try:
            return bool(json.loads((self._folder / run_id / SUMMARY_FILE).read_bytes())["status"] == "complete")
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def refused(self) -> dict[str, Refused]:
        """The last refusal of each unit."""
        rows = [row for row in self.rows if row.get("kind") == "refused"]
        return {row["unit"]: Refused(row["message"], row["hint"], row["exit_code"]) for row in rows}

    def standing(self, unit: Unit, round_: int) -> Standing:
        return standing(unit, round_, self)
