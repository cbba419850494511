"""One self-contained HTML page of saved runs: opens from disk without a network, and the same runs give the same bytes.

plotly.js is inlined once; no font, script, image or icon is fetched. Nothing of a run reaches the page unescaped (see `htmlparts` and `plotstyle`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from storagebench.errors import UsageError
from storagebench.experiments.searchresult import Found
from storagebench.report import (
    bars,
    costparts,
    costplot,
    curves,
    htmlparts,
    ladderparts,
    ladderplot,
    scaling,
    scalingplot,
    searchparts,
    searchplot,
    timelineplot,
    trainingparts,
)
from storagebench.report import wording as w
from storagebench.report.load import LoadedDiagnosis, LoadedRun
from storagebench.report.plotstyle import Figure, labels
from storagebench.report.style import CONTENT_POLICY, CSS, SCRIPT
from storagebench.report.timeline import timeline

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


_TIMELINE = (
    "Blue is compute: its upper edge is the utilisation over time. White is time between epochs, or after the end of a rank; the pale band at the "
    "start is the warm-up, which is not measured. Several ranks have a row each, redder where that rank waited for data. Open a run to draw it."
)


class _Part(NamedTuple):
    """A stretch of the page and the figures of its boxes: (id of the box, figure)."""

    body: str
    figures: list[tuple[str, Figure]]


def as_html(
    loaded_runs: Sequence[LoadedRun],
    diagnoses: Sequence[LoadedDiagnosis] = (),
    searches: Sequence[Found] = (),
    prices: scaling.Prices = scaling.NO_PRICES,
    costs: Sequence[costplot.Entry] = (),
) -> str:
    """The page; `prices` are those of an accelerator hour, by accelerator, `costs` an entry of `report --tta` for each run, or none. Raises UsageError where there is nothing to show, or where plotly is not installed."""
    if not loaded_runs and not diagnoses and not searches:
        raise UsageError("there is no run to report", "give at least one run folder")
    library = plotly_js()
    heading = _title([loaded.summary for loaded in loaded_runs], diagnoses, searches)
    parts = [_searches(searches, prices)] if searches else []
    parts += [*([_ladders(diagnoses)] if diagnoses else []), *([_runs(loaded_runs, costs)] if loaded_runs else [])]
    footer = f"<footer>Made by storagebench from {_counts(loaded_runs, diagnoses, searches)}. Unknown figures are shown as {w.UNKNOWN}.</footer>"
    body = _header(heading) + "".join(part.body for part in parts) + footer
    data = [{"id": box, **figure} for part in parts for box, figure in part.figures]
    return page(heading, body, library, script_data(data))


def _searches(searches: Sequence[Found], prices: scaling.Prices) -> _Part:
    figures: list[tuple[str, Figure]] = []
    for index, found in enumerate(searches):
        price = prices.get(found.work.accelerator)
        figures += [(f"search-au-{index}", searchplot.utilisation(found)), (f"search-bandwidth-{index}", searchplot.bandwidth(found))]
        if scaling.rated(found):
            figures.append((f"search-cost-{index}", scalingplot.time_and_cost(found, price)))
        if scaling.worth_is_known(found):
            figures.append((f"search-worth-{index}", scalingplot.worth(found, price)))
    return _Part("<h2>How many accelerators are kept busy?</h2>" + searchparts.searches(searches, prices), figures)


def _ladders(diagnoses: Sequence[LoadedDiagnosis]) -> _Part:
    figures: list[tuple[str, Figure]] = []
    for index, one in enumerate(diagnoses):
        figures += [(f"ladder-{index}", ladderplot.ladder(one.found)), (f"split-{index}", ladderplot.split(one.found))]
        if one.found.trial is not None:
            figures.append((f"trial-{index}", ladderplot.trial(one.found.trial)))
    return _Part("<h2>What stands in the way?</h2>" + ladderparts.diagnoses(diagnoses), figures)


def _runs(loaded_runs: Sequence[LoadedRun], costs: Sequence[costplot.Entry]) -> _Part:
    summaries = [loaded.summary for loaded in loaded_runs]
    names = labels(summaries)
    lines = [timeline(loaded) for loaded in loaded_runs]
    figures = [
        bars.utilisation(summaries, names),
        bars.step_time(summaries, names),
        curves.fetch_times(loaded_runs, names),
        curves.throughput_over_time(loaded_runs, names),
    ]
    over_time: list[tuple[str, Figure]] = []
    for index, line in enumerate(lines):
        if line is not None:
            wait = line.longest_wait
            over_time += [(f"steps-{index}", timelineplot.whole_run(line, wait)), (f"near-{index}", timelineplot.longest_wait_closely(line, wait))]
    trained = trainingparts.training(loaded_runs, names)
    paid, paid_figures = costparts.costs(costs, names) if costs else ("", [])
    body = (
        htmlparts.verdicts(summaries, names),
        "<h2>Runs</h2>" + htmlparts.run_tables(summaries, names),
        trained.body,
        paid,
        *(_plot(box, htmlparts.waits(loaded_runs, names) if box[0] == "plot-fetch" else "") for box in _PLOTS),
        f'<h2>What did each step do?</h2><p class="caption">{_TIMELINE}</p>' + htmlparts.timelines(lines, names),
        "<h2>Findings</h2>" + htmlparts.findings(summaries, names),
        "<h2>Each run in full</h2>" + htmlparts.run_details(loaded_runs, names),
    )
    return _Part("".join(body), [*trained.figures, *paid_figures, *zip((box[0] for box in _PLOTS), figures, strict=True), *over_time])


def plotly_js() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise UsageError("the HTML page needs plotly, which is not installed", "pip install 'storagebench[html]'") from None
    return str(get_plotlyjs())


def script_data(value: object) -> str:
    """JSON that cannot end its script element or open a comment, whatever texts are in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _counts(runs: Sequence[object], diagnoses: Sequence[object], searches: Sequence[object] = ()) -> str:
    """`1 diagnosis and 9 runs`."""
    counted = ((len(searches), "search", "searches"), (len(diagnoses), "diagnosis", "diagnoses"), (len(runs), "run", "runs"))
    return " and ".join(f"{count} {one if count == 1 else many}" for count, one, many in counted if count)


def _title(summaries: Sequence[w.Summary], diagnoses: Sequence[LoadedDiagnosis], searches: Sequence[Found] = ()) -> str:
    names = [summary["workload"] for summary in summaries] or [found.workload for found in searches] or [one.name for one in diagnoses]
    return f"{', '.join(dict.fromkeys(map(w.printable, names)))}: {_counts(summaries, diagnoses, searches)}"


def _header(heading: str) -> str:
    return f'<header><h1>{escape(heading)}</h1><p class="soft">Does this storage, through this loader, keep the accelerators busy?</p></header>'


def _plot(box: tuple[str, str, str], below: str) -> str:
    name, heading, caption = box
    return f'<h2>{heading}</h2><p class="caption">{caption}</p><div class="card"><div class="plot" id="{name}"></div>{below}</div>'


def page(title: str, body: str, library: str, data: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)} - storagebench</title>\n<style>{CSS}</style>\n</head>\n<body>\n'
        f"<main>{body}</main>\n"
        f'<script type="application/json" id="figures">{data}</script>\n<script>{library}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n'
    )
