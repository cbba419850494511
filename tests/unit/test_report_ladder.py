"""A diagnosis in the report: found on disk, on the page and in the text; escaped, and the same twice."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from storagebench.commands.report import command
from storagebench.errors import DatasetError, UsageError
from storagebench.report import ladderplot
from storagebench.report.diagnosis import diagnosis_text, ladder_rows, split_rows
from storagebench.report.html import as_html
from storagebench.report.load import LoadedDiagnosis, LoadedRun, load_all, load_diagnoses, load_runs

Make = Callable[..., LoadedRun]
Write = Callable[[Path, LoadedRun], Path]
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>&\"'"


def _records() -> ModuleType:
    spec = importlib.util.spec_from_file_location("diagnosis_record", Path(__file__).parent / "data" / "diagnosis_record.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


made: Any = _records()


@pytest.fixture
def diagnosis(tmp_path: Path) -> LoadedDiagnosis:
    loaded: LoadedDiagnosis = made.load_record(tmp_path / "diagnose-quick", made.diagnosis_record())
    return loaded


def _without_library(page: str) -> str:
    from plotly.offline import get_plotlyjs

    return page.replace(get_plotlyjs(), "")


def _text(page: str) -> str:
    """What a reader sees of the markup, without scripts and styles."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", "", _without_library(page), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", bare).split())


def test_the_page_says_what_the_text_says(diagnosis: LoadedDiagnosis) -> None:
    page = as_html([], [diagnosis])
    text = _text(page)
    assert "What stands in the way? LOADER diagnose-quick in the way: loader; AU 0.482" in text
    assert "385.7 samples/s is 12% of what the storage gives raw (3134 samples/s)" in text
    assert "Next: more in flight: --num-workers 4" in text and "AU 0.476 &rarr; 0.989" in text
    assert "predicted, not measured" in text and "accelerators=2" in text
    for row in (*ladder_rows(diagnosis.found), *split_rows(diagnosis.found)):
        assert " ".join(map(escape, filter(None, row))) in text, row
    assert 'id="plot-au"' not in page and "Runs" not in text
    assert as_html([], [diagnosis]) == page


def test_runs_and_diagnosis_are_on_one_page(diagnosis: LoadedDiagnosis, report_make: Make) -> None:
    page = as_html([report_make()], [diagnosis])
    assert "<h1>quick: 1 diagnosis and 1 run</h1>" in page
    assert page.index("What stands in the way?") < page.index("Were the accelerators busy?")


def test_bars_are_the_rungs_and_what_is_far_above_is_cut(diagnosis: LoadedDiagnosis) -> None:
    figure = ladderplot.ladder(diagnosis.found)
    slow, enough, line = figure["data"]
    assert slow["x"] == [385.7, 383.0] and line["x"] == [799.97, 799.97]
    end = figure["layout"]["xaxis"]["range"][1]
    assert end == pytest.approx(1.5 * 799.97, rel=1e-5)
    assert enough["x"] == [end, 799.97, end, end]  # null, synthetic, pinned, ceiling
    assert slow["error_x"]["arrayminus"][0] == pytest.approx(385.7 - 374.2)
    texts = [note["text"] for note in figure["layout"]["annotations"]]
    assert texts.count("<b>//</b>") == 3 and sum("not measured" in text for text in texts) == 2


def test_the_split_has_all_parts_with_their_intervals(diagnosis: LoadedDiagnosis) -> None:
    figure = ladderplot.split(diagnosis.found)
    (bars,) = figure["data"]
    assert sum(bars["x"][:-1]) == pytest.approx(bars["x"][-1], abs=0.02)
    assert bars["x"][2] == pytest.approx(diagnosis.found.split["loader"].value, rel=1e-5)
    assert "52.1%" in figure["layout"]["annotations"][2]["text"]


def test_one_repeat_or_no_accelerators_still_make_plots(tmp_path: Path) -> None:
    record = made.diagnosis_record()
    record["rungs"] = {name: values[:1] for name, values in record["rungs"].items() if name != "synthetic"}
    record["cold"], record["pinned"] = record["cold"][:1], record["pinned"][:1]
    loaded = made.load_record(tmp_path / "one", {**record, "what_if": [], "trial": None})
    assert ladderplot.split(loaded.found)["data"][0]["error_x"]["array"] == [0.0] * 6
    assert "less than the accelerators take" not in json.dumps(ladderplot.ladder(loaded.found))
    assert "What if?" not in as_html([], [loaded])


def test_plots_are_what_plotly_knows(diagnosis: LoadedDiagnosis) -> None:
    from plotly.graph_objects import Figure

    assert diagnosis.found.trial is not None
    for figure in (ladderplot.ladder(diagnosis.found), ladderplot.split(diagnosis.found), ladderplot.trial(diagnosis.found.trial)):
        Figure(figure)  # raises for an attribute that does not exist


