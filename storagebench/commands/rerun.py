"""`rerun RUN`: a saved run once more, from its folder alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click


@click.command("rerun")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--results-dir", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where the new run folder is written."
)
@click.option("--run-id", metavar="NAME", help="Name of the new run folder; made of workload, loader and time otherwise.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_obj
def command(obj: dict[str, Any], /, run: Path, results_dir: Path, run_id: str | None, as_json: bool) -> int:
    """Repeat a saved run with its config, dataset, storage options and ceiling, from its folder alone (also one run of a search). RUN is a run folder.

    Refused (exit code 3) where the dataset is another one now; versions that differ are said. Credentials come from the environment, as ever.
    """
    import json

    from storagebench.clock import SystemClock
    from storagebench.commands.progress import following, say
    from storagebench.launch import handling_signals
    from storagebench.records import read_run
    from storagebench.report.text import one_run
    from storagebench.rerun import request_of
    from storagebench.session import default_run_id, execute, prepare
    from storagebench.workload import Workload

    name = run_id or default_run_id(Workload.model_validate(read_run(run)["config"]), SystemClock())
    with handling_signals():
        request = request_of(run, results_dir, name, ["storagebench", *sys.argv[1:]], obj["start_ns"], obj["debug"], say)
        run_dir = prepare(request)
        plan = read_run(run_dir)["plan"]
        say(f"run {name}, {run} once more: {plan['planned_steps']} steps on {plan['world_size']} accelerators into {run_dir}")
        with following(run_dir, plan):
            summary = execute(run_dir, request.debug)
    click.echo(json.dumps(summary, indent=1) + "\n" if as_json else one_run(summary), nl=False)
    for finding in summary["findings"]:
        if finding["severity"] == "error":
            click.echo(f"error: {finding['message']}\nhint: {finding['hint']}", err=True)
    return int(summary["exit_code"])
