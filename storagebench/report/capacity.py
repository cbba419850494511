"""`plan --capacity` as text: what is needed, figure by figure with its origin, then what a store can feed. Takes plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from storagebench.units import format_bytes, format_seconds


def capacity_text(found: Mapping[str, Any]) -> str:
    """Aligned lines."""
    lines: list[str] = []
    for one in found["workloads"]:
        several = len(found["workloads"]) > 1
        shown = (
            one["figures"] if several else [figure for figure in one["figures"] if figure["name"] not in {need["name"] for need in found["needs"]}]
        )
        lines += [f"{one['name']}:", *_figures(shown), ""]
    lines += ["needs" + (", all workloads together:" if len(found["workloads"]) > 1 else ":"), *_figures(found["needs"])]
    if found["feeds"] is not None:
        lines += ["", *_feeds(found["feeds"])]
    return "\n".join(lines) + "\n"


def _figures(figures: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [(figure["name"], _value(figure["value"], figure["unit"]), f"({figure['origin']}: {figure['why']})") for figure in figures]
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "unknown"
    if unit in ("B", "B/s"):
        return format_bytes(value) + unit.removeprefix("B")
    if unit == "s":
        return format_seconds(value)
    if unit == "/s":
        return f"{value:,.1f}/s" if value < 100 else f"{value:,.0f}/s"
    text = f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def _feeds(feeds: Mapping[str, Any]) -> list[str]:
    said = ", ".join(f"{flag} {value}" for flag, value in feeds["said"].items()) or "no limit"
    lines = [f"what it can feed, predicted, not measured ({said}; what is not given is no limit):"]
    times = feeds["fetch_times"]
    if times is not None:
        own = "" if times["accelerators"] == 1 else f", of {times['accelerators']} accelerators, which waited for one another"
        own += "" if len(feeds["au_asked"]) == 1 else "; the other workloads' reads are given the same"
        lines.append(f"  latency: the times of {times['reads']} reads of {times['run']} (measured{own})")
    lines += ["  " + _largest(feeds), *_base(feeds), "", *_table(feeds["table"], feeds["base"], "accelerators")]
    if feeds["what_if"]:
        lines += ["", "what if, predicted:", *_table([feeds["base"], *feeds["what_if"]], feeds["base"], "change")]
    return lines


def _largest(feeds: Mapping[str, Any]) -> str:
    most, asked = feeds["largest"], "; ".join(f"AU {au:.2f} of {name}" for name, au in feeds["au_asked"].items())
    first = next(iter(feeds["au_asked"]))
    if most["unlimited"]:
        return f"largest number of {first}: over {most['number']:,}, nothing given limits it ({asked})"
    if not most["number"]:
        return f"largest number of {first}: none, one already misses {asked}"
    how = f"closed form at most {most['by_closed_form']:,}; simulated at {', '.join(map(str, most['tried']))}"
    return f"largest number of {first}: {most['number']:,} at {asked} ({how})"


def _base(feeds: Mapping[str, Any]) -> list[str]:
    row = feeds["base"]
    share = feeds["share_without_checkpoints"]
    lines = [f"  at {row['accelerators']:,}: {_au(row)}, limited by {row['limited_by']}"]
    if feeds["first_epoch"] is not None:
        lines[0] += ", in an epoch after the first"
        lines.append(
            f"  in the first epoch, with nothing in the caches: {_au(feeds['first_epoch'])}, limited by {feeds['first_epoch']['limited_by']}"
        )
    if share is not None:
        lines.append("  with the checkpoints: " + ", ".join(f"{name} AU {au * share:.3f}" for name, au in row["au"].items()))
    return lines


def _au(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} AU {au:.3f}" for name, au in row["au"].items())


def _table(rows: Sequence[Mapping[str, Any]], base: Mapping[str, Any], first: str) -> list[str]:
    """AU, samples/s and what the store gives; in questions also the change against the base."""
    asks = first == "change"
    names = list(base["au"])
    head = [first, *(f"AU {name}" for name in names), "samples/s", "store", "reads/s", "limited by"]
    lines = [head]
    for row in rows:
        is_other = asks and row is not base
        about = (row["question"] or "as it is") if asks else f"{row['accelerators']:,}"
        au = [f"{row['au'][name]:.3f}" + (f" ({row['au'][name] - base['au'][name]:+.3f})" if is_other else "") for name in names]
        rate, before = row["samples_per_s_of_all"], base["samples_per_s_of_all"]
        samples = f"{rate:,.0f}" + (f" ({rate / before - 1:+.1%})" if is_other and before else "")
        lines.append([about, *au, samples, _value(row["store_bytes_per_s"], "B/s"), _value(row["store_requests_per_s"], "/s"), row["limited_by"]])
    return _aligned(lines)
