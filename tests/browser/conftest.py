"""The made-up runs of the unit tests, for the browser."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location("report_fixtures", Path(__file__).parents[1] / "unit" / "conftest.py")
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["report_fixtures"] = _module  # dataclasses look their own module up
_spec.loader.exec_module(_module)

report_gallery = _module.report_gallery
report_make = _module.report_make
