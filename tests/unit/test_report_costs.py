"""What a training costs, as bars: the parts add up to the total, and what is not known is no part of them. Entries are made up in the manner of `report --tta`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from storagebench.report.costplot import Bar, bars, cost
from storagebench.report.html import as_html
from storagebench.report.load import LoadedRun

Make = Callable[..., LoadedRun]
PRICE = {"of": "h100", "per": "accelerator and hour", "value": 2.5, "source": "made up", "date": "2026-11-27"}


def entry(*points: tuple[int, dict[str, float | None]], mark: str = "") -> dict[str, Any]:
    parts = ("total", "accelerators", "keeping", "reading", "requests", "stalls", "epoch")
    made = [{"epochs": epochs, "cost": {**dict.fromkeys(parts), **cost}} for epochs, cost in points]
    return {"points": made or [{"epochs": 3, "cost": None}], "currency": "USD", "prices": [PRICE] if made else [], "mark": mark}


WHOLE = entry(
    (37, {"total": 110.0, "accelerators": 100.0, "stalls": 30.0, "reading": 8.0, "keeping": 2.0}), (41, {"total": 121.0, "accelerators": 111.0})
)
BARE = entry((5, {"total": 12.0, "accelerators": 12.0}), mark="!")


def test_the_parts_of_a_cost() -> None:
    found = bars([WHOLE, entry(), BARE], ["a", "b", "c"])
    assert found == [Bar("a", 70.0, 30.0, 10.0, "37 to 41", "110.00 to 121.00"), Bar("c !", 12.0, None, None, "5", "12.00")]


def test_bars_as_drawn() -> None:
    figure = cost(bars([WHOLE, BARE], ["a", "c"]), "USD")
    traces = {trace["name"]: (trace["y"], trace["x"]) for trace in figure["data"]}
    assert traces == {
        "accelerators, not waiting": ([0], [70.0]),
        "accelerators, how far they wait is not known": ([1], [12.0]),
        "accelerators, waiting for data": ([0], [30.0]),
        "storage": ([0], [10.0]),
    }
    assert [note["text"] for note in figure["layout"]["annotations"]] == [" 110.00 to 121.00 USD, 37 to 41 epochs", " 12.00 USD, 5 epochs"]
    assert figure["layout"]["annotations"][0]["x"] == pytest.approx(110.0)


def test_figures_are_what_plotly_knows() -> None:
    from plotly.graph_objects import Figure as Checked

    Checked(cost(bars([WHOLE, BARE], ["a", "c"]), "USD"))


def test_the_page_names_prices_and_stays_escaped(report_make: Make) -> None:
    runs = [report_make(), report_make(run_id="b")]
    page = as_html(runs, costs=[WHOLE, entry()])
    assert "What does the training cost?" in page and "2.5 USD for h100, per accelerator and hour (made up, 2026-11-27)" in page
    assert "What does the training cost?" not in as_html(runs) and "What does the training cost?" not in as_html(runs, costs=[entry(), entry()])
    evil = {**WHOLE, "currency": "<img src=x>%{x}", "prices": [{**PRICE, "source": "<script>alert(1)</script>"}]}
    page = as_html([report_make(run_id="<img src=x>"), report_make()], costs=[evil, evil])
    assert "<script>alert" not in page and "<img" not in page.partition("<script")[0]
    assert "<img" not in json.dumps(cost(bars([evil], ["<img src=x>"]), "<img src=x>%{x}"))
