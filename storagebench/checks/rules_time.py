"""Is the number strong enough, and is it the storage's: length, steadiness, skew, and what the host itself did to the clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from storagebench.checks.case import Case, Found
from storagebench.hostfiles import SAMPLE, samples_of
from storagebench.members import first_files
from storagebench.ranks import Rank
from storagebench.units import format_seconds

MIN_STEPS_PER_PREFETCHED_BATCH = 50
MIN_WINDOW_S = 60.0
HOST_DELAY_AT_MOST = 0.01
# A thread that wakes up waits some 0.1 ms for its core even on an idle host (1.6 % of 26 ms steps seen), so alone it takes more to be a finding.
RUN_DELAY_ALONE, OTHERS_AT_LEAST = 0.05, 0.15
# Whoever shares the host with so much else may have got its cores in time (a run that sleeps most of its time does), but nobody can tell from one run.
OTHERS_MOST = 0.5
NULL_AU_MARGIN = 0.02
UNCERTAINTY_AT_MOST = 0.05
# Steadiness (reference/measurement.md section 7): 25 windows, of at least this many steps each.
WINDOWS, LAST_WINDOWS, STEADY_WITHIN, MIN_STEPS_PER_WINDOW = 25, 7, 0.075, 20
T_OF_SLOPE = 3.77  # two-sided 0.1 % of Student's t with 23 degrees of freedom: noise of the steps alone is no drift
STANDARD_ERRORS = 4.0
SKEW_AT_MOST = 0.05
STEAL_AT_MOST = 0.01
CLOCK_STEP_NS = 500_000_000
_CPU_SECONDS = ("cpu_user_s", "cpu_system_s", "cpu_idle_s", "cpu_iowait_s", "cpu_steal_s")


def too_short(case: Case) -> Iterator[Found]:
    s = case.summary
    if case.complete and s["au_nominal"] is not None and s["window_s"] < MIN_WINDOW_S:
        yield Found(
            f"{format_seconds(s['window_s'])} were measured, and {MIN_WINDOW_S:.0f} s make a figure to publish",
            "use more --epochs or --num-samples for a figure to publish",
        )


def few_steps(case: Case) -> Iterator[Found]:
    s, wanted = case.summary, MIN_STEPS_PER_PREFETCHED_BATCH * case.run["plan"]["prefetch_batches"]
    if case.complete and s["au_nominal"] is not None and s["measured_steps"] < wanted:
        yield Found(
            f"{s['measured_steps']} steps were measured, under {MIN_STEPS_PER_PREFETCHED_BATCH} x the {case.run['plan']['prefetch_batches']} prefetched batches",
            f"measure {wanted} steps: use more --epochs or --num-samples, or fewer --prefetch-batches",
        )


def not_steady(case: Case) -> Iterator[Found]:
    durations_s = case.ranks.mean_lengths_s
    if len(durations_s) < WINDOWS * MIN_STEPS_PER_WINDOW:
        return
    hint = "measure longer, use more --warmup-steps, and look at the step timeline for what changes"
    windows = np.array_split(durations_s, WINDOWS)
    means = np.array([window.mean() for window in windows])
    position = np.arange(WINDOWS) - (WINDOWS - 1) / 2
    slope = float(position @ means / (position @ position))
    rest = means - means.mean() - slope * position
    noise = float(np.sqrt(rest @ rest / (WINDOWS - 2) / (position @ position)))
    drift = slope * (WINDOWS - 1) / float(means.mean())
    if abs(drift) > STEADY_WITHIN and abs(slope) > T_OF_SLOPE * noise:
        yield Found(f"the time of a step changes by {drift:+.1%} over the run, and {STEADY_WITHIN:.1%} counts as steady", hint)
        return
    last = means[-LAST_WINDOWS:]
    errors = np.array([window.std(ddof=1) / np.sqrt(len(window)) for window in windows[-LAST_WINDOWS:]])
    off = np.abs(last - last.mean())
    worst = int(np.argmax(off - np.maximum(STEADY_WITHIN * last.mean(), STANDARD_ERRORS * errors)))
    if off[worst] > max(STEADY_WITHIN * last.mean(), STANDARD_ERRORS * errors[worst]):
        share = off[worst] / last.mean()
        yield Found(f"of the last {LAST_WINDOWS} of {WINDOWS} windows one is {share:.1%} off their mean, over {STEADY_WITHIN:.1%}", hint)


def rank_skew(case: Case) -> Iterator[Found]:
    rows, window_s = case.summary["per_rank"], case.summary["window_s"]
    if len(rows) < 2 or not window_s:
        return
    mean_s = sum(row["fetch_s"] for row in rows) / len(rows)
    slowest = max(rows, key=lambda row: float(row["fetch_s"]))
    if slowest["fetch_s"] - mean_s > SKEW_AT_MOST * window_s:
        yield Found(
            f"rank {slowest['rank']} waited {format_seconds(slowest['fetch_s'])} for data, and the mean is {format_seconds(mean_s)}: "
            f"more than {SKEW_AT_MOST:.0%} of the window apart",
            f"see what differs about rank {slowest['rank']}: its shards, its host, its share of the cores",
        )


def host_limited(case: Case) -> Iterator[Found]:
    """The host took time from the accelerators themselves (it woke them late, or had no core for the ranks' own threads), or was busy with something else."""
    window_s, waited = case.summary["window_s"], case.summary["limits"]["run_delay_share"]
    delayed, delay_s = _most_delayed(case)
    crowded_host, others, cores = _most_crowded(case)
    crowded = others >= OTHERS_AT_LEAST * cores
    who = "emulated accelerators" if case.summary["training"] is None else "ranks that train"
    hint = "use fewer accelerators on this host, or stop what else runs on it"
    if window_s and delay_s > HOST_DELAY_AT_MOST * window_s:
        yield Found(
            f"{delayed} woke the accelerators late by {format_seconds(delay_s)} in {format_seconds(window_s)} ({delay_s / window_s:.1%})", hint
        )
    elif waited is not None and waited > (HOST_DELAY_AT_MOST if crowded else RUN_DELAY_ALONE):
        yield Found(
            f"for {waited:.1%} of the time the {who} were ready to run and {crowded_host} had no core; others used {others:.1f} of its cores",
            hint,
        )
    elif others >= OTHERS_MOST * cores:
        yield Found(f"others used {others:.1f} of {crowded_host}'s {cores:.0f} cores, {OTHERS_MOST:.0%} or more, while it was measured", hint)


def _called(case: Case, host: Any) -> str:
    return "this host" if case.summary["num_hosts"] == 1 else f"host {host}"


def _most_delayed(case: Case) -> tuple[str, float]:
    """The host that woke its ranks latest, and by how long in the mean of these."""
    delays: dict[Any, list[float]] = {}
    for row in case.summary["per_rank"]:
        delays.setdefault(row["host"], []).append(row["host_delay_s"])
    means = {host: sum(mine) / len(mine) for host, mine in delays.items()}
    worst = max(means, key=lambda host: means[host], default=None)
    return _called(case, worst), means.get(worst, 0.0)


def _most_crowded(case: Case) -> tuple[str, float, float]:
    """The host of whose cores others used most: its name, how many of them, and how many it has."""
    rows = [(row["cores_of_others"] or 0.0, row["cores"] or 1.0, row["host"]) for row in case.summary["per_host"]]
    others, cores, host = max(rows, key=lambda row: row[0] / row[1], default=(0.0, 1.0, None))
    return _called(case, host), others, float(cores)


def decode_limited(case: Case) -> Iterator[Found]:
    if case.summary["bottleneck"] == "decode":
        yield Found(
            f"what comes after the fetch is in the way ({case.summary['verdict']['why'][0]}): this is no figure of the storage",
            "use --decode parse for the storage alone, or `storagebench diagnose` for both",
        )


def harness_limited(case: Case) -> Iterator[Found]:
    au_null, threshold = case.summary["au_null"], case.summary["au_threshold"]
    if au_null is not None and au_null < threshold + NULL_AU_MARGIN:
        yield Found(
            f"even without any storage the AU is {au_null:.3f} here, near or below the threshold of {threshold}",
            "use a longer --compute-time or fewer accelerators on this host",
        )


def au_uncertain(case: Case) -> Iterator[Found]:
    bound = case.summary["au_uncertainty"]
    if case.summary["au_nominal"] is not None and bound is not None and bound > UNCERTAINTY_AT_MOST:
        yield Found(f"prefetched batches may account for {bound:.1%} of the steps", "measure more steps, or use fewer --prefetch-batches")


def vm_steal(case: Case) -> Iterator[Found]:
    """CPU time that the hypervisor gave to others, as a share of this host's while the ranks ran."""
    for trace in first_files(case.hosts).values():
        begin_ns, end_ns = _span_ns([rank for rank in case.ranks if rank.host == trace.header.get("host")])
        samples = [record for record in samples_of(trace).kept if begin_ns <= record["monotonic_ns"] <= end_ns]
        if len(samples) < 2 or any(samples[0].get(name) is None for name in _CPU_SECONDS):
            continue
        grown = {name: samples[-1][name] - samples[0][name] for name in _CPU_SECONDS}
        total_s = sum(grown.values())
        if total_s > 0 and grown["cpu_steal_s"] > STEAL_AT_MOST * total_s:
            yield Found(
                f"{grown['cpu_steal_s'] / total_s:.1%} of the CPU time of host {trace.header.get('host')} was stolen by other virtual machines, "
                f"over {STEAL_AT_MOST:.0%}",
                "run on a host with cores of its own, or at another time",
            )


def _span_ns(ranks: Sequence[Rank]) -> tuple[int, int]:
    """From the first loader start to the last step's end of the ranks of one host."""
    begins = [record["start_ns"] for rank in ranks for record in rank.of_kind("epoch_start")]
    ends = [rank.last_ns for rank in ranks if rank.last_ns is not None]
    return min(begins, default=0), max(ends, default=0)


def clock_step(case: Case) -> Iterator[Found]:
    """Slewing moves both clocks alike; only a step (or a suspend) moves them apart."""
    for trace in first_files(case.hosts).values():
        pairs: list[Mapping[str, Any]] = [trace.header, *(record for record in trace.others if record["kind"] != SAMPLE)]
        offsets = [record["wall_ns"] - record["monotonic_ns"] for record in pairs if "wall_ns" in record and "monotonic_ns" in record]
        offsets += samples_of(trace).offsets_ns or ()
        apart_ns = max(offsets, default=0) - min(offsets, default=0)
        if apart_ns > CLOCK_STEP_NS:
            yield Found(
                f"the wall clock of host {trace.header.get('host')} and its monotonic clock moved {format_seconds(apart_ns / 1e9)} apart, "
                f"over {format_seconds(CLOCK_STEP_NS / 1e9)}",
                "durations are of the monotonic clock, which stands still while a host is suspended: run it again with a steady clock",
            )
