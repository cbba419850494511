"""`plan --rules` as text: the dataset first, then what a run must be, what is open to choice, and what of the workload does not fit yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from storagebench.units import format_bytes, format_gib, format_rate, format_seconds


def rules_plan_text(plan: Mapping[str, Any], asked: str) -> str:
    """Aligned lines and three lists. Takes plain data; `asked` is the name of the rules as the user gave it."""
    rows = [*_head(plan, asked), *_dataset(plan), *_run(plan)]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {text}" for name, text in rows]
    lines += ["", "open to choice:", *_parameters(plan)]
    if plan["differs"]:
        lines += ["", "what this workload has otherwise, and a run would fail by:", *(f"  {text}" for text in plan["differs"])]
    lines += ["", f"make it: {plan['generate']}"]
    lines += ["A run of storagebench is no submission to MLPerf Storage: `check --rules` says how near it comes."]
    return "\n".join(lines) + "\n"


def _head(plan: Mapping[str, Any], asked: str) -> list[tuple[str, str]]:
    meant = "" if plan["rules"] == asked else f" (closed, since {asked} names no division)"
    hosts, memory = plan["num_hosts"], plan["host_memory_bytes"]
    each = f", {plan['num_accelerators'] // hosts} on each of {hosts} hosts" if hosts > 1 else " on one host"
    return [
        ("rules", plan["rules"] + meant),
        ("workload", f"{plan['workload']} in {plan['format']}, read by {plan['framework']} ({plan['source']})"),
        ("accelerators", f"{plan['num_accelerators']}{each}; the engine takes about {format_bytes(plan['memory_for_accelerators_bytes'])} a host"),
        ("memory", f"{format_gib(memory)} a host ({plan['host_memory_from']}){f', {format_gib(hosts * memory)} in all' if hosts > 1 else ''}"),
    ]


def _dataset(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    data = plan["dataset"]
    how = "exactly" if data["exact"] else "at least"
    rules = {
        "memory": f"{plan['memory_factor']} x memory of all hosts: {data['files_by_memory']} files",
        "steps": f"{plan['least_steps']} steps an epoch: {data['files_by_steps']} files",
    }
    decides = data["decided_by"]
    other = rules["steps" if decides == "memory" else "memory"]
    size = f"{how} {data['files']} files of {data['samples_per_file']} sample{'s' if data['samples_per_file'] > 1 else ''}"
    return [
        ("dataset", f"{size}: {data['samples']} samples, {format_bytes(data['record_bytes'])} ({data['record_bytes']} bytes)"),
        ("decided by", f"{rules[decides]} (the other rule: {other})"),
        ("steps", f"{data['steps_per_epoch']} an epoch of batch {plan['batch_size']} an accelerator, {plan['epochs']} epochs"),
    ]


def _run(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("AU", f"at least {plan['au_threshold']:.2f}")]
    for name, values in plan["accelerators"].items():
        demand = f"{format_rate(values['demand_bytes_per_s'])}, {values['demand_samples_per_s']:.1f} samples/s at AU 1"
        least = f"a run takes {values['shortest_run_s'] / 60:.1f} min at best"
        rows.append((name, f"{format_seconds(values['compute_time_s'])} of compute a step; {demand}; {least} ({values['source']})"))
    runs = plan["num_runs"]
    if runs is None:
        text = "not known: the text of this edition was not to be had"
    else:
        warm_up = "the first of them the warm-up run" if plan["first_is_warm_up"] else "and a warm-up run before them"
        text = f"{runs}, {warm_up}" + ("" if plan["spread"] is None else f"; within {plan['spread']:.0%}")
    return [*rows, ("runs", text)]


def _parameters(plan: Mapping[str, Any]) -> list[str]:
    names = [parameter["name"] for parameter in plan["parameters"]]
    width, bounds = max(map(len, names)), max(len(parameter["bounds"]) for parameter in plan["parameters"])
    return [
        f"  {each['name']:<{width}}  {each['bounds']:<{bounds}}  {each['option'] or '(no such option here)'}".rstrip() for each in plan["parameters"]
    ]
