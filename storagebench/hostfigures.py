"""What is worked out host by host, since stamps of different hosts are never compared: spans of time, bytes and caches, and the rows of `per_host`.

Each host's own clock gives its own span; the run's is then the longest of them, or the sum, as fits. Seconds, bytes, ratios 0..1; unknown is None.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from storagebench.hostfiles import HostRecords, Samples, samples_of
from storagebench.members import files_of_members, first_files, first_host, hosts_of, members_of
from storagebench.ranks import Rank, Ranks
from storagebench.window import RankWindow

_Row = Mapping[str, Any]


def by_host(ranks: Iterable[Rank]) -> dict[str, list[Rank]]:
    """Each host's ranks, in order."""
    found: dict[str, list[Rank]] = {}
    for rank in ranks:
        found.setdefault(str(rank.host), []).append(rank)
    return found


def labels_of(run: _Row, ranks: Iterable[Rank]) -> list[str]:
    """The hosts of the run in order, whether or not their traces are there."""
    known = [str(host["host"]) for host in hosts_of(run) if "host" in host]
    return list(dict.fromkeys([*known, *by_host(ranks)]))


def num_hosts(run: _Row) -> int:
    """How many hosts the run was planned for."""
    return len({member["host"] for member in members_of(run)})


def span_times(run: _Row, ranks: Ranks, probe_s: float) -> dict[str, float | None]:
    """`wall_s`: from the first rank's first loader start to the last rank's end, on the host where that took longest; `harness_s`: of it outside of all
    epochs, on the host where that is most; `startup_s`: from the command's start to the first loader start where the command of rank 0 began, without the
    null loader, and without the `probe_s` of a probe before."""
    spans = [span for span in (_span_s(mine) for mine in by_host(ranks).values()) if span is not None]
    null_s = max((rank.null_ns for rank in ranks), default=0) / 1e9
    return {
        "wall_s": max((wall_s for wall_s, _ in spans), default=None),
        "harness_s": max((max(0.0, wall_s - epochs_s) for wall_s, epochs_s in spans), default=None),
        "startup_s": _startup_s(run, ranks, null_s, probe_s),
        "null_s": null_s,
    }


def _first_starts(ranks: Iterable[Rank]) -> list[int]:
    return [record["start_ns"] for rank in ranks for record in rank.of_kind("epoch_start") if record["epoch"] == 0]


def _span_s(mine: Sequence[Rank]) -> tuple[float, float] | None:
    """(seconds from the first loader start to the last end of one host's ranks, seconds of that within epochs and evaluations)."""
    starts = _first_starts(mine)
    ends = [epoch.end_ns for rank in mine for epoch in rank.epochs]
    ends += [record["end_ns"] for rank in mine for kind in ("epoch_end", "eval") for record in rank.of_kind(kind)]
    return ((max(ends) - min(starts)) / 1e9, _epochs_s(mine) + _evaluations_s(mine)) if starts and ends else None


def _epochs_s(mine: Sequence[Rank]) -> float:
    """Seconds in all epochs, each from the first rank's loader start to the last rank's last step."""
    begins: dict[int, int] = {}
    ends: dict[int, int] = {}
    for rank in mine:
        for record in rank.of_kind("epoch_start"):
            begins[record["epoch"]] = min(begins.get(record["epoch"], record["start_ns"]), record["start_ns"])
        for each in rank.epochs:
            ends[each.epoch] = max(ends.get(each.epoch, each.end_ns), each.end_ns)
    return sum(ends[epoch] - begin_ns for epoch, begin_ns in begins.items() if epoch in ends) / 1e9


def _evaluations_s(mine: Sequence[Rank]) -> float:
    """Seconds of all evaluations of a training, each of the rank that took longest."""
    longest: dict[int, int] = {}
    for rank in mine:
        for record in rank.of_kind("eval"):
            longest[record["epoch"]] = max(longest.get(record["epoch"], 0), record["end_ns"] - record["start_ns"])
    return sum(longest.values()) / 1e9


def _startup_s(run: _Row, ranks: Ranks, null_s: float, probe_s: float) -> float | None:
    """`command_start_ns` is of the clock of the first host, so its ranks' starts are what it is taken from."""
    hosts = by_host(ranks)
    mine = hosts.get(str(first_host(run).get("host")), []) if num_hosts(run) > 1 else list(ranks)
    starts = _first_starts(mine)
    if not starts:
        return None
    null_first = any(rank.null_begin_ns is not None and rank.null_begin_ns < min(starts) for rank in mine)
    return float((min(starts) - run["command_start_ns"]) / 1e9 - (null_s if null_first else 0.0) - probe_s)


def epoch_duration_s(ends_of_hosts: Iterable[Sequence[_Row]]) -> float:
    """Of an epoch's `epoch_end` records by host: the longest time that a host took from its first rank's start to its last rank's end."""
    lengths_ns: list[int] = [max(record["end_ns"] for record in mine) - min(record["start_ns"] for record in mine) for mine in ends_of_hosts]
    return max(lengths_ns) / 1e9


# -- the rows of `per_host` ------------------------------------------------------------------------------------------------------------------------------


