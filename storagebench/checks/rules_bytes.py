"""Are the bytes real, whole, counted, and from where they are said to come: checksums, coverage, cache state, failures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from storagebench.adapters import FORMATS
from storagebench.checks.case import Case, Found
from storagebench.members import hosts_of
from storagebench.units import format_bytes

# Shares of the dataset that the page cache served (reference/measurement.md section 4).
COLD_AT_MOST = 0.02
WARM_AT_LEAST = 0.98
BYTES_TOLERANCE = 0.01
MEMORY_FACTOR = 5


def checksum(case: Case) -> Iterator[Found]:
    s = case.summary
    if s["checksum_errors"]:
        names = ", ".join(f"sample {row['sample']} in {row['shard']}" for row in s["bad_samples"][:5])
        yield Found(
            f"{s['checksum_errors']} of {s['verified_samples']} checked samples have another checksum than the manifest says: {names}",
            "run `storagebench verify`, then generate or import the dataset again",
        )


def unverified_data(case: Case) -> Iterator[Found]:
    s = case.summary
    if s["samples"] and not s["verified_samples"] and case.reads_storage:
        yield Found("no sample's checksum was compared", "use --decode touch or above, or --verify full")


def sample_coverage(case: Case) -> Iterator[Found]:
    missing, duplicate = case.summary["missing_samples"], case.summary["duplicate_samples"]
    if missing or duplicate:
        yield Found(
            f"{missing} planned samples never came, and {duplicate} came more than once in an epoch",
            "this is a defect of the loader: do not use its numbers",
        )


def cache_suspect(case: Case) -> Iterator[Found]:
    """The cache state that the run claims, against what the page cache held before and what the device gave."""
    s = case.summary
    before, served, asked = s["cached_fraction_before"], s["cached_fraction_served"], s["cache"]
    if not case.reads_storage:
        return
    if asked == "cold" and before is not None and before > COLD_AT_MOST:
        yield Found(f"called cold, but {before:.1%} of the dataset was cached before an epoch", "stop what else reads the dataset")
    elif asked in ("cold", "direct") and served is not None and served > COLD_AT_MOST:
        yield Found(f"called {asked}, but {served:.1%} of the bytes came from a cache", "stop what else reads the dataset")
    elif asked == "warm" and served is not None and served < WARM_AT_LEAST:
        yield Found(f"called warm, but only {served:.1%} of the bytes came from the cache", "use a dataset that fits into free memory")


def cached(case: Case) -> Iterator[Found]:
    served = case.summary["cached_fraction_served"]
    if case.reads_storage and case.summary["cache"] == "as-is" and served is not None and served > COLD_AT_MOST:
        yield Found(f"{served:.1%} of the bytes came from the page cache", "use --cache cold to measure the storage")


def local_cache(case: Case) -> Iterator[Found]:
    """A library that keeps what it copied reads the storage once: what comes later is the speed of the disk that the copy lies on."""
    epochs = case.summary["epochs_from_local_cache"]
    if epochs:
        held = format_bytes(case.summary["local_cache_bytes"] or 0)
        yield Found(
            f"{len(epochs)} of {len(case.summary['per_epoch'])} epochs (from epoch {epochs[0]} on) could be read from the loader's own cache, which holds {held}",
            "for the storage alone use --epochs 1, or a loader without a cache of its own",
        )


def server_cache_unknown(case: Case) -> Iterator[Found]:
    if case.reads_storage and case.summary["server_cache"] == "unknown":
        yield Found("the server's own cache cannot be seen or dropped from here", "use a dataset larger than the server's memory")


def cache_unproven(case: Case) -> Iterator[Found]:
    s = case.summary
    known = s["cached_fraction_served"] is not None or s["server_cache"] == "unknown"
    if case.reads_storage and not known and s["samples"] and s["cache"] in ("cold", "warm"):
        yield Found(
            f"device reads are not known or exceed the bytes read, so {s['cache']} is not proved",
            "compare `device over storage` in the report; a ratio above 1.2 means that others read, or that reads are amplified",
        )


def ram_backed(case: Case) -> Iterator[Found]:
    types = dict.fromkeys((host.get("data_filesystem") or {}).get("type") for host in hosts_of(case.run))
    for filesystem in (each for each in types if each in ("tmpfs", "ramfs")):
        if case.reads_storage:
            yield Found(f"the dataset lies on {filesystem}: this is memory, not storage", "use a --data-dir on the storage to be measured")


def bytes_reconcile(case: Case) -> Iterator[Found]:
    """A store cannot return fewer bytes than were delivered out of it; whole epochs with --remainder keep are the manifest's bytes, to the byte."""
    s = case.summary
    if not case.reads_storage or not case.complete:
        return
    storage, delivered = s["storage_bytes"], s["delivered_bytes"]
    if storage is not None and not s["epochs_from_local_cache"] and storage < delivered * (1 - BYTES_TOLERANCE):
        yield Found(
            f"{format_bytes(delivered)} were delivered, but the store returned only {format_bytes(storage)} ({s['storage_method']})",
            "this is a defect of the loader or of the count: report it",
        )
    expected = case.run["dataset"]["record_bytes"] * s["epochs"]
    if case.run["config"]["run"]["remainder"] == "keep" and not case.bounded and delivered != expected:
        yield Found(f"{delivered} bytes were delivered, and {s['epochs']} epochs are {expected}", "report this defect")


