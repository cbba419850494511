"""Every figure of `summary.json`, worked out a second time from `run.json` and the traces. Imports nothing of storagebench, and shares no code with it:
the definitions are those of the design's section on the run folder. As a script it compares: `python recompute.py RUN...`, exit code 1 where they differ.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from hosts import caused_s, groups, host_row, labels, memory, probed, spans
from limits import limits, stored_for_a_byte
from rank import NS, RankFigures, Row, all_or_none, average, by_name, kind, load
from tables import epoch_row, rank_row
from training import training

JUDGED = frozenset({"valid", "exit_code", "findings", "bottleneck", "verdict"})  # what the checks say, which are no figures


def recompute(run: Row, ranks: list[list[Row]], hosts: list[list[Row]], writers: list[list[Row]]) -> Row:
    """The summary without what the checks say."""
    trains = run["config"]["run"].get("accelerator", "").startswith("train:")
    figures = [RankFigures(rows, run["plan"]["prefetch_batches"], paced=not trains) for rows in ranks]
    if run["config"]["run"].get("sync") == "step" and len({tuple(each.free) for each in figures}) == 1:
        for epoch in figures[0].free:  # ranks in step consume at one pace, so their queues count together
            mean = sum(each.drop[epoch] for each in figures) / len(figures) if any(each.idle[epoch] for each in figures) else 0.0
            for each in figures if len(figures) > 1 else ():
                each.free[epoch] = mean
    ends = [row for rows in ranks for row in kind(rows, "epoch_end")]
    per_epoch = [epoch_row(run, ranks, ends, epoch) for epoch in sorted({row["epoch"] for row in ends})]
    caused = caused_s(figures)
    rates, totals = _utilisation(figures), _totals(figures, ends)
    return {
        **_asked(run, figures, hosts),
        **rates,
        **totals,
        **_ceiling(run, hosts, rates["delivered_bytes_per_s"], totals),
        **_cache(run, per_epoch),
        "local_cache_bytes": ([None] + [row["local_cache_bytes"] for row in per_epoch])[-1],
        "epochs_from_local_cache": [row["epoch"] for row in per_epoch if row["from_local_cache"] is True],
        **_times(run, figures, hosts),
        **_host_figures(run, figures, ends, hosts),
        "training": training(run, figures),
        **_written(run, figures, writers),
        **_proof(ranks, figures),
        "per_epoch": per_epoch,
        "per_rank": [rank_row(*each) for each in zip(figures, caused, strict=True)],
        "per_host": [host_row(run, name, figures, hosts, caused) for name in labels(run)],
        "limits": limits(run, figures, ends, hosts, totals, training(run, figures)),
    }


def _ceiling(run: Row, hosts: list[list[Row]], rate: float | None, totals: Row) -> Row:
    """What the storage gave raw, before and after; over 5 % apart the lower one counts. The run's rate of storage bytes is a fraction of it."""
    rates = sorted(rate for rate in (probed(run, hosts, "ceiling", when) for when in ("before", "after")) if rate is not None)
    if not rates:
        return {"ceiling_bytes_per_s": None, "ceiling_range_bytes_per_s": None, "fraction_of_ceiling": None}
    ceiling = rates[0] if rates[-1] / rates[0] > 1.05 else math.fsum(rates) / len(rates)
    unknown = rate is None or totals["storage_bytes"] is None or not totals["delivered_bytes"]
    return {
        "ceiling_bytes_per_s": ceiling,
        "ceiling_range_bytes_per_s": rates if len(rates) == 2 else None,
        "fraction_of_ceiling": None if unknown else rate * stored_for_a_byte(run, totals) / ceiling,
    }