def per_host(run: _Row, ranks: Ranks, windows: Sequence[RankWindow], hosts: Sequence[HostRecords], caused_s: Sequence[float]) -> list[dict[str, Any]]:
    """A row for each host of the run. `caused_s`: for each rank, how long the ranks waited in the mean because it came last."""
    indices: dict[str, list[int]] = {}
    for index, rank in enumerate(ranks):
        indices.setdefault(str(rank.host), []).append(index)
    firsts, facts = first_files(hosts), {str(host.get("host")): host for host in hosts_of(run)}
    files, peaks = files_of_members(hosts), _peaks(run, hosts)
    members: dict[str, list[int]] = {}
    for member in members_of(run):
        members.setdefault(str(member["host"]), []).append(member["member"])
    return [
        {
            "host": label,
            **_of_ranks(ranks, windows, caused_s, indices.get(label, [])),
            **_of_file(firsts.get(label)),
            "peak_rss_bytes": total([peaks[number] for number in members.get(label, [])]),
            **_offset(members.get(label, []), files),
            **_facts(facts.get(label, {})),
        }
        for label in labels_of(run, ranks)
    ]


def _of_ranks(ranks: Ranks, windows: Sequence[RankWindow], caused_s: Sequence[float], mine: Sequence[int]) -> dict[str, Any]:
    ends = [record for index in mine for record in ranks[index].of_kind("epoch_end")]
    utilisations = [au for au in (windows[index].au_nominal for index in mine) if au is not None]
    longest_s = max((windows[index].length_ns for index in mine), default=0) / 1e9
    kept_bytes = sum(sum(epoch.record_bytes for epoch in windows[index].epochs) * windows[index].kept_share for index in mine)
    syncs_s = [sum(epoch.sync_ns for epoch in windows[index].epochs) / 1e9 for index in mine]
    return {
        "ranks": len(mine),
        "au_nominal": sum(utilisations) / len(utilisations) if utilisations else None,
        "au_least": min(utilisations, default=None),
        "samples": sum(ranks[index].samples for index in mine),
        "delivered_bytes": sum(ranks[index].record_bytes for index in mine),
        "delivered_bytes_per_s": kept_bytes / longest_s if longest_s > 0 and kept_bytes else None,
        "sync_s": sum(syncs_s) / len(syncs_s) if syncs_s else None,
        "sync_wait_caused_s": sum(caused_s[index] for index in mine),
        "device_read_bytes": total([record["device_read_bytes"] for record in ends]),
        "storage_bytes": total([record["storage_bytes"] for record in ends]),
        **cores_in_use(ends),
    }


def cores_in_use(ends: Sequence[_Row]) -> dict[str, float | None]:
    """Of one host, out of its `epoch_end` records: cores in use while epochs ran, by this run's commands (starting workers, too) and by others (the rest of
    what the host was busy with, stolen time too)."""
    counted = [record for record in ends if record.get("host_busy_s") is not None and record.get("host_command_s") is not None]
    span_s, busy_s, command_s = (sum(record[name] for record in counted) for name in ("host_span_s", "host_busy_s", "host_command_s"))
    return {
        "cores_used": command_s / span_s if span_s > 0 else None,
        "cores_of_others": max(0.0, busy_s - command_s) / span_s if span_s > 0 else None,
    }


def _of_file(file: HostRecords | None) -> dict[str, Any]:
    """What the samples of a host's first member say of the whole host."""
    samples = Samples() if file is None else samples_of(file)
    return {
        "block_device_read_bytes": samples.growth("device_read_bytes"),
        "cpu_busy_s": samples.growth("cpu_user_s", "cpu_system_s"),
        "cpu_steal_s": samples.growth("cpu_steal_s"),
    }


def peak_rss_bytes(run: _Row, hosts: Sequence[HostRecords]) -> int | None:
    """The peaks of all members added up; None where one of them left no sample."""
    found: int | None = total(list(_peaks(run, hosts).values()))
    return found


def _peaks(run: _Row, hosts: Sequence[HostRecords]) -> dict[int, int | None]:
    files = files_of_members(hosts)
    numbers = [member["member"] for member in members_of(run)]
    return {number: samples_of(files[number]).peak_rss_bytes if number in files else None for number in numbers}


def _offset(mine: Sequence[int], files: Mapping[int, HostRecords]) -> dict[str, float | None]:
    """How far the wall clock of these members' host was ahead of member 0's, by the exchange of the shortest round trip; 0 on member 0's own host."""
    if 0 in mine:
        return {"wall_offset_s": 0.0, "wall_offset_uncertainty_s": 0.0}
    found = [record for number in mine if number in files for record in files[number].of_kind("clock")]
    best = min(found, key=lambda record: float(record["uncertainty_s"]), default=None)
    return {
        "wall_offset_s": None if best is None else best["wall_offset_s"],
        "wall_offset_uncertainty_s": None if best is None else best["uncertainty_s"],
    }


def _facts(host: _Row) -> dict[str, Any]:
    return {
        "kernel": host.get("versions", {}).get("kernel"),
        "cores": host.get("usable_cores"),
        "memory_bytes": host.get("memory_bytes"),
    }


def total(values: Sequence[Any]) -> Any:
    """The sum, or None as soon as one is unknown (or there are none)."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def counts(records: Sequence[_Row], name: str) -> dict[str, int]:
    """Counts by name, added up; records of before they were counted have none."""
    summed: dict[str, int] = defaultdict(int)
    for record in records:
        for key, count in record.get(name, {}).items():
            summed[key] += count
    return dict(sorted(summed.items()))
