"""`run WORKLOAD`: measure one loader, and print the run's page."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from storagebench.commands.options import RUN_OPTIONS, configured, data_dir_option, parse_storage_options, storage_options, workload_options
from storagebench.commands.watching import Onlookers, watch_options, watching
from storagebench.errors import EXIT_OK

if TYPE_CHECKING:
    from storagebench.cluster.crew import Crew
    from storagebench.request import Request


@click.command("run")
@click.argument("workload")
@data_dir_option
@workload_options(RUN_OPTIONS)
@storage_options
@click.option("--results-dir", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where run folders are written.")
@click.option("--run-id", metavar="NAME", help="Name of the run folder; made of workload, loader and time otherwise.")
@click.option("--repeat", type=click.IntRange(1, 1000), default=1, show_default=True, metavar="N", help="Runs, one after another: NAME-1 to NAME-N.")
@click.option("--ceiling", is_flag=True, help="Probe the raw ceiling of the storage before and after, on the same shards in the same cache state.")
@watch_options
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option(
    "--metric-lines", is_flag=True, help="Print the figures as lines such as au=0.93, which Katib's collector reads; none of an invalid run."
)
@click.pass_obj
def command(
    obj: dict[str, Any],
    /,
    workload: str,
    data_dir: str,
    settings: tuple[str, ...],
    storage_option: tuple[str, ...],
    results_dir: Path,
    run_id: str | None,
    repeat: int,
    ceiling: bool,
    as_json: bool,
    metric_lines: bool,
    **values: Any,
) -> int:
    """Measure one loader on a dataset: accelerator utilisation (AU), throughput, stalls. WORKLOAD is a shipped one or a YAML file."""
    from storagebench.clock import SystemClock
    from storagebench.cluster.crew import from_first
    from storagebench.cluster.join import join
    from storagebench.launch import handling_signals
    from storagebench.launchers import launched
    from storagebench.request import Request, default_run_id

    if metric_lines:
        _refuse_two_outputs(as_json, repeat)
    chosen = configured(workload, values, settings)
    with handling_signals(), closing(join(launched(os.environ))) as crew, watching(values, crew) as onlookers:
        request = Request(
            configured=chosen,
            data_dir=data_dir,
            storage_options=parse_storage_options(storage_option),
            results_dir=results_dir,
            run_id=from_first(crew, lambda: run_id or default_run_id(chosen.workload, SystemClock())),
            command=["storagebench", *sys.argv[1:]],
            command_start_ns=obj["start_ns"],
            debug=obj["debug"],
            ceiling=ceiling,
        )
        if repeat > 1:
            return _repeat(request, crew, onlookers, repeat, as_json)
        summary = _run_one(request, crew, onlookers)
        return EXIT_OK if summary is None else shown(summary, as_json, metric_lines)


def shown(summary: Mapping[str, Any], as_json: bool, as_lines: bool = False) -> int:
    """Print the result of a run; its exit code."""
    import json

    from storagebench.report.metriclines import metric_lines
    from storagebench.report.text import one_run

    text = json.dumps(summary, indent=1) + "\n" if as_json else metric_lines(summary) if as_lines else one_run(summary)
    click.echo(text, nl=False)
    _say_errors(summary)
    return int(summary["exit_code"])


def _refuse_two_outputs(as_json: bool, repeat: int) -> None:
    from storagebench.errors import UsageError

    if as_json or repeat > 1:
        raise UsageError(
            f"--metric-lines prints the figures of one run, and {'--json' if as_json else '--repeat'} prints something else", "give one of them"
        )


def _run_one(request: Request, crew: Crew, onlookers: Onlookers) -> Mapping[str, Any] | None:
    """One run, from the check of the request to the summary (of member 0; the others have none), with its progress on stderr."""
    from storagebench.commands.progress import say
    from storagebench.preparation import prepare
    from storagebench.records import read_run
    from storagebench.session import take_part

    run_dir = prepare(request, crew)
    if crew.member:
        return take_part(run_dir, crew, request.debug)
    plan = read_run(run_dir)["plan"]
    hosts = len(set(crew.hosts))
    where = f" on {hosts} hosts" if hosts > 1 else ""
    say(f"run {request.run_id}: {plan['planned_steps']} steps on {plan['world_size']} accelerators{where} into {run_dir}")
    with onlookers.following(run_dir, plan):
        return take_part(run_dir, crew, request.debug)


def _say_errors(summary: Mapping[str, Any]) -> None:
    for finding in summary["findings"]:
        if finding["severity"] == "error":
            click.echo(f"error: {finding['message']}\nhint: {finding['hint']}", err=True)


def _nth(request: Request, run_id: str, number: int) -> Request:
    """The request of one of several runs; of a training with a seed of its own, since the same one would train the same model again."""
    from dataclasses import replace

    from storagebench.configfile import changed
    from storagebench.experiments.trainings import seed_of
    from storagebench.trainname import is_training

    run = request.configured.workload.run
    if not is_training(run.accelerator):
        return replace(request, run_id=run_id)
    seed = seed_of(run.seed, number)
    return replace(request, run_id=run_id, configured=changed(request.configured, {"run.seed": seed}, f"--repeat: seed {run.seed}, run {number}"))


def _repeat(request: Request, crew: Crew, onlookers: Onlookers, num_runs: int, as_json: bool) -> int:
    """The request several times. A run that fails is kept and said, and the others follow, unless a launcher started us; a bad request or an interrupt ends
    it all."""
    import json
    from dataclasses import replace

    from storagebench.checks.judge import judge
    from storagebench.clock import SystemClock
    from storagebench.cluster.crew import from_first
    from storagebench.errors import InterruptedRunError, StorageBenchError, UsageError
    from storagebench.experiments.repeat import repeat, run_ids
    from storagebench.report.repeats import repeats_text

    ids = run_ids(request.run_id, num_runs)
    asked = {run_id: _nth(request, run_id, number) for number, run_id in enumerate(ids, 1)}

    def refuse_existing() -> None:
        for run_id in ids:
            if (request.results_dir / run_id).exists():
                raise UsageError(f"run {run_id!r} exists in {request.results_dir}", "choose another --run-id; runs are never overwritten")

    def run_one(run_id: str) -> Mapping[str, Any]:
        start_ns = request.command_start_ns if run_id == ids[0] else SystemClock().now_ns()
        try:
            summary = _run_one(replace(asked[run_id], command_start_ns=start_ns), crew, onlookers)
        except (UsageError, InterruptedRunError):
            raise
        except StorageBenchError as error:
            if crew.num_members > 1 or not (request.results_dir / run_id).exists():
                raise  # refused before anything was run, so it would be again; or members are gone
            click.echo(f"error: run {run_id}: {error.message}\nhint: {error.hint}", err=True)
            return judge(request.results_dir / run_id)
        assert summary is not None
        _say_errors(summary)
        return summary

    from_first(crew, refuse_existing)
    if crew.member:
        for run_id in ids:
            _run_one(asked[run_id], crew, onlookers)
        return EXIT_OK
    repeats = repeat(ids, run_one)
    click.echo(json.dumps(repeats.as_dict(), indent=1) + "\n" if as_json else repeats_text(repeats), nl=False)
    return repeats.exit_code
