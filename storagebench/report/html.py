"""One self-contained HTML page of saved runs: opens from disk without a network, and the same runs give the same bytes.

plotly.js is inlined once; no font, script, image or icon is fetched. Nothing of a run reaches the page unescaped (see `htmlparts` and `plotstyle`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from storagebench.errors import UsageError
from storagebench.report import bars, curves, htmlparts
from storagebench.report import wording as w
from storagebench.report.load import LoadedRun
from storagebench.report.plotstyle import labels
from storagebench.report.style import CONTENT_POLICY, CSS, SCRIPT

# id of the plot's box, heading, how to read it.
_PLOTS = (
    (
        "plot-au",
        "Were the accelerators busy?",
        "The share of time in which the accelerators computed. The black line is the threshold; the diamond is what the null loader reaches in the same "
        "processes: no loader can do better on this host.",
    ),
    (
        "plot-time",
        "Where did the time of a step go?",
        "The mean of the ranks. Everything that is not compute is time in which an accelerator stood still.",
    ),
    (
        "plot-fetch",
        "How long did a step wait for its data?",
        "A curve further left and higher is better. A curve begins at the share of steps that did not wait at all, since a log axis has no zero.",
    ),
    (
        "plot-throughput",
        "Was the throughput steady?",
        "Record bytes delivered to all ranks, each step's bytes spread over its duration, warm-up included. A triangle marks the start of an epoch.",
    ),
)


def as_html(loaded_runs: Sequence[LoadedRun]) -> str:
    """The page. Raises UsageError without a run, or where plotly is not installed."""
    if not loaded_runs:
        raise UsageError("there is no run to report", "give at least one run folder")
    library = _plotly_js()
    summaries = [loaded.summary for loaded in loaded_runs]
    names = labels(summaries)
    figures = (
        bars.utilisation(summaries, names),
        bars.step_time(summaries, names),
        curves.fetch_times(loaded_runs, names),
        curves.throughput_over_time(loaded_runs, names),
    )
    body = "".join(
        (
            _header(summaries),
            htmlparts.verdicts(summaries, names),
            "<h2>Runs</h2>" + htmlparts.run_tables(summaries, names),
            *(_plot(box, htmlparts.waits(loaded_runs, names) if box[0] == "plot-fetch" else "") for box in _PLOTS),
            "<h2>Findings</h2>" + htmlparts.findings(summaries, names),
            "<h2>Each run in full</h2>" + htmlparts.run_details(loaded_runs, names),
            f"<footer>Made by storagebench from {_count(len(summaries))}. Unknown figures are shown as {w.UNKNOWN}.</footer>",
        )
    )
    data = [{"id": box[0], **figure} for box, figure in zip(_PLOTS, figures, strict=True)]
    return _page(_title(summaries), body, library, _script_data(data))


def _plotly_js() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise UsageError("the HTML page needs plotly, which is not installed", "pip install 'storagebench[html]'") from None
    return str(get_plotlyjs())


def _script_data(value: object) -> str:
    """JSON that cannot end its script element or open a comment, whatever texts are in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _count(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"


def _title(summaries: Sequence[w.Summary]) -> str:
    workloads = list(dict.fromkeys(w.printable(summary["workload"]) for summary in summaries))
    return f"{', '.join(workloads)}: {_count(len(summaries))}"


def _header(summaries: Sequence[w.Summary]) -> str:
    return (
        f"<header><h1>{escape(_title(summaries))}</h1>"
        '<p class="soft">Does this storage, through this loader, keep the accelerators busy?</p></header>'
    )


def _plot(box: tuple[str, str, str], below: str) -> str:
    name, heading, caption = box
    return f'<h2>{heading}</h2><p class="caption">{caption}</p><div class="card"><div class="plot" id="{name}"></div>{below}</div>'


def _page(title: str, body: str, library: str, data: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)} - storagebench</title>\n<style>{CSS}</style>\n</head>\n<body>\n'
        f"<main>{body}</main>\n"
        f'<script type="application/json" id="figures">{data}</script>\n<script>{library}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n'
    )
