"""The HTML page as text: self-contained, escaped, the same twice; and the series that its plots are drawn from."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from storagebench.errors import UsageError
from storagebench.ranks import Ranks
from storagebench.report import bars, curves
from storagebench.report.html import as_html
from storagebench.report.load import LoadedRun
from storagebench.report.plotstyle import labels
from storagebench.report.provenance import provenance, without_secrets
from storagebench.report.series import MAX_POINTS, fetch_distribution, throughput
from storagebench.traces import Steps

Make = Callable[..., LoadedRun]
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>&\"'"


class Tags(HTMLParser):
    """All tags with their attributes, and the text of the page without scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data + " "


def _parse(page: str) -> Tags:
    parser = Tags()
    parser.feed(page)
    return parser


def _figures(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert match
    return {figure["id"]: figure for figure in json.loads(match.group(1))}


@pytest.fixture(scope="module")
def gallery_page(report_gallery: list[LoadedRun]) -> str:
    return as_html(report_gallery)


def test_page_is_self_contained_and_small_besides_plotly(gallery_page: str, report_gallery: list[LoadedRun]) -> None:
    from plotly.offline import get_plotlyjs

    library = get_plotlyjs()
    assert gallery_page.count(library) == 1
    rest = gallery_page.replace(library, "")
    assert len(rest) < 60_000 * len(report_gallery)
    assert not re.search(r"https?://", rest)
    for tag, attributes in _parse(rest).tags:
        assert tag not in ("img", "iframe", "object", "embed")
        assert "src" not in attributes
        assert tag != "link" or attributes["href"] == "data:,"
    assert as_html(report_gallery) == gallery_page


def test_page_says_everything(gallery_page: str) -> None:
    text = " ".join(_parse(gallery_page).text.split())
    for said in ("KEPT BUSY", "NOT KEPT BUSY", "INVALID", "INCOMPLETE", "NO AU", "Decode level: parse", "Decode level: full"):
        assert said in text, said
    assert "SAMPLE_COVERAGE" in text and "Next: this is a defect of the loader" in text
    assert "storagebench run quick --data-dir /data/quick" in text
    assert "train.batch_size 16 quick.yaml:18" in text and "run.cache cold --cache" in text
    assert "train.compute_time_s" in text and "quick.yaml:20" in text
    assert "sha256:0123456789abcdef" in text and "origin.made_by storagebench generate" in text
    assert "0.717 ! " in text


def test_runs_of_two_decode_levels_have_two_tables(gallery_page: str) -> None:
    assert sum(tag == "table" and attributes.get("class") == "runs" for tag, attributes in _parse(gallery_page).tags) == 2


def test_what_a_run_says_is_escaped(report_make: Make) -> None:
    loaded = report_make(run_id=EVIL, host=EVIL, root=f"/data/{EVIL}", loader=EVIL, format=EVIL, notes=(EVIL,), steps=5, decode=EVIL)
    page = as_html([loaded, report_make()])
    parsed = _parse(page)
    assert "img" not in {tag for tag, _ in parsed.tags}
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    assert sum(tag == "script" for tag, _ in parsed.tags) == 3
    assert EVIL in parsed.text
    for figure in _figures(page).values():
        assert "<img" not in json.dumps(figure) and "<script" not in json.dumps(figure)


def test_plots_are_what_plotly_knows(report_gallery: list[LoadedRun]) -> None:
    from plotly.graph_objects import Figure

    summaries = [loaded.summary for loaded in report_gallery]
    names = labels(summaries)
    for figure in (
        bars.utilisation(summaries, names),
        bars.step_time(summaries, names),
        curves.fetch_times(report_gallery, names),
        curves.throughput_over_time(report_gallery, names),
    ):
        Figure(figure)  # raises for an attribute that does not exist


def test_bars_show_au_and_threshold_and_do_not_call_invalid_runs_busy(report_gallery: list[LoadedRun]) -> None:
    summaries = [loaded.summary for loaded in report_gallery]
    traces = {trace["name"]: trace for trace in bars.utilisation(summaries, labels(summaries))["data"]}
    assert traces["kept busy"]["x"] == [summaries[0]["au_nominal"]]
    assert traces["below the threshold"]["text"] == ["0.429 ~", "0.873 ~"]
    assert traces["invalid or incomplete !"]["text"] == ["0.717 !", "0.933 !"]
    assert traces["threshold"]["x"] == [0.9] * 5
    assert len(traces["AU of the null loader"]["x"]) == 5


def test_step_time_adds_up_to_the_window(report_gallery: list[LoadedRun]) -> None:
    summaries = [loaded.summary for loaded in report_gallery]
    traces = bars.step_time(summaries, labels(summaries))["data"]
    totals = np.sum([trace["x"] for trace in traces], axis=0)
    assert totals == pytest.approx([1.0] * len(summaries), abs=0.01)


def test_fetch_distribution_counts_steps_without_wait(report_make: Make) -> None:
    loaded = report_make(steps=5000, epochs=1, world_size=1, stalled=0.8)
    times = fetch_distribution(loaded)
    assert times is not None and times.num_steps == 4999
    assert times.share_without_wait == pytest.approx(0.2, abs=0.03)
    assert len(times.times_s) <= MAX_POINTS
    assert times.times_s[0] > 0 and times.shares[-1] == 1.0
    assert np.all(np.diff(times.times_s) >= 0) and np.all(np.diff(times.shares) > 0)
    p99 = loaded.summary["fetch_quantiles_s"]["p99"]
    assert float(times.shares[np.searchsorted(times.times_s, p99, side="right") - 1]) == pytest.approx(0.99, abs=0.002)


def test_a_run_that_never_waited_is_a_line_at_the_top(report_make: Make) -> None:
    loaded = report_make(stalled=0.0)
    (line,) = curves.fetch_times([loaded], ["run"])["data"]
    assert line["y"] == [1.0, 1.0] and line["x"][0] > 0


def test_throughput_keeps_every_byte(report_gallery: list[LoadedRun]) -> None:
    for loaded in report_gallery:
        flow = throughput(loaded)
        assert flow is not None and len(flow.bytes_per_s) <= MAX_POINTS
        assert float(np.sum(flow.bytes_per_s * np.diff(flow.edges_s))) == pytest.approx(loaded.summary["delivered_bytes"], rel=1e-9)
        assert len(flow.epoch_starts_s) == loaded.summary["epochs"] and flow.epoch_starts_s[0] == 0.0


def test_throughput_has_buckets_of_a_second(report_make: Make) -> None:
    flow = throughput(report_make(steps=4000, epochs=1, world_size=1, stalled=0.0))
    assert flow is not None and flow.bucket_s == 1.0
    assert flow.bytes_per_s[:-1] == pytest.approx(16 * 65_536 / 0.02002, rel=0.01)


def test_hosts_are_put_on_one_axis(report_make: Make) -> None:
    """Two hosts booted an hour apart: their monotonic stamps differ by that. Their wall clocks are not asked, since they may be wrong."""
    loaded = report_make(world_size=2, stalled=0.0)
    apart_ns = 3600 * 10**9
    early, late = loaded.ranks.traces()
    header = {**late.header, "host": "node-2", "wall_ns": 0}
    steps = Steps.of(structs.replace(step, asked_ns=step.asked_ns + apart_ns, sync_end_ns=step.sync_end_ns + apart_ns) for step in late.steps)
    others = tuple({**record, "start_ns": record["start_ns"] + apart_ns} if "start_ns" in record else record for record in late.others)
    two_hosts = replace(loaded, ranks=Ranks(loaded.run, [early, late._replace(header=header, steps=steps, others=others)]))
    one, two = throughput(loaded), throughput(two_hosts)
    assert one is not None and two is not None
    assert two.bytes_per_s == pytest.approx(one.bytes_per_s, rel=1e-3)


def test_a_run_without_a_step_still_has_a_page(report_make: Make) -> None:
    loaded = report_make(steps=0, epochs=1, complete=False)
    page = as_html([loaded])
    assert "0 steps (0 of warm-up) were taken" in page and "No step was measured." in page


def test_runs_of_the_same_name_are_told_apart(report_make: Make) -> None:
    twin = report_make().summary
    assert labels([twin, report_make(run_id="b").summary, twin]) == ["run-a", "b", "run-a (2)"]


def test_secrets_are_masked(report_make: Make) -> None:
    loaded = report_make(storage="s3", root="s3://bucket/quick")
    run = {
        **loaded.run,
        "command": ["storagebench", "run", "--storage-option", "secret_key=hunter2", "--data-dir", "https://me:hunter2@host/x"],
        "store": {"kind": "s3", "root": "s3://bucket", "options": {"endpoint_url": "http://me:hunter2@host:9000", "token": "hunter2"}},
    }
    text = json.dumps(provenance(run))
    assert "hunter2" not in text and "http://***@host:9000" in text
    assert without_secrets("s3://bucket/key=1/a@b") == "s3://bucket/key=1/a@b"


def test_without_plotly_it_says_what_to_install(report_make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(UsageError) as caught:
        as_html([report_make()])
    assert caught.value.hint == "pip install 'storagebench[html]'"


def test_no_runs_are_refused() -> None:
    with pytest.raises(UsageError, match="no run to report"):
        as_html([])


def test_each_host_has_its_facts_and_its_row(report_make: Make) -> None:
    page = as_html([report_make(world_size=2, hosts=("a<b", "c"), steps=20)])
    assert "Host a&lt;b" in page and "Versions on c" in page and "Hosts (sync" in page and "a<b" not in page.partition("<script")[0]


def test_many_hosts_do_not_flood_the_provenance(report_make: Make) -> None:
    run = report_make(world_size=2, steps=5).run
    many = {**run, "hosts": [{**run["hosts"][0], "host": f"n{number}"} for number in range(50)]}
    titles = [section.title for section in provenance(many)]
    assert titles[-3:] == ["Host n7", "Versions on n7", "More hosts"] and "Host n8" not in titles
    assert [section.title for section in provenance(run)][-2:] == ["Host", "Versions"]