def _asked(run: Row, figures: list[RankFigures], hosts: list[list[Row]]) -> Row:
    config, plan = run["config"], run["plan"]
    said = [(head["member"], row) for rows in hosts for head in kind(rows, "header") if "member" in head for row in kind(rows, "end")]
    finals = [row for member, row in sorted(said, key=lambda pair: int(pair[0])) if member == 0 or row.get("failure")]
    opened = [row["effective"] for each in figures for row in kind(each.rows, "opened")]
    effective = opened[0] if opened else {}
    broke = any(not row["lost_peer"] for each in figures for row in kind(each.rows, "error"))
    whole = all(kind(each.rows, "footer") and not kind(each.rows, "cut") for each in figures) and len(figures) == plan["world_size"]
    ended = bool(finals) and not finals[0].get("failure")
    return {
        "schema_version": 3,
        "run_id": run["run_id"],
        "status": "failed" if broke else "complete" if whole and ended else "incomplete",
        "failure": finals[0].get("failure") if finals else None,
        "workload": config["name"],
        "measures": config.get("measures", "steady state"),
        "accelerator": run["accelerator"],
        "profile": None if config["run"].get("compute_time_s") is not None else config["train"].get("profile"),
        "compute_time_s": plan["compute_time_s"],
        "au_threshold": config["train"]["au_threshold"],
        "loader": config["loader"]["name"],
        "format": run["dataset"]["format"],
        "storage": run["store"]["kind"],
        "placement": config["run"].get("placement", "shared"),
        "cache": config["run"]["cache"],
        "decode": effective.get("decode"),
        "decode_asked": config["run"]["decode"],
        "effective": effective,
        "dataset_digest": run["dataset"]["digest"],
        "world_size": plan["world_size"],
        "num_hosts": len(labels(run)),
        "batch_size": config["train"]["batch_size"],
        "epochs": config["train"]["epochs"],
        "listing": run.get("listing"),
    }


def _utilisation(figures: list[RankFigures]) -> Row:
    window_s = max((each.total["window"] for each in figures), default=0) / NS
    taken = sum(each.total["samples"] for each in figures)
    known = window_s > 0 and taken > 0
    return {
        "measured_steps": max((each.total["steps"] for each in figures), default=0),
        "warmup_steps": max((len(kind(each.rows, "warmup")) for each in figures), default=0),
        "idle_steps": sum(len(kind(each.rows, "idle")) for each in figures),
        "au_nominal": average([each.au_nominal for each in figures]),
        "au_uncorrected": average([each.au_uncorrected for each in figures]),
        "au_uncertainty": average([each.total["unsure"] / each.total["steps"] if each.total["steps"] else None for each in figures]),
        "au_measured": average([each.au(each.total["slept"]) for each in figures]),
        "au_null": average([each.au_null for each in figures]),
        "samples_per_s": math.fsum(each.total["samples"] * each.kept for each in figures) / window_s if known else None,
        "delivered_bytes_per_s": math.fsum(each.total["bytes"] * each.kept for each in figures) / window_s if known else None,
        "window_s": window_s,
    }


def _totals(figures: list[RankFigures], ends: list[Row]) -> Row:
    work = [row for each in figures for row in each.work]
    return {
        "samples": sum(row["samples"] for row in work),
        "delivered_bytes": sum(row["record_bytes"] for row in work),
        "handover_bytes": sum(row["handover_bytes"] for row in work),
        "storage_bytes": all_or_none([row["storage_bytes"] for row in ends]),
        "storage_method": ends[0]["storage_method"] if ends else None,
        "requests": all_or_none([row["requests"] for row in ends]),
        "retries": all_or_none([row["retries"] for row in ends]),
        "retries_by_kind": by_name([row.get("retries_by_kind") or {} for row in ends]),
        "bytes_by_endpoint": by_name([row.get("bytes_by_endpoint") or {} for row in ends]),
        "io_errors": sum(row["errors"] for row in ends),
    }


