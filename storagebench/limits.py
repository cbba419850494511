"""What each part of a run could have given alone, in samples per second of all ranks: pure arithmetic on `run.json` and the traces.

The smallest of these limits is the bottleneck (`storagebench.diagnosis` says which it is). Each is an upper bound of its part:

- accelerator: the consumers, at the nominal compute time;
- cpu: all usable cores doing nothing but what this run did for a sample (loader, ranks and harness, as the kernel counted their CPU time);
- workers: the loader's workers, had none of them ever been idle: workers x ranks over the seconds that one spends on a sample;
- storage: what the storage gave raw, by the ceiling or the headroom probe of this run.

Unknown is None. All but `accelerator` are of one host: None for a run on several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from storagebench.ceiling import stored_per_delivered
from storagebench.members import first_host
from storagebench.ranks import Ranks
from storagebench.traces import Ints, Trace
from storagebench.window import RankWindow

_FETCH = "fetch"
SLOWEST_ONE_IN = 50


def limits(
    run: Mapping[str, Any], ranks: Ranks, hosts: Sequence[Trace], windows: Sequence[RankWindow], figures: Mapping[str, Any]
) -> dict[str, float | None]:
    """The limits, and the shares that say why. `figures`: the summary so far (totals, rates, ceilings, workers)."""
    ends = [record for rank in ranks for record in rank.of_kind("epoch_end")]
    one_host = len({rank.host for rank in ranks}) == 1
    compute_s, cores = run["plan"]["compute_time_s"], first_host(run).get("usable_cores")
    return {
        "accelerator_samples_per_s": len(ranks) * figures["batch_size"] / compute_s if compute_s > 0 and len(ranks) else None,
        **(_cpu(float(cores), ends, sum(rank.prep_cpu_s for rank in ranks)) if one_host and cores else dict.fromkeys(_CPU)),
        **_workers(figures, ranks),
        "storage_samples_per_s": _storage(run, hosts, figures) if one_host else None,
        "epoch_start_share": _epoch_start_share(ranks, windows),
        "slowest_steps_share": _slowest_steps_share(ranks.waits_ns),
        "run_delay_share": _rank_delay_share(ends, windows),
    }


_CPU = ("cpu_samples_per_s", "cores", "cores_used", "cores_of_others", "prep_cpu_share")


def _cpu(cores: float, ends: Sequence[Mapping[str, Any]], prep_cpu_s: float) -> dict[str, float | None]:
    """What a sample costs on the loader's and the ranks' CPU; and cores in use while epochs ran, by this command (starting its workers, too) and by
    others (the rest of what the host was busy with, stolen time too)."""
    used_s = sum(record["rank_cpu_s"] + record["worker_cpu_s"] for record in ends)
    samples = sum(record["samples"] for record in ends)
    counted = [record for record in ends if record.get("host_busy_s") is not None and record.get("host_command_s") is not None]
    span_s = sum(record["host_span_s"] for record in counted)
    busy_s, command_s = (sum(record[name] for record in counted) for name in ("host_busy_s", "host_command_s"))
    return {
        "cpu_samples_per_s": cores * samples / used_s if used_s > 0 and samples else None,
        "cores": cores,
        "cores_used": command_s / span_s if span_s > 0 else None,
        "cores_of_others": max(0.0, busy_s - command_s) / span_s if span_s > 0 else None,
        "prep_cpu_share": min(1.0, prep_cpu_s / used_s) if used_s > 0 else None,
    }


def _workers(figures: Mapping[str, Any], ranks: Ranks) -> dict[str, float | None]:
    """Workers where the loader says how many it uses (none: the rank itself works), and what they spent their time on."""
    busy_s = sum(sum(rank.spans_s.values()) for rank in ranks)
    samples = sum(rank.samples for rank in ranks)
    workers = figures["effective"].get("workers")
    known = workers is not None and busy_s > 0
    return {
        "workers_samples_per_s": max(workers, 1) * len(ranks) * samples / busy_s if known else None,
        "fetch_share": sum(rank.spans_s.get(_FETCH, 0.0) for rank in ranks) / busy_s if busy_s > 0 else None,
        "worker_delay_share": sum(rank.run_delay_s for rank in ranks) / busy_s if busy_s > 0 else None,
    }


def _storage(run: Mapping[str, Any], hosts: Sequence[Trace], figures: Mapping[str, Any]) -> float | None:
    """The raw rate over the bytes that a sample takes from the storage: of --ceiling, else of the headroom probe."""
    rate = figures["ceiling_bytes_per_s"]
    if rate is None:
        rates = [record["bytes_per_s"] for trace in hosts for record in trace.of_kind("headroom") if record["bytes_per_s"] is not None]
        rate = rates[-1] if rates else None
    if rate is None:
        return None
    ratio = stored_per_delivered(run, figures)
    if ratio is not None and figures["samples"]:
        return float(rate * figures["samples"] / (ratio * figures["delivered_bytes"]))
    return float(rate * run["dataset"]["num_samples"] / run["dataset"]["stored_bytes"])


def _epoch_start_share(ranks: Ranks, windows: Sequence[RankWindow]) -> float | None:
    """Share of all waiting for data that was before the first batch of an epoch, while nothing was ready yet."""
    waited_ns = sum(epoch.fetch_ns for window in windows for epoch in window.epochs)
    first_ns = sum(epoch.first_wait_ns for rank in ranks for epoch in rank.epochs)
    return first_ns / waited_ns if waited_ns > 0 else None


def _slowest_steps_share(waits_ns: Ints) -> float | None:
    """Share of all waiting for data that was in the slowest 2 % of the measured steps: near 1 where single reads are slow, and the others are not."""
    total_ns = int(waits_ns.sum())
    return int(waits_ns[len(waits_ns) - -(-len(waits_ns) // SLOWEST_ONE_IN) :].sum()) / total_ns if total_ns > 0 else None


def _rank_delay_share(ends: Sequence[Mapping[str, Any]], windows: Sequence[RankWindow]) -> float | None:
    """Share of the time in which the ranks' own threads, which emulate the accelerators, were ready to run and had no core."""
    delays_s = [record.get("rank_run_delay_s") for record in ends]
    seconds = sum(record["end_ns"] - record["start_ns"] for record in ends) / 1e9
    known = [delay_s for delay_s in delays_s if delay_s is not None]
    return sum(known) / seconds if known and len(known) == len(ends) and seconds > 0 and windows else None
