"""How figures of a summary are worded, the same in text and HTML: numbers with units, marks of validity, groups by decode level, the verdict.

Pure functions on `summary.json`. Everything returned is plain text: whoever puts it on a page escapes it there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from storagebench.units import format_bytes, format_rate, format_seconds

Summary = Mapping[str, Any]

UNKNOWN: Final = "-"
ERROR_MARK: Final = "!"
WARNING_MARK: Final = "~"
LEGEND: Final = {
    ERROR_MARK: "the number is false or of an incomplete run: it has an error finding",
    WARNING_MARK: "true, but weak: it has a warning",
}
_DECODE_ORDER: Final = ("none", "touch", "parse", "full")
# Where a step's time goes, in the order of a step: summary key -> what a reader calls it.
STEP_PARTS: Final = {
    "fetch_s": "fetch (waiting for data)",
    "compute_s": "compute",
    "sync_wait_s": "sync wait (for the slowest rank)",
    "sync_cost_s": "sync cost (of the sync itself)",
    "host_delay_s": "host delay (woken late)",
}


class Verdict(NamedTuple):
    """`state` is one of busy, starved, unrated, invalid, incomplete; `label` is its headline, `sentence` says it with the numbers."""

    state: str
    label: str
    sentence: str


def printable(value: object) -> str:
    """Any value on one line without control characters, which could steer a terminal. None and nothing are unknown."""
    text = "".join(char if char.isprintable() else " " for char in ("" if value is None else str(value)))
    return text or UNKNOWN


def number(value: float | None) -> str:
    """Three digits or all that are left of the point: 0.123, 12.3, 1234."""
    if value is None:
        return UNKNOWN
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2 if abs(value) >= 0.9995 or value == 0 else 3
    return f"{value:.{digits}f}"


def count(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)


def share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1%}"


def multiple(value: float | None) -> str:
    """A share that may be far above 1, such as a limit against the rate that is needed.

    >>> multiple(0.482), multiple(13.119), multiple(267.87)
    ('48.2%', '13.1 x', '268 x')
    """
    return share(value) if value is None or value < 10 else f"{value:.3g} x"


def seconds(value: float | None) -> str:
    return UNKNOWN if value is None else format_seconds(value)


def offset(value: float | None, uncertainty: float | None) -> str:
    """How far a clock is ahead (below 0: behind), and how well that is known.

    >>> offset(-0.0125, 0.0004), offset(0.0, 0.0), offset(None, None)
    ('-12.5 ms +- 400 us', '0', '-')
    """
    if value is None or uncertainty is None:
        return UNKNOWN
    if not value and not uncertainty:
        return "0"
    return f"{'-' if value < 0 else ''}{format_seconds(abs(value))} +- {format_seconds(uncertainty)}"


def size(value: float | None) -> str:
    return UNKNOWN if value is None else format_bytes(value)


def megabytes_per_s(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value / 1e6:.1f}"


def utilisation(value: float | None, threshold: float | None = None) -> str:
    """An AU with three digits; with more where rounding would carry it over its threshold (0.8996 is not 0.90)."""
    if value is None:
        return UNKNOWN
    texts = [f"{value:.{digits}f}" for digits in range(3, 10)]
    if threshold is None:
        return texts[0]
    return next((text for text in texts if (float(text) >= threshold) == (value >= threshold)), texts[-1])


def mark(summary: Summary) -> str:
    """What stands beside a number of this run: `!` for an error finding, `~` for a warning, nothing for neither."""
    if not summary["valid"]:
        return ERROR_MARK
    return WARNING_MARK if any(finding["severity"] == "warning" for finding in summary["findings"]) else ""


def marked(text: str, sign: str) -> str:
    """The number with its mark. What is unknown needs none."""
    return f"{text} {sign}" if sign and text != UNKNOWN else text


def against_threshold(summary: Summary) -> str:
    """`pass 0.90` or `below 0.90`; a number that is false neither passes nor misses."""
    if summary["au_nominal"] is None or not summary["valid"]:
        return UNKNOWN
    return f"{'pass' if passes(summary) else 'below'} {summary['au_threshold']:.2f}"


def passes(summary: Summary) -> bool:
    """Whether a valid run kept its accelerators busy."""
    return bool(summary["valid"] and summary["au_nominal"] is not None and summary["au_nominal"] >= summary["au_threshold"])


def validity(summary: Summary) -> str:
    """`error`, `warning` or `ok`."""
    return {ERROR_MARK: "error", WARNING_MARK: "warning"}.get(mark(summary), "ok")


def by_decode(summaries: Sequence[Summary]) -> list[tuple[str, list[int]]]:
    """(effective decode level, indices of its runs), from the least level to the highest; no table ranks different levels together."""
    groups: dict[str, list[int]] = {}
    for index, summary in enumerate(summaries):
        groups.setdefault(summary["decode"] or "unknown", []).append(index)
    rank = {level: position for position, level in enumerate(_DECODE_ORDER)}
    return sorted(groups.items(), key=lambda group: (rank.get(group[0], len(rank)), group[0]))


def accelerators(summary: Summary) -> str:
    """`2 x h100 (mlperf-storage) with 20 ms of compute a step`: whose step time it is stands beside it."""
    if summary.get("training") is not None:
        return f"{summary['world_size']} x {summary['accelerator']}, a step computed {seconds(summary['training']['step_compute_s'])} (median)"
    name, compute = summary["accelerator"], format_seconds(summary["compute_time_s"])
    if name.endswith(" s a step"):  # no accelerator was named, only its compute time
        name = "emulated accelerator" + ("s" if summary["world_size"] > 1 else "")
    elif summary["profile"]:
        name += f" ({summary['profile']})"
    return f"{summary['world_size']} x {name} with {compute} of compute a step"


def cold_load(summary: Summary) -> str:
    """What counts in a workload whose data is read once, or nothing for others."""
    first, rate = summary["time_to_first_batch_s"], summary["delivered_bytes_per_s"]
    if summary["measures"] != "cold load" or first is None or rate is None:
        return ""
    return (
        "In steady state this workload asks next to nothing of the storage. What counts is the cold load: "
        f"{format_seconds(first)} to the first batch, then {format_rate(rate)}."
    )


def worst_loss(summary: Summary) -> str:
    """The largest part of the window that was not compute, as a clause, or nothing."""
    window = summary["window_s"]
    parts = [(summary[key] or 0.0, name) for key, name in STEP_PARTS.items() if key != "compute_s"]
    lost, name = max(parts)
    return f"most of the rest is {name}: {lost / window:.1%} of the time" if window and lost else ""


def in_the_way(summary: Summary) -> str:
    """`in the way: storage (...)`, with the first reason, or nothing where that is not known."""
    if summary["bottleneck"] is None:
        return ""
    return f"in the way: {summary['bottleneck']} ({summary['verdict']['why'][0]})"


def verdict(summary: Summary) -> Verdict:
    """The one thing to know about a run."""
    what = f"{summary['loader']} on {summary['format']} over {summary['storage']}"
    if summary["status"] != "complete":
        return Verdict("incomplete", summary["status"].upper(), incomplete_line(summary))
    if not summary["valid"]:
        first = next(finding for finding in summary["findings"] if finding["severity"] == "error")
        return Verdict("invalid", "INVALID", f"{what}: do not use these numbers: {first['message']}.")
    training = summary.get("training")
    if training is not None:
        from storagebench.report import trainingwords

        state = "unrated" if training["reached"] is False else "busy"
        return Verdict(state, trainingwords.label(training), trainingwords.sentence(summary, training))
    threshold = summary["au_threshold"]
    if summary["au_nominal"] is None:
        rate = summary["delivered_bytes_per_s"]
        why = "without compute time there is no AU" if summary["measured_steps"] else "no step after the warm-up was measured"
        sentence = f"{what} delivered {marked(f'{megabytes_per_s(rate)} MB/s', mark(summary))}; {why}."
        return Verdict("unrated", "NO AU", sentence)
    au = marked(utilisation(summary["au_nominal"], threshold), mark(summary))
    if passes(summary):
        return Verdict("busy", "KEPT BUSY", f"{what} kept {accelerators(summary)} busy: AU {au}, and {threshold:.2f} was needed.")
    clauses = [
        f"{what} did not keep {accelerators(summary)} busy: AU {au}, and {threshold:.2f} was needed",
        in_the_way(summary) or worst_loss(summary),
    ]
    if summary["au_null"] is not None and summary["au_null"] < threshold:
        clauses.append(f"but without any storage this host reaches only {utilisation(summary['au_null'], threshold)}")
    return Verdict("starved", "NOT KEPT BUSY", "; ".join(filter(None, clauses)) + ".")


def incomplete_line(summary: Summary) -> str:
    """`57 steps (1 of warm-up) were taken before the run ended: ...`."""
    steps = summary["measured_steps"] + summary["warmup_steps"]
    why = f": {summary['failure']}" if summary["failure"] else ", and nothing says why (was it killed?)"
    return f"{steps} steps ({summary['warmup_steps']} of warm-up) were taken before the run ended{why}."
