"""`plan WORKLOAD`: what a run would do and need, with the origin of every value; with --rules, what an edition asks for. Touches no storage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from storagebench.commands.options import DATASET_OPTIONS, RUN_OPTIONS, configured, with_payload, workload_options
from storagebench.commands.plan_capacity import capacity_options, print_capacity, refuse_without_capacity, taken

_RULES_HELP = "What these rules ask for instead, such as mlperf-storage-v2.0 or mlperf-storage-v3.0-open: dataset size, thresholds, parameters."


@click.command("plan")
@click.argument("workload")
@workload_options((*DATASET_OPTIONS, *RUN_OPTIONS))
@click.option("--scale", metavar="FACTOR", help="So many times the workload's samples, such as 0.01.")
@click.option("--rules", "rules_name", metavar="NAME", help=_RULES_HELP)
@click.option("--host-memory", metavar="SIZE", help="With --rules: memory of each host, such as 512GiB; without it, that of this host.")
@click.option("--num-hosts", type=click.IntRange(1), help="With --rules: hosts that share the accelerators (--num-accelerators is of all together).")
@capacity_options
@click.option("--json", "as_json", is_flag=True, help="Print the plan and the configuration as JSON.")
def command(
    workload: str,
    settings: tuple[str, ...],
    scale: str | None,
    rules_name: str | None,
    host_memory: str | None,
    num_hosts: int | None,
    capacity: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """What would a run do and need: steps, bytes, bandwidth demand, memory, and where each value came from."""
    from storagebench.errors import UsageError
    from storagebench.plan import make_plan
    from storagebench.report.plan import plan_text

    asked = taken(values)
    chosen = configured(workload, with_payload(values), settings, scale)
    if not capacity:
        refuse_without_capacity(asked)
    if capacity and rules_name is not None:
        raise UsageError("--capacity and --rules are two questions", "ask one of them")
    if rules_name is not None:
        _print_rules(workload, chosen.workload.model_dump(), rules_name, host_memory, num_hosts or 1, as_json)
        return
    if host_memory is not None or num_hosts is not None:
        raise UsageError("--host-memory and --num-hosts say what rules are judged by, and there is no --rules", "give --rules, or leave them out")
    if capacity:
        print_capacity(chosen, asked, as_json)
        return
    plan = make_plan(chosen.workload, chosen.workload.run.num_accelerators)
    if as_json:
        click.echo(json.dumps({"plan": asdict(plan), "config": chosen.workload.model_dump(), "provenance": dict(chosen.provenance)}, indent=1))
    else:
        click.echo(plan_text(asdict(plan), chosen.workload.model_dump(), dict(chosen.provenance)), nl=False)


def _print_rules(workload: str, config: Mapping[str, Any], rules_name: str, host_memory: str | None, num_hosts: int, as_json: bool) -> None:
    from storagebench.checks.mlperf import find_ground
    from storagebench.checks.mlperf_plan import Hosts, rules_plan
    from storagebench.host import facts
    from storagebench.report.rulesplan import rules_plan_text
    from storagebench.units import parse_size

    ground = find_ground(rules_name)
    memory_bytes, source = (facts(None)["memory_bytes"], "of this host") if host_memory is None else (parse_size(host_memory), "--host-memory")
    plan = rules_plan(workload, config, ground, Hosts(config["run"]["num_accelerators"], num_hosts, memory_bytes, source))
    click.echo(json.dumps({"plan": plan}, indent=1) + "\n" if as_json else rules_plan_text(plan, rules_name), nl=False)