def test_what_a_diagnosis_says_is_escaped(tmp_path: Path, report_make: Make) -> None:
    record = made.diagnosis_record(name=EVIL, why_absent=EVIL, command=EVIL)
    record["trial"]["settings"] = {EVIL: EVIL}
    loaded = made.load_record(tmp_path / "evil", record)
    verdict = replace(loaded.found.verdict, why=(EVIL,), knob=EVIL, settings={EVIL: EVIL})
    rest = {"verdict": verdict, "invalid": EVIL}
    several = [loaded, replace(loaded, found=replace(loaded.found, **rest)), replace(loaded, found=replace(loaded.found, trial=None, **rest))]
    run = report_make()
    run = replace(run, summary={**run.summary, "bottleneck": EVIL, "verdict": {"why": [EVIL], "knob": EVIL, "settings": {EVIL: EVIL}}})
    page = _without_library(as_html([run], several))
    assert page.count("<script") == 3 and "<img" not in page and "&lt;img" in page
    # As data of the plots, where plotly takes tags for its own: escaped there too.
    figures = re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)
    assert figures
    for figure in json.loads(figures.group(1)):
        assert "<img" not in json.dumps(figure) and "<script" not in json.dumps(figure), figure["id"]


def test_a_command_keeps_its_secrets(tmp_path: Path) -> None:
    loaded = made.load_record(tmp_path / "secret", made.diagnosis_record(command="--storage-option=secret_key=hunter2"))
    page = as_html([], [loaded])
    assert "hunter2" not in page and "secret_key=***" in page


def test_a_run_says_what_is_in_its_way(report_make: Make) -> None:
    starved = report_make(stall_ms=60.0, stalled=0.9)
    why, knob = starved.summary["verdict"]["why"], starved.summary["verdict"]["knob"]
    text = _text(as_html([starved]))
    assert f"In the way: not decided , because {why[0]}" in text and f"Next: {knob}" in text
    assert "In the way: accelerator" in _text(as_html([report_make(stalled=0.0)]))


def test_where_diagnoses_are_found(diagnosis: LoadedDiagnosis, report_make: Make, report_write: Write, tmp_path: Path) -> None:
    folder = diagnosis.folder
    report_write(folder, report_make(run_id="cold-1", steps=5))
    report_write(folder / "rungs", report_make(run_id="null-1", steps=5))
    report_write(tmp_path, report_make(run_id="other", steps=5))
    runs, diagnoses, _ = load_all([folder])
    assert [run.run["run_id"] for run in runs] == ["cold-1"] and [one.name for one in diagnoses] == ["diagnose-quick"]
    runs, diagnoses, _ = load_all([tmp_path, folder])
    assert [run.run["run_id"] for run in runs] == ["other", "cold-1"] and len(diagnoses) == 1
    assert load_diagnoses([folder / "cold-1"]) == []


def test_a_diagnosis_alone_is_enough_for_a_report_only(diagnosis: LoadedDiagnosis, tmp_path: Path) -> None:
    assert load_all([diagnosis.folder])[0] == [] and load_all([tmp_path])[0] == []
    with pytest.raises(UsageError, match="holds no run"):
        load_runs([diagnosis.folder])
    for nothing in (tmp_path / "nowhere", diagnosis.folder.parent / "diagnose-quick" / "diagnosis.json"):
        with pytest.raises(UsageError, match=r"no run\.json"):
            load_all([nothing])
    (diagnosis.folder / "diagnosis.json").write_text("{")
    with pytest.raises(DatasetError, match="does not read"):
        load_all([diagnosis.folder])


def test_the_verb(diagnosis: LoadedDiagnosis, report_make: Make, report_write: Write, tmp_path: Path) -> None:
    folder = diagnosis.folder
    said = diagnosis_text(diagnosis.found)
    assert CliRunner().invoke(command, [str(folder)]).output == said
    assert CliRunner().invoke(command, [str(folder), "--json"]).output == "[]\n"
    page = tmp_path / "page.html"
    for name in ("cold-1", "cold-2"):
        report_write(folder, report_make(run_id=name, steps=5))
    result = CliRunner().invoke(command, [str(folder), "--html", str(page)])
    assert result.exit_code == 0 and result.stdout.startswith(said) and "cold-2" in result.stdout
    assert 'id="ladder-0"' in page.read_text() and 'id="steps-1"' in page.read_text()
    assert [row["run_id"] for row in json.loads(CliRunner().invoke(command, [str(folder), "--json"]).stdout)] == ["cold-1", "cold-2"]
