"""What each part of a run could have given alone. Part of the independent computation; see `recompute`."""

from __future__ import annotations

import math

import numpy as np
from hosts import cores, groups, probed
from rank import NS, RankFigures, Row, all_or_none, kind


def limits(run: Row, figures: list[RankFigures], ends: list[Row], hosts: list[list[Row]], totals: Row, trained: Row | None = None) -> Row:
    work = [row for each in figures for row in each.work]
    compute_s, batch = run["plan"]["compute_time_s"], run["config"]["train"]["batch_size"]
    if trained is not None:
        compute_s = trained["step_compute_s"] or 0.0
    busy_s = sum(seconds for row in work for seconds in row["spans_s"].values())
    opened = [row["effective"] for each in figures for row in kind(each.rows, "opened")]
    workers = (opened[0] if opened else {}).get("workers")
    rates = sorted(rate for rate in (probed(run, hosts, "ceiling", when) for when in ("before", "after")) if rate is not None)
    rate = probed(run, hosts, "headroom", None)
    if rates:
        rate = rates[0] if rates[-1] > rates[0] * 1.05 else sum(rates) / len(rates)
    a_sample = run["dataset"]["stored_bytes"] / run["dataset"]["num_samples"]
    if totals["storage_bytes"] and totals["samples"]:
        a_sample = totals["delivered_bytes"] * stored_for_a_byte(run, totals) / totals["samples"]
    return {
        "accelerator_samples_per_s": len(figures) * batch / compute_s if figures and compute_s > 0 else None,
        **_cpu(run, figures, ends, work),
        "workers_samples_per_s": sum(row["samples"] for row in work) * len(figures) * (workers or 1) / busy_s
        if busy_s and workers is not None
        else None,
        "fetch_share": sum(row["spans_s"].get("fetch", 0) for row in work) / busy_s if busy_s else None,
        "worker_delay_share": sum(row["run_delay_s"] for row in work) / busy_s if busy_s else None,
        "storage_samples_per_s": rate / a_sample if rate is not None else None,
        "epoch_start_share": _first_batches(figures),
        "slowest_steps_share": _slowest(figures),
        "run_delay_share": _rank_delay(figures, ends),
    }


def stored_for_a_byte(run: Row, totals: Row) -> float:
    """A run that was cut short has read ahead what it did not deliver, so there the dataset's own ratio counts."""
    asked = run["config"]["run"]
    cut_short = asked["max_steps"] is not None or asked["duration_s"] is not None
    parts = (run["dataset"]["stored_bytes"], run["dataset"]["record_bytes"]) if cut_short else (totals["storage_bytes"], totals["delivered_bytes"])
    return parts[0] / parts[1]


def _cpu(run: Row, figures: list[RankFigures], ends: list[Row], work: list[Row]) -> Row:
    names = ("cpu_samples_per_s", "cores", "cores_used", "cores_of_others", "prep_cpu_share")
    there = groups(figures)
    have = [host.get("usable_cores") for host in run["hosts"] if host["host"] in there]
    if not have or None in have:
        return dict.fromkeys(names)
    used_s = sum(row["rank_cpu_s"] for row in ends) + sum(row["worker_cpu_s"] for row in ends)
    in_use = [cores([row for each in mine for row in kind(each.rows, "epoch_end")]) for mine in there.values()]
    samples = sum(row["samples"] for row in ends)
    values = (
        samples / (used_s / sum(have)) if used_s and samples else None,
        float(sum(have)),
        all_or_none([own for own, _ in in_use]),
        all_or_none([others for _, others in in_use]),
        min(sum(row["prep_cpu_s"] for row in work) / used_s, 1.0) if used_s else None,
    )
    return dict(zip(names, values, strict=True))


def _first_batches(figures: list[RankFigures]) -> float | None:
    first = 0
    for each in figures:
        for epoch, row in each.starts.items():
            mine = [step for step in each.work if step["epoch"] == epoch][:1]
            first += sum(step["start_ns"] - row["start_ns"] for step in mine if step["kind"] == "step")
    waited = sum(each.total["fetch"] for each in figures)
    return first / waited if waited > 0 else None


def _slowest(figures: list[RankFigures]) -> float | None:
    waits = np.sort(np.array([wait for each in figures for wait in each.fetches_s]))
    return float(waits[len(waits) - math.ceil(len(waits) / 50) :].sum() / waits.sum()) if waits.sum() > 0 else None


def _rank_delay(figures: list[RankFigures], ends: list[Row]) -> float | None:
    if not ends or not figures or any(row["rank_run_delay_s"] is None for row in ends):
        return None
    wall_s = sum(row["end_ns"] - row["start_ns"] for row in ends) / NS
    return sum(row["rank_run_delay_s"] for row in ends) / wall_s if wall_s else None
