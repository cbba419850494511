"""What one run has to say, section by section, as plain data: the detail page of the text report and of the HTML page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from storagebench.report import trainingwords
from storagebench.report import wording as w
from storagebench.report.wording import Summary

_MAX_RANKS = 32
_MAX_BAD_SAMPLES = 20
TEXT_COLUMNS = frozenset({"host", "value", "from"})
_QUANTILES = ("p50", "p90", "p99", "max")


class Section(NamedTuple):
    """A titled table. Without `columns` its rows are (name, value) pairs; with them all but the first and TEXT_COLUMNS are figures."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_wide: bool = False


def sections(summary: Summary) -> list[Section]:
    """All sections of a run that have something in them, in reading order."""
    return [section for make in _SECTIONS for section in make(summary) if section.rows]


def _pairs(title: str, *rows: tuple[str, str]) -> Section:
    return Section(title, (), rows)


def _what(s: Summary) -> Iterator[Section]:
    asked = "" if s["decode"] == s["decode_asked"] else f" ({s['decode_asked']} was asked)"
    settings = ", ".join(f"{name} {value}" for name, value in s["effective"].items() if name not in ("decode", "notes"))
    hosts = f" on {s['num_hosts']} hosts" if s["num_hosts"] > 1 else ""
    yield _pairs(
        "What was run",
        ("run", s["run_id"]),
        ("workload", s["workload"]),
        ("accelerators", w.accelerators(s) + hosts),
        ("loader", f"{s['loader']}{f' ({settings})' if settings else ''}"),
        ("format", s["format"]),
        ("storage", s["storage"] + (f", {s.get('placement', 'shared')}" if s["num_hosts"] > 1 else "")),
        ("decode", f"{s['decode'] or 'unknown'}{asked}"),
        ("steps", f"{s['measured_steps']} measured, {s['warmup_steps']} warm-up, {s['idle_steps']} idle; {s['epochs']} epochs planned"),
        ("batch", f"{s['batch_size']} samples a rank"),
        ("cache", _cache(s)),
        ("metadata cache", _metadata_cache(s)),
        ("server cache", s["server_cache"] or "no server of its own"),
        ("dataset digest", s["dataset_digest"]),
    )


def _cache(s: Summary) -> str:
    """The asked state, and how it was proved."""
    methods = sorted({row["cache_method"] for row in s["per_epoch"] if row["cache_method"]})
    if not methods or methods == ["unreachable"]:
        return f"{s['cache']} asked; the client sees no cache of this storage"
    if s["cached_fraction_before"] is None:
        return f"{s['cache']} asked, unproven ({', '.join(methods)})"
    return f"{s['cache']}; {w.share(s['cached_fraction_before'])} was cached before the worst epoch (by {', '.join(methods)})"


def _metadata_cache(s: Summary) -> str:
    states = sorted({row["metadata_cache"] for row in s["per_epoch"] if row["metadata_cache"]})
    return ", ".join(states) or "unknown"


def _utilisation(s: Summary) -> Iterator[Section]:
    sign, threshold = w.mark(s), s["au_threshold"]
    against = w.against_threshold(s)
    yield _pairs(
        "Accelerator utilisation (AU)",
        ("nominal", w.marked(w.utilisation(s["au_nominal"], threshold), sign) + (f"  {against}" if against != w.UNKNOWN else "")),
        ("threshold", f"{threshold:.2f}"),
        ("uncorrected for prefetch", w.marked(w.utilisation(s["au_uncorrected"]), sign)),
        ("measured compute", w.marked(w.utilisation(s["au_measured"]), sign)),
        *_least_host(s),
        ("of the null loader", w.utilisation(s["au_null"])),
        ("uncertain share", w.share(s["au_uncertainty"])),
    )


def _least_host(s: Summary) -> Iterator[tuple[str, str]]:
    """Where it is below the mean: ranks that a sync keeps in step are all as fast as the slowest one."""
    known = [row for row in s["per_host"] if row["au_nominal"] is not None]
    if s["num_hosts"] > 1 and known:
        least = min(known, key=lambda row: float(row["au_nominal"]))
        if w.utilisation(least["au_nominal"]) == w.utilisation(s["au_nominal"]):
            return
        yield "of the slowest host", w.marked(f"{w.utilisation(least['au_nominal'])} ({w.printable(least['host'])})", w.mark(s))


def _training(s: Summary) -> Iterator[Section]:
    if s["training"] is not None:
        yield _pairs("Training", *trainingwords.rows(s, s["training"]))


_LIMITS = {
    "accelerator_samples_per_s": "accelerators",
    "storage_samples_per_s": "storage, read raw",
    "workers_samples_per_s": "the loader's workers, never idle",
    "cpu_samples_per_s": "all cores, at this CPU time a sample",
}


