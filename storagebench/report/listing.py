"""Plain tables of the `list` verb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def listing_text(topics: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """One aligned table a topic; an empty cell is `-`."""
    blocks = []
    for topic, rows in topics.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        cells = [columns] + [[_cell(row.get(column)) for column in columns] for row in rows]
        widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]
        blocks.append("\n".join([f"{topic}:", *("  " + line for line in lines)]))
    return "\n\n".join(blocks) + "\n"


def _cell(value: Any) -> str:
    if value is None or value in ("", []):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if value < 1000 else f"{value:.1f}"
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
