"""Time, cost and the worth of bandwidth: by hand, by their properties, and as a made-up search with a known knee shows them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storagebench.experiments.knee import Knee
from storagebench.experiments.searchresult import Found, Work
from storagebench.model import scaling as model
from storagebench.report import scaling, scalingplot
from storagebench.report.html import as_html
from storagebench.report.plotstyle import Figure
from storagebench.report.search import search_text

PRICE = scaling.HourPrice(3.6, "USD", "a made-up price list", "2026-11-27")
EPOCH_S = 1000.0
work = st.floats(1e-2, 1e7)
numbers = st.integers(1, 5000)
knees = st.floats(0.1, 5000.0)
rates = st.floats(1e3, 1e12)


def _records() -> ModuleType:
    spec = importlib.util.spec_from_file_location("search_record", Path(__file__).parent / "data" / "search_record.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


made: Any = _records()


@pytest.fixture
def found(tmp_path: Path) -> Found:
    """A search whose knee is at 3.3 accelerators of 1 MB/s; an epoch is 1000 accelerator seconds, a training 4 to 6 epochs."""
    return replace(made.make_search(tmp_path / "s"), work=Work("h100", 5000, EPOCH_S, "v1: accuracy 0.9", (4, 6)))


def test_by_hand() -> None:
    """8 accelerators where 4 take all of 1 GB/s: AU 1/2, no faster than 4, twice the cost, half of it waiting; 250 MB/s more feed a fifth."""
    au = model.busy_share(8, 4.0)
    assert au == 0.5 and model.busy_share(4, 4.0) == model.busy_share(1, 4.0) == 1.0
    assert model.time_s(3600.0, 8, au) == model.time_s(3600.0, 4, 1.0) == 900.0
    assert model.accelerator_s(3600.0, au) == 7200.0 and model.stalled_s(3600.0, au) == 3600.0 and model.relative_cost(au) == 2.0
    assert model.worth_of_more(3600.0, 8, 4.0, 1e9, 0.25e9) == pytest.approx(7200.0 - 3600.0 * 8 / 5)
    assert model.worth_of_more(3600.0, 8, 4.0, 1e9, 5e9) == 3600.0  # all of the waiting, and no more


@given(work, numbers, knees)
def test_cost_is_flat_below_the_knee_and_proportional_above(work_s: float, accelerators: int, knee: float) -> None:
    cost_s = model.accelerator_s(work_s, model.busy_share(accelerators, knee))
    if accelerators <= knee:
        assert cost_s == work_s
        assert model.time_s(work_s, accelerators, 1.0) == pytest.approx(work_s / accelerators)
    else:
        assert cost_s == pytest.approx(work_s * accelerators / knee)
        assert model.time_s(work_s, accelerators, model.busy_share(accelerators, knee)) == pytest.approx(work_s / knee)
    assert model.stalled_s(work_s, model.busy_share(accelerators, knee)) == pytest.approx(cost_s - work_s, abs=1e-9 * cost_s)


@given(work, numbers, knees, rates, st.floats(0.0, 10.0))
def test_worth_is_the_difference_of_two_costs(work_s: float, accelerators: int, knee: float, bandwidth: float, share: float) -> None:
    more = share * bandwidth
    worth = model.worth_of_more(work_s, accelerators, knee, bandwidth, more)
    before = model.accelerator_s(work_s, model.busy_share(accelerators, knee))
    after = model.accelerator_s(work_s, model.busy_share(accelerators, knee * (1 + share)))
    assert worth == pytest.approx(before - after, rel=1e-6, abs=1e-9 * before)
    assert 0 <= worth <= model.stalled_s(work_s, model.busy_share(accelerators, knee)) + 1e-9 * before
    if accelerators <= knee:
        assert worth == 0.0


@given(rates)
def test_the_step_is_a_power_of_ten_not_above_the_bandwidth(bandwidth: float) -> None:
    step = model.step_of(bandwidth)
    assert step == 1e9 if bandwidth >= 1e9 else step <= bandwidth / 2 * (1 + 1e-8) < 10.001 * step


def test_the_table_of_a_search(found: Found) -> None:
    head, *rows = scaling.rows(found)
    assert head == (
        "accelerators",
        "AU",
        "minutes an epoch",
        "minutes to the target",
        "accelerator minutes an epoch",
        "of it waiting",
        "accelerator minutes to the target",
        "cost, relative",
    )
    assert [row[0] for row in rows] == ["2", "3", "4", "5"]
    assert rows[0] == ("2", "1.000", "8.33", "33.3 to 50.0", "16.67", "0", "66.67 to 100.00", "1.00 x")
    assert rows[3] == ("5", "0.660", "5.05", "20.2 to 30.3", "25.25", "8.59", "101.01 to 151.52", "1.52 x")
    priced = scaling.rows(found, PRICE)
    assert priced[0][4] == "USD an epoch" and priced[4][4:] == ("1.52", "0.515", "6.06 to 9.09", "1.52 x")


def test_the_figures_of_a_search_as_data(found: Found) -> None:
    """5 accelerators at AU 0.66: 1000 / 0.66 accelerator seconds an epoch, at 3.6 an hour; 4 to 6 epochs."""
    data = scaling.as_dict(found, PRICE)
    assert data["price"] == {"value": 3.6, "currency": "USD", "source": "a made-up price list", "date": "2026-11-27"}
    epoch, trainings = data["points"][-1]["epoch"], data["points"][-1]["to_target"]
    assert epoch == pytest.approx(
        {"time_s": 1000 / 3.3, "accelerator_s": 1000 / 0.66, "stalled_s": 1000 / 0.66 - 1000, "cost": 1 / 0.66, "cost_of_stalls": 1 / 0.66 - 1}
    )
    assert [(one["epochs"], one["cost"]) for one in trainings] == [(4, pytest.approx(4 / 0.66)), (6, pytest.approx(6 / 0.66))]
    assert scaling.as_dict(found)["points"][0]["epoch"]["cost"] is None
    bare = scaling.as_dict(replace(found, work=Work()), PRICE)["points"][0]
    assert set(bare["epoch"].values()) == {None} and bare["to_target"] == []


def test_without_an_epoch_all_is_relative(found: Found) -> None:
    bare = replace(found, work=Work())
    head, *rows = scaling.rows(bare, PRICE)
    assert head == ("accelerators", "AU", "time, relative", "cost, relative")
    assert rows[0] == ("2", "1.000", "50.0%", "1.00 x") and rows[3] == ("5", "0.660", "30.3%", "1.52 x")
    assert scaling.sentences(bare) == [
        "cost of an epoch, against accelerators that never wait: 1.00 x with 3, the most kept busy; 1.52 x with 5, the most tried, which take 90.9% of the time"
    ]
    figure = scalingplot.time_and_cost(bare)
    assert figure["layout"]["yaxis"]["title"]["text"] == "time (1: one that never waits)"


def test_the_sentences_of_a_search(found: Found) -> None:
    cost, worth = scaling.sentences(found)
    assert (
        "1.00 x (16.67 accelerator minutes) with 3, the most kept busy" in cost
        and "1.52 x (25.25 accelerator minutes) with 5, the most tried" in cost
    )
    # With 5 of 3.3 the cost is 1515 s; with 1 MB/s more, 4.3 of 5 are fed: 1163 s.
    assert worth.startswith("the next 1 MB/s of the storage would save 5.87 accelerator minutes an epoch with 5 accelerators (23.3% of the cost)")
    assert worth.endswith("23.49 to 35.24 accelerator minutes to the target (4 to 6 epochs); up to the knee it would save nothing")
    priced = scaling.sentences(found, PRICE)
    assert "(1.52 USD) with 5" in priced[0] and "0.352 USD an epoch" in priced[1]
    assert priced[2] == "price: 3.60 USD an accelerator hour (a made-up price list, 2026-11-27)"
    assert "next 1 MB/s of the storage" in " ".join(search_text(found).split())
    text = search_text(found, PRICE)
    assert (
        "  5             0.660      5.05   20.2 to 30.3      1.52    0.515   6.06 to 9.09    1.52 x\n  target: v1: accuracy 0.9, 4 to 6 epochs\n"
        in text
    )
    assert max(map(len, text.splitlines())) <= 112


def test_no_worth_where_it_is_not_the_storage(found: Found) -> None:
    hosts = replace(found, points=tuple(replace(point, bottlenecks={"host": 2, "storage": 1}) for point in found.points))
    assert scaling.limit_beyond_knee(hosts) == "host" and not scaling.worth_is_known(hosts)
    assert not [line for line in scaling.sentences(hosts) if "next" in line]
    page = as_html([], searches=[hosts])
    assert "search-worth-0" not in page and "it is not the storage that is in the way, but: host" in page
    unknown = replace(found, points=tuple(replace(point, bottlenecks={"unknown": 2}) for point in found.points))
    assert "what is in the way beyond the knee is not known" in as_html([], searches=[unknown])
    endless = replace(found, knee=None)
    assert "grew with the accelerators" in as_html([], searches=[endless]) and scaling.knee_interval(endless) is None


def test_the_knee_has_the_interval_of_the_runs_beyond_it(found: Found) -> None:
    interval = scaling.knee_interval(found)
    assert interval is not None and found.knee is not None
    assert (interval.low, interval.high) == pytest.approx((3.3, 3.3))  # made-up runs do not scatter
    spread = [replace(point, bytes_per_s=(3.1e6, 3.3e6, 3.5e6)) if point.accelerators > 3 else point for point in found.points]
    wide = scaling.knee_interval(replace(found, points=tuple(spread)))
    assert wide is not None and wide.low < 3.2 and wide.high > 3.4
    single = [replace(point, bytes_per_s=(3.3e6,)) if point.accelerators == 5 else replace(point, bytes_per_s=()) for point in found.points]
    assert scaling.knee_interval(replace(found, points=tuple(single))) is None


def _traces(figure: Figure, axis: str) -> dict[str, Figure]:
    return {trace["name"]: trace for trace in figure["data"] if trace["yaxis"] == axis}


@pytest.mark.parametrize("price", [None, PRICE])
def test_time_and_cost_as_drawn(found: Found, price: scaling.HourPrice | None) -> None:
    """5 epochs in the middle of 4 to 6: 5000 accelerator seconds, so that 2 accelerators take 2500 s, and 5 of the 3.3 that are fed as long as 3.3."""
    figure = scalingplot.time_and_cost(found, price)
    time, cost = _traces(figure, "y"), _traces(figure, "y2")
    by_number = dict(zip(time["a run"]["x"], time["a run"]["y"], strict=True))
    assert by_number[2] == pytest.approx(2500 / 60) and by_number[5] == pytest.approx(5000 / 3.3 / 60, rel=1e-5)
    assert len(time["a run"]["x"]) == sum(len(point.au) for point in found.points)
    assert time["a run"]["error_y"]["array"][0] == pytest.approx(0.2 * 2500 / 60, rel=1e-5)
    model_line = dict(zip(cost["model: one bandwidth for all"]["x"], cost["model: one bandwidth for all"]["y"], strict=True))
    one = 1.0 if price is None else 5.0
    flat = [y for x, y in model_line.items() if x <= 3.3]
    assert flat == pytest.approx([one] * len(flat)) and model_line[5] == pytest.approx(one * 5 / 3.3, rel=1e-5)
    assert 3.3 in [pytest.approx(x, rel=1e-5) for x in model_line]  # the corner itself
    assert set(cost["if they never waited"]["y"]) == {one}
    assert ("error_y" in cost["a run"]) is (price is not None)
    assert figure["layout"]["annotations"][0]["text"].startswith("knee: 3.30 (3.30 to 3.30)")
    titles = [figure["layout"][axis]["title"]["text"] for axis in ("yaxis", "yaxis2")]
    assert titles == ["minutes to the target", "cost (1: no waiting)" if price is None else "USD to the target"]


def test_worth_as_drawn(found: Found) -> None:
    figure = scalingplot.worth(found)
    saved = figure["data"][1]
    assert saved["name"] == "what the next 1 MB/s would save"
    assert [y for x, y in zip(saved["x"], saved["y"], strict=True) if x <= 3.3] == pytest.approx([0.0] * sum(x <= 3.3 for x in saved["x"]), abs=1e-6)
    assert saved["y"][-1] == pytest.approx((5 / 3.3 - 5 / 4.3) * EPOCH_S / 60, rel=1e-4)
    waiting = figure["data"][2]
    assert waiting["y"][-1] == pytest.approx((5 / 3.3 - 1) * EPOCH_S / 60, rel=1e-4)
    for line in figure["data"][:2]:
        assert min(line["y"]) >= 0


def test_figures_are_what_plotly_knows(found: Found) -> None:
    from plotly.graph_objects import Figure as Checked

    for one in (found, replace(found, knee=None), replace(found, points=found.points[-1:]), replace(found, work=Work())):
        Checked(scalingplot.time_and_cost(one, PRICE))
    Checked(scalingplot.worth(found))


def test_a_page_with_prices_says_where_they_are_from(found: Found) -> None:
    page = as_html([], searches=[found], prices={"h100": PRICE})
    assert "3.60 USD an accelerator hour (a made-up price list, 2026-11-27)" in page
    assert "search-cost-0" in page and "search-worth-0" in page
    other = as_html([], searches=[found], prices={"a100": PRICE})
    assert "no price of an accelerator hour was given" in other and "USD" not in other.partition("<script")[0]
    evil = scaling.HourPrice(1.0, "<b>%{x}", "<script>alert(1)</script>", "<i>")
    assert "<script>alert" not in as_html([], searches=[found], prices={"h100": evil}) and "<b>%{x}" not in json.dumps(
        scalingplot.time_and_cost(found, evil)
    )


def test_a_search_without_an_au_has_no_cost(found: Found) -> None:
    refused = replace(found, points=tuple(replace(point, au=(), bytes_per_s=()) for point in found.points), knee=None)
    assert scaling.sentences(refused) == [] and "search-cost-0" not in as_html([], searches=[refused])


def test_the_work_of_a_search_is_the_workloads(tmp_path: Path) -> None:
    """The whole epoch, and the epochs of the target in effect: the last edition's, or that of the one asked for; none of a quality of the user's own."""
    published = {"source": "us", "date": "2026-11-27"}
    settings: Mapping[str, Any] = {
        "dataset.num_samples": 5000,
        "run.accelerator": "h100",
        "train.targets": {
            "v1": {"metric": "accuracy", "value": 0.75, "epochs": [3, 4], **published},
            "v2": {"metric": "accuracy", "value": 0.8, "epochs": None, **published},
            "v3": {"metric": "accuracy", "value": 0.759, "epochs": [37, 41], **published},
        },
    }
    record = made.make_search(tmp_path / "s")
    assert record.work == Work()
    path = tmp_path / "s" / "search.json"
    asked = json.loads(path.read_text())
    old = {"train.targets": {"v1": {"metric": "accuracy", "value": 0.75, "epochs": [3, 4]}}}
    for own, text, epochs in (
        ({"train.edition": ""}, "v3: accuracy 0.759", (37, 41)),
        ({"train.edition": "v1"}, "v1: accuracy 0.75", (3, 4)),
        ({"train.edition": "v2"}, "", None),
        ({"train.target_quality": 0.5}, "", None),
        (old, "", None),
    ):
        path.write_text(json.dumps({**asked, "settings": {**settings, **own}}))
        work = made.found_in(tmp_path / "s").work
        assert work == Work("h100", 5000, 5000 / 10 * 0.01, text, epochs), own
    assert made.found_in(tmp_path / "s").as_dict()["work"]["epoch_s"] == 5.0


def test_a_single_number_and_many_numbers_fit_the_axis(found: Found) -> None:
    one = replace(found, points=found.points[-1:])
    assert scalingplot.time_and_cost(one)["layout"]["xaxis"]["tickvals"] == [5]
    close = replace(found, points=tuple(replace(found.points[-1], accelerators=n) for n in (40, 41, 42, 100)))
    assert scalingplot.time_and_cost(close)["layout"]["xaxis"]["tickvals"] == [40, 100]
    wide = replace(found, points=tuple(replace(found.points[-1], accelerators=n) for n in (1, 2, 3, 100, 101)), knee=Knee(1e7, 10.0, 11, 0.0))
    chart = scalingplot.time_and_cost(wide)["layout"]
    assert chart["xaxis"]["type"] == chart["yaxis"]["type"] == "log" and chart["xaxis"]["tickvals"] == [1, 2, 3, 100]
    assert (chart["annotations"][0]["x"], chart["shapes"][-1]["x0"]) == (1.0, 10.0)  # a note has the logarithm, a line the number
    beyond = replace(found, knee=Knee(1e5, 0.1, 0, 0.0))
    assert scalingplot.time_and_cost(beyond)["layout"]["annotations"] == []
