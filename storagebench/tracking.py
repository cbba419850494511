"""A saved run -> MLflow. It needs the run's folder only, so it may happen right after the run or on another day, on another machine.

Parameters are the flattened config, metrics the summary's numbers (those of epochs with the epoch as step), tags what says whether to believe them, artifacts
`run.json`, `summary.json`, the HTML page where plotly is installed, and the traces if they are asked for. What MLflow would refuse is cut (values) or
written with `_` (names). A run that is there already, which the digest of its `run.json` tells, is not logged again.

MLflow is imported only here, when something is logged, with its telemetry switched off.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from storagebench.errors import StorageBenchError, StorageError, UsageError
from storagebench.members import first_host
from storagebench.records import RUN_FILE, SUMMARY_FILE, config_digest, write_json
from storagebench.report.html import as_html
from storagebench.report.load import LoadedRun, load_runs

FROM_ENVIRONMENT: Final = "env"
_VARIABLE: Final = "MLFLOW_TRACKING_URI"
_RECORD_TAG: Final = "storagebench.run_json_sha256"
_SECRETS: Final = ("key", "secret", "token", "password", "pwd")
# MLflow's own limits (mlflow.utils.validation, 3.17): a batch may have 100 parameters, 100 tags, 1000 metrics.
_BATCH: Final = 100
_MAX_NAME: Final = 250
_MAX_PARAMETER: Final = 6000
_MAX_TAG: Final = 8000
_STATES: Final = {"complete": "FINISHED", "failed": "FAILED"}


class Logged(NamedTuple):
    """Where a run went: names of the experiment and of MLflow's run; `before` where it was there already."""

    experiment: str
    run_id: str
    before: bool


