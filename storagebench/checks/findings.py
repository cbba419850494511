"""Findings over a summary, as a table of named functions. `error`: the number is false; `warning`: true, but weak or to be read with care.

An AU below its threshold is a result, not a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from storagebench.units import format_bytes, format_seconds

# Shares of the dataset that the page cache served (reference/measurement.md section 4).
COLD_AT_MOST = 0.02
WARM_AT_LEAST = 0.98
MIN_STEPS_PER_PREFETCHED_BATCH = 50
MIN_WINDOW_S = 60.0
HOST_DELAY_AT_MOST = 0.01
NULL_AU_MARGIN = 0.02
BYTES_TOLERANCE = 0.01

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing to know about a run. `code` is stable, `hint` is the next action."""

    code: str
    severity: str
    message: str
    hint: str

    def as_dict(self) -> dict[str, str]:
        return {"code": self.code, "severity": self.severity, "message": self.message, "hint": self.hint}


def _error(code: str, message: str, hint: str) -> Finding:
    return Finding(code, "error", message, hint)


def _warning(code: str, message: str, hint: str) -> Finding:
    return Finding(code, "warning", message, hint)


def incomplete(s: Summary, run: Summary) -> Iterator[Finding]:
    if s["status"] != "complete":
        why = f" ({s['failure']})" if s.get("failure") else ""
        yield _error("PARTIAL_RUN", f"the run is {s['status']}{why}: the figures are of the steps taken so far", "run it again for a result")


def lost_ranks(s: Summary, run: Summary) -> Iterator[Finding]:
    lost = [row["rank"] for row in s["per_rank"] if not row["finished"]]
    there = {row["rank"] for row in s["per_rank"]}
    lost += [rank for rank in range(s["world_size"]) if rank not in there]
    if lost:
        names = ", ".join(str(rank) for rank in sorted(lost)[:8])
        yield _error(
            "PARTIAL_RANKS", f"{len(lost)} of {s['world_size']} ranks did not finish: {names}", "see the message of the failed rank, run again"
        )


def checksums(s: Summary, run: Summary) -> Iterator[Finding]:
    if s["checksum_errors"]:
        names = ", ".join(f"sample {row['sample']} in {row['shard']}" for row in s["bad_samples"][:5])
        yield _error(
            "CHECKSUM",
            f"{s['checksum_errors']} of {s['verified_samples']} checked samples have another checksum than the manifest says: {names}",
            "run `storagebench verify`, then generate or import the dataset again",
        )
    if s["samples"] and not s["verified_samples"] and s["loader"] != "null":
        yield _warning("UNVERIFIED_DATA", "no sample's checksum was compared", "use --decode touch or above, or --verify full")


def coverage(s: Summary, run: Summary) -> Iterator[Finding]:
    missing, duplicate = s["missing_samples"], s["duplicate_samples"]
    if missing or duplicate:
        yield _error(
            "SAMPLE_COVERAGE",
            f"{missing} planned samples never came, and {duplicate} came more than once in an epoch",
            "this is a defect of the loader: do not use its numbers",
        )


def cache_state(s: Summary, run: Summary) -> Iterator[Finding]:
    before, served, asked = s["cached_fraction_before"], s["cached_fraction_served"], s["cache"]
    if s["loader"] == "null":
        return
    if asked in ("cold", "direct"):
        if asked == "cold" and before is not None and before > COLD_AT_MOST:
            yield _error(
                "CACHE_SUSPECT", f"called cold, but {before:.1%} of the dataset was cached before an epoch", "stop what else reads the dataset"
            )
        elif served is not None and served > COLD_AT_MOST:
            yield _error("CACHE_SUSPECT", f"called {asked}, but {served:.1%} of the bytes came from a cache", "stop what else reads the dataset")
    if asked == "warm" and served is not None and served < WARM_AT_LEAST:
        yield _error(
            "CACHE_SUSPECT", f"called warm, but only {served:.1%} of the bytes came from the cache", "use a dataset that fits into free memory"
        )
    if asked == "as-is" and served is not None and served > COLD_AT_MOST:
        yield _warning("CACHED", f"{served:.1%} of the bytes came from the page cache", "use --cache cold to measure the storage")
    if s["server_cache"] == "unknown":
        yield _warning(
            "SERVER_CACHE_UNKNOWN", "the server's own cache cannot be seen or dropped from here", "use a dataset larger than the server's memory"
        )
    elif served is None and s["samples"] and asked in ("cold", "warm"):
        yield _warning(
            "CACHE_UNPROVEN",
            f"device reads are not known or exceed the bytes read, so {asked} is not proved",
            "compare `device over storage` in the report; a ratio above 1.2 means that others read, or that reads are amplified",
        )
    filesystem = (run["host"].get("data_filesystem") or {}).get("type")
    if filesystem in ("tmpfs", "ramfs"):
        yield _error("RAM_BACKED", f"the dataset lies on {filesystem}: this is memory, not storage", "use a --data-dir on the storage to be measured")


def bytes_reconcile(s: Summary, run: Summary) -> Iterator[Finding]:
    """A store cannot return fewer bytes than were delivered out of it."""
    storage, delivered = s["storage_bytes"], s["delivered_bytes"]
    if s["loader"] != "null" and storage is not None and s["status"] == "complete" and storage < delivered * (1 - BYTES_TOLERANCE):
        yield _error(
            "BYTES",
            f"{format_bytes(delivered)} were delivered, but the store returned only {format_bytes(storage)} ({s['storage_method']})",
            "this is a defect of the loader or of the count: report it",
        )