def _way(s: Summary) -> Iterator[Section]:
    """The verdict, and the limits that it was drawn from."""
    verdict, limits = s["verdict"], s["limits"]
    if verdict is not None:
        because = [("because" if index == 0 else "and", reason) for index, reason in enumerate(verdict["why"])]
        yield _pairs("What stands in the way", ("in the way", s["bottleneck"] or "not decided"), *because, ("next", verdict["knob"]))
    rows = [(name, w.number(limits[key])) for key, name in _LIMITS.items() if limits[key] is not None]
    if rows:
        yield Section("What each part could give alone", ("", "samples/s"), (*rows, ("this run", w.number(s["samples_per_s"]))))


def _throughput(s: Summary) -> Iterator[Section]:
    sign = w.mark(s)
    rate = w.megabytes_per_s(s["delivered_bytes_per_s"])
    method = f" ({s['storage_method']})" if s["storage_method"] and s["storage_bytes"] is not None else ""
    yield _pairs(
        "Throughput and bytes",
        ("samples/s", w.marked(w.number(s["samples_per_s"]), sign)),
        ("MB/s delivered", w.marked(rate, sign)),
        ("samples", w.count(s["samples"])),
        ("delivered", w.size(s["delivered_bytes"])),
        ("handed over", w.size(s["handover_bytes"])),
        ("from the storage", w.size(s["storage_bytes"]) + method),
        ("from the device", w.size(s["device_read_bytes"])),
        ("device over storage", w.number(s["read_amplification"])),
        ("served by the page cache", w.share(s["cached_fraction_served"])),
        ("requests", f"{w.count(s['requests'])} ({_retried(s)}, {s['io_errors']} failed)"),
        *((f"from {endpoint}", w.size(num_bytes)) for endpoint, num_bytes in s["bytes_by_endpoint"].items()),
    )


def _retried(s: Summary) -> str:
    if s["retries"] is None:
        return "retries unknown"
    kinds = ", ".join(f"{kind} x {count}" for kind, count in s["retries_by_kind"].items())
    return f"{s['retries']} retried" + (f": {kinds}" if kinds else "")


def _writers(s: Summary) -> Iterator[Section]:
    if s["written_bytes"] is None:
        return
    times = s["write_quantiles_s"]
    took = w.UNKNOWN if times is None else ", ".join(f"{w.seconds(times[level])} ({level})" for level in _QUANTILES)
    yield _pairs(
        "Writers beside the ranks",
        ("MB/s written in the window", w.marked(w.megabytes_per_s(s["write_bytes_per_s"]), w.mark(s))),
        ("written in the whole run", f"{w.size(s['written_bytes'])} in {s['written_shards']} shards of {s['written_samples']} samples in all"),
        ("a shard took", took),
        ("CPU of the writers", w.seconds(s["write_cpu_s"])),
    )


def _step_time(s: Summary) -> Iterator[Section]:
    window = s["window_s"]
    known = [(name, s[key]) for key, name in w.STEP_PARTS.items()]
    if not window or any(value is None for _, value in known):
        return
    rows = [(name, w.seconds(value), w.share(value / window)) for name, value in known]
    rest = window - sum(value for _, value in known)
    if abs(rest) >= 0.0005 * window:
        rows.append(("rest (not attributed)", w.seconds(rest), w.share(rest / window)))
    rows.append(("window", w.seconds(window), w.share(1.0)))
    yield Section("Where the time went (mean of the ranks)", ("", "time", "share"), tuple(rows))


def _quantiles(s: Summary) -> Iterator[Section]:
    rows = [
        (name, *(w.seconds(s[key][level]) for level in _QUANTILES))
        for name, key in (("fetch", "fetch_quantiles_s"), ("step", "step_quantiles_s"))
        if s[key]
    ]
    yield Section("Times of a step", ("", *_QUANTILES), tuple(rows))


def _around(s: Summary) -> Iterator[Section]:
    rows = [("start of the process to the first step", s["startup_s"]), ("opening the loader to the first batch", s["time_to_first_batch_s"])]
    rows += [("null loader", s["null_s"]), ("from the first step to the last", s["wall_s"]), ("of it between epochs (harness)", s["harness_s"])]
    yield _pairs("Time around the steps", *((name, w.seconds(value)) for name, value in rows))
    listing = s["listing"]
    if listing:
        yield _pairs(
            "Listing and opening",
            ("listed", f"{listing['listed']} objects in {w.seconds(listing['listing_s'])}"),
            ("opened", f"{listing['opened']} objects in {w.seconds(listing['open_s'])}"),
        )


def _resources(s: Summary) -> Iterator[Section]:
    rows = [("CPU", w.seconds(s["cpu_s"])), ("CPU s per GB delivered", w.number(s["cpu_s_per_gb"])), ("peak memory", w.size(s["peak_rss_bytes"]))]
    yield _pairs("CPU and memory", *rows)
    totals: dict[str, float] = {}
    for row in s["per_rank"]:
        for name, spent in row["spans_s"].items():
            totals[name] = totals.get(name, 0.0) + spent
    spans = tuple((name, w.seconds(spent)) for name, spent in sorted(totals.items(), key=lambda item: (-item[1], item[0])))
    yield Section("Stages of the loader (all workers and ranks added up)", ("stage", "time"), spans)


