"""The options of `run` that let others watch it: OpenMetrics over HTTP, a file for node exporter, MLflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from storagebench.errors import StorageBenchError, UsageError

if TYPE_CHECKING:
    from storagebench.cluster.crew import Crew
    from storagebench.watch import Watch

_MAX_LINGER_S = 86_400.0
_Function = TypeVar("_Function", bound=Callable[..., Any])


def mlflow_options(function: _Function) -> _Function:
    """--mlflow and what belongs to it; the values arrive as `mlflow`, `mlflow_experiment` and `mlflow_traces`."""
    for option in (
        click.option("--mlflow-traces", is_flag=True, help="With --mlflow: log the traces too, which may be large."),
        click.option("--mlflow-experiment", metavar="NAME", help="With --mlflow: the experiment.  [default: storagebench]"),
        click.option(
            "--mlflow", metavar="URI", help="Log saved runs to this tracking server, such as sqlite:////path/mlflow.db; env: MLFLOW_TRACKING_URI's."
        ),
    ):
        function = option(function)
    return function


def watch_options(function: _Function) -> _Function:
    """The options of `run`. Their values go to `watching`."""
    function = mlflow_options(function)
    for option in (
        click.option(
            "--metrics-linger",
            metavar="TIME",
            help="Serve the final state after the end until it was scraped once, for at most so long.  [default: 0]",
        ),
        click.option(
            "--metrics-textfile",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Write this file (*.prom) for node exporter every 5 s and at the end.",
        ),
        click.option("--metrics-address", metavar="ADDRESS", help="Where --metrics-port listens.  [default: 127.0.0.1]"),
        click.option(
            "--metrics-port", type=click.IntRange(0, 65535), metavar="PORT", help="Serve OpenMetrics on this port while it runs; 0 picks a free one."
        ),
    ):
        function = option(function)
    return function


@dataclass(frozen=True)
class Onlookers:
    """Who follows the runs of a command from outside: the page and the file, and MLflow. The live line is there in any case."""

    values: Mapping[str, Any]
    watch: Watch | None

    @contextmanager
    def following(self, run_dir: Path, plan: Mapping[str, Any]) -> Iterator[None]:
        """Within the block the run goes on. It is logged afterwards, also one that failed, unless it was interrupted."""
        from storagebench.commands.progress import following
        from storagebench.errors import InterruptedRunError

        try:
            with following(run_dir, plan, self.watch):
                yield
        except InterruptedRunError:
            raise
        except StorageBenchError:
            try_to_log(self.values, run_dir)
            raise
        try_to_log(self.values, run_dir)


@contextmanager
def watching(values: Mapping[str, Any], crew: Crew) -> Iterator[Onlookers]:
    """Within the block the page is served and the file written, as the options say, by member 0 alone: all traces come to its folder. After a block that
    ends well the page stays until its final state was scraped, within --metrics-linger. Raises UsageError before anything is run. Collective."""
    from storagebench.cluster.crew import from_first

    opened: list[Watch | None] = [None]
    from_first(crew, lambda: opened.append(_open(values)))
    watch = opened[-1]
    if watch is None:
        yield Onlookers(values, None)
        return
    with watch:
        yield Onlookers(values, watch)
        watch.linger(_linger_s(values))


def _open(values: Mapping[str, Any]) -> Watch | None:
    """What the options ask for, with its port taken; None where they ask for nothing. Raises UsageError for what cannot be."""
    port, textfile = values["metrics_port"], values["metrics_textfile"]
    for name in ("metrics_address", "metrics_linger"):
        if values[name] is not None and port is None:
            raise UsageError(f"--{name.replace('_', '-')} belongs to --metrics-port", "give --metrics-port PORT, or leave it out")
    _linger_s(values)
    check_mlflow(values)
    if port is None and textfile is None:
        return None
    from storagebench.commands.progress import say
    from storagebench.watch import Watch

    return Watch(port, values["metrics_address"] or "127.0.0.1", textfile, say)


def _linger_s(values: Mapping[str, Any]) -> float:
    from storagebench.units import parse_duration

    linger_s = parse_duration(values["metrics_linger"] or "0")
    if linger_s > _MAX_LINGER_S:
        raise UsageError(f"--metrics-linger is {values['metrics_linger']!r}, and a day is the most", "two scrape intervals are enough")
    return linger_s


def check_mlflow(values: Mapping[str, Any]) -> None:
    """Refuse what cannot be logged to, before anything is run. Raises UsageError."""
    if values["mlflow"] is None:
        if values["mlflow_experiment"] is not None or values["mlflow_traces"]:
            raise UsageError("--mlflow-experiment and --mlflow-traces belong to --mlflow", "give --mlflow URI, or leave them out")
        return
    from storagebench.registry import missing_modules
    from storagebench.tracking import tracking_uri

    uri = tracking_uri(values["mlflow"])
    missing = missing_modules(("mlflow",) if uri.startswith(("http://", "https://")) else ("mlflow", "sqlalchemy", "alembic"))
    if missing:
        raise UsageError(f"--mlflow needs {', '.join(missing)}, which is not installed", "pip install 'storagebench[mlflow]'")


def log_to_mlflow(values: Mapping[str, Any], run_dir: Path) -> None:
    """Log this saved run where --mlflow is given. Raises StorageError where MLflow does not take it."""
    if values["mlflow"] is None:
        return
    from storagebench.commands.progress import say
    from storagebench.tracking import log_run

    logged = log_run(run_dir, values["mlflow"], values["mlflow_experiment"] or "storagebench", values["mlflow_traces"])
    what = f"{run_dir} is in MLflow already" if logged.before else f"logged {run_dir} to MLflow"
    say(f"{what}: experiment {logged.experiment}, run {logged.run_id}")


def try_to_log(values: Mapping[str, Any], run_dir: Path) -> None:
    """The same after a measurement, which is saved already: what goes wrong is a warning on stderr, and changes no exit code."""
    try:
        log_to_mlflow(values, run_dir)
    except StorageBenchError as error:
        click.echo(f"warning: {run_dir} is saved, but {error.message}\nhint: {error.hint}", err=True)