def small_dataset(case: Case) -> Iterator[Found]:
    """Where nothing shows how much a cache served, only a dataset larger than memories keeps it from serving all."""
    s, stored = case.summary, case.run["dataset"]["stored_bytes"]
    memory = sum(host["memory_bytes"] for host in hosts_of(case.run))
    whose = "this host's memory" if s["num_hosts"] == 1 else "the memory of all hosts"
    unseen = s["server_cache"] == "unknown" or (s["cache"] == "as-is" and s["cached_fraction_served"] is None)
    if case.reads_storage and stored < MEMORY_FACTOR * memory and unseen:
        yield Found(
            f"the dataset has {format_bytes(stored)}, under {MEMORY_FACTOR} x {whose} ({format_bytes(memory)}): a cache may hold it",
            "generate a larger dataset",
        )


def compressible_data(case: Case) -> Iterator[Found]:
    share = (case.run["dataset"]["origin"] or {}).get("compressibility") or 0
    if share:
        yield Found(f"{share:.0%} of the payload is zeros, which a storage may compress away", "generate with --compressibility 0")


def ranges_not_native(case: Case) -> Iterator[Found]:
    """A server without native ranges is read another way, which is not what the client alone would give."""
    s, ranges = case.summary, case.run.get("ranges")
    form = FORMATS.get(s["format"])
    reads_ranges = s["format"] == "parquet" or (form is not None and not form.one_sample_per_shard and s["loader"] in ("direct", "files"))
    if reads_ranges and case.reads_storage and ranges not in (None, "native"):
        yield Found(f"the S3 server does not answer range requests as such: {ranges}", "put a front before it that does")


def retries(case: Case) -> Iterator[Found]:
    yield from retries_found(case.summary)


_BUSY = ("503", "429", "500")


def retries_found(s: Mapping[str, Any]) -> Iterator[Found]:
    """Of a run or a query run: what was asked for again is time that the storage took, and it stays in AU and in the latencies."""
    if not s["retries"]:
        return
    kinds = sorted(s["retries_by_kind"].items(), key=lambda pair: (-pair[1], pair[0]))
    by_kind = f" ({', '.join(f'{kind} x {count}' for kind, count in kinds)})" if kinds else ""
    share = f" of {s['requests']} requests, {s['retries'] / s['requests']:.1%}" if s["requests"] else ""
    if kinds and kinds[0][0] in _BUSY:
        hint = "the storage says that it is busy: lower --num-workers or --io-depth, or raise its request limits, and look at its logs"
    else:
        hint = "look at the storage's logs, and at what lies between it and this host (proxies, load balancers, the network's error counters)"
    yield Found(f"{s['retries']} retries{share}{by_kind}: the rates hold what the storage gave with them", hint)


def errors(case: Case) -> Iterator[Found]:
    """Our stores raise on a failed read, which ends the run: a finished run with failures went on without the bytes."""
    if case.complete and case.summary["io_errors"]:
        yield Found(
            f"{case.summary['io_errors']} reads failed, and the run went on: failures may be counted as work",
            "look at the storage's own logs, and report it: a failed read has to end the run",
        )
