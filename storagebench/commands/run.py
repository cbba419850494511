"""`run WORKLOAD`: measure one loader, and print the run's page."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from storagebench.commands.options import RUN_OPTIONS, configured, data_dir_option, parse_storage_options, storage_options, workload_options

if TYPE_CHECKING:
    from storagebench.session import Request


@click.command("run")
@click.argument("workload")
@data_dir_option
@workload_options(RUN_OPTIONS)
@storage_options
@click.option("--results-dir", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where run folders are written.")
@click.option("--run-id", metavar="NAME", help="Name of the run folder; made of workload, loader and time otherwise.")
@click.option("--repeat", type=click.IntRange(1, 1000), default=1, show_default=True, metavar="N", help="Runs, one after another: NAME-1 to NAME-N.")
@click.option("--ceiling", is_flag=True, help="Probe the raw ceiling of the storage before and after, on the same shards in the same cache state.")
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
    import json

    from storagebench.clock import SystemClock
    from storagebench.launch import handling_signals
    from storagebench.report.text import one_run
    from storagebench.session import Request, default_run_id

    if metric_lines:
        _refuse_two_outputs(as_json, repeat)
    chosen = configured(workload, values, settings)
    request = Request(
        configured=chosen,
        data_dir=data_dir,
        storage_options=parse_storage_options(storage_option),
        results_dir=results_dir,
        run_id=run_id or default_run_id(chosen.workload, SystemClock()),
        command=["storagebench", *sys.argv[1:]],
        command_start_ns=obj["start_ns"],
        debug=obj["debug"],
        ceiling=ceiling,
    )
    with handling_signals():
        if repeat > 1:
            return _repeat(request, repeat, as_json)
        summary = _run_one(request)
    click.echo(json.dumps(summary, indent=1) + "\n" if as_json else _lines(summary) if metric_lines else one_run(summary), nl=False)
    _say_errors(summary)
    return int(summary["exit_code"])


def _refuse_two_outputs(as_json: bool, repeat: int) -> None:
    from storagebench.errors import UsageError

    if as_json or repeat > 1:
        raise UsageError(
            f"--metric-lines prints the figures of one run, and {'--json' if as_json else '--repeat'} prints something else", "give one of them"
        )


def _lines(summary: Mapping[str, Any]) -> str:
    from storagebench.report.metriclines import metric_lines

    return metric_lines(summary)


def _run_one(request: Request) -> Mapping[str, Any]:
    """One run, from the check of the request to the summary, with its progress on stderr."""
    from storagebench.commands.progress import following, say
    from storagebench.records import read_run
    from storagebench.session import execute, prepare

    run_dir = prepare(request)
    plan = read_run(run_dir)["plan"]
    say(f"run {request.run_id}: {plan['planned_steps']} steps on {plan['world_size']} accelerators into {run_dir}")
    with following(run_dir, plan["planned_steps"], round(plan["compute_time_s"] * 1e9), plan["world_size"]):
        return execute(run_dir, request.debug)


def _say_errors(summary: Mapping[str, Any]) -> None:
    for finding in summary["findings"]:
        if finding["severity"] == "error":
            click.echo(f"error: {finding['message']}\nhint: {finding['hint']}", err=True)


def _repeat(request: Request, num_runs: int, as_json: bool) -> int:
    """The request several times. A run that fails is kept and said, and the others follow; a bad request or an interrupt ends it all."""
    import json
    from dataclasses import replace

    from storagebench.checks.judge import judge
    from storagebench.clock import SystemClock
    from storagebench.errors import InterruptedRunError, StorageBenchError, UsageError
    from storagebench.experiments.repeat import repeat, run_ids
    from storagebench.report.repeats import repeats_text

    ids = run_ids(request.run_id, num_runs)
    for run_id in ids:
        if (request.results_dir / run_id).exists():
            raise UsageError(f"run {run_id!r} exists in {request.results_dir}", "choose another --run-id; runs are never overwritten")

    def run_one(run_id: str) -> Mapping[str, Any]:
        start_ns = request.command_start_ns if run_id == ids[0] else SystemClock().now_ns()
        try:
            summary = _run_one(replace(request, run_id=run_id, command_start_ns=start_ns))
        except (UsageError, InterruptedRunError):
            raise
        except StorageBenchError as error:
            if not (request.results_dir / run_id).exists():
                raise  # refused before anything was run: it would be again
            click.echo(f"error: run {run_id}: {error.message}\nhint: {error.hint}", err=True)
            return judge(request.results_dir / run_id)
        _say_errors(summary)
        return summary

    repeats = repeat(ids, run_one)
    click.echo(json.dumps(repeats.as_dict(), indent=1) + "\n" if as_json else repeats_text(repeats), nl=False)
    return repeats.exit_code
