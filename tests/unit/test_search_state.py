"""A search's folder: what a kill at any point leaves behind, what counts as tried, and who may go on. Runs are made up; those of tests/truth are real."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from storagebench.errors import DatasetError, UsageError
from storagebench.experiments.search import Answer
from storagebench.experiments.searchresult import found_in
from storagebench.experiments.searchstate import LOG_FILE, interrupted, open_log, rules_of, tried
from storagebench.report.html import as_html
from storagebench.report.load import load_all, load_searches
from storagebench.report.search import search_text


def _records() -> ModuleType:
    spec = importlib.util.spec_from_file_location("search_record", Path(__file__).parent / "data" / "search_record.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


made: Any = _records()
RULES, EVIL, Killed, summary, make_run, begin, go_on = made.RULES, made.EVIL, made.Killed, made.summary, made.make_run, made.begin, made.go_on


@pytest.mark.parametrize("stop_at", ["before", "mid-run", "signal", "after"])
@pytest.mark.parametrize("at_run", [1, 3, 6])
def test_killed_at_any_point_the_answer_and_the_runs_are_the_same(stop_at: str, at_run: int, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    begin(folder)
    asked: list[tuple[int, str]] = []

    def run_one(accelerators: int, run_id: str) -> Mapping[str, Any]:
        asked.append((accelerators, run_id))
        found = summary(run_id, accelerators, min(1.0, 3.3 / accelerators))
        make_run(folder, found, stop_at if len(asked) == at_run else "")
        return found

    with pytest.raises(Killed):
        go_on(folder, run_one)
    if stop_at == "mid-run":  # and the log's last line was being written
        with (folder / LOG_FILE).open("ab") as file:
            file.write(b'{"kind":"begin","run_id":"run-0009')
    answer = go_on(folder, run_one)
    assert (answer.state, answer.best, answer.fails) == ("found", 3, 4)
    repeated = stop_at != "after"
    expected = [2, 3, 5, 4, 3, 4, 4, 3]
    assert [n for n, _ in asked] == [*expected[:at_run], *([expected[at_run - 1]] if repeated else []), *expected[at_run:]]
    assert len({run_id for _, run_id in asked}) == len(asked)
    assert interrupted(folder, RULES) == ([asked[at_run - 1][1]] if repeated else [])
    found = found_in(folder)
    assert found.answer == answer and found.exit_code == 0
    assert [(point.accelerators, point.met, len(point.au)) for point in found.points] == [(2, 1, 1), (3, 3, 3), (4, 0, 3), (5, 0, 1)]
    assert found.resource == "storage" and found.knee is not None and found.knee.accelerators == pytest.approx(3.3)
    assert found.demand_bytes_per_s == pytest.approx(1e6)


def test_what_is_refused_needs_no_folder_and_is_not_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    begin(folder)
    asked: list[int] = []

    def run_one(accelerators: int, run_id: str) -> Mapping[str, Any]:
        asked.append(accelerators)
        if accelerators > 3:
            raise UsageError(f"{accelerators} need 9 GiB, over the 8 GiB free")
        found = summary(run_id, accelerators, 0.99)
        make_run(folder, found)
        return found

    answer = go_on(folder, run_one)
    assert answer == Answer("bounded", 3, 4, "4 need 9 GiB, over the 8 GiB free")
    assert asked == [2, 3, 5, 4, 3, 3]
    assert go_on(folder, run_one) == answer and len(asked) == 6
    assert "not tried: 4 need 9 GiB" in search_text(found_in(folder))


def test_a_request_that_not_even_one_can_meet_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    begin(folder)

    def run_one(accelerators: int, run_id: str) -> Mapping[str, Any]:
        raise UsageError("loader parquet does not read npz")

    with pytest.raises(UsageError, match="parquet"):
        go_on(folder, run_one)


def test_invalid_runs_end_it_and_the_next_command_tries_again(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    begin(folder)
    broken = True

    def run_one(accelerators: int, run_id: str) -> Mapping[str, Any]:
        au = min(1.0, 3.3 / accelerators)
        wrong = {"valid": False, "exit_code": 6, "findings": [{"severity": "error", "message": "it came from a cache"}]}
        found = summary(run_id, accelerators, au, **(wrong if broken and accelerators == 3 else {}))
        make_run(folder, found)
        return found

    answer = go_on(folder, run_one)
    assert (answer.state, answer.exit_code, answer.best) == ("ended", 6, 0)
    assert answer.why == "two runs in a row at 3 could not be used: run run-0003-n3 is invalid: it came from a cache"
    found = found_in(folder)
    assert found.exit_code == 6 and list(found.left_out) == ["run-0002-n3", "run-0003-n3"]
    assert search_text(found).count("not counted: run run-000") == 2
    broken = False
    answer = go_on(folder, run_one)
    assert (answer.state, answer.best) == ("found", 3)
    assert found_in(folder).answer == answer and len(found_in(folder).left_out) == 2


def test_only_one_command_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    begin(folder)
    with open_log(folder, RULES), pytest.raises(UsageError, match="running already"), open_log(folder, RULES):
        pass


def test_a_damaged_log_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    begin(folder)
    (folder / LOG_FILE).write_text('{"kind":"begin","run_id":"run-0001-n2","accelerators":2,"purpose":"bracket"}\nnonsense\n')
    with pytest.raises(DatasetError, match=r"search.jsonl:2"):
        tried(folder, RULES)
    with pytest.raises(DatasetError, match="rules"):
        rules_of({"rules": {"threshold": 1}})


def test_the_report_of_a_search(tmp_path: Path) -> None:
    """Found alone and below a results folder, its runs are not told again, and nothing of it reaches the page unescaped."""
    folder = tmp_path / "results" / "s"
    made.make_search(folder)
    for path in (folder, tmp_path / "results"):
        assert [found.name for found in load_searches([path])] == ["s"]
        assert load_all([path]) == ([], [], [])
    text = search_text(load_searches([folder])[0])
    assert text.startswith("FOUND: 3 accelerators are kept busy (AU at or above 0.9), and 4 are not")
    for piece in ("in the way at 4: storage", "knee: 3.3 MB/s, which 3.30 accelerators take (3.30 to 3.30; fit of", "at most 25.0%", "2 of 2"):
        assert piece in text
    page = as_html([], searches=load_searches([folder]))
    assert EVIL not in page and page == as_html([], searches=load_searches([folder]))
    assert "3 accelerators are kept busy" in page and "search-au-0" in page
