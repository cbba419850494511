"""The plan as text: derived numbers first, then every value that was said, with its origin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from storagebench.trainname import is_training
from storagebench.units import format_bytes, format_gib, format_rate, format_seconds


def plan_text(plan: Mapping[str, Any], config: Mapping[str, Any], provenance: Mapping[str, str]) -> str:
    """Two blocks of aligned lines. Takes plain data, so that a saved run's plan reads the same."""
    demand, processes = plan["demand_bytes_per_s"], plan["num_processes"]
    shared = "" if processes == plan["world_size"] else f", in {processes} process{'es' if processes > 1 else ''}"
    accelerator = config["run"]["accelerator"]
    trains = is_training(accelerator)
    compute = f"{accelerator}, whose compute is measured" if trains else f"{format_seconds(plan['compute_time_s'])} of compute a step"
    rows = [
        ("accelerators", f"{plan['world_size']}, {compute}{shared}"),
        ("steps", f"{plan['planned_steps']} on each rank ({plan['steps_per_epoch']} an epoch of global batch {plan['global_batch']})"),
        ("samples", f"{plan['samples_per_epoch']} an epoch, {plan['dropped_samples_per_epoch']} dropped at its end"),
        ("dataset", f"{format_bytes(plan['record_bytes_per_epoch'])} of records, {format_bytes(plan['mean_record_bytes'])} each on average"),
        ("demand", _no_demand(trains) if demand is None else f"{format_rate(demand)}, {plan['demand_samples_per_s']:.1f} samples/s at AU 1"),
        ("compute alone", "known when it has run" if trains else f"{format_seconds(plan['compute_s'])} on each rank"),
        ("memory", f"{format_gib(plan['memory_bytes'])}, of which {format_gib(plan['shared_memory_bytes'])} in /dev/shm"),
        ("workers", f"{plan['workers_per_rank']} a rank, {plan['prefetch_batches']} batches of {format_bytes(plan['batch_bytes'])} ahead"),
    ]
    if config["measures"] == "cold load":
        rows.append(("what counts", "the cold load and the time to the first batch: in steady state next to nothing is asked of the storage"))
    if plan.get("writers"):
        rate = plan["write_demand_bytes_per_s"]
        speed = "as fast as they can" if rate is None else f"{format_rate(rate)} together"
        rows.append(("writers", f"{plan['writers']} beside the ranks, {speed}"))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {text}" for name, text in rows] + [""]
    values = [(f"{section}.{field}", value) for section in ("dataset", "loader", "train", "run") for field, value in config[section].items()]
    width = max(len(name) for name, _ in values)
    for name, value in values:
        origin = provenance.get(name) or next((where for key, where in provenance.items() if key.startswith(name + ".")), "default")
        lines.append(f"{name:<{width}}  {value if value != '' else '-'}  ({origin})")
    return "\n".join(lines) + "\n"


def _no_demand(trains: bool) -> str:
    return "that of the model, known when it has run" if trains else "none: compute time is 0"
