"""What each part of a run could have given alone, in samples per second of all ranks: pure arithmetic on `run.json` and the traces.

The smallest of these limits is the bottleneck (`storagebench.diagnosis` says which it is). Each is an upper bound of its part:

- accelerator: the consumers, at the nominal compute time (of a training: the median of the measured one);
- cpu: all usable cores doing nothing but what this run did for a sample (loader, ranks and harness, as the kernel counted their CPU time);
- workers: the loader's workers, had none of them ever been idle: workers x ranks over the seconds that one spends on a sample;
- storage: what the storage gave raw, by the ceiling or the headroom probe of this run.

Unknown is None. Over several hosts their cores, what they used of them and what each was given raw at the same time add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from storagebench.ceiling import headroom_bytes_per_s, stored_per_delivered
from storagebench.hostfigures import by_host, cores_in_use, total
from storagebench.hostfiles import HostRecords
from storagebench.members import hosts_of
from storagebench.ranks import Ranks
from storagebench.traces import Ints
from storagebench.window import RankWindow

_FETCH = "fetch"
SLOWEST_ONE_IN = 50


def limits(
    run: Mapping[str, Any], ranks: Ranks, hosts: Sequence[HostRecords], windows: Sequence[RankWindow], figures: Mapping[str, Any]
) -> dict[str, float | None]:
    """The limits, and the shares that say why. `figures`: the summary so far (totals, rates, ceilings, workers)."""
    ends = [record for rank in ranks for record in rank.of_kind("epoch_end")]
    compute_s = run["plan"]["compute_time_s"] or (figures["training"] or {}).get("step_compute_s") or 0.0
    return {
        "accelerator_samples_per_s": len(ranks) * figures["batch_size"] / compute_s if compute_s > 0 and len(ranks) else None,
        **_cpu(run, ranks),
        **_workers(figures, ranks),
        "storage_samples_per_s": _storage(run, hosts, figures),
        "epoch_start_share": _epoch_start_share(ranks, windows),
        "slowest_steps_share": _slowest_steps_share(ranks.waits_ns),
        "run_delay_share": _rank_delay_share(ends, windows),
    }


_CPU = ("cpu_samples_per_s", "cores", "cores_used", "cores_of_others", "prep_cpu_share")


def _cpu(run: Mapping[str, Any], ranks: Ranks) -> dict[str, float | None]:
    """What a sample costs on the loader's and the ranks' CPU; and cores in use while epochs ran, on all hosts that have ranks. None where one of these
    hosts does not say how many cores it has."""
    hosts, facts = by_host(ranks), {str(host.get("host")): host.get("usable_cores") for host in hosts_of(run)}
    cores = total([facts.get(host) for host in hosts])
    if not cores:
        return dict.fromkeys(_CPU)
    ends = {host: [record for rank in mine for record in rank.of_kind("epoch_end")] for host, mine in hosts.items()}
    used_s = sum(record["rank_cpu_s"] + record["worker_cpu_s"] for records in ends.values() for record in records)
    samples = sum(record["samples"] for records in ends.values() for record in records)
    in_use = [cores_in_use(records) for records in ends.values()]
    prep_cpu_s = sum(rank.prep_cpu_s for rank in ranks)
    return {
        "cpu_samples_per_s": cores * samples / used_s if used_s > 0 and samples else None,
        "cores": float(cores),
        "cores_used": total([used["cores_used"] for used in in_use]),
        "cores_of_others": total([used["cores_of_others"] for used in in_use]),
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


def _storage(run: Mapping[str, Any], hosts: Sequence[HostRecords], figures: Mapping[str, Any]) -> float | None:
    """The raw rate over the bytes that a sample takes from the storage: of --ceiling, else of the headroom probe."""
    rate = figures["ceiling_bytes_per_s"]
    if rate is None:
        rate = headroom_bytes_per_s(run, hosts)
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