def _cache(run: Row, per_epoch: list[Row]) -> Row:
    """Of the worst epoch: the least cached where warm was asked for, else the most cached; unknown where one epoch is."""
    worst = min if run["config"]["run"]["cache"] == "warm" else max

    def of(name: str) -> Any:
        values = [row[name] for row in per_epoch]
        return worst(values) if values and None not in values else None

    return {
        "device_read_bytes": all_or_none([row["device_read_bytes"] for row in per_epoch]),
        "cached_fraction_before": of("cached_fraction_before"),
        "cached_fraction_served": of("cached_fraction_served"),
        "read_amplification": max((row["read_amplification"] for row in per_epoch if row["read_amplification"] is not None), default=None),
        "server_cache": next((row["server_cache"] for row in per_epoch if row["server_cache"]), None),
    }


def _times(run: Row, figures: list[RankFigures], hosts: list[list[Row]]) -> Row:
    firsts = [each.first_batch_s for each in figures if each.first_batch_s is not None]
    syncs: dict[tuple[int, int], list[int]] = {}
    for each in figures:
        for row in kind(each.rows, "step"):
            syncs.setdefault((row["epoch"], row["step"]), []).append(row["release_ns"] - row["host_delay_ns"] - row["due_ns"])
    cost_s = sum(min(values) for values in syncs.values()) / NS
    mean = {name: average([each.total[name] / NS for each in figures]) for name in ("compute", "fetch", "sync", "host")}
    fetches, steps = ([value for each in figures for value in getattr(each, name)] for name in ("fetches_s", "steps_s"))
    probes = [row for rows in hosts for row in kind(rows, "ceiling") if row["when"] == "before"]
    return {
        **spans(run, figures, max(((row["monotonic_ns"] - row["begin_ns"]) / NS for row in probes), default=0.0)),
        "time_to_first_batch_s": max(firsts, default=None),
        "compute_s": mean["compute"],
        "fetch_s": mean["fetch"],
        "sync_wait_s": None if mean["sync"] is None else mean["sync"] - cost_s,
        "sync_cost_s": cost_s if figures else None,
        "host_delay_s": mean["host"],
        "fetch_quantiles_s": _quantiles(fetches),
        "step_quantiles_s": _quantiles(steps),
    }


def _quantiles(values: list[float]) -> Row | None:
    """Nearest rank: the least value that so many percent of the values do not exceed."""
    if not values:
        return None
    picked = {f"p{level}": float(np.quantile(values, level / 100, method="inverted_cdf")) for level in (50, 90, 99)}
    return {**picked, "max": max(values)}


def _host_figures(run: Row, figures: list[RankFigures], ends: list[Row], hosts: list[list[Row]]) -> Row:
    delivered = sum(row["record_bytes"] for each in figures for row in each.work)
    cpu_s = math.fsum(row["rank_cpu_s"] + row["worker_cpu_s"] for row in ends) if ends else None
    copied = [sum(row.get("copy_s", 0.0) for row in kind(each.rows, "step")) for each in figures]
    names = dict.fromkeys(head["host"] for rows in hosts for head in kind(rows, "header"))
    return {
        "cpu_s": cpu_s,
        "cpu_s_per_gb": None if cpu_s is None or not delivered else cpu_s * 1e9 / delivered,
        "copy_s": average(copied) if run["config"]["run"].get("accelerator", "").split(":")[0] in ("cuda", "train") else None,
        "devices": [row for name in names for row in _devices(name, hosts)],
        "peak_rss_bytes": memory(run, hosts),
    }


