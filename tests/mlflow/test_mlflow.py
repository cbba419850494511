"""A run in MLflow (local SQLite): what `run --mlflow` and `report --mlflow` put there is what the saved run says, and no failure of it spoils a run."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from storagebench.errors import StorageError, UsageError
from storagebench.tracking import log_run, tracking_uri

CANARY = "CANARYsecret0123456789"


def arguments(dataset: str, results: Path, *more: str) -> list[str]:
    return [
        "run", "quick", "--data-dir", dataset, "--results-dir", str(results), "--run-id", "r", "--batch-size", "4", "--epochs", "2",
        "--compute-time", "2ms", "--cache", "as-is", "--null-duration", "0.05", "--headroom-duration", "0", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow") / "m.db"


@pytest.fixture(scope="module")
def run_dir(cli: Any, make_dataset: Any, database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was logged as it was made, from an empty working folder that it must leave empty."""
    path, _ = make_dataset()
    results, cwd = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("cwd")
    command = arguments(path, results, "--mlflow", f"sqlite:///{database}", "--mlflow-experiment", "disk A/b")
    result = cli(*command, "--set", f"description={'long ' * 2000}", cwd=cwd)
    assert result.returncode == 0, result.stderr
    assert "logged " in result.stderr and "experiment disk A/b, run " in result.stderr
    assert list(cwd.iterdir()) == []
    return results / "r"


def runs_in(database: Path, experiment: str) -> tuple[MlflowClient, list[Any]]:
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    found = client.get_experiment_by_name(experiment)
    return client, [] if found is None else list(client.search_runs([found.experiment_id]))


def test_the_run_is_there(run_dir: Path, database: Path) -> None:
    client, [logged] = runs_in(database, "disk A/b")
    run, summary = (json.loads((run_dir / name).read_text()) for name in ("run.json", "summary.json"))
    assert (logged.info.run_name, logged.info.status) == ("r", "FINISHED")
    assert 0 < logged.info.end_time - logged.info.start_time < 120_000

    metrics = logged.data.metrics
    numbers = {key: value for key, value in summary.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    assert {key: metrics[key] for key in numbers if key != "schema_version"} == {
        key: value for key, value in numbers.items() if key != "schema_version"
    }
    assert metrics["fetch_quantiles_s.p99"] == summary["fetch_quantiles_s"]["p99"]
    history = sorted(client.get_metric_history(logged.info.run_id, "epoch.duration_s"), key=lambda metric: metric.step)
    assert [(metric.step, metric.value) for metric in history] == [(row["epoch"], row["duration_s"]) for row in summary["per_epoch"]]

    parameters, tags = logged.data.params, logged.data.tags
    assert (parameters["loader.name"], parameters["train.batch_size"], parameters["world_size"]) == ("direct", "4", "1")
    assert parameters["description"] == ("long " * 2000)[:5997] + "..."  # MLflow takes 6000 characters
    assert parameters["run.max_steps"] == json.dumps(run["config"]["run"]["max_steps"])
    assert tags["storagebench.dataset_digest"] == run["dataset"]["digest"] and tags["storagebench.valid"] == "true"
    assert set(tags["storagebench.warnings"].split(",")) == {finding["code"] for finding in summary["findings"]}
    assert tags["storagebench.versions.numpy"] == run["hosts"][0]["versions"]["numpy"]

    assert sorted(item.path for item in client.list_artifacts(logged.info.run_id)) == ["report.html", "run.json", "summary.json"]
    place = database.parent / "mlartifacts" / "disk_A_b" / logged.info.run_id / "artifacts"
    assert (place / "run.json").read_bytes() == (run_dir / "run.json").read_bytes()
    assert (place / "summary.json").read_bytes() == (run_dir / "summary.json").read_bytes()
    assert (place / "report.html").read_text().startswith("<!doctype html>")


def test_a_saved_run_is_logged_afterwards_and_once(cli: Any, run_dir: Path, database: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{database}"
    for said in ("logged ", " is in MLflow already"):
        result = cli("report", str(run_dir), "--mlflow", uri, "--mlflow-experiment", "later", "--mlflow-traces", cwd=tmp_path)
        assert result.returncode == 0 and said in result.stderr, result.stderr
    client, [logged] = runs_in(database, "later")
    _, [first] = runs_in(database, "disk A/b")
    assert (logged.data.metrics, logged.data.params) == (first.data.metrics, first.data.params)
    assert logged.info.start_time == first.info.start_time
    traces = [item.path for item in client.list_artifacts(logged.info.run_id, "trace")]
    assert "trace/rank-00000.jsonl" in traces and any(name.startswith("trace/host-") for name in traces)


def test_a_server_that_is_not_there_is_a_warning_after_a_run_and_an_error_of_report(
    cli: Any, make_dataset: Any, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path, _ = make_dataset()
    environment = {"MLFLOW_TRACKING_URI": f"http://user:{CANARY}@127.0.0.1:{port}", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    result = cli(*arguments(path, tmp_path), "--mlflow", "env", env=environment)
    assert result.returncode == 0
    assert f"warning: {tmp_path / 'r'} is saved, but MLflow at http://127.0.0.1:{port} did not take it" in result.stderr
    assert f"hint: `storagebench report {tmp_path / 'r'} --mlflow URI`" in result.stderr
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert CANARY not in result.stdout + result.stderr and CANARY.encode() not in written
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError) as caught:
        log_run(run_dir, "env", "x")
    assert CANARY not in caught.value.message + caught.value.hint and "did not take it" in caught.value.message


def test_a_failed_run_is_logged_as_one(cli: Any, run_dir: Path, database: Path, tmp_path: Path) -> None:
    """The same run as if its command had been killed: the last lines of its traces are gone."""
    copy = tmp_path / "cut"
    (copy / "trace").mkdir(parents=True)
    (copy / "run.json").write_bytes((run_dir / "run.json").read_bytes() + b"\n")
    for file in (run_dir / "trace").iterdir():
        (copy / "trace" / file.name).write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-2]))
    log_run(copy, f"sqlite:///{database}", "cut")
    _, [logged] = runs_in(database, "cut")
    assert (logged.info.status, logged.data.tags["storagebench.status"], logged.data.tags["storagebench.valid"]) == ("KILLED", "incomplete", "false")
    assert logged.data.tags["storagebench.errors"]


@pytest.mark.parametrize(
    "uri",
    [f"http://u:{CANARY}@h/", f"postgresql://{CANARY}@h/db", f"sqlite:///x.db?password={CANARY}", f"https://h/?api_key={CANARY}", "http://[", ""],
)
def test_secrets_in_the_uri_are_refused_and_not_repeated(uri: str, cli_here: Any, tmp_path: Path) -> None:
    result = cli_here(*arguments("/no/such", tmp_path), "--mlflow", uri)
    assert result.returncode == 2 and result.stderr.startswith("error: --mlflow")
    assert CANARY not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_environment_names_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UsageError, match="MLFLOW_TRACKING_URI, which is not set"):
        tracking_uri("env")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://u:{CANARY}@h/")
    assert tracking_uri("env") == f"http://u:{CANARY}@h/"
