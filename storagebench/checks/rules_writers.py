"""Did the writers beside the ranks do what was asked, and is what they wrote gone."""

from __future__ import annotations

from collections.abc import Iterator

from storagebench.checks.case import Case, Found
from storagebench.units import format_bytes, format_rate

# A rate that is asked is a mean: a run may end with a shard of each writer still to come.
RATE_TOLERANCE = 0.05


def writer_lost(case: Case) -> Iterator[Found]:
    """A writer that ended before the run left the readers alone, so theirs is not the number that was asked for. Of a run that is not complete, that is said."""
    asked = case.run["config"]["run"].get("writers", 0)
    if not asked or not case.complete:
        return
    for trace in case.writers:
        said = trace.of_kind("error")
        if said:
            yield Found(f"{said[0]['message']}; it ended before the run", said[0]["hint"])
    lost = (
        sum(not trace.of_kind("end") and not trace.of_kind("error") for trace in case.writers) + asked * case.summary["num_hosts"] - len(case.writers)
    )
    if lost > 0:
        yield Found(
            f"{lost} of {asked} writers ended before the run, and left no word why", "look for the kernel's OOM killer (dmesg), and run it again"
        )


def write_rate(case: Case) -> Iterator[Found]:
    """More than a shard of each writer behind the asked rate, and more than the tolerance."""
    asked, writers = case.run["config"]["run"].get("write_rate", 0), case.run["config"]["run"].get("writers", 0)
    found, window_s = case.summary["write_bytes_per_s"], case.summary["window_s"]
    if not asked or not writers or found is None:
        return
    largest = max((row["bytes"] for trace in case.writers for row in trace.of_kind("shard")), default=0)
    if (asked - found) * window_s > max(RATE_TOLERANCE * asked * window_s, writers * largest):
        yield Found(
            f"the writers were asked for {format_rate(asked)}, and wrote {format_rate(found)} in the window",
            "use more --writers where a core is free, or ask for a lower --write-rate: the storage or this host gave no more",
        )


def written_left(case: Case) -> Iterator[Found]:
    """Nothing says that the shards of the writers were deleted: the command was killed, or the storage refused."""
    keys = [key for trace in case.writers for row in trace.of_kind("writing") for key in row["keys"]]
    removed = [record for trace in case.hosts for record in trace.of_kind("written")]
    refused = [record["error"] for record in removed if record["error"] is not None]
    if keys and (refused or not removed):
        folder = f"{case.run['store']['root']}/{keys[0].rpartition('/')[0]}"
        why = f" ({refused[-1]})" if refused else ""
        num_bytes = format_bytes(case.summary["written_bytes"] or 0)
        yield Found(f"up to {len(keys)} objects of the writers ({num_bytes}) may lie in {folder}{why}", f"delete {folder}: nothing else is in it")