def _device(s: Summary) -> Iterator[Section]:
    """Of a real device. What NVML says is no measure of success: any kernel counts as utilisation."""
    if s["copy_s"] is not None:
        yield _pairs("Copies to the device", ("in the measured steps (mean of the ranks)", w.seconds(s["copy_s"])))
    rows = tuple(
        (
            f"{row['index']} {w.printable(row['name'] or '')}",
            w.share(row["utilisation"]),
            w.size(row["memory_used_bytes"]),
            w.megabytes_per_s(row["pcie_rx_bytes_per_s"]),
            w.megabytes_per_s(row["pcie_tx_bytes_per_s"]),
        )
        for row in s["devices"]
    )
    yield Section("Devices as NVML saw them (information, no part of AU)", ("device", "utilised", "memory", "PCIe in", "PCIe out"), rows)


def _parts(s: Summary) -> Iterator[Section]:
    has_cache = any(row["from_local_cache"] is not None for row in s["per_epoch"])
    epochs = tuple(
        (
            str(row["epoch"]),
            w.seconds(row["duration_s"]),
            w.size(row["storage_bytes"]),
            w.size(row["device_read_bytes"]),
            w.share(row["cached_fraction_before"]),
            w.share(row["cached_fraction_served"]),
        )
        + ((f"{w.size(row['local_cache_bytes'])}{', served from it' if row['from_local_cache'] else ''}",) if has_cache else ())
        for row in s["per_epoch"]
    )
    columns = ("epoch", "duration", "storage", "device", "cached before", "cached served") + (("loader's own cache",) if has_cache else ())
    yield Section("Epochs", columns, epochs, is_wide=True)
    yield from _hosts(s)
    if s["world_size"] == 1:
        return
    ranks = [
        (
            str(row["rank"]) + ("" if row["finished"] else " (not finished)"),
            w.printable(row["host"]),
            str(row["steps"]),
            w.utilisation(row["au_nominal"]),
            w.seconds(row["fetch_s"]),
            w.seconds(row["sync_s"]),
        )
        for row in s["per_rank"][:_MAX_RANKS]
    ]
    left = len(s["per_rank"]) - len(ranks)
    if left:
        ranks.append((f"and {left} more", "", "", "", "", ""))
    yield Section("Ranks", ("rank", "host", "steps", "AU", "fetch", "sync"), tuple(ranks), is_wide=True)


def _hosts(s: Summary) -> Iterator[Section]:
    """Where there are several: what each host's ranks did, whom all waited for, and how far its wall clock is from the first one's."""
    if s["num_hosts"] == 1:
        return
    rows = s["per_host"]
    if len(rows) > _MAX_RANKS:
        rows = sorted(rows, key=lambda row: -float(row["sync_wait_caused_s"]))[:_MAX_RANKS]
    cells = [
        (
            w.printable(row["host"]),
            str(row["ranks"]),
            w.utilisation(row["au_nominal"]),
            w.utilisation(row["au_least"]),
            w.megabytes_per_s(row["delivered_bytes_per_s"]),
            w.seconds(row["sync_s"]),
            w.seconds(row["sync_wait_caused_s"]),
            w.offset(row["wall_offset_s"], row["wall_offset_uncertainty_s"]),
        )
        for row in rows
    ]
    left = len(s["per_host"]) - len(rows)
    if left:
        cells.append((f"and {left} more", "", "", "", "", "", "", ""))
    columns = ("host", "ranks", "AU", "least AU", "MB/s", "sync", "others waited for it", "clock ahead")
    yield Section("Hosts (sync: mean of its ranks; waited: mean of all ranks)", columns, tuple(cells), is_wide=True)


def _proof(s: Summary) -> Iterator[Section]:
    rows = [
        ("samples checked against their checksum", f"{s['verified_samples']} of {s['samples']}"),
        ("checksum errors", w.count(s["checksum_errors"])),
        ("planned samples that never came", w.count(s["missing_samples"])),
        ("samples that came more than once", w.count(s["duplicate_samples"])),
        ("samples dropped as remainder", w.count(s["dropped_samples"])),
    ]
    rows += [("bad", f"sample {row['sample']} in {row['shard']}") for row in s["bad_samples"][:_MAX_BAD_SAMPLES]]
    left = len(s["bad_samples"]) - _MAX_BAD_SAMPLES
    if left > 0:
        rows.append(("bad", f"and {left} more"))
    yield _pairs("Proof", *rows)


_SECTIONS: tuple[Callable[[Summary], Iterator[Section]], ...] = (
    _what,
    _training,
    _utilisation,
    _way,
    _throughput,
    _writers,
    _step_time,
    _quantiles,
    _around,
    _resources,
    _device,
    _parts,
    _proof,
)
