"""Summaries for programs: JSON as they are, CSV with one row a run. The same runs give the same bytes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from storagebench.report.wording import Summary

_QUANTILES: Final = {"fetch_quantiles_s": "fetch", "step_quantiles_s": "step", "write_quantiles_s": "write_shard"}
_LISTING: Final = {"listed": "listed_objects", "listing_s": "listing_s", "opened": "opened_objects", "open_s": "open_s"}
_RANGE: Final = ("ceiling_lowest_bytes_per_s", "ceiling_highest_bytes_per_s")
# Tables within a summary; they are in the JSON.
_NESTED: Final = frozenset(
    {"effective", "bad_samples", "per_epoch", "per_rank", "devices", "findings", "verdict", "retries_by_kind", "bytes_by_endpoint"}
)
# A spreadsheet takes a cell that starts so for a formula (OWASP, "CSV Injection").
_FORMULA_STARTS: Final = ("=", "+", "-", "@")


def as_json(summaries: Sequence[Summary]) -> str:
    """A list of the summaries, in the order given, with their keys in order."""
    return json.dumps(list(summaries), indent=1, allow_nan=False) + "\n"


def as_csv(summaries: Sequence[Summary]) -> str:
    """One row a run with a head; the unit is in the name of each column, and what is unknown is empty. Lines end in a line feed."""
    return rows_as_csv([_flat(summary) for summary in summaries])


def rows_as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Such a table of any flat rows; the columns are those of all rows, in order."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if columns:
        writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return out.getvalue()


def _flat(summary: Summary) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in summary.items():
        if name in _QUANTILES:
            row.update({f"{_QUANTILES[name]}_{level}_s": (value or {}).get(level) for level in ("p50", "p90", "p99", "max")})
        elif name == "listing":
            row.update({column: (value or {}).get(key) for key, column in _LISTING.items()})
        elif name == "limits":
            row.update({f"limits_{key}": each for key, each in value.items()})
        elif name == "ceiling_range_bytes_per_s":
            row.update(zip(_RANGE, value or (None, None), strict=True))
        elif name == "training":
            row.update({f"training_{key}": each for key, each in (value or {}).items() if key != "curve"})
        elif name == "per_host":
            row.update(_of_hosts(value))
        elif name == "epochs_from_local_cache":
            row["num_epochs_from_local_cache"] = None if value is None else len(value)
        elif name not in _NESTED:
            row[name] = value
    for severity in ("error", "warning"):
        row[f"{severity}s"] = " ".join(_codes(summary["findings"], severity))
    return row


def _of_hosts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The names of the hosts, the utilisation of the slowest one, and the largest offset of a wall clock to the first one's, either way."""
    utilisations = [row["au_nominal"] for row in rows if row["au_nominal"] is not None]
    offsets = [row["wall_offset_s"] for row in rows if row["wall_offset_s"] is not None]
    return {
        "hosts": " ".join(str(row["host"]) for row in rows),
        "least_host_au_nominal": min(utilisations, default=None),
        "largest_wall_offset_s": max(offsets, key=abs, default=None),
    }


def _codes(findings: Sequence[Mapping[str, str]], severity: str) -> list[str]:
    return [finding["code"] for finding in findings if finding["severity"] == severity]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # On one line, since Python's writer leaves a lone carriage return unquoted and a reader takes it for the end of the row.
        text = "".join(char if char.isprintable() else " " for char in value)
        return "'" + text if text.lstrip().startswith(_FORMULA_STARTS) else text
    return repr(value) if isinstance(value, float) else str(value)