def _written(run: Row, figures: list[RankFigures], writers: list[list[Row]]) -> Row:
    """What the writers stored. A shard's bytes are spread evenly over the time it took; those that fall into the window of the host's longest rank make the
    host's rate, and the hosts' add up."""
    names = ("written_shards", "written_bytes", "written_samples", "write_bytes_per_s", "write_quantiles_s", "write_cpu_s")
    if not run["config"]["run"].get("writers"):
        return dict.fromkeys(names)
    shards = [row for rows in writers for row in kind(rows, "shard")]
    of_host: dict[str, list[Row]] = {name: [] for name in groups(figures)}
    for rows in writers:
        of_host.setdefault(kind(rows, "header")[0]["host"], []).extend(kind(rows, "shard"))
    rates: list[float | None] = []
    for name, mine in of_host.items():
        lengths = [each.total["window"] for each in groups(figures).get(name, [])]
        inside = 0.0
        for opened, closed in groups(figures)[name][lengths.index(max(lengths))].windows if lengths else ():
            for row in mine:
                common = min(closed, row["end_ns"]) - max(opened, row["begin_ns"])
                inside += row["bytes"] * common / (row["end_ns"] - row["begin_ns"]) if common > 0 else 0.0
        rates.append(inside * NS / max(lengths) if lengths and max(lengths) > 0 else None)
    cpu_s = math.fsum(kind(rows, "shard")[-1]["cpu_s"] for rows in writers if kind(rows, "shard"))
    times = _quantiles([(row["end_ns"] - row["begin_ns"]) / NS for row in shards])
    totals = (len(shards), sum(row["bytes"] for row in shards), sum(row["samples"] for row in shards))
    return dict(zip(names, (*totals, all_or_none(rates), times, cpu_s), strict=True))


def _devices(name: str, hosts: list[list[Row]]) -> list[Row]:
    mine = [rows for rows in hosts if any(head["host"] == name for head in kind(rows, "header"))]
    seen = [device for rows in mine for row in kind(rows, "host") for device in row.get("devices", [])]
    found = []
    for index in sorted({device["index"] for device in seen}):
        same = [device for device in seen if device["index"] == index]
        means = {key: average([device[key] for device in same]) for key in ("utilisation", "pcie_rx_bytes_per_s", "pcie_tx_bytes_per_s")}
        largest = max((device["memory_used_bytes"] for device in same if device["memory_used_bytes"] is not None), default=None)
        found.append({"host": name, "index": index, "name": same[0]["name"], "memory_used_bytes": largest, **means})
    return found


def _proof(ranks: list[list[Row]], figures: list[RankFigures]) -> Row:
    work = [row for each in figures for row in each.work]
    first = kind(ranks[0], "epoch_end") if ranks else []
    return {
        "verified_samples": sum(row["verified"] for row in work),
        "checksum_errors": sum(row["errors"] for row in work),
        "bad_samples": [{"sample": a, "shard": b} for a, b in sorted({(bad[0], bad[1]) for row in work for bad in row["bad_samples"]})],
        **{f"{name}_samples": all_or_none([row[f"{name}_samples_of_all"] for row in first]) for name in ("duplicate", "missing", "dropped")},
    }


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Where two summaries differ by more than rounding (1e-9 relative, or 1e-9 of a unit near 0); keys that one of them lacks differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        lacking = [f"{where}.{key}: only in one" for key in sorted(set(ours) ^ set(theirs))]
        return lacking + [text for key in ours if key in theirs for text in differences(ours[key], theirs[key], f"{where}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [text for index, pair in enumerate(zip(ours, theirs, strict=True)) for text in differences(*pair, f"{where}[{index}]")]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (ours, theirs))
    same = math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-9) if numbers else ours == theirs and type(ours) is type(theirs)
    return [] if same else [f"{where}: {ours!r} here, {theirs!r} there"]


def compare(run_dir: Path) -> list[str]:
    """What `summary.json` of a run says otherwise."""
    summary = json.loads((run_dir / "summary.json").read_text())
    return differences(recompute(*load(run_dir)), {key: value for key, value in summary.items() if key not in JUDGED})


def main(run_dirs: list[str]) -> int:
    """Compare the runs; 1 where a figure differs."""
    found = [f"{run_dir}{text}" for run_dir in run_dirs for text in compare(Path(run_dir))]
    print("\n".join(found) or f"{len(run_dirs)} runs: every figure agrees")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
