"""What `session.prepare` refuses before a run folder is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from storagebench.build import generate
from storagebench.configfile import load_workload
from storagebench.errors import UsageError
from storagebench.preparation import prepare
from storagebench.request import Request
from storagebench.storage import open_store


@pytest.mark.parametrize("url", ["memory://prepare", "shaped+memory://prepare"])
@pytest.mark.parametrize(
    "settings",
    [{"run.num_accelerators": 2}, {"loader.name": "files", "loader.num_workers": 2}],
)
def test_a_dataset_in_memory_lives_in_one_process(url: str, settings: dict[str, Any], tmp_path: Path) -> None:
    overrides: list[tuple[str, Any, str]] = [
        ("dataset.num_samples", 64, "test"),
        ("dataset.format", "npz", "test"),
        ("dataset.payload", "bytes", "test"),
    ]
    generate(load_workload("quick", overrides).workload, open_store("memory://prepare"))
    settings = {"run.compute_time_s": 0.005, "train.batch_size": 4, **settings}
    configured = load_workload("quick", [*overrides, *((key, value, "test") for key, value in settings.items())])
    request = Request(configured, url, {}, tmp_path, "r", ["test"], 0)
    with pytest.raises(UsageError, match="lives in one process"):
        prepare(request)
    assert not (tmp_path / "r").exists()
