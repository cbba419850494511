"""`plan WORKLOAD`: what a run would do and need, with the origin of every value. Touches no storage."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from storagebench.commands.options import DATASET_OPTIONS, RUN_OPTIONS, configured, with_payload, workload_options


@click.command("plan")
@click.argument("workload")
@workload_options((*DATASET_OPTIONS, *RUN_OPTIONS))
@click.option("--scale", metavar="FACTOR", help="So many times the workload's samples, such as 0.01.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan and the configuration as JSON.")
def command(workload: str, settings: tuple[str, ...], scale: str | None, as_json: bool, **values: Any) -> None:
    """What would a run do and need: steps, bytes, bandwidth demand, memory, and where each value came from."""
    from storagebench.plan import make_plan
    from storagebench.report.plan import plan_text

    chosen = configured(workload, with_payload(values), settings, scale)
    plan = make_plan(chosen.workload, chosen.workload.run.num_accelerators)
    if as_json:
        click.echo(json.dumps({"plan": asdict(plan), "config": chosen.workload.model_dump(), "provenance": dict(chosen.provenance)}, indent=1))
    else:
        click.echo(plan_text(asdict(plan), chosen.workload.model_dump(), dict(chosen.provenance)), nl=False)
