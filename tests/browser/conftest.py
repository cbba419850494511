"""The made-up runs and the made-up diagnosis of the unit tests, for the browser."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_UNIT = Path(__file__).parents[1] / "unit"


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


_runs: Any = _module("report_fixtures", _UNIT / "conftest.py")
_diagnoses: Any = _module("diagnosis_record", _UNIT / "data" / "diagnosis_record.py")
_searches: Any = _module("search_record", _UNIT / "data" / "search_record.py")
_trainings: Any = _module("training_record", _UNIT / "data" / "training_record.py")

report_gallery = _runs.report_gallery
report_make = _runs.report_make


@pytest.fixture
def diagnosis_make(tmp_path: Path) -> Callable[..., Any]:
    """Make a diagnosis, with these texts in it."""

    def make(**texts: str) -> Any:
        record = _diagnoses.diagnosis_record(**texts)
        return _diagnoses.load_record(tmp_path / f"diagnosis-{len(list(tmp_path.iterdir()))}", record)

    return make


@pytest.fixture
def training_gallery(report_make: Callable[..., Any]) -> list[Any]:
    """Three architectures on a fast and a slow store, two seeds each."""
    found: list[Any] = _trainings.gallery(report_make, 2)
    return found


@pytest.fixture
def search_make(tmp_path: Path) -> Callable[[str], Any]:
    """Make a search that found 3, with this text wherever a text of the user's stands."""
    return lambda text: _searches.make_search(tmp_path / "search", text)
