"""Time to accuracy and cost as text and CSV. Plain text; unknown is shown as `-`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from storagebench.report import wording as w
from storagebench.report.tabular import rows_as_csv
from storagebench.report.ttabasis import GIVEN_EPOCHS
from storagebench.report.ttareference import reference_rows

Entry = Mapping[str, Any]
_COST_ROWS = {
    "total": "cost",
    "accelerators": "  accelerators",
    "keeping": "  storage kept",
    "reading": "  storage read",
    "requests": "  requests",
    "stalls": "cost of the stalls",
    "epoch": "cost of an epoch",
}


def tta_text(entries: Sequence[Entry], groups: Sequence[Entry]) -> str:
    """A block for each run, one for each group of seeds, and what the marks mean."""
    blocks = [_run(entry) for entry in entries] + [_group(group) for group in groups]
    used = {entry["mark"] for entry in entries}
    legend = [f"{sign}  {meaning}" for sign, meaning in w.LEGEND.items() if sign in used]
    return "\n\n".join([*blocks, *(["\n".join(legend)] if legend else [])]) + "\n"


def tta_csv(entries: Sequence[Entry]) -> str:
    """One row for each run and number of epochs that it is shown at; a run without one has a row too."""
    return rows_as_csv([row for entry in entries for row in _csv_rows(entry)])


def _csv_rows(entry: Entry) -> list[dict[str, Any]]:
    target = entry["target"] or {}
    head = {name: entry[name] for name in ("run_id", "kind", "valid", "workload", "accelerator", "num_accelerators", "loader", "storage", "reached")}
    head |= {f"target_{name}": target.get(name) for name in ("edition", "metric", "value", "source", "date")}
    head |= {name: entry[name] for name in ("samples_per_epoch", "samples_from", "samples_per_s", "start_s", "eval_s")}
    rows = []
    for point in entry["points"] or [{}]:
        figures = {name: point.get(name) for name in ("which", "epochs", "tta_s", "tta_without_stalls_s", "train_s", "stall_s", "stall_share")}
        cost = point.get("cost") or {}
        rows.append({**head, **figures, "currency": entry["currency"], **{f"cost_{name}": cost.get(name) for name in _COST_ROWS}})
    return rows


def long_time(seconds: float | None, beside: float | None = None) -> str:
    """A training's time in the unit that fits it, or that fits the largest of those it stands beside.

    >>> long_time(8.25), long_time(1085.18), long_time(45588.19), long_time(None)
    ('8.25 s', '18.1 min', '12.7 h', '-')
    >>> long_time(1085.18, beside=45588.19)
    '0.301 h'
    """
    largest = seconds if beside is None else beside
    if seconds is None or largest is None or largest < 100:
        return w.seconds(seconds)
    factor, unit = (60.0, "min") if largest < 2 * 3600 else (3600.0, "h") if largest < 1000 * 3600 else (86400.0, "days")
    digits = max(0, 2 - math.floor(math.log10(seconds / factor))) if seconds > 0 else 0
    return f"{seconds / factor:.{digits}f} {unit}"


def money(amount: float | None, currency: str | None) -> str:
    """An amount with its currency: cents from 10 on, four digits below.

    >>> money(118.0677, "USD"), money(0.28953, "USD"), money(0.0, "EUR"), money(None, "USD")
    ('118.07 USD', '0.2895 USD', '0 EUR', '-')
    """
    if amount is None:
        return w.UNKNOWN
    return f"{f'{amount:,.2f}' if amount >= 10 else f'{amount:.4g}'} {currency}"


def _run(entry: Entry) -> str:
    what = "time to accuracy" if entry["kind"] == "measured" else "time to accuracy, projected"
    title = f"{what}: {entry['run_id']}: {entry['workload']}, {entry['num_accelerators']} x {entry['accelerator']}, {entry['loader']} over {entry['storage']}"
    lines = [w.printable(title)]
    if not entry["valid"]:
        lines.append("  INVALID: do not use these numbers (`storagebench report` without --tta says why)")
    rows = _facts(entry)
    width = max(len(name) for name, _ in rows)
    lines += [f"  {name:<{width}}  {w.printable(value)}" for name, value in rows]
    if entry["points"]:
        lines += ["", *_points(entry)]
    lines += [f"  price: {_price(price, entry['currency'])}" for price in entry["prices"]]
    lines += [f"  left out: {w.printable(note)}" for note in entry["left_out"]]
    return "\n".join(lines)


def _facts(entry: Entry) -> list[tuple[str, str]]:
    rows = [("target", _target(entry["target"]))]
    if entry["kind"] == "measured":
        rows.append(("model", f"{entry['model']} on {entry['device']}, seed {entry['seed']}"))
    if entry["reached"] is False:
        rows.append(("reached", f"no: {entry['epochs_run']} epochs, best {w.number(entry['best_accuracy'])}"))
    if entry["epochs"] is not None and entry["kind"] == "projected":
        rows.append(("epochs", _epochs(entry["epochs"])))
    rows.append(("samples", f"{entry['samples_per_epoch']} an epoch ({entry['samples_from']})"))
    once = " (of the first epoch: the data is read once)" if entry["read_once"] else ""
    rows.append(("rate", f"{w.marked(w.number(entry['samples_per_s']), entry['mark'])} samples/s{once}"))
    rows.append(("start-up", long_time(entry["start_s"])))
    rows.append(("evaluation", "left out" if entry["kind"] == "projected" else long_time(entry["eval_s"])))
    rows.append(("stall share", w.marked(w.share(entry["stall_share"]), entry["mark"])))
    spread = entry["tta_spread_s"]
    if spread is not None and spread["mean_s"] is not None and spread["least_s"] != spread["most_s"]:
        names = (("p10", "p10_s"), ("p50", "p50_s"), ("p90", "p90_s"), ("mean", "mean_s"))
        shown = [f"{name} {long_time(spread[key], beside=spread['most_s'])}" for name, key in names]
        rows.append(("spread", ", ".join(shown)))
    return rows


def _target(target: Entry | None) -> str:
    if target is None:
        return w.UNKNOWN
    edition = f"{target['edition']}; " if target["edition"] else ""
    dated = f", {target['date']}" if target["date"] else ""
    return f"{target['metric']} {target['value']:g} ({edition}{target['source']}{dated})"


def _epochs(epochs: Entry) -> str:
    if epochs["source"] == GIVEN_EPOCHS:
        return f"{' '.join(map(str, epochs['counts']))} ({epochs['source']})"
    ends = str(epochs["fewest"]) if epochs["fewest"] == epochs["most"] else f"{epochs['fewest']} to {epochs['most']}, a range"
    return f"{ends} (as published with the target)"


def _points(entry: Entry) -> list[str]:
    """The figures at each number of epochs, in columns."""
    points, sign = entry["points"], entry["mark"]
    of_all = sign if sign == w.ERROR_MARK else ""  # a warning stands beside the headline figures only
    most_s = max(point["tta_s"] for point in points)
    heads = [f"{point['epochs']} epoch{'s' * (point['epochs'] > 1)}" + (f" ({point['which']})" if len(points) > 1 else "") for point in points]
    table = [("time to accuracy", [w.marked(long_time(point["tta_s"], most_s), sign) for point in points])]
    table.append(("without stalls", [w.marked(long_time(point["tta_without_stalls_s"], most_s), of_all) for point in points]))
    if points[0]["cost"] is not None:
        for key, name in _COST_ROWS.items():
            if any(point["cost"][key] is not None for point in points):
                table.append((name, [w.marked(money(point["cost"][key], entry["currency"]), sign if key == "total" else of_all) for point in points]))
    width = max(len(name) for name, _ in table)
    widths = [max(len(heads[index]), *(len(cells[index]) for _, cells in table)) for index in range(len(points))]
    lines = ["  ".join([" " * (width + 2), *(head.rjust(size) for head, size in zip(heads, widths, strict=True))])]
    for name, cells in table:
        lines.append("  ".join([f"  {name:<{width}}", *(cell.rjust(size) for cell, size in zip(cells, widths, strict=True))]))
    return [line.rstrip() for line in lines]


def _price(price: Entry, currency: str | None) -> str:
    return w.printable(f"{price['of']} {price['value']:.10g} {currency} per {price['per']} ({price['source']}, {price['date']})")


def _group(group: Entry) -> str:
    title = (
        f"{len(group['runs'])} trainings that differ in their seed: {group['workload']}, {group['model']}, {group['loader']} over {group['storage']}"
    )
    lines = [w.printable(title), f"  runs            {w.printable(' '.join(group['runs']))}"]
    times = group["tta_s"]
    if times["median"] is not None:
        span = f"{long_time(times['minimum'])} to {long_time(times['maximum'])}"
        spread = "" if times["spread"] is None else f", spread {w.share(times['spread'])}"
        lines.append(f"  time            median {long_time(times['median'])}, {span}{spread}")
    note = f" ({times['olympic']['why']})" if times["olympic"]["why"] else ""
    lines.append(f"  olympic mean    {long_time(times['olympic']['value'])}{note}")
    if group["convergence"] is not None:
        rows = reference_rows(group["convergence"], group["global_batch_size"], long_time(group["convergence"]["normalised_s"]))
        lines += [f"  {name:<16}{w.printable(text)}" for name, text in rows]
    if group["epochs"] is not None:
        lines.append(f"  epochs          {' '.join(map(str, group['epochs']['counts']))}")
    if group["cost"] is not None:
        cost = group["cost"]
        ends = f"{money(cost['minimum'], group['currency'])} to {money(cost['maximum'], group['currency'])}"
        lines.append(f"  cost            median {money(cost['median'], group['currency'])}, {ends}")
    for key, what in (("not_reached", "did not reach the target"), ("not_valid", "not valid, and not counted")):
        if group[key]:
            lines.append(f"  {what}: {w.printable(' '.join(group[key]))}")
    return "\n".join(lines)
