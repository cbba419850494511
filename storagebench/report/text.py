"""The text report: one table of runs, and the page of one run. Plain ASCII tables; nothing is cut off, whatever the width."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any, Final

from storagebench.report import wording as w
from storagebench.report.columns import RIGHT, cells, columns_of, marks_used
from storagebench.report.detail import TEXT_COLUMNS, Section, sections
from storagebench.report.wording import Summary

DEFAULT_WIDTH: Final = 170
_GAP: Final = 2
_LEAST_RUN_WIDTH: Final = 16
_STYLES: Final = {w.ERROR_MARK: "bold red", w.WARNING_MARK: "yellow"}


def run_table(summaries: Sequence[Summary], width: int = DEFAULT_WIDTH, colour: bool = False) -> str:
    """All runs, a table for each effective decode level, and the meaning of the marks that are used.

    A table that does not fit into `width` characters is turned on its side: the runs become columns, as many beside one another as fit.
    """
    if not summaries:
        return "no runs\n"
    blocks = []
    for level, indices in w.by_decode(summaries):
        group = [summaries[index] for index in indices]
        blocks.append(f"decode level: {w.printable(level)}\n\n{_group_table(group, width, colour)}")
    legend = [f"{sign}  {meaning}" for sign, meaning in marks_used(list(summaries))]
    return "\n\n".join([*blocks, *(["\n".join(legend)] if legend else [])]) + "\n"


def _group_table(group: Sequence[Summary], width: int, colour: bool) -> str:
    columns = columns_of(group)
    headings, rows = _aligned([column.heading for column in columns], [cells(summary, columns) for summary in group], RIGHT)
    styles = [_STYLES.get(w.mark(summary), "") for summary in group]
    widths = [max(len(row[index]) for row in [headings, *rows]) for index in range(len(headings))]
    needed = sum(widths[1:]) + min(widths[0], _LEAST_RUN_WIDTH) + _GAP * (len(headings) - 1)
    if needed <= width:
        return _render(_table(headings, rows, styles, folds_all=False), width, colour)
    return _turned(group, width, colour)


def _turned(group: Sequence[Summary], width: int, colour: bool) -> str:
    """The table on its side, in as many blocks as the width asks for; one run in a block where even that is too narrow."""
    columns = columns_of(group)
    headings, rows = [column.heading for column in columns], [cells(summary, columns) for summary in group]
    label_width = max(map(len, headings))
    cell_width = max(max(map(len, row[1:])) for row in rows)
    column_width = max(cell_width, min(max(len(row[0]) for row in rows), _LEAST_RUN_WIDTH))
    per_block = max(1, (width - label_width) // (column_width + _GAP))
    blocks = []
    for begin in range(0, len(rows), per_block):
        part = rows[begin : begin + per_block]
        turned = [[headings[index], *(row[index] for row in part)] for index in range(1, len(headings))]
        least = label_width + (column_width + _GAP) * len(part)
        blocks.append(_render(_table(["run", *(row[0] for row in part)], turned, [""] * len(turned), folds_all=True), max(width, least), colour))
    return "\n\n".join(blocks)


def one_run(summary: Summary, width: int = 100, colour: bool = False) -> str:
    """The page of one run: the verdict first, then what was run, every figure, the proof, and the findings with their hints."""
    verdict = w.verdict(summary)
    blocks = [_wrap(text, width) for text in (f"{verdict.label}: {w.printable(verdict.sentence)}", w.cold_load(summary)) if text]
    for section in sections(summary):
        blocks.append(f"{section.title}\n{_section(section, width, colour)}")
    findings = [_finding(finding, width) for finding in summary["findings"]]
    blocks.append("Findings\n" + ("\n".join(findings) if findings else "  none"))
    legend = [f"{sign}  {meaning}" for sign, meaning in marks_used([summary])]
    return "\n\n".join([*blocks, *legend]) + "\n"


def _finding(finding: dict[str, str], width: int) -> str:
    head = _wrap(f"{finding['severity']} {finding['code']}: {w.printable(finding['message'])}", width, "  ", "    ")
    return head + "\n" + _wrap(f"hint: {w.printable(finding['hint'])}", width, "    ", "      ")


def _wrap(text: str, width: int, first: str = "", later: str = "  ") -> str:
    return textwrap.fill(text, max(width, 40), initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False)


def _section(section: Section, width: int, colour: bool) -> str:
    rows = [["  " + w.printable(row[0]), *row[1:]] for row in section.rows]
    headings = ["  " + section.columns[0], *section.columns[1:]] if section.columns else []
    headings, rows = _aligned(headings, rows, frozenset(section.columns[1:]) - TEXT_COLUMNS)
    return _render(_table(headings, rows, [""] * len(rows), folds_all=not section.columns), max(width, 60), colour)


def _aligned(headings: list[str], rows: list[list[str]], right: frozenset[str]) -> tuple[list[str], list[list[str]]]:
    """The same cells on one line each, the columns of figures flush right, with the marks in a column of their own beside them."""
    marks = tuple(f" {sign}" for sign in w.LEGEND)
    columns = [[w.printable(cell) for cell in column] for column in zip(*rows, strict=True)]
    for index, heading in enumerate(headings):
        if heading in right:
            texts = columns[index]
            if any(text.endswith(marks) for text in texts):
                texts = [text if text.endswith(marks) else text + "  " for text in texts]
            width = max(map(len, [heading, *texts]))
            columns[index] = [text.rjust(width) for text in texts]
            headings = [*headings[:index], heading.rjust(width), *headings[index + 1 :]]
    return headings, [list(row) for row in zip(*columns, strict=True)]


def _table(headings: list[str], rows: list[list[str]], styles: list[str], folds_all: bool) -> Any:
    """A rich table in ASCII. The first column folds where it must, and the others only where they are no figures."""
    from rich.box import Box
    from rich.table import Table
    from rich.text import Text

    box = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
    gap = _GAP - 1 if headings else _GAP  # the box itself adds one
    table = Table(box=box if headings else None, show_header=bool(headings), show_edge=False, pad_edge=False, padding=(0, gap, 0, 0))
    for index in range(len(rows[0])):
        folds = index == 0 or folds_all
        table.add_column(Text(headings[index] if headings else ""), no_wrap=not folds, overflow="fold" if folds else "ignore")
    for row, style in zip(rows, styles, strict=True):
        table.add_row(*map(Text, row), style=style)
    return table


def _render(table: Any, width: int, colour: bool) -> str:
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=colour, color_system="standard" if colour else None, highlight=False, emoji=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
