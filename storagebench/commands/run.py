"""`run WORKLOAD`: measure one loader, and print the run's page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from storagebench.commands.options import RUN_OPTIONS, configured, data_dir_option, parse_storage_options, storage_options, workload_options


@click.command("run")
@click.argument("workload")
@data_dir_option
@workload_options(RUN_OPTIONS)
@storage_options
@click.option("--results-dir", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where run folders are written.")
@click.option("--run-id", metavar="NAME", help="Name of the run folder; made of workload, loader and time otherwise.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
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
    as_json: bool,
    **values: Any,
) -> int:
    """Measure one loader on a dataset: accelerator utilisation (AU), throughput, stalls. WORKLOAD is a shipped one or a YAML file."""
    import json

    from storagebench.clock import SystemClock
    from storagebench.commands.progress import following, say
    from storagebench.launch import handling_signals
    from storagebench.records import read_run
    from storagebench.report.text import one_run
    from storagebench.session import Request, default_run_id, execute, prepare

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
    )
    with handling_signals():
        run_dir = prepare(request)
        plan = read_run(run_dir)["plan"]
        say(f"run {request.run_id}: {plan['planned_steps']} steps on {plan['world_size']} accelerators into {run_dir}")
        with following(run_dir, plan["planned_steps"], round(plan["compute_time_s"] * 1e9), plan["world_size"]):
            summary = execute(run_dir, obj["debug"])
    click.echo(json.dumps(summary, indent=1) + "\n" if as_json else one_run(summary), nl=False)
    for finding in summary["findings"]:
        if finding["severity"] == "error":
            click.echo(f"error: {finding['message']}\nhint: {finding['hint']}", err=True)
    return int(summary["exit_code"])
