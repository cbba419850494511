"""The page and the file: what prometheus_client's own parsers read of them, over a real socket, and that the Grafana dashboard asks for nothing else."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic

from storagebench.checks.judge import write_summary
from storagebench.errors import UsageError
from storagebench.follow import FETCH_BUCKETS_S, RankState
from storagebench.records import step_line
from storagebench.report.load import LoadedRun
from storagebench.report.openmetrics import View, as_classic, as_openmetrics
from storagebench.watch import Watch

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "storagebench.json"
# What the dashboard shows nowhere, each for its reason.
UNUSED = {"storagebench_epoch": "the share of steps done says more"}
# Families that a page has only once the run is judged.
AFTER_THE_END = {
    "storagebench_run_valid", "storagebench_run_exit_code", "storagebench_sync_wait_seconds", "storagebench_samples_per_second",
    "storagebench_delivered_bytes_per_second", "storagebench_au_nominal_ratio", "storagebench_findings",
}  # fmt: skip


def view_of(loaded: LoadedRun, judged: bool) -> View:
    states = []
    for trace in loaded.ranks.traces():
        states.append(RankState())
        for record in (trace.header, *trace.of_kind("epoch_start")[:1]):
            states[-1].take(json.dumps(record).encode())
        for step in trace.steps:
            if step.epoch == 0:
                states[-1].take(bytes(step_line(step)))
    return View(loaded.run, states, loaded.summary if judged else None)


@pytest.fixture(scope="module")
def loaded(report_make: Callable[..., LoadedRun]) -> LoadedRun:
    return report_make(run_id='odd "name"\\ with\nall', world_size=3, steps=30, stall_ms=20.0, missing=2, epochs=1)


@pytest.fixture
def run_dir(report_make: Callable[..., LoadedRun], report_write: Callable[[Path, LoadedRun], Path], tmp_path: Path) -> Path:
    return report_write(tmp_path / "results", report_make(steps=20, epochs=1))


def values(families: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


def test_both_formats_say_the_same(loaded: LoadedRun) -> None:
    view = view_of(loaded, judged=True)
    page = as_openmetrics(view).decode()
    families = list(parse_openmetrics(page))
    assert page.endswith("# EOF\n") and {family.unit for family in families} == {"", "seconds", "bytes", "ratio"}
    assert values(families) == values(parse_classic(as_classic(view).decode()))
    assert all(family.name.startswith("storagebench_") and family.documentation for family in families)
    assert {family.type for family in families} == {"info", "gauge", "counter", "histogram"}
    assert {sample.labels["run_id"] for family in families for sample in family.samples} == {loaded.run["run_id"]}
    bounds = {sample.labels["le"] for family in families for sample in family.samples if sample.name.endswith("_bucket")}
    assert sorted(map(float, bounds)) == [*FETCH_BUCKETS_S, float("inf")]


def test_what_needs_the_whole_run_is_there_after_the_end_only(loaded: LoadedRun) -> None:
    before, after = (list(parse_openmetrics(as_openmetrics(view_of(loaded, judged)).decode())) for judged in (False, True))
    assert {family.name for family in after} - {family.name for family in before} == AFTER_THE_END
    numbers = values(after)
    run = ("run_id", loaded.run["run_id"])
    assert numbers["storagebench_run_valid", (run,)] == 0 and loaded.summary["valid"] is False
    for row in loaded.summary["per_rank"]:
        of_rank = (("host", "node-1"), ("rank", str(row["rank"])), run)
        assert numbers["storagebench_au_nominal_ratio", of_rank] == row["au_nominal"]
        assert numbers["storagebench_au_uncorrected_ratio", of_rank] == row["au_uncorrected"]
    codes = {(finding["code"], finding["severity"]) for finding in loaded.summary["findings"]}
    labels = {(dict(key)["code"], dict(key)["severity"]) for name, key in numbers if name == "storagebench_findings"}
    assert labels == codes and codes
    assert as_openmetrics(None) == b"# EOF\n" and as_classic(None) == b""


@pytest.fixture
def served(run_dir: Path) -> Iterator[tuple[Watch, str, int]]:
    with Watch(0, "127.0.0.1", None, lambda _: None) as watch:
        assert watch.url is not None
        yield watch, "127.0.0.1", int(re.findall(r":(\d+)/", watch.url)[0])


def ask(port: int, method: str = "GET", path: str = "/metrics", **headers: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Content-Type", ""), answer.read()
    finally:
        connection.close()


def test_the_page_over_http(served: tuple[Watch, str, int], run_dir: Path) -> None:
    watch, _, port = served
    openmetrics, classic = "application/openmetrics-text; version=1.0.0; charset=utf-8", "text/plain; version=0.0.4; charset=utf-8"
    assert ask(port) == (200, openmetrics, b"# EOF\n")
    watch.begin(run_dir)
    watch.poll()
    status, kind, page = ask(port, path="/metrics?x=1", Accept="application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1")
    assert (status, kind, page[-6:]) == (200, openmetrics, b"# EOF\n") and b"storagebench_steps_total" in page
    assert ask(port, Accept="text/plain;version=0.0.4;q=1,*/*;q=0.1")[1] == classic
    assert ask(port, "HEAD")[2] == b""
    assert (ask(port, path="/other")[0], ask(port, "POST")[0]) == (404, 501)


def test_lingering_ends_with_the_first_scrape_of_the_final_state(served: tuple[Watch, str, int], run_dir: Path) -> None:
    watch, _, port = served
    watch.linger(60.0)  # nothing was run: nothing to wait for
    watch.begin(run_dir)
    ask(port)
    write_summary(run_dir)
    watch.finish()
    begin = time.monotonic()
    watch.linger(0.2)
    assert 0.2 <= time.monotonic() - begin < 10  # the scrape before the end is none of the final state
    waiting = threading.Thread(target=watch.linger, args=(60.0,))
    waiting.start()
    ask(port, "HEAD")
    assert waiting.is_alive()
    assert b"storagebench_run_finished" in ask(port)[2]
    waiting.join(10.0)
    assert not waiting.is_alive()


def test_a_client_that_says_nothing_holds_up_no_one_for_long(served: tuple[Watch, str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storagebench.watch._Handler.timeout", 0.2)
    with socket.create_connection(("127.0.0.1", served[2])):
        assert ask(served[2])[0] == 200


def test_a_client_in_mid_request_does_not_keep_the_command(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storagebench.watch._Handler.timeout", 3.0)
    with Watch(0, "127.0.0.1", None, lambda _: None) as watch:
        client = socket.create_connection(("127.0.0.1", int(re.findall(r":(\d+)/", str(watch.url))[0])))
        client.sendall(b"GET /metrics")
        time.sleep(0.3)  # until the server has taken it
        begin = time.monotonic()
    assert time.monotonic() - begin < 2.5
    client.close()


def test_a_port_in_use_and_addresses_that_are_none(served: tuple[Watch, str, int]) -> None:
    for address, port, why in (("127.0.0.1", served[2], "Address already in use"), ("192.0.2.1", 0, "Cannot assign"), ("no such host", 0, "")):
        with pytest.raises(UsageError, match=re.escape(f"--metrics-port {port} on {address} cannot be listened to: {why}")) as caught:
            Watch(port, address, None, lambda _: None)
        assert "0 picks a free one" in caught.value.hint


def test_the_file_is_written_whole_and_stays(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    folder = tmp_path / "textfile"
    folder.mkdir()
    path = folder / "bench.prom"
    with Watch(None, "", path, said.append) as watch:
        assert watch.url is None
        watch.begin(run_dir)
        first = path.read_bytes()
        watch.poll()
        assert path.read_bytes() == first  # not due yet
        monkeypatch.setattr("storagebench.watch.TEXTFILE_PERIOD_S", 0.0)
        watch.poll()
        assert b"storagebench_steps_total" in path.read_bytes() and b"storagebench_run_finished{" in first
        write_summary(run_dir)
        watch.finish()
    assert [child.name for child in folder.iterdir()] == ["bench.prom"]
    assert any(sample.name == "storagebench_au_nominal_ratio" for family in parse_classic(path.read_text()) for sample in family.samples)
    assert said == []


def test_a_disk_that_refuses_the_file_is_said_once(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    folder = tmp_path / "textfile"
    folder.mkdir()
    monkeypatch.setattr("storagebench.watch.TEXTFILE_PERIOD_S", 0.0)
    with Watch(None, "", folder / "bench.prom", said.append) as watch:
        folder.rmdir()
        watch.begin(run_dir)
        watch.poll()
        watch.finish()
    assert said == [f"note: --metrics-textfile {folder}/bench.prom cannot be written: No such file or directory"]


# -- the dashboard -------------------------------------------------------------------------------------------------------------------------------


def expressions(node: Any) -> Iterator[str]:
    """Every PromQL expression, and every query of a variable, in a dashboard."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("expr", "definition") and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value)


