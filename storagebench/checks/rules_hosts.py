"""Runs over several hosts: whom the others waited for, who was lost, whose clock is wrong, and hosts that are not alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from storagebench.checks.case import Case, Found
from storagebench.members import file_of_member, first_host, hosts_of, members_of
from storagebench.units import format_bytes, format_seconds

# Effects below 3 % of the time give no verdict (reference/measurement.md section 2).
WAIT_AT_LEAST: Final = 0.03
# Ranks that are alike come last equally often. One that has more than half of what is left over an equal part of the wait is not alike.
OVER_EQUAL_PART: Final = 0.5
# A request with an AWS Signature Version 4 has to arrive within 5 minutes of its time stamp, and so has a Kerberos ticket (MIT: `clockskew`, 300 s).
CLOCK_SKEW_S: Final = 300.0
# What a kernel keeps for itself differs by some MB between hosts of one model.
MEMORY_WITHIN: Final = 0.01
_SHOWN: Final = 8
# Mount options that differ between hosts of one file system by their nature.
_OWN_OPTIONS: Final = ("clientaddr", "lowerdir", "upperdir", "workdir")
_STAGES: Final = {"fetch_s": "waiting for data", "host_delay_s": "being woken late by its host"}


class _Part(NamedTuple):
    """A rank, or all ranks of a host: how it is called, what share of all ranks it is, and the wait that it caused (seconds, mean of all ranks)."""

    name: str
    size: float
    caused_s: float
    rows: Sequence[Mapping[str, Any]]


def straggler(case: Case) -> Iterator[Found]:
    """The rank that all others wait for, or else the host whose ranks they wait for by turns."""
    rows, window_s, wait_s = case.summary["per_rank"], case.summary["window_s"], case.summary["sync_wait_s"]
    if len(rows) < 2 or not window_s or not wait_s:
        return
    parts = [max(kind, key=lambda part: part.caused_s) for kind in (_ranks(case), _hosts(case)) if kind]
    for part in parts:
        share = part.caused_s / wait_s
        if part.caused_s > WAIT_AT_LEAST * window_s and share - part.size >= OVER_EQUAL_PART * (1 - part.size):
            yield Found(
                f"the ranks waited {format_seconds(wait_s)} of {format_seconds(window_s)} for the one that came last ({wait_s / window_s:.1%}), and "
                f"{share:.0%} of that was for {part.name}, over {part.size + OVER_EQUAL_PART * (1 - part.size):.0%}; {_what_took_it(part, rows)}",
                f"see what differs about {part.name}: its network, its device, its shards, its share of the cores; or measure without it",
            )
            return


def _ranks(case: Case) -> list[_Part]:
    rows = case.summary["per_rank"]
    several = case.summary["num_hosts"] > 1
    return [
        _Part(f"rank {row['rank']}" + (f" on host {row['host']}" if several else ""), 1 / len(rows), row["sync_wait_caused_s"], [row]) for row in rows
    ]


def _hosts(case: Case) -> list[_Part]:
    rows = case.summary["per_rank"]
    labels = list(dict.fromkeys(row["host"] for row in rows))
    of_host = {label: [row for row in rows if row["host"] == label] for label in labels}
    if len(labels) < 2:
        return []
    return [_Part(f"host {label}", len(mine) / len(rows), sum(row["sync_wait_caused_s"] for row in mine), mine) for label, mine in of_host.items()]


def _what_took_it(part: _Part, rows: Sequence[Mapping[str, Any]]) -> str:
    """The part of a step in which it took longer than the others, and of the loader's stages the one that it spent most more time in for a sample."""
    others = [row for row in rows if not any(row is mine for mine in part.rows)]
    more = {name: _mean(part.rows, name) - _mean(others, name) for name in _STAGES}
    stage = max(more, key=lambda name: more[name])
    if more[stage] <= 0:
        return "what took it longer is not in the records"
    text = f"it spent {format_seconds(_mean(part.rows, stage))} {_STAGES[stage]}, and the others {format_seconds(_mean(others, stage))}"
    spans = {
        name: _of_sample(part.rows, name) - _of_sample(others, name) for name in dict.fromkeys(name for row in part.rows for name in row["spans_s"])
    }
    slowest = max(spans, key=lambda name: spans[name], default=None)
    if stage != "fetch_s" or slowest is None or spans[slowest] <= 0:
        return text
    return f"{text}; in its loader the stage {slowest} took {format_seconds(_of_sample(part.rows, slowest))} a sample, and {format_seconds(_of_sample(others, slowest))} with the others"


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(sum(row[name] for row in rows) / len(rows)) if rows else 0.0


