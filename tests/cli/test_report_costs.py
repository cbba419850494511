"""`report --prices`: of a search, of runs with --tta, of both in one command and on one page; and what it refuses."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from storagebench.configfile import load_workload

_PATH = Path(__file__).parents[1] / "unit" / "data" / "search_record.py"
PRICES = """\
currency: EUR
accelerators:
  h100: {value: 3.6, source: "our offer 4711", date: 2026-10-01}
"""
SOURCE = "our offer 4711, 2026-10-01"


def _make_search(folder: Path, accelerator: str) -> None:
    """A finished search of train-resnet50: 3.3 accelerators take what there is; 10 samples take one 0.01 s."""
    spec = importlib.util.spec_from_file_location("search_record", _PATH)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    made.make_search(folder, text="it waited")
    train = load_workload("train-resnet50").workload.model_dump(mode="json")["train"]
    settings = {"dataset.num_samples": 3_600_000, "run.accelerator": accelerator, **{f"train.{key}": value for key, value in train.items()}}
    asked = json.loads((folder / "search.json").read_text())
    (folder / "search.json").write_text(json.dumps({**asked, "workload": "train-resnet50", "settings": settings}))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    _make_search(tmp_path / "search", "h100")
    (tmp_path / "prices.yaml").write_text(PRICES)
    return tmp_path


def test_of_a_search(place: Path, cli_here: Any) -> None:
    """An epoch is 3600 s of one accelerator: 1 h, 3.60 EUR without waits; the target of v3.0 takes 35."""
    search, prices, page = str(place / "search"), str(place / "prices.yaml"), place / "page.html"
    done = cli_here("report", search, "--prices", prices, "--html", str(page))
    assert done.returncode == 0, done.stderr
    assert f"price: 3.60 EUR an accelerator hour ({SOURCE})" in done.stdout
    assert "  3             1.000      20.0           11.7      3.60        0         126.00    1.00 x" in done.stdout
    assert "target: v3.0: top-1 accuracy 0.759, 35 epochs" in done.stdout
    body = page.read_text().partition("<script")[0]
    assert SOURCE in body and "EUR to the target" in body and 'id="search-cost-0"' in body
    costs = json.loads(cli_here("report", search, "--prices", prices, "--json").stdout)
    costs = (costs[0] if isinstance(costs, list) else costs)["costs"]
    assert costs["price"]["source"] == "our offer 4711" and costs["points"][1]["to_target"][0]["cost"] == pytest.approx(126.0)
    assert "EUR" not in cli_here("report", search).stdout


def test_a_price_that_is_missing_is_asked_for(place: Path, cli_here: Any) -> None:
    _make_search(place / "other", "a100")
    done = cli_here("report", str(place / "other"), "--prices", str(place / "prices.yaml"), "--html", str(place / "page.html"))
    assert done.returncode == 2 and "none for accelerator 'a100' (they have: h100)" in done.stderr and "add accelerators.a100" in done.stderr
    assert not (place / "page.html").exists()
    named = cli_here("report", str(place / "other"), "--prices", str(place / "prices.yaml"), "--accelerator-price", "h100")
    assert named.returncode == 0 and SOURCE in named.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["runs", "--prices", "prices.yaml"], "--prices belongs to --tta or to a search, and there is none at these paths"),
        (["search", "--prices", "prices.yaml", "--edition", "v0.7"], "--prices belongs to --tta"),
        (["search", "--reference-epochs", "3,3,3"], "--reference-epochs belongs to --tta"),
        (["search", "--accelerator-price", "h100"], "--accelerator-price belongs to --prices"),
        (["search", "--prices", "prices.yaml", "--csv"], "search search has no CSV row"),
        (["search", "--tta", "--reference-epochs", "3,3,3"], "--reference-epochs judges several trainings"),
        (["search", "--tta", "--reference-epochs", "3,,3"], "--reference-epochs '3,,3' is no list of counts from 1"),
    ],
)
def test_what_belongs_nowhere(options: list[str], said: str, place: Path, cli_here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    done = cli_here("report", *options)
    assert done.returncode == 2 and said in done.stderr


def test_a_search_and_runs_together(place: Path, make_dataset: Any, cli_here: Any) -> None:
    """In one text, one JSON and one page, with and without --tta."""
    path, _ = make_dataset()
    options = ("--compute-time", "1ms", "--batch-size", "4", "--cache", "as-is", "--null-duration", "0", "--headroom-duration", "0")
    ran = cli_here("run", "quick", "--data-dir", path, "--results-dir", str(place / "runs"), "--run-id", "one", *options)
    assert ran.returncode == 0, ran.stderr
    both, prices = (str(place / "search"), str(place / "runs")), ("--prices", str(place / "prices.yaml"))
    plain = cli_here("report", *both, *prices)
    assert plain.returncode == 0 and SOURCE in plain.stdout and "FOUND: 3 accelerators" in plain.stdout and "quick" in plain.stdout
    tta = (*both, "--tta", *prices, "--accelerator-price", "h100", "--epochs-to-target", "3", "--training-samples", "1000")
    page = place / "page.html"
    text = cli_here("report", *tta, "--html", str(page))
    assert text.returncode == 0, text.stderr
    assert "126.00" in text.stdout and f"price: h100 3.6 EUR per accelerator and hour ({SOURCE})" in text.stdout
    body = page.read_text().partition("<script")[0]
    assert 'id="plot-cost"' in body and 'id="search-cost-0"' in body and f"3.6 EUR for h100, per accelerator and hour ({SOURCE})" in body
    found = json.loads(cli_here("report", *tta, "--json").stdout)
    assert [entry["run_id"] for entry in found["runs"]] == ["one"] and found["searches"][0]["costs"]["price"]["value"] == 3.6
    unnamed = cli_here("report", *both, "--tta", *prices, "--epochs-to-target", "3")
    assert unnamed.returncode == 2 and "an accelerator that has no name" in unnamed.stderr
