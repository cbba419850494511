"""Pieces of the HTML page. Whatever comes from a run is escaped here, in `safe`, on its way into markup."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from storagebench.report import wording as w
from storagebench.report.columns import RIGHT, Column, cells, columns_of, marks_used
from storagebench.report.detail import TEXT_COLUMNS, Section, sections
from storagebench.report.load import LoadedRun
from storagebench.report.provenance import provenance
from storagebench.report.series import fetch_distribution
from storagebench.report.timeline import FETCH, Timeline
from storagebench.report.wording import Summary

_SEVERITY_OF = {w.ERROR_MARK: "error", w.WARNING_MARK: "warning"}


def safe(value: object) -> str:
    return escape(w.printable(value))


def small_table(rows: Sequence[Sequence[str]], *left: int) -> str:
    """A table of a head and its rows, flush right but for these columns. What is empty stays so."""
    kinds = ["" if index in left else " class=right" for index in range(len(rows[0]))]
    head, *body = [list(zip(kinds, row, strict=True)) for row in rows]
    top = "".join(f"<th{kind}>{safe(cell)}</th>" for kind, cell in head)
    lines = "".join("<tr>" + "".join(f"<td{kind}>{safe(cell) if cell else ''}</td>" for kind, cell in row) + "</tr>" for row in body)
    return f'<div class="scroll"><table class=small><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def verdicts(summaries: Sequence[Summary], names: Sequence[str]) -> str:
    """One sentence for each run."""
    items = []
    for index, (summary, name) in enumerate(zip(summaries, names, strict=True)):
        verdict = w.verdict(summary)
        items.append(
            f'<li class="{verdict.state}"><span class="state">{safe(verdict.label)}</span>'
            f'<a class="name" href="#run-{index}">{safe(name)}</a><span class="say">{safe(verdict.sentence)}</span></li>'
        )
    return f'<ul class="verdicts">{"".join(items)}</ul>'


def run_tables(summaries: Sequence[Summary], names: Sequence[str]) -> str:
    """The table of runs, one for each effective decode level, with the meaning of the marks."""
    blocks = []
    for level, indices in w.by_decode(summaries):
        columns = columns_of([summaries[index] for index in indices])
        head = "".join(f"<th{_right(column.heading)}>{escape(column.heading)}</th>" for column in columns)
        body = "".join(_run_row(index, summaries[index], names[index], columns) for index in indices)
        table = f'<table class="runs"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        blocks.append(f'<h3>Decode level: {safe(level)}</h3><div class="card scroll">{table}</div>')
    legend = "".join(f"<div>{_mark(sign)} {escape(meaning)}</div>" for sign, meaning in marks_used(list(summaries)))
    return "".join(blocks) + (f'<div class="legend">{legend}</div>' if legend else "")


def _run_row(index: int, summary: Summary, name: str, columns: Sequence[Column]) -> str:
    row = []
    for column, cell in zip(columns, cells(summary, columns), strict=True):
        if column.heading == "run":
            row.append(f'<td><a href="#run-{index}">{safe(name)}</a></td>')
        elif column.heading == "validity":
            row.append(f'<td><span class="{cell if cell == "ok" else "chip " + cell}">{escape(cell)}</span></td>')
        else:
            row.append(f"<td{_right(column.heading)}>{_figure(cell, column.is_figure)}</td>")
    return f"<tr>{''.join(row)}</tr>"


def _right(heading: str) -> str:
    return ' class="right"' if heading in RIGHT else ""


def _mark(sign: str) -> str:
    kind = _SEVERITY_OF[sign]
    return f'<span class="mark {kind}" title="{escape(w.LEGEND[sign])}">{escape(sign)}</span>'


def _figure(cell: str, keeps_room: bool) -> str:
    """A number with its mark in a box of its own, so that numbers with and without one stand under one another."""
    for sign in w.LEGEND:
        if cell.endswith(f" {sign}"):
            return escape(cell[: -len(sign) - 1]) + _mark(sign)
    return escape(cell) + ('<span class="mark"></span>' if keeps_room else "")


def waits(loaded: Sequence[LoadedRun], names: Sequence[str]) -> str:
    """How many steps did not wait at all: they have no place on a log axis."""
    rows = []
    for run, name in zip(loaded, names, strict=True):
        times = fetch_distribution(run)
        if times is not None:
            figure = _figure(w.marked(w.share(times.share_without_wait), w.mark(run.summary)), True)
            rows.append(f"<tr><td>{safe(name)}</td><td class='right'>{figure}</td><td>of {times.num_steps} steps</td></tr>")
    if not rows:
        return '<p class="soft">No step was measured.</p>'
    return f"<table class=small><thead><tr><th>run</th><th class='right'>did not wait at all</th><th></th></tr></thead><tbody>{''.join(rows)}</tbody></table>"


def findings(summaries: Sequence[Summary], names: Sequence[str]) -> str:
    """What there is to know about each run, with the next action."""
    blocks = []
    for summary, name in zip(summaries, names, strict=True):
        items = [
            f'<div class="finding"><span class="chip {escape(finding["severity"])}">{escape(finding["severity"])}</span> '
            f'<b class="mono">{safe(finding["code"])}</b> {safe(finding["message"])}<span class="hint">Next: {safe(finding["hint"])}</span></div>'
            for finding in summary["findings"]
        ]
        if items:
            blocks.append(f'<div class="card"><h3 class="first">{safe(name)}</h3>{"".join(items)}</div>')
    clean = [safe(name) for summary, name in zip(summaries, names, strict=True) if not summary["findings"]]
    if clean:
        blocks.append(f'<p class="soft">Nothing found about {", ".join(clean)}.</p>')
    return "".join(blocks)


def run_details(loaded: Sequence[LoadedRun], names: Sequence[str]) -> str:
    """All figures and the proof of each run; folded away is where they come from."""
    blocks = []
    for index, (run, name) in enumerate(zip(loaded, names, strict=True)):
        is_open = " open" if len(loaded) == 1 else ""
        blocks.append(
            f'<div class="card" id="run-{index}"><h3 class="first">{safe(name)}</h3>{_in_the_way(run.summary)}'
            f"<details{is_open}><summary>All figures and the proof</summary>{_sections(sections(run.summary))}</details>"
            f"<details><summary>Provenance: command, config, versions, host, dataset, store</summary>{_sections(provenance(run.run))}</details></div>"
        )
    return "".join(blocks)


def _in_the_way(summary: Summary) -> str:
    """`In the way: storage, because ...; next: ...`, or nothing where a run has no verdict."""
    verdict = summary["verdict"]
    if verdict is None:
        return ""
    why = "; ".join(safe(reason) for reason in verdict["why"])
    return f"<p>In the way: <b>{safe(summary['bottleneck'] or 'not decided')}</b>, because {why}. <b>Next:</b> {safe(verdict['knob'])}</p>"


def timelines(found: Sequence[Timeline | None], names: Sequence[str]) -> str:
    """A fold for each run that made a step, with the boxes `steps-N` and `near-N`; the first is open, the others are drawn when they are opened."""
    folds: list[str] = []
    for index, (timeline, name) in enumerate(zip(found, names, strict=True)):
        if timeline is None:
            continue
        closer = "the steps around the longest wait" if timeline.longest_wait.wait_s > 0 else "some of the steps"
        folds.append(
            f'<details{"" if folds else " open"}><summary>{safe(name)} <span class="soft thin">{_longest_wait(timeline)}</span></summary>'
            f'{_ranks_shown(timeline)}<div class="plot" id="steps-{index}"></div>'
            f'<h3>Closer: {closer}</h3><div class="plot" id="near-{index}"></div></details>'
        )
    return f'<div class="card">{"".join(folds)}</div>' if folds else '<p class="soft">No step was made.</p>'


def _longest_wait(found: Timeline) -> str:
    wait = found.longest_wait
    rank = found.ranks[wait.row]
    if wait.wait_s <= 0:
        return "no step waited"
    what = "for data" if wait.part == FETCH else "for the host, which woke it late"
    where = f"step {rank.steps[wait.at]} of epoch {rank.epochs[wait.at]}" + (f" on rank {rank.rank}" if found.num_ranks > 1 else "")
    return f"longest wait: {w.seconds(wait.wait_s)} {what}, in {where}, {rank.begins_s[wait.at]:.1f} s after the start"


def _ranks_shown(found: Timeline) -> str:
    shown = [str(found.ranks[row].rank) for row in found.shown_rows]
    if len(shown) == found.num_ranks:
        return ""
    return f'<p class="soft">The areas are of all {found.num_ranks} ranks. The rows are of {len(shown)} of them: {", ".join(shown)}.</p>'


def _sections(shown: Sequence[Section]) -> str:
    """Narrow tables in columns beside one another, then the wide ones."""
    narrow = "".join(_section(section) for section in shown if not section.is_wide)
    wide = "".join(_section(section) for section in shown if section.is_wide)
    return f'<div class="facts">{narrow}</div><div class="facts wide">{wide}</div>'


def _section(section: Section) -> str:
    """A table whose columns of figures are flush right."""
    kinds = [" class=right" if index and name not in TEXT_COLUMNS else "" for index, name in enumerate(section.columns)] or ["", ""]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, section.columns, strict=False))
    body = "".join("<tr>" + "".join(f"<td{kind}>{safe(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>" for row in section.rows)
    table = f"<table>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"
    return f"<section><h3>{safe(section.title)}</h3>{table}</section>"
