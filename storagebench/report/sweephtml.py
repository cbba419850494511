"""The page of a sweep as one self-contained HTML file, with the same rows and sentences as the text. Whatever comes from a run or a suite is escaped."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from storagebench.checks.sweeps import Cell, Quartiles, Ranking
from storagebench.report import wording as w
from storagebench.report.html import page, plotly_js, script_data
from storagebench.report.htmlparts import safe
from storagebench.report.plotstyle import BLACK, BLUE, GREY, Figure, layout, short, six_digits
from storagebench.report.provenance import without_secrets
from storagebench.report.sweep import (
    CELL_HEADINGS,
    JOB_HEADINGS,
    LEFT,
    NAMES,
    cell_rows,
    conclusion,
    facts_lines,
    headline,
    job_rows,
    job_sentences,
    leftovers,
)
from storagebench.report.sweepload import Sweep

_ROW_PIXELS: Final = 34


def sweep_html(sweep: Sweep) -> str:
    """The page. Raises UsageError where plotly is not installed."""
    library = plotly_js()
    cells = {cell.name: cell for cell in sweep.cells}
    figures: list[tuple[str, Figure]] = []
    body = [
        f'<header><h1>{safe(headline(sweep))}</h1><p class="soft">{safe(sweep.suite.description or "Which of these serves the accelerators best?")}</p></header>'
    ]
    for index, ranking in enumerate(sweep.rankings):
        body.append(_ranking(index, ranking, cells))
        figures.append(
            (f"rank-{index}", _bars(ranking.metric, {row.cell: cells[row.cell].figures[ranking.metric] for row in ranking.ranked}, ranking.ties))
        )
    if sweep.jobs:
        body.append(_jobs(sweep))
        figures.append(("jobs", _job_bars(sweep)))
    for title, lines in leftovers(sweep):
        items = "".join(f"<li>{safe(line)}</li>" for line in lines)
        body.append(f'<h2>{escape(title.rstrip(":"))}</h2><div class="card"><ul class="why">{items}</ul></div>')
    body.append(f'<h2>Command</h2><p class="mono">{safe(without_secrets(shlex.join(sweep.command)))}</p>')
    body.append(f"<footer>Made by storagebench from {sweep.num_runs} runs. Unknown figures are shown as {w.UNKNOWN}.</footer>")
    data = [{"id": box, **one} for box, one in figures]
    return page(f"sweep {w.printable(sweep.name)}", "".join(body), library, script_data(data))


def _ranking(index: int, ranking: Ranking, cells: Mapping[str, Cell]) -> str:
    facts = safe(" ".join(line.strip() for line in facts_lines(ranking)))
    return (
        f'<h2>Which is the best by {escape(NAMES[ranking.metric])}?</h2><p>{safe(conclusion(ranking))}</p><p class="caption">{facts}</p>'
        f'<div class="card"><div class="plot" id="rank-{index}"></div></div>'
        f'<div class="card scroll">{_table(CELL_HEADINGS, cell_rows(ranking, cells))}</div>'
    )


def _jobs(sweep: Sweep) -> str:
    items = "".join(f"<li>{safe(line)}</li>" for line in job_sentences(sweep))
    return (
        f'<h2>What did the jobs take from one another?</h2><ul class="why">{items}</ul>'
        f'<div class="card"><div class="plot" id="jobs"></div></div><div class="card scroll">{_table(JOB_HEADINGS, job_rows(sweep.jobs))}</div>'
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    kinds = ["" if heading in LEFT else ' class="right"' for heading in headings]
    head = "".join(f"<th{kind}>{escape(heading)}</th>" for heading, kind in zip(headings, kinds, strict=True))
    body = "".join("<tr>" + "".join(f"<td{kind}>{safe(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>" for row in rows)
    return f'<table class="runs"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _bars(metric: str, found: Mapping[str, Quartiles | None], ties: Sequence[str]) -> Figure:
    """A bar a cell to its median, with its quartiles; blue are those that are not shown to be worse than the best."""
    rows = [(name, one) for name, one in found.items() if one is not None]
    colours = [BLUE if name in ties else GREY for name, _ in rows]
    return _figure(NAMES[metric], [name for name, _ in rows], [_bar(metric, "", [one for _, one in rows], list(range(len(rows))), colours)], metric)


def _job_bars(sweep: Sweep) -> Figure:
    """Two bars a job: alone and together. A job without AU is not drawn beside those with one."""
    jobs = [job for job in sweep.jobs if job.metric == sweep.jobs[0].metric]
    bars = []
    for name, colour, shift in (("alone", GREY, -0.2), ("together", BLUE, 0.2)):
        rows = [(y, one) for y, job in enumerate(jobs) if (one := getattr(job, name)) is not None]
        if rows:
            bar = _bar(jobs[0].metric, name, [one for _, one in rows], [y + shift for y, _ in rows], [colour] * len(rows))
            bars.append({**bar, "width": 0.36})
    chart = _figure(NAMES[jobs[0].metric], [job.job for job in jobs], bars, jobs[0].metric)
    chart["layout"]["showlegend"] = True
    return chart


def _bar(metric: str, name: str, found: Sequence[Quartiles], places: Sequence[float], colours: Sequence[str]) -> Figure:
    factor = 1e-6 if metric == "delivered_bytes_per_s" else 1.0
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "x": [six_digits(one.median * factor) for one in found],
        "y": list(places),
        "marker": {"color": list(colours)},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [six_digits((one.high - one.median) * factor) for one in found],
            "arrayminus": [six_digits((one.median - one.low) * factor) for one in found],
            "color": BLACK,
            "thickness": 1.5,
            "width": 5,
        },
        "hovertemplate": "%{x}<extra></extra>",
    }


def _figure(x_title: str, names: Sequence[str], data: Sequence[Figure], metric: str) -> Figure:
    chart = layout(x_title, 120 + _ROW_PIXELS * max(len(names), 1))
    ticks = {"tickvals": list(range(len(names))), "ticktext": [short(w.printable(name)) for name in names], "range": [len(names) - 0.4, -0.6]}
    chart["yaxis"] = {**ticks, "automargin": True, "zeroline": False, "showgrid": False, "ticklabelstandoff": 8, "fixedrange": True}
    chart["xaxis"] |= {"fixedrange": True, **({"range": [0, 1.02]} if metric == "au_nominal" else {"rangemode": "tozero"})}
    chart |= {"showlegend": False, "barmode": "overlay"}
    return {"data": list(data), "layout": chart}
