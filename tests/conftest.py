"""Fixtures and the rule on skips: locally a missing tool skips with its reason, in CI (STORAGEBENCH_NO_SKIPS=1) such a skip fails,
unless its reason begins with "this kernel: ", for what no installation can bring."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from storagebench import s3server
from storagebench.build import generate, import_dataset
from storagebench.cli import run_program
from storagebench.configfile import load_workload
from storagebench.errors import UsageError
from storagebench.manifest import Dataset
from storagebench.storage import open_store

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    outcome = yield
    report = outcome.get_result()
    if (
        report.skipped
        and os.environ.get("STORAGEBENCH_NO_SKIPS") == "1"
        and not hasattr(report, "wasxfail")
        and "this kernel: " not in str(report.longrepr)
    ):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be skipped: {report.longrepr}"


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run the command line in a process of its own; the result has returncode, stdout and stderr."""

    def run(*arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **(env or {})}
        return subprocess.run(
            [sys.executable, "-P", "-m", "storagebench", *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def cli_here() -> Cli:
    """The same in this process, which saves half a second of start: for what is refused, or answered from saved files. Nothing that measures."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = run_program(list(arguments))
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def make_dataset(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[str, Dataset]]:
    """Make a small synthetic dataset once for each set of values; (path, dataset). Tests must not change it."""
    made: dict[tuple[Any, ...], tuple[str, Dataset]] = {}

    def make(**fields: Any) -> tuple[str, Dataset]:
        key = tuple(sorted(fields.items()))
        if key not in made:
            defaults = {
                "format": "npz",
                "payload": "jpeg" if fields.get("format") == "jpeg" else "bytes",
                "num_samples": 64,
                "record_length_bytes": 5000,
            }
            overrides = [(f"dataset.{name}", value, "test") for name, value in {**defaults, "record_length_bytes_stdev": 500, **fields}.items()]
            path = str(tmp_path_factory.mktemp("dataset"))
            made[key] = path, generate(load_workload("quick", overrides).workload, open_store(path))
        return made[key]

    return make


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3server.Server]:
    """`rclone serve s3` over an empty folder with the bucket `bench`. Skips where there is no rclone."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "bench").mkdir()
    try:
        server = s3server.start(folder)
    except UsageError as error:
        pytest.skip(error.message)
    with server:
        yield server


@pytest.fixture
def s3_environment(s3_server: s3server.Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The AWS variables of this server for one test; storage options to reach it."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return {"endpoint_url": s3_server.endpoint_url}


@pytest.fixture(scope="session")
def make_digits(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A small dataset of scikit-learn's digits as PNG images with labels and its held-out split beside it, made once for each format; the path of the
    first. Tests must not change it. Every ninth image is held out (200), of the others 288 are trained on."""
    made: dict[str, str] = {}
    trees: list[Path] = []

    def make(form: str = "png") -> str:
        if not trees:
            trees.append(tmp_path_factory.mktemp("digits"))
            _digit_trees(trees[0])
        if form not in made:
            place = tmp_path_factory.mktemp("digits-data") / form
            for split, path in (("train", place), ("held-out", Path(f"{place}-held-out"))):
                import_dataset(trees[0] / split, open_store(str(path)), format=form, samples_per_shard=16, row_group_bytes=1024)
            made[form] = str(place)
        return made[form]

    return make


def _digit_trees(folder: Path) -> None:
    """ImageFolder trees `train` and `held-out`. Names are such that the import, which sorts them, leaves no order within a class to learn from."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    taken = {"train": 0, "held-out": 0}
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "held-out" if number % 9 == 0 else "train"
        if taken[split] >= {"train": 288, "held-out": 200}[split]:
            continue
        taken[split] += 1
        place = folder / split / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 // 16).astype("uint8")).save(place / f"{number:04d}.png")