def _of_sample(rows: Sequence[Mapping[str, Any]], span: str) -> float:
    samples = sum(row["samples"] for row in rows)
    return float(sum(row["spans_s"].get(span, 0.0) for row in rows) / samples) if samples else 0.0


def lost(case: Case) -> Iterator[Found]:
    """Members that are gone: as member 0 saw it, and those that left no word while others ended."""
    first = file_of_member(case.hosts, 0)
    records = [] if first is None else first.of_kind("lost")
    for record in records:
        yield Found(f"{_member(record['member'], record['host'], record['ranks'])} was lost: {record['why']}", _LOST_HINT)
    files = [(member, file_of_member(case.hosts, member["member"])) for member in members_of(case.run)]
    ended = [file is not None and bool(file.of_kind("end")) for _, file in files]
    if len(files) < 2 or case.complete or not any(ended):
        return
    named = {record["member"] for record in records}
    for (member, file), has_ended in zip(files, ended, strict=True):
        if not has_ended and member["member"] not in named:
            ranks = range(member["first_rank"], member["first_rank"] + member["ranks"])
            what = "left no trace" if file is None else "ended without a word"
            yield Found(f"{_member(member['member'], member['host'], ranks)} {what}", _LOST_HINT)


_LOST_HINT: Final = "look at that host (dmesg, the launcher's log) and at the network between the hosts, and run it again"


def _member(number: int, host: str, ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:_SHOWN])) + (f" and {len(ranks) - _SHOWN} more" if len(ranks) > _SHOWN else "")
    return f"member {number} on host {host}" + (f" with rank{'s' if len(ranks) > 1 else ''} {shown}" if ranks else "")


def clock_skew(case: Case) -> Iterator[Found]:
    """A wall clock far off the first host's. Figures do not suffer: they are of monotonic clocks, each host's for itself."""
    for row in case.summary["per_host"]:
        offset_s, unsure_s = row["wall_offset_s"], row["wall_offset_uncertainty_s"]
        if offset_s is not None and abs(offset_s) - unsure_s > CLOCK_SKEW_S:
            yield Found(
                f"the wall clock of host {row['host']} is {abs(offset_s):.0f} s {'ahead of' if offset_s > 0 else 'behind'} that of host "
                f"{first_host(case.run)['host']} (to {format_seconds(unsure_s)}), over {CLOCK_SKEW_S:.0f} s",
                "let all hosts follow one time server: S3 and Kerberos refuse requests with such a time stamp; the figures here do not depend on it",
            )


# -- hosts that are not alike ------------------------------------------------------------------------------------------------------------------------------


def _version(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda host: host.get("versions", {}).get(name) or "none"


def _mount(host: Mapping[str, Any]) -> str:
    mount = host.get("data_filesystem")
    if not mount:
        return "no local file system"
    options = [option for option in (mount.get("options") or "").split(",") if option and option.partition("=")[0] not in _OWN_OPTIONS]
    return f"{mount['type']} of {mount['device']}" + (f" ({','.join(sorted(options))})" if options else "")


_ALIKE: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "kernel": _version("kernel"),
    "version of storagebench": _version("storagebench"),
    "version of torch": _version("torch"),
    "version of Python": _version("python"),
    "data mount": _mount,
    "number of usable cores": lambda host: str(host.get("usable_cores") or "unknown"),
}


def hosts_differ(case: Case) -> Iterator[Found]:
    """Hosts that differ in what a figure may depend on, and which has what."""
    hosts = hosts_of(case.run)
    hint = "make the hosts alike, or compare runs on one kind of host with runs on the other"
    for fact, of in _ALIKE.items():
        having: dict[str, list[str]] = {}
        for host in hosts:
            having.setdefault(of(host), []).append(str(host.get("host")))
        if len(having) > 1:
            yield Found(f"the hosts differ in {fact}: {_who_has_what(having)}", hint)
    memories = {str(host.get("host")): host["memory_bytes"] for host in hosts if host.get("memory_bytes")}
    least, most = min(memories.values(), default=0), max(memories.values(), default=0)
    if most > least * (1 + MEMORY_WITHIN):
        shown = {format_bytes(value): [host for host, memory in memories.items() if memory == value] for value in (least, most)}
        yield Found(f"the hosts differ in memory by {most / least - 1:.0%}, over {MEMORY_WITHIN:.0%}: {_who_has_what(shown)}", hint)


def _who_has_what(having: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(
        f"{value} on {', '.join(hosts[:_SHOWN])}{f' and {len(hosts) - _SHOWN} more' if len(hosts) > _SHOWN else ''}"
        for value, hosts in having.items()
    )
