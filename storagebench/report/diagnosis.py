"""A diagnosis as text, and as rows that the HTML page shares."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final, NamedTuple

from storagebench.diagnosis.ladder import ABOUT, PARTS, RUNGS, Diagnosis, Part
from storagebench.report import wording as w

_WIDTH: Final = 110
_MEANING: Final[Mapping[str, str]] = {
    "storage": "the storage gives less than the job could take",
    "decode": "what comes after the fetch (parse, checksum, decode) costs more CPU than there is",
    "loader": "the loader asks for too little, or its workers are too few",
    "host": "others take the CPU, or it is full with moving bytes",
    "overlap": "fetch and compute do not overlap as they could",
}


class Rung(NamedTuple):
    """A row: name, what it is, samples/s (median), the range over the repeats, and the rate against the accelerators' own."""

    name: str
    about: str
    median: float | None
    low: float | None
    high: float | None
    of_accelerators: float | None
    why_absent: str


def rungs(found: Diagnosis) -> list[Rung]:
    """All rungs in the order of the ladder, absent ones with their reason."""
    best = median(found.rungs["synthetic"]) if "synthetic" in found.rungs else None
    rows = []
    for name in RUNGS:
        values = found.rungs.get(name)
        if not values:
            rows.append(Rung(name, ABOUT[name], None, None, None, None, found.absent.get(name, "not measured")))
            continue
        middle = median(values)
        rows.append(Rung(name, ABOUT[name], middle, min(values), max(values), middle / best if best else None, ""))
    return rows


def parts(found: Diagnosis) -> list[tuple[str, str, Part]]:
    """Name, meaning and size of each part of the stall."""
    return [(name, _MEANING[name], found.split[name]) for name in PARTS]


def headline(found: Diagnosis) -> str:
    """One sentence: the verdict and AU."""
    what = found.verdict.bottleneck or "not decided"
    said = "nothing but the accelerator is in the way" if what == "accelerator" else f"in the way: {what}"
    return f"{said}; AU {w.utilisation(found.au)}, {w.share(found.stall.value)} of the accelerators' time is lost"


def knob_setting(settings: Mapping[str, Any]) -> str:
    """`--num-workers 8 --prefetch-batches 4`, as the command line has them."""
    from storagebench.workload import option_fields

    flags = {f"{section}.{field}": flag for flag, (section, field, _) in option_fields().items()}
    return " ".join(f"{flags.get(key, '--set ' + key)} {value}" for key, value in settings.items())


def diagnosis_text(found: Diagnosis) -> str:
    """The page of a diagnosis: the verdict and why, the ladder, the split, the knob and what it did, predictions."""
    blocks = [
        *([_fill(f"INVALID: do not use this: {found.invalid}")] if found.invalid else []),
        _fill(f"{(found.verdict.bottleneck or 'UNDECIDED').upper()}: {headline(found)}"),
        "\n".join(_fill(f"because {reason}", "  ") for reason in found.verdict.why),
        "The ladder (samples/s, median and range over the repeats)\n" + _table(ladder_rows(found)),
        "The stall (share of the accelerators' time, with its 95 % interval)\n" + _table(split_rows(found)),
        "Next\n" + _next(found),
    ]
    if found.predictions:
        blocks.append("What if (predicted, not measured)\n" + _table(prediction_rows(found)))
    return "\n\n".join(blocks) + "\n"


def ladder_rows(found: Diagnosis) -> list[tuple[str, ...]]:
    """The ladder as a table: a head, then a row a rung."""
    rows: list[tuple[str, ...]] = [("rung", "samples/s", "lowest", "highest", "of accelerators", "")]
    for rung in rungs(found):
        if rung.median is None:
            rows.append((rung.name, w.UNKNOWN, "", "", "", f"not measured: {rung.why_absent}"))
        else:
            rows.append((rung.name, w.number(rung.median), w.number(rung.low), w.number(rung.high), w.multiple(rung.of_accelerators), rung.about))
    return rows


def split_rows(found: Diagnosis) -> list[tuple[str, ...]]:
    """The stall as a table: a head, a row a part, and all of it."""
    rows: list[tuple[str, ...]] = [("part", "share", "from", "to", "")]
    for name, meaning, part in parts(found):
        rows.append((name, w.share(part.value), w.share(part.low), w.share(part.high), meaning))
    rows.append(("all", w.share(found.stall.value), w.share(found.stall.low), w.share(found.stall.high), ""))
    return rows


def _next(found: Diagnosis) -> str:
    lines = [_fill(found.verdict.knob, "  ")]
    trial = found.trial
    if trial is not None:
        change = f"AU {median(trial.before):.3f} -> {median(trial.after):.3f}"
        lines.append(_fill(f"tried: {knob_setting(trial.settings)}: {change} (medians of {len(trial.after)} runs each, taken in turns)", "  "))
    elif found.verdict.settings:
        lines.append(_fill(f"not tried: {knob_setting(found.verdict.settings)}", "  "))
    return "\n".join(lines)


def prediction_rows(found: Diagnosis) -> list[tuple[str, ...]]:
    """The predictions as a table with a head."""
    rows: list[tuple[str, ...]] = [("if", "AU", "samples/s", "limited by", "")]
    for one in found.predictions:
        unknown = f"at most: the limit of {', '.join(one.unknown)} is not known" if one.unknown else ""
        rows.append((one.text, w.utilisation(one.au), w.number(one.samples_per_s), one.limited_by, unknown))
    return rows


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns of text; the first and the last are flush left, figures flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            text.ljust(width) if column in (0, len(row) - 1) else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def _fill(text: str, indent: str = "") -> str:
    return textwrap.fill(w.printable(text), _WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_long_words=False)
