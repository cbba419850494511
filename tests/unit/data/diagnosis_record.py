"""A made-up `diagnosis.json` for the tests of the report and of the page in a browser: one worker on a store that answers late, and the knob turned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storagebench.diagnosis.saved import measured, save
from storagebench.diagnosis.verdict import Evidence
from storagebench.report.load import LoadedDiagnosis, load_diagnoses

RUNGS = {
    "null": (175_411.0, 214_288.0, 214_826.0),
    "synthetic": (799.96, 799.97, 799.99),
    "pinned": (12_123.0, 9_983.0, 10_494.0),
    "cold": (374.2, 385.7, 385.7),
    "fetch": (381.8, 384.9, 383.0),
    "ceiling": (3135.7, 3133.3, 3134.0),
}
WHY_ABSENT = "a page cache of shaped storage is not this client's"
SETTING = {"num_workers": 1, "prefetch_batches": 4, "world_size": 1, "cache": "cold", "cacheable": False}


def diagnosis_record(name: str = "diagnose-quick", why_absent: str = WHY_ABSENT, command: str = "--latency=20ms") -> dict[str, Any]:
    """The record; texts in it can be replaced by hostile ones."""
    cold = Evidence(achieved=385.7, accelerator=800.0, cpu=5800.0, workers=390.0, au=0.482, fetch_share=0.99, cores=2.0, setting=SETTING)
    pinned = Evidence(achieved=10_494.0, cpu=22_000.0, workers=12_200.0, fetch_share=0.8, cores=2.0, setting=SETTING)
    absent = {"warm": why_absent, "client": why_absent}
    record = measured(name, ["storagebench", "diagnose", "quick", command], RUNGS, absent, [cold] * 3, [pinned] * 3)
    record["trial"] = {"settings": {"loader.num_workers": 4}, "before": [0.482, 0.476, 0.470], "after": [0.984, 0.989, 0.989]}
    record["what_if"] = ["accelerators=2", "storage=4x"]
    return record


def load_record(folder: Path, record: dict[str, Any]) -> LoadedDiagnosis:
    """The record, saved in a new folder and read again."""
    folder.mkdir(parents=True)
    save(folder, record)
    (loaded,) = load_diagnoses([folder])
    return loaded
