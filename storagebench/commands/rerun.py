"""`rerun RUN`: a saved run once more, from its folder alone."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from storagebench.errors import EXIT_OK

if TYPE_CHECKING:
    from storagebench.request import Request


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
    from storagebench.clock import SystemClock
    from storagebench.cluster.crew import agreed, from_first
    from storagebench.cluster.join import join
    from storagebench.commands.progress import following, say
    from storagebench.commands.run import shown
    from storagebench.launch import handling_signals
    from storagebench.launchers import launched
    from storagebench.preparation import prepare
    from storagebench.records import read_run
    from storagebench.request import default_run_id
    from storagebench.rerun import request_of
    from storagebench.session import take_part
    from storagebench.workload import Workload

    with handling_signals(), closing(join(launched(os.environ))) as crew:
        name = from_first(crew, lambda: run_id or default_run_id(Workload.model_validate(read_run(run)["config"]), SystemClock()))
        requests: list[Request] = []
        command = ["storagebench", *sys.argv[1:]]
        agreed(crew, lambda: requests.append(request_of(run, results_dir, name, command, obj["start_ns"], obj["debug"], crew, say)))
        run_dir = prepare(requests[0], crew)
        if crew.member:
            take_part(run_dir, crew, obj["debug"])
            return EXIT_OK
        plan = read_run(run_dir)["plan"]
        say(f"run {name}, {run} once more: {plan['planned_steps']} steps on {plan['world_size']} accelerators into {run_dir}")
        with following(run_dir, plan):
            summary = take_part(run_dir, crew, obj["debug"])
    assert summary is not None
    return shown(summary, as_json)
