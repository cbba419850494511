"""A search as text, and as rows that the HTML page shares."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from statistics import median
from typing import Final

from storagebench.experiments.searching import plural
from storagebench.experiments.searchresult import Found, Point
from storagebench.report import scaling
from storagebench.report import wording as w
from storagebench.report.repeats import aligned
from storagebench.report.scaling import HourPrice, knee_interval, sentences

_WIDTH: Final = 110
HEADINGS: Final = ("accelerators", "met", "confirmed", "AU", "lowest", "highest", "MB/s", "of demand", "in the way")
_LABELS: Final = {"found": "FOUND", "bounded": "FOUND, AS FAR AS IT GOES", "undecided": "NOT DECIDED", "ended": "ENDED"}
RULE: Final = (
    "A number is confirmed by a sign test over new runs: said wrongly (a run would meet the threshold with a probability under, or over, 1/2) with a "
    "probability of at most {error:.1%}."
)


def label(found: Found) -> str:
    return "NOT AT ITS END" if found.answer is None else _LABELS[found.answer.state]


def headline(found: Found) -> str:
    """One sentence: how many are kept busy, and how many are not."""
    answer, threshold = found.answer, f"AU at or above {found.rules.threshold:g}"
    if answer is None:
        return f"no answer yet: the search was interrupted; the same command with --search-id {found.name} goes on"
    best = (
        f"{plural(answer.best)} {'is' if answer.best == 1 else 'are'} kept busy ({threshold})"
        if answer.best
        else f"not even 1 accelerator is kept busy ({threshold})"
    )
    if answer.state == "found":
        return f"{best}, and {answer.fails} are not" if answer.best else best
    if answer.state == "bounded":
        return f"{best}, and more could not be tried: {answer.why}"
    if answer.state == "undecided":
        return f"between {answer.best} and {answer.fails - 1} accelerators are kept busy ({threshold}): {answer.why}; {answer.fails} are not"
    known = f"{plural(answer.best)} confirmed as kept busy" if answer.best else "no number is confirmed as kept busy"
    return f"{answer.why}; {known}"


def reasons(found: Found) -> list[str]:
    """What ended it, the knee, the harness's own limit, and what to read with care."""
    lines = []
    answer = found.answer
    if answer is not None and found.resource:
        lines.append(f"in the way at {answer.fails}: {found.resource}" + (f" ({found.why})" if found.why else ""))
    elif answer is not None and answer.state != "bounded" and answer.fails <= found.rules.most_accelerators:
        lines.append(f"what is in the way at {answer.fails} is not known")
    if found.knee is not None:
        interval = knee_interval(found)
        reach = "" if interval is None else f"{w.number(interval.low)} to {w.number(interval.high)}; "
        lines.append(
            f"knee: {w.megabytes_per_s(found.knee.plateau)} MB/s, which {w.number(found.knee.accelerators)} accelerators take "
            f"({reach}fit of min(N x {w.megabytes_per_s(found.demand_bytes_per_s)} MB/s, plateau), {w.share(found.knee.residual)} off); by it {found.knee.kept_busy} are kept busy"
        )
    elif found.points:
        lines.append("knee: none in these runs: bandwidth grew with the accelerators as far as they went")
    if found.au_null is not None and found.au_null < found.rules.threshold:
        lines.append(f"without any storage this host reaches only AU {w.utilisation(found.au_null)} with so many: the limit is its own")
    if found.guess:
        lines.append(f"began at {found.guess['start']}: {found.guess['why']}")
    lines += found.notes
    lines += [f"not counted: {why}" for why in found.left_out.values()]
    if found.interrupted:
        lines.append(f"did not come to their end, and are made again: {', '.join(found.interrupted)}")
    return lines


def point_rows(found: Found) -> list[tuple[str, ...]]:
    """The curve as a table: a head, then a row a number of accelerators. AU and MB/s are medians over the runs."""
    return [HEADINGS, *(_row(found, point) for point in found.points)]


def _row(found: Found, point: Point) -> tuple[str, ...]:
    confirmed = f"{point.confirm_met} of {point.confirm_met + point.confirm_missed}" if point.confirm_met + point.confirm_missed else ""
    rate = median(point.bytes_per_s) if point.bytes_per_s else None
    demand = None if rate is None or not found.demand_bytes_per_s else rate / (point.accelerators * found.demand_bytes_per_s)
    if not point.au:
        return (str(point.accelerators), *[""] * 7, f"not tried: {point.refused}")
    threshold = found.rules.threshold
    return (
        str(point.accelerators),
        f"{point.met} of {len(point.au)}",
        confirmed,
        w.utilisation(median(point.au), threshold),
        w.utilisation(min(point.au), threshold),
        w.utilisation(max(point.au), threshold),
        w.megabytes_per_s(rate),
        w.share(demand),
        ", ".join(f"{name} {count}" for name, count in point.bottlenecks.items()),
    )


def search_text(found: Found, price: HourPrice | None = None) -> str:
    """The page of a search: the answer and why, what it means for time and cost, the curve, and the rule behind it."""
    blocks = [
        _fill(f"{label(found)}: {headline(found)}"),
        "\n".join(_fill(line, "  ") for line in [*reasons(found), *sentences(found, price)]),
        f"{w.printable(found.workload)}, loader {w.printable(found.loader)}, {w.printable(found.store)}\n\n{_table(point_rows(found))}",
        *_costs(found, price),
        _fill(RULE.format(error=found.error)),
    ]
    return "\n\n".join(blocks) + "\n"


def _costs(found: Found, price: HourPrice | None) -> list[str]:
    """Time and cost by the number of accelerators, an epoch and to the target; nothing where no run has an AU."""
    head, *figures = scaling.rows(found, price)
    if not figures:
        return []
    upper, lower = zip(*map(_in_two, head), strict=True)
    lines = aligned([upper, lower, *figures]).split("\n")
    if found.work.epochs is not None:
        lines.append(f"target: {found.work.target}, {scaling.epochs_text(found)}")
    return ["\n".join(f"  {w.printable(line)}" for line in lines)]


def _in_two(heading: str) -> tuple[str, str]:
    """A long heading as two lines, broken in front of `an epoch` and the like.

    >>> _in_two("accelerator minutes to the target"), _in_two("AU"), _in_two("cost, relative")
    (('accelerator minutes', 'to the target'), ('', 'AU'), ('cost,', 'relative'))
    """
    for end in (" an epoch", " to the target", " waiting", " relative"):
        if heading.endswith(end):
            return heading.removesuffix(end), end[1:]
    return "", heading


def _table(rows: Sequence[Sequence[str]]) -> str:
    """The last column is flush left: it is text."""
    figures = aligned([row[:-1] for row in rows]).split("\n")
    width = max(map(len, figures))
    return "\n".join(f"  {line.ljust(width)}  {w.printable(row[-1]) if row[-1] else ''}".rstrip() for line, row in zip(figures, rows, strict=True))


def _fill(text: str, indent: str = "") -> str:
    return textwrap.fill(w.printable(text), _WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_long_words=False)
