"""MLflow brings some thirty packages, so it has an environment of its own (.ci/mlflow); where it is not installed there is nothing to collect here."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("mlflow") is not None else ["test_*.py"]