def tracking_uri(text: str) -> str:
    """The URI that --mlflow means. Raises UsageError where it carries a secret (the command line is written down), or `env` finds no variable."""
    if text == FROM_ENVIRONMENT:
        found = os.environ.get(_VARIABLE, "")
        if not found:
            raise UsageError(f"--mlflow env reads {_VARIABLE}, which is not set", f"set {_VARIABLE}, or give the URI")
        return found
    if not text:
        raise UsageError("--mlflow is empty", "give a URI such as sqlite:////path/mlflow.db or http://host:5000")
    parts = _split(text)
    if "@" in parts.netloc or any(word in name.lower() for name, _ in parse_qsl(parts.query) for word in _SECRETS):
        raise UsageError(
            f"--mlflow {shown(text)} carries a credential, which would be written down with the command",
            f"put it into {_VARIABLE} and give --mlflow env, or set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    return text


def _split(text: str) -> Any:
    try:
        return urlsplit(text)
    except ValueError:
        raise UsageError("--mlflow is no URI", "give one such as sqlite:////path/mlflow.db or http://host:5000") from None


def shown(uri: str) -> str:
    """The URI without what may be secret in it: userinfo, query, fragment."""
    parts = _split(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")) if parts.scheme else uri


def log_run(run_dir: Path, uri_text: str, experiment: str, with_traces: bool = False) -> Logged:
    """Log a saved run. Raises UsageError (no run folder, a bad URI), DatasetError (a damaged run), StorageError where MLflow is missing or refuses."""
    uri = tracking_uri(uri_text)
    [loaded] = load_runs([run_dir])
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # of itself it would try for minutes while a person waits
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    try:
        from mlflow import MlflowClient

        return _log(MlflowClient(tracking_uri=uri), loaded, uri, experiment, with_traces)
    except StorageBenchError:
        raise
    except Exception as error:  # whatever a client library, its database or its network may raise
        said = _without_secrets(f"{type(error).__name__}: {error}".splitlines()[0], uri)
        hint = f"`storagebench report {run_dir} --mlflow URI` logs it once that is mended"
        raise StorageError(f"MLflow at {shown(uri)} did not take it ({said})", hint) from None


def _without_secrets(text: str, uri: str) -> str:
    """An error's text with nothing of the URI that `shown` leaves out."""
    parts = _split(uri)
    text = text.replace(uri, shown(uri))
    secrets = [parts.netloc.rpartition("@")[0], parts.password or "", unquote(parts.password or ""), parts.query]
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _log(client: Any, loaded: LoadedRun, uri: str, experiment: str, with_traces: bool) -> Logged:
    experiment_id = _experiment(client, uri, experiment)
    digest = hashlib.sha256((loaded.run_dir / RUN_FILE).read_bytes()).hexdigest()
    there = client.search_runs([experiment_id], filter_string=f"tags.`{_RECORD_TAG}` = '{digest}'", max_results=1)
    if there:
        return Logged(experiment, str(there[0].info.run_id), True)
    run, summary = loaded.run, loaded.summary
    start_ms = run["created"]["wall_ns"] // 1_000_000
    made = client.create_run(experiment_id, start_time=start_ms, tags=_tags(run, summary), run_name=str(run["run_id"]))
    run_id = str(made.info.run_id)
    ends = [record["wall_ns"] // 1_000_000 for trace in loaded.hosts for record in trace.of_kind("end") if "wall_ns" in record]
    end_ms = ends[0] if ends else start_ms + round(1000 * ((summary["startup_s"] or 0.0) + (summary["wall_s"] or 0.0)))
    _log_figures(client, run_id, run, summary, end_ms)
    with tempfile.TemporaryDirectory() as folder:
        for path in _artifacts(loaded, Path(folder)):
            client.log_artifact(run_id, str(path))
    if with_traces:
        for path in sorted((loaded.run_dir / "trace").glob("*.jsonl")):
            client.log_artifact(run_id, str(path), "trace")
    client.set_tag(run_id, _RECORD_TAG, digest)  # last: a run that was logged by half is logged again
    client.set_terminated(run_id, _STATES.get(summary["status"], "KILLED"), end_ms)
    return Logged(experiment, run_id, False)


def _experiment(client: Any, uri: str, name: str) -> str:
    """The experiment of that name, made if it is not there. One in a local database keeps its artifacts beside the file: MLflow itself would put them into
    whatever folder the command was started in."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    parts = _split(uri)
    place = None
    if parts.scheme.startswith("sqlite") and len(parts.path) > 1:
        folder = Path(unquote(parts.path[1:])).resolve().parent
        place = (folder / "mlartifacts" / re.sub(r"[^\w.-]", "_", name)).as_uri()
    return str(client.create_experiment(name, artifact_location=place))


def _log_figures(client: Any, run_id: str, run: Mapping[str, Any], summary: Mapping[str, Any], at_ms: int) -> None:
    from mlflow.entities import Metric, Param

    parameters = [Param(_name(name), _cut(value, _MAX_PARAMETER)) for name, value in _parameters(run)]
    metrics = [Metric(_name(name), value, at_ms, step) for name, value, step in _metrics(summary)]
    for begin in range(0, max(len(parameters), len(metrics)), _BATCH):
        client.log_batch(run_id, params=parameters[begin : begin + _BATCH], metrics=metrics[begin : begin + _BATCH])


def _parameters(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, text) of each field of the config, and of what the run made of it."""
    yield from _flat("", run["config"])
    yield "accelerator", str(run["accelerator"])
    yield "storage", str(run["store"]["kind"])
    yield "world_size", str(run["plan"]["world_size"])


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value)


def _metrics(summary: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """(name, value, step) of each known number of the summary, of its quantiles and limits, and of its epochs."""
    for key, value in summary.items():
        inner = value.items() if isinstance(value, Mapping) else [(None, value)]
        for name, number in inner:
            if _is_number(number) and key != "schema_version":
                yield (key if name is None else f"{key}.{name}"), float(number), 0
    for row in summary["per_epoch"]:
        for key, number in row.items():
            if _is_number(number) and key != "epoch":
                yield f"epoch.{key}", float(number), int(row["epoch"])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tags(run: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, str]:
    codes = {severity: sorted({f["code"] for f in summary["findings"] if f["severity"] == severity}) for severity in ("error", "warning")}
    tags = {
        "run_id": run["run_id"],
        "status": summary["status"],
        "valid": json.dumps(summary["valid"]),
        "exit_code": json.dumps(summary["exit_code"]),
        "errors": ",".join(codes["error"]),
        "warnings": ",".join(codes["warning"]),
        "bottleneck": summary["bottleneck"] or "",
        "dataset_digest": run["dataset"]["digest"],
        "config_digest": config_digest(run["config"]),
        "command": shlex.join(run["command"]),
        **{f"versions.{name}": version for name, version in first_host(run)["versions"].items() if version},
    }
    return {f"storagebench.{_name(name)}": _cut(str(value), _MAX_TAG) for name, value in tags.items()}


def _artifacts(loaded: LoadedRun, folder: Path) -> Iterator[Path]:
    """`run.json` as it is, and, written into the folder, the summary as it follows from the traces and the page."""
    yield loaded.run_dir / RUN_FILE
    write_json(folder / SUMMARY_FILE, loaded.summary)
    yield folder / SUMMARY_FILE
    try:
        page = as_html([loaded])
    except UsageError:  # no plotly here: all that the page shows stands in the other two
        return
    (folder / "report.html").write_text(page)
    yield folder / "report.html"


def _name(text: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^\w\-. :/]", "_", text, flags=re.ASCII)[:_MAX_NAME]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
