"""Is the run folder whole and of one piece: lost ranks, gaps, counts and times that do not add up, parts of other runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from storagebench.checks.case import Case, Found
from storagebench.members import first_host, host_of_rank
from storagebench.records import config_digest
from storagebench.units import format_seconds

# The parts of the steps add up to the window (measurement.md section 8, T5); each epoch's ends may lie off by what a wake-up may be late.
PARTS_TOLERANCE = 0.001
LATENESS_S = 0.005
_SHOWN = 8


def partial_run(case: Case) -> Iterator[Found]:
    """All ranks finished, and still the run did not end as it should. Where ranks are lost, PARTIAL_RANKS says it all."""
    if not case.complete and not _lost_ranks(case):
        yield Found(_unfinished(case), "run it again for a result")


def partial_ranks(case: Case) -> Iterator[Found]:
    lost = _lost_ranks(case)
    if lost:
        names = ", ".join(_named(case, rank) for rank in lost[:_SHOWN])
        yield Found(f"{len(lost)} of {case.summary['world_size']} ranks did not finish: {names}; {_unfinished(case)}", "run it again for a result")


def _named(case: Case, rank: int) -> str:
    return f"{rank} on host {host_of_rank(case.run, rank)}" if case.summary["num_hosts"] > 1 else str(rank)


def _lost_ranks(case: Case) -> list[int]:
    finished = {row["rank"] for row in case.summary["per_rank"] if row["finished"]}
    return [rank for rank in range(case.summary["world_size"]) if rank not in finished]


def _unfinished(case: Case) -> str:
    failure = case.summary.get("failure")
    return f"the run is {case.summary['status']}{f' ({failure})' if failure else ''}, and the figures are of the steps taken so far"


def trace_gap(case: Case) -> Iterator[Found]:
    """A step that is missing from a trace would leave its time in the window and its work out of it, or the other way round."""
    hint = "run it again; if it comes back, look for what else writes to the run folder"
    for rank in case.ranks:
        if rank.truncated:
            yield Found(f"the last line of the trace of {rank.name} is cut", hint)
        if rank.gap is not None:
            number, expected = rank.gap
            yield Found(f"the trace of {rank.name} has step {number} where step {expected} was to come", hint)
        if case.complete and not case.bounded:
            for record in rank.of_kind("epoch_start"):
                epoch, planned = record["epoch"], record["steps"]
                made = sum(each.steps for each in rank.epochs if each.epoch == epoch)
                if made < planned:
                    yield Found(f"the trace of {rank.name} has {made} steps of epoch {epoch}, and {planned} were planned", hint)


def sample_counts(case: Case) -> Iterator[Found]:
    """The samples of the steps are those that the loader delivered: a failed or empty batch is no work."""
    for rank in case.ranks:
        for record in rank.of_kind("epoch_end"):
            epoch, delivered = record["epoch"], record["samples"]
            counted = sum(each.samples for each in rank.epochs if each.epoch == epoch)
            if counted != delivered:
                yield Found(
                    f"{rank.name} counted {counted} samples in the steps of epoch {epoch}, and {delivered} were delivered",
                    "this is a defect of the loader or of the count: do not use its numbers",
                )
        if case.reads_storage and rank.empty is not None:
            count, first = rank.empty
            yield Found(
                f"{rank.name} counted {count} steps as work that had no bytes, the first is step {first}",
                "this is a defect of the loader or of the count: do not use its numbers",
            )


def time_parts(case: Case) -> Iterator[Found]:
    """Fetch, compute, sync and host delay of a rank are its window."""
    for row, rank in zip(case.summary["per_rank"], case.ranks, strict=True):
        parts_s = row["fetch_s"] + row["compute_s"] + row["sync_s"] + row["host_delay_s"]
        window_s, epochs = row["window_s"], len(rank.epochs)
        if abs(parts_s - window_s) > PARTS_TOLERANCE * window_s + LATENESS_S * epochs:
            yield Found(
                f"the parts of the steps of {rank.name} add up to {format_seconds(parts_s)}, and its window is {format_seconds(window_s)}",
                "the records contradict one another: run it again, and report it if it comes back",
            )


def mixed_versions(case: Case) -> Iterator[Found]:
    """All parts of a run folder come from one run of one storagebench, and each host's stamps from one boot."""
    expected = {
        "run_id": case.run["run_id"],
        "dataset_digest": case.run["dataset"]["digest"],
        "version": first_host(case.run).get("versions", {}).get("storagebench"),
    }
    hint = "do not mix parts of runs; install one version of storagebench for all ranks, and run it again"
    for rank in case.ranks:
        for name, value in expected.items():
            found = rank.header.get(name, value)
            if value is not None and found != value:
                yield Found(f"the trace of {rank.name} has {name} {found}, and run.json has {value}", hint)
    boots: dict[Any, set[Any]] = defaultdict(set)
    for header in (each.header for each in (*case.ranks, *case.hosts)):
        if "boot_id" in header:
            boots[header.get("host")].add(header["boot_id"])
    for host, ids in boots.items():
        if len(ids) > 1:
            yield Found(f"the traces of host {host} are of {len(ids)} boots, whose clocks cannot be compared", hint)


def dataset_changed(case: Case) -> Iterator[Found]:
    """The digest of the manifest as each rank read it, against the one that the run was planned with."""
    planned = case.run["dataset"]["digest"]
    for rank in case.ranks:
        for record in rank.of_kind("dataset"):
            if record["digest"] != planned:
                yield Found(
                    f"{rank.name} read a dataset with digest {record['digest'][:12]}, and the run was planned for {planned[:12]}",
                    "nothing may write to the dataset during a run: run it again",
                )


def config_changed(case: Case) -> Iterator[Found]:
    """The config that each rank started with, against the one that stands in run.json now."""
    now = config_digest(case.run["config"])
    changed = [rank.name for rank in case.ranks if rank.header.get("config_digest", now) != now]
    if changed:
        yield Found(
            f"the config in run.json is not the one that {', '.join(changed[:_SHOWN])} ran with (digest {now[:12]} now)",
            "run.json was edited after the run began: run it again",
        )
