"""The HTML page in a real browser, from disk and offline: it draws everything, complains of nothing, and asks the network for nothing."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import websocket

from storagebench.experiments.searchresult import Work
from storagebench.report.html import as_html
from storagebench.report.scaling import HourPrice

pytestmark = pytest.mark.chromium
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
    "--window-size=1280,1000",
)
_START_LIMIT_S = 60.0
_LOAD_LIMIT_S = 60.0
PLOTS = ("plot-au", "plot-time", "plot-fetch", "plot-throughput", "ladder-0", "split-0", "trial-0", "steps-0", "near-0")
CLOSED = "details:not([open])"


class Page:
    """One tab over the DevTools protocol; keeps every event that came."""

    def __init__(self, url: str) -> None:
        self._socket = websocket.create_connection(url, timeout=_LOAD_LIMIT_S)
        self._next = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._next += 1
        self._socket.send(json.dumps({"id": self._next, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._next:
                assert "error" not in message, message
                return dict(message["result"])
            self.events.append(message)

    def wait_for(self, method: str) -> None:
        while not any(event["method"] == method for event in self.events):
            self.events.append(json.loads(self._socket.recv()))

    def evaluate(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def of(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event["method"] == method]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A tab of a fresh Chromium, offline. The browser and all its processes are dead afterwards."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    profile = tmp_path / "profile"
    profile.mkdir()
    log = (tmp_path / "chromium.log").open("wb")
    browser = subprocess.Popen([program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"], stdout=log, stderr=log, start_new_session=True)
    tab = None
    try:
        tab = Page(_tab_url(profile, browser))
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        tab.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        yield tab
    finally:
        if tab is not None:
            tab.close()
        _kill(browser)
        log.close()


def _kill(browser: subprocess.Popen[bytes]) -> None:
    """The browser and its descendants, some of which lead a process group of their own; returns when all are gone."""
    family = psutil.Process(browser.pid).children(recursive=True) if browser.poll() is None else []
    with contextlib.suppress(ProcessLookupError):
        os.killpg(browser.pid, signal.SIGKILL)
    browser.wait(timeout=10)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def _tab_url(profile: Path, browser: subprocess.Popen[bytes]) -> str:
    """Where the first tab listens: Chromium writes its port into the profile."""
    end = time.monotonic() + _START_LIMIT_S
    port_file = profile / "DevToolsActivePort"
    while time.monotonic() < end:
        assert browser.poll() is None, (profile.parent / "chromium.log").read_text()
        if port_file.exists() and port_file.read_text().count("\n"):
            port = port_file.read_text().split()[0]
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            tabs = json.loads(opener.open(f"http://127.0.0.1:{port}/json/list", timeout=10).read())
            urls = [tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"]
            if urls:
                return str(urls[0])
        time.sleep(0.05)
    raise AssertionError("chromium opened no tab")


def _open(page: Page, path: Path) -> None:
    page.call("Page.navigate", url=path.as_uri())
    page.wait_for("Page.loadEventFired")
    _wait_for_plots(page)


def _wait_for_plots(page: Page) -> None:
    """Until all are drawn that lie in no closed fold."""
    drawn = f"[...document.querySelectorAll('.plot')].every(box => box.closest('{CLOSED}') || box.querySelector('svg.main-svg'))"
    end = time.monotonic() + _LOAD_LIMIT_S
    while not page.evaluate(drawn):
        assert time.monotonic() < end, "the plots were not drawn"
        time.sleep(0.05)


def _screenshot(page: Page, path: Path, width: int = 1280) -> None:
    height = page.evaluate("document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    image = page.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    path.write_bytes(base64.b64decode(image["data"]))


def _assert_quiet(page: Page) -> None:
    page.evaluate("new Promise(done => setTimeout(done, 300))")
    assert page.of("Runtime.exceptionThrown") == []
    assert [entry for entry in page.of("Runtime.consoleAPICalled") if entry["type"] in ("error", "warning", "assert")] == []
    assert [entry["entry"] for entry in page.of("Log.entryAdded") if entry["entry"]["level"] in ("error", "warning")] == []
    asked = [entry["request"]["url"] for entry in page.of("Network.requestWillBeSent")]
    assert asked, "not even the page itself was seen"
    assert [url for url in asked if not url.startswith(("file://", "data:", "blob:"))] == []


def _assert_drawn(page: Page, name: str) -> None:
    box = f"document.getElementById('{name}')"
    assert page.evaluate(f"{box}.querySelectorAll('svg.main-svg').length") >= 1, name
    shapes = "path.point, .barlayer .point path, .scatterlayer path"
    assert page.evaluate(f"[...{box}.querySelectorAll('{shapes}')].filter(path => path.getAttribute('d')).length") >= 2, name
    assert page.evaluate(f"{box}.clientHeight") > 100, name


def test_page_draws_all_plots_offline(page: Page, report_gallery: list[Any], diagnosis_make: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(as_html(report_gallery, [diagnosis_make()]))
    _open(page, path)
    for name in PLOTS:
        _assert_drawn(page, name)
    assert page.evaluate("document.querySelectorAll('#steps-0 .heatmaplayer image').length") == 1, "the waiting of each rank is not drawn"
    assert page.evaluate("document.querySelectorAll('table.runs tbody tr').length") == len(report_gallery)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
    titles = page.evaluate("[...document.querySelectorAll('.modebar-btn')].map(button => button.dataset.title)")
    assert titles
    assert not [title for title in titles if "Share" in title or "cloud" in title.lower()], "a button would upload the figure"
    _screenshot(page, tmp_path / "report.png")
    _assert_quiet(page)


def test_timelines_are_drawn_when_they_are_opened(page: Page, report_gallery: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(as_html(report_gallery))
    _open(page, path)
    closed = [f"{kind}-{index}" for kind in ("steps", "near") for index in range(1, len(report_gallery))]
    for name in closed:
        assert page.evaluate(f"document.getElementById('{name}').childElementCount") == 0, f"{name} is drawn already"
    page.evaluate("window.dispatchEvent(new Event('resize'))")  # of which plots in closed folds must not complain
    page.evaluate("document.querySelectorAll('details').forEach(box => { box.open = true })")
    _wait_for_plots(page)
    for name in closed:
        _assert_drawn(page, name)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
    for is_open in ("false", "true"):  # drawn once, and still there
        page.evaluate(f"document.querySelectorAll('details').forEach(box => {{ box.open = {is_open} }})")
        page.evaluate("window.dispatchEvent(new Event('resize'))")
        page.evaluate("new Promise(done => setTimeout(done, 300))")
    _assert_drawn(page, closed[0])
    _screenshot(page, tmp_path / "report-open.png")
    _assert_quiet(page)


def test_a_search_is_drawn_and_its_names_stay_text(page: Page, search_make: Any, tmp_path: Path) -> None:
    evil = "<img src=x onerror=window.hit=1></script><script>window.hit=1</script>"
    path = tmp_path / "report.html"
    found = replace(search_make(evil), work=Work("h100", 5000, 1000.0, evil, (4, 6)))
    path.write_text(as_html([], searches=[found], prices={"h100": HourPrice(3.6, evil, evil, evil)}))
    _open(page, path)
    for name in ("search-au-0", "search-bandwidth-0", "search-cost-0", "search-worth-0"):
        _assert_drawn(page, name)
    assert page.evaluate("document.querySelectorAll('#search-cost-0 .cartesianlayer .subplot').length") == 2
    assert page.evaluate("document.querySelectorAll('#search-cost-0 .errorbars path').length") > 0, "the range of the epochs is not drawn"
    assert page.evaluate("window.hit === undefined")
    assert page.evaluate(f"document.querySelector('.verdicts').textContent.includes({json.dumps(evil)})")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
    _screenshot(page, tmp_path / "search.png")
    _assert_quiet(page)


def test_real_trainings_and_their_cost_are_drawn(page: Page, training_gallery: list[Any], tmp_path: Path) -> None:
    """Accuracy against time, and the cost in the manner of `report --tta --prices` of one run, the others having none."""
    cost = {"total": 110.0, "accelerators": 100.0, "stalls": 30.0, "reading": 8.0, "keeping": 2.0, "requests": None, "epoch": 3.0}
    price = {"of": "h100", "per": "accelerator and hour", "value": 2.5, "source": "made up", "date": "2026-11-27"}
    paid = {"points": [{"epochs": 37, "cost": cost}], "currency": "USD", "prices": [price], "mark": ""}
    path = tmp_path / "report.html"
    path.write_text(as_html(training_gallery, costs=[paid, *[{**paid, "points": [], "prices": []}] * (len(training_gallery) - 1)]))
    _open(page, path)
    for name in ("accuracy-0", "plot-cost"):
        _assert_drawn(page, name)
    assert page.evaluate("document.querySelectorAll('#accuracy-0 .scatterlayer .trace').length") == len(training_gallery) + 6 + 1
    assert page.evaluate("document.querySelectorAll('#accuracy-0 .legend .traces').length") == 6 + 1, "a thin line has an entry of its own"
    assert page.evaluate("document.querySelector('#accuracy-0').textContent.includes('target 95%')")
    assert page.evaluate("document.querySelectorAll('#plot-cost .barlayer .point path').length") == 3
    assert page.evaluate("document.getElementById('plot-cost').textContent.includes('110.00 USD, 37 epochs')")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
    _screenshot(page, tmp_path / "training.png")
    _assert_quiet(page)


def test_a_narrow_window_does_not_scroll_sideways(
    page: Page, report_make: Any, diagnosis_make: Any, training_gallery: list[Any], search_make: Any, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text(as_html([report_make(world_size=9, steps=20), *training_gallery[:4]], [diagnosis_make()], [search_make("a reason")]))
    page.call("Emulation.setDeviceMetricsOverride", width=800, height=1000, deviceScaleFactor=1, mobile=False)
    _open(page, path)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    _screenshot(page, tmp_path / "narrow.png", width=800)
    _assert_quiet(page)


def test_hostile_names_stay_text(page: Page, report_make: Any, diagnosis_make: Any, tmp_path: Path) -> None:
    evil = "<img src=x onerror=window.hit=1></script><script>window.hit=1</script>"
    path = tmp_path / "report.html"
    runs = [report_make(run_id=evil, host=evil, root=evil, loader=evil, notes=(evil,)), report_make(run_id="plain")]
    path.write_text(as_html(runs, [diagnosis_make(name=evil, why_absent=evil, command=evil)]))
    _open(page, path)
    page.evaluate("document.querySelectorAll('details').forEach(box => { box.open = true })")
    _wait_for_plots(page)
    assert page.evaluate("window.hit === undefined")
    assert page.evaluate("document.querySelectorAll('main img').length") == 0
    assert page.evaluate(f"[...document.querySelectorAll('.verdicts')].every(box => box.textContent.includes({json.dumps(evil)}))")
    assert "<img src=x" in page.evaluate("document.getElementById('ladder-0').textContent")
    _assert_quiet(page)