def whole_epochs(s: Summary, run: Summary) -> Iterator[Finding]:
    """Each whole epoch with --remainder keep delivers the manifest's bytes, to the byte."""
    config = run["config"]
    bounded = config["run"]["max_steps"] is not None or config["run"]["duration_s"] is not None
    if s["loader"] == "null" or bounded or s["status"] != "complete" or config["run"]["remainder"] != "keep":
        return
    expected = run["dataset"]["record_bytes"] * s["epochs"]
    if s["delivered_bytes"] != expected:
        yield _error("BYTES", f"{s['delivered_bytes']} bytes were delivered, and {s['epochs']} epochs are {expected}", "report this defect")


def too_short(s: Summary, run: Summary) -> Iterator[Finding]:
    if s["status"] != "complete" or s["au_nominal"] is None:
        return
    wanted = MIN_STEPS_PER_PREFETCHED_BATCH * run["plan"]["prefetch_batches"]
    if s["measured_steps"] < wanted or s["window_s"] < MIN_WINDOW_S:
        yield _warning(
            "TOO_SHORT",
            f"{s['measured_steps']} steps in {format_seconds(s['window_s'])} were measured; {wanted} steps and {MIN_WINDOW_S:.0f} s make a figure to publish",
            "use more --epochs or --num-samples for a figure to publish",
        )


def small_dataset(s: Summary, run: Summary) -> Iterator[Finding]:
    memory, stored = run["host"]["memory_bytes"], run["dataset"]["stored_bytes"]
    if s["loader"] != "null" and stored < 5 * memory and s["server_cache"] == "unknown":
        yield _warning(
            "SMALL_DATASET",
            f"the dataset has {format_bytes(stored)}, under 5 x this host's memory ({format_bytes(memory)}): a server may hold it in its cache",
            "generate a larger dataset",
        )


def host_limited(s: Summary, run: Summary) -> Iterator[Finding]:
    window, delay, au_null = s["window_s"], s["host_delay_s"], s["au_null"]
    if window and delay is not None and delay > HOST_DELAY_AT_MOST * window:
        yield _warning(
            "HOST_LIMITED",
            f"this host woke the accelerators late by {format_seconds(delay)} in {format_seconds(window)} ({delay / window:.1%})",
            "use fewer accelerators on this host, or stop what else runs on it",
        )
    if au_null is not None and au_null < s["au_threshold"] + NULL_AU_MARGIN:
        yield _warning(
            "HARNESS_LIMITED",
            f"even without any storage the AU is {au_null:.3f} here, near or below the threshold of {s['au_threshold']}",
            "use a longer --compute-time or fewer accelerators on this host",
        )


def uncertain(s: Summary, run: Summary) -> Iterator[Finding]:
    bound = s["au_uncertainty"]
    if s["au_nominal"] is not None and bound is not None and bound > 0.05:
        yield _warning(
            "AU_UNCERTAIN", f"prefetched batches may account for {bound:.1%} of the steps", "measure more steps, or use fewer --prefetch-batches"
        )


def weak_data(s: Summary, run: Summary) -> Iterator[Finding]:
    share = (run["dataset"]["origin"] or {}).get("compressibility") or 0
    if share:
        yield _warning(
            "COMPRESSIBLE_DATA", f"{share:.0%} of the payload is zeros, which a storage may compress away", "generate with --compressibility 0"
        )


def decode_level(s: Summary, run: Summary) -> Iterator[Finding]:
    if s["loader"] != "null" and s["decode"] is not None and s["decode"] != s["decode_asked"]:
        yield _warning(
            "DECODE_DIFFERS",
            f"--decode {s['decode_asked']} was asked, and loader {s['loader']} cannot stop before {s['decode']}",
            f"compare it only with runs at --decode {s['decode']}",
        )


def range_reads(s: Summary, run: Summary) -> Iterator[Finding]:
    """A server without native ranges is read another way, which is not what the client alone would give."""
    reads_ranges = s["format"] == "parquet" or (s["format"] == "webdataset" and s["loader"] == "direct")
    if reads_ranges and s["loader"] != "null" and run.get("ranges") not in (None, "native"):
        yield _warning(
            "RANGES_NOT_NATIVE", f"the S3 server does not answer range requests as such: {run['ranges']}", "put a front before it that does"
        )


def retried(s: Summary, run: Summary) -> Iterator[Finding]:
    if s["retries"] or s["io_errors"]:
        yield _warning("RETRIES", f"{s['retries']} requests were retried and {s['io_errors']} failed", "look at the storage's own logs")


def loader_notes(s: Summary, run: Summary) -> Iterator[Finding]:
    for note in s["effective"].get("notes", []):
        yield _warning("LOADER_SETTINGS", note, "change the setting, or read the number with this in mind")


RULES: tuple[Callable[[Summary, Summary], Iterator[Finding]], ...] = (
    incomplete,
    lost_ranks,
    checksums,
    coverage,
    cache_state,
    bytes_reconcile,
    whole_epochs,
    too_short,
    small_dataset,
    host_limited,
    uncertain,
    weak_data,
    decode_level,
    range_reads,
    retried,
    loader_notes,
)


def find(summary: Summary, run: Summary) -> list[Finding]:
    """All findings, errors first."""
    found = [finding for rule in RULES for finding in rule(summary, run)]
    return sorted(found, key=lambda finding: finding.severity != "error")