def test_the_dashboard_is_one_that_grafana_could_import() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert isinstance(board["schemaVersion"], int) and board["title"] and board["uid"]
    variables = {each["name"]: each for each in board["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    ids, taken = set(), set()
    for panel in board["panels"]:
        assert panel["type"] in {"stat", "timeseries", "heatmap", "table"} and panel["title"] and panel["targets"]
        ids.add(panel["id"])
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len(ids) == len(board["panels"])
    used = {name for text in expressions(board) for name in re.findall(r"\$(\w+)", text)} - {"__rate_interval", "__range"}
    assert used <= set(variables)


def test_the_dashboard_asks_for_what_there_is_and_for_all_of_it(loaded: LoadedRun) -> None:
    families = list(parse_openmetrics(as_openmetrics(view_of(loaded, judged=True)).decode()))
    of_family = {sample.name: family.name for family in families for sample in family.samples}
    labels = {"job"} | {label for family in families for sample in family.samples for label in sample.labels}  # Prometheus adds the job
    texts = list(expressions(json.loads(DASHBOARD.read_text())))
    asked = {name for text in texts for name in re.findall(r"\bstoragebench_\w+", text)}
    assert asked <= set(of_family), asked - set(of_family)
    unused = {family.name for family in families} - {of_family[name] for name in asked}
    assert unused == set(UNUSED)
    grouped = {label.strip() for text in texts for found in re.findall(r"\b(?:by|on) \(([^)]*)\)", text) for label in found.split(",")}
    selected = {label for text in texts for found in re.findall(r"\{([^}]*)\}", text) for label in re.findall(r"(\w+)\s*=~?\"", found)}
    assert grouped | selected <= labels, (grouped | selected) - labels
