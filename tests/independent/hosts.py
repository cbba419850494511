"""What is worked out host by host: spans, caches, cores, clocks, and whom the others waited for. Part of the independent computation; see `recompute`."""

from __future__ import annotations

from rank import NS, RankFigures, Row, all_or_none, average, kind
from training import evaluating_ns


def groups(figures: list[RankFigures]) -> dict[str, list[RankFigures]]:
    found: dict[str, list[RankFigures]] = {}
    for each in figures:
        found.setdefault(str(each.header.get("host")), []).append(each)
    return found


def first_file(hosts: list[list[Row]], name: str | None) -> list[Row]:
    """The records that the first member of a host wrote; nothing where it wrote none."""
    files = {head["member"]: rows for rows in hosts for head in kind(rows, "header") if head["host"] == name}
    return files[min(files)] if files else []


def labels(run: Row) -> list[str]:
    """In the order of the members."""
    return list(dict.fromkeys(member["host"] for member in run["members"]))


def spans(run: Row, figures: list[RankFigures], probing_s: float) -> Row:
    """Each host's own clock gives its own span, and the longest counts; the start is of the clock that the command read."""
    walls, outside = [], []
    for mine in groups(figures).values():
        begun = [each.starts[0]["start_ns"] for each in mine if 0 in each.starts]
        ended = [row["sync_end_ns"] for each in mine for row in each.every] + [row["end_ns"] for each in mine for row in kind(each.rows, "epoch_end")]
        if not begun or not ended:
            continue
        inside = 0
        for epoch in {epoch for each in mine for epoch in each.starts}:
            opens = [each.starts[epoch]["start_ns"] for each in mine if epoch in each.starts]
            closes = [row["sync_end_ns"] for each in mine for row in each.every if row["epoch"] == epoch]
            inside += max(closes) - min(opens) if closes else 0
        judging, judged = evaluating_ns(mine)
        walls.append(max(ended + judged) - min(begun))
        outside.append(max(0, walls[-1] - inside - judging))
    null_s = max((each.null_ns for each in figures), default=0) / NS
    here = [each for each in figures if str(each.header.get("host")) == run["hosts"][0]["host"]]
    began = [each.starts[0]["start_ns"] for each in here if 0 in each.starts]
    null_first = any(each.null and began and each.null[0]["asked_ns"] < min(began) for each in here)
    return {
        "wall_s": max(walls) / NS if walls else None,
        "harness_s": max(outside) / NS if walls else None,
        "startup_s": (min(began) - run["command_start_ns"]) / NS - null_first * null_s - probing_s if began else None,
        "null_s": null_s,
    }


def caused_s(figures: list[RankFigures]) -> list[float]:
    """Of each step the rank that waited least in the sync, alone, is the one that the others waited for; in seconds of the mean rank."""
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for index, each in enumerate(figures):
        for row in kind(each.rows, "step"):
            steps.setdefault((row["epoch"], row["step"]), []).append((row["release_ns"] - row["host_delay_ns"] - row["due_ns"], index))
    found = [0.0] * len(figures)
    for waits in steps.values():
        waits.sort()
        if len(waits) > 1 and waits[0][0] < waits[1][0]:
            found[waits[0][1]] += sum(wait - waits[0][0] for wait, _ in waits) / len(figures) / NS
    return found


def least_cached(run: Row, values: list[float | None]) -> float | None:
    if not values or None in values:
        return None
    return (min if run["config"]["run"]["cache"] == "warm" else max)(value for value in values if value is not None)


def cores(ends: list[Row]) -> tuple[float | None, float | None]:
    """(in use by this run, in use by others) of one host."""
    known = [row for row in ends if row.get("host_busy_s") is not None and row.get("host_command_s") is not None]
    wall_s, busy_s, own_s = (sum(row[f"host_{name}_s"] for row in known) for name in ("span", "busy", "command"))
    return (own_s / wall_s, max(busy_s - own_s, 0.0) / wall_s) if wall_s else (None, None)


def probed(run: Row, hosts: list[list[Row]], name: str, when: str | None) -> float | None:
    """What all hosts were given at once, by the last rate that each has."""
    rates: list[float | None] = []
    for label in labels(run):
        mine = [row["bytes_per_s"] for row in kind(first_file(hosts, label), name) if row.get("when") == when and row["bytes_per_s"] is not None]
        rates.append(mine[-1] if mine else None)
    found: float | None = all_or_none(rates)
    return found


def memory(run: Row, hosts: list[list[Row]], name: str | None = None) -> int | None:
    """The peaks of the members, added up."""
    peaks: list[int | None] = []
    for member in run["members"]:
        if name in (None, member["host"]):
            mine = [
                row["rss_bytes"]
                for rows in hosts
                for head in kind(rows, "header")
                if head["member"] == member["member"]
                for row in kind(rows, "host")
            ]
            peaks.append(max(mine, default=None))
    found: int | None = all_or_none(peaks)
    return found


def host_row(run: Row, name: str, figures: list[RankFigures], hosts: list[list[Row]], caused: list[float]) -> Row:
    mine = groups(figures).get(name, [])
    ends = [row for each in mine for row in kind(each.rows, "epoch_end")]
    samples = kind(first_file(hosts, name), "host")
    fact = next(host for host in run["hosts"] if host["host"] == name)
    window = max((each.total["window"] for each in mine), default=0) / NS
    kept = sum(each.total["bytes"] * each.kept for each in mine)
    members = {member["member"] for member in run["members"] if member["host"] == name}
    offsets = [row for rows in hosts for head in kind(rows, "header") if head["member"] in members for row in kind(rows, "clock")]
    if 0 in members:
        offset = (0.0, 0.0)
    else:
        offset = min(((row["wall_offset_s"], row["uncertainty_s"]) for row in offsets), key=lambda pair: pair[1], default=(None, None))

    def grown(*counters: str) -> float | None:
        if len(samples) < 2 or any(samples[0][counter] is None for counter in counters):
            return None
        return float(sum(samples[-1][counter] - samples[0][counter] for counter in counters))

    return {
        "host": name,
        "ranks": len(mine),
        "au_nominal": average([each.au_nominal for each in mine]),
        "au_least": min((each.au_nominal for each in mine if each.au_nominal is not None), default=None),
        "samples": sum(row["samples"] for each in mine for row in each.work),
        "delivered_bytes": sum(row["record_bytes"] for each in mine for row in each.work),
        "delivered_bytes_per_s": kept / window if window and kept else None,
        "sync_s": average([each.total["sync"] / NS for each in mine]),
        "sync_wait_caused_s": sum(seconds for seconds, each in zip(caused, figures, strict=True) if each in mine),
        "device_read_bytes": all_or_none([row["device_read_bytes"] for row in ends]),
        "storage_bytes": all_or_none([row["storage_bytes"] for row in ends]),
        **dict(zip(("cores_used", "cores_of_others"), cores(ends), strict=True)),
        "block_device_read_bytes": grown("device_read_bytes"),
        "cpu_busy_s": grown("cpu_user_s", "cpu_system_s"),
        "cpu_steal_s": grown("cpu_steal_s"),
        "peak_rss_bytes": memory(run, hosts, name),
        "wall_offset_s": offset[0],
        "wall_offset_uncertainty_s": offset[1],
        "kernel": fact.get("versions", {}).get("kernel"),
        "cores": fact.get("usable_cores"),
        "memory_bytes": fact.get("memory_bytes"),
    }
