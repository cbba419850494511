"""Runs over S3 through a proxy that spoils answers: within the retry budget they are complete, to the byte, with each retry counted; beyond it they end with 4."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from storagebench.s3server import Server

pytestmark = pytest.mark.s3
# What each kind of failure is counted as. `slow` answers come in time; `too-slow` ones do not.
COUNTED_AS = {
    "503": "503", "reset": "reset", "reset-body": "reset", "cut": "truncated", "range": "wrong_range", "full": "wrong_range", "stall": "timeout",
}  # fmt: skip
MIXED = {"503": 0.03, "reset": 0.02, "reset-body": 0.02, "cut": 0.02, "range": 0.02, "slow": 0.03, "stall": 0.008}
RECORD_BYTES = 20_000


class Case(NamedTuple):
    """A loader, the format of its dataset, and what else it is told."""

    loader: str
    format: str
    options: tuple[str, ...] = ()


CASES = {
    "direct": Case("direct", "npz", ("--io-depth", "4", "--num-workers", "2")),
    "direct-ranges": Case("direct", "webdataset", ("--io-depth", "4", "--num-workers", "2")),
    "s3": Case("s3", "npz", ("--num-workers", "2")),
    "s3-here": Case("s3", "npz", ("--num-workers", "0")),
    "s3-obstore": Case("s3", "npz", ("--num-workers", "2", "--storage-option", "client=obstore")),
    "files-s3fs": Case("files", "webdataset", ("--num-workers", "1", "--storage-option", "client=s3fs")),
    "arrow": Case("direct", "webdataset", ("--io-depth", "4", "--num-workers", "2", "--storage-option", "ranges=arrow")),
    "stream": Case("webdataset", "webdataset", ("--num-workers", "2")),
    "stream-s3fs": Case("webdataset", "webdataset", ("--num-workers", "1", "--storage-option", "client=s3fs")),
}


@pytest.fixture(scope="session")
def datasets(cli: Any, s3_server: Server) -> Callable[[str], str]:
    """The URL of a dataset of 128 samples in that format, made once."""
    made: dict[str, str] = {}

    def make(format_name: str) -> str:
        if format_name not in made:
            made[format_name] = f"s3://bench/retries-{format_name}"
            result = cli(
                "generate", "quick", "--format", format_name, "--payload", "bytes", "--num-samples", "128", "--record-length", str(RECORD_BYTES),
                "--data-dir", made[format_name], "--storage-option", f"endpoint_url={s3_server.endpoint_url}", env=dict(s3_server.environment()),
            )  # fmt: skip
            assert result.returncode == 0, result.stderr
        return made[format_name]

    return make


@pytest.fixture
def run(cli: Any, datasets: Callable[[str], str], s3_environment: dict[str, str], tmp_path: Path) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Run two epochs of a case against an endpoint; the process's result and the summary."""

    def start(case: Case, endpoint: str, *more: str, epochs: int = 2) -> tuple[Any, dict[str, Any]]:
        result = cli(
            "run", "quick", "--data-dir", datasets(case.format), "--storage-option", f"endpoint_url={endpoint}", "--loader", case.loader, *case.options,
            "--results-dir", str(tmp_path), "--run-id", "r", "--compute-time", "1ms", "--batch-size", "8", "--epochs", str(epochs), "--cache", "as-is",
            "--verify", "full", "--remainder", "keep", "--null-duration", "0", "--headroom-duration", "0", *more,
        )  # fmt: skip
        assert "Traceback" not in result.stderr
        assert sum(line.startswith("error:") for line in result.stderr.splitlines()) == (result.returncode != 0)
        planned, summary = (json.loads((tmp_path / "r" / name).read_text()) for name in ("run.json", "summary.json"))
        return result, {**summary, "planned_bytes": planned["dataset"]["record_bytes"] * epochs}

    return start


def expected(injected: Mapping[str, int]) -> dict[str, int]:
    """Retries by kind for what the proxy did."""
    kinds: Counter[str] = Counter()
    for kind, count in injected.items():
        if kind in COUNTED_AS:
            kinds[COUNTED_AS[kind]] += count
    return dict(sorted(kinds.items()))


def assert_whole(result: Any, summary: dict[str, Any]) -> None:
    """Complete, each of the 128 samples once in each epoch, all checked, to the byte."""
    assert result.returncode == 0, result.stderr
    assert (summary["status"], summary["exit_code"], summary["io_errors"], summary["checksum_errors"]) == ("complete", 0, 0, 0)
    assert (summary["missing_samples"], summary["duplicate_samples"], summary["verified_samples"]) == (0, 0, 128 * summary["epochs"])
    assert summary["delivered_bytes"] == summary["planned_bytes"] <= summary["storage_bytes"]


def assert_counted(summary: dict[str, Any], injected: Mapping[str, int], hidden: bool = False) -> None:
    """`hidden`: curl asks once more by itself, unseen, where a kept connection is reset before the answer."""
    found = {kind: (count if not hidden or kind != "reset" else summary["retries_by_kind"][kind]) for kind, count in expected(injected).items()}
    assert summary["retries_by_kind"] == found
    assert found.get("reset", 0) <= expected(injected).get("reset", 0) <= 2 * found.get("reset", 0) + injected["reset"]
    assert summary["retries"] == sum(found.values()) == sum(row["retries"] for row in summary["per_epoch"])
    findings = [finding for finding in summary["findings"] if finding["code"] == "RETRIES"]
    assert len(findings) == bool(summary["retries"])
    for finding in findings:
        assert finding["severity"] == "warning" and f"{summary['retries']} retries of {summary['requests']} requests" in finding["message"]
        assert all(f"{kind} x {count}" in finding["message"] for kind, count in summary["retries_by_kind"].items())


def check(run: Any, proxy: Any, case: Case, epochs: int) -> dict[str, Any]:
    """One run through the proxy, all of whose failures are retried."""
    result, summary = run(case, proxy.endpoint_url, "--storage-option", "timeout=1s", epochs=epochs)
    assert_whole(result, summary)
    assert_counted(summary, proxy.injected, hidden="ranges=arrow" in case.options)
    assert proxy.passed_bytes <= proxy.sent_bytes
    return dict(summary)


@pytest.mark.parametrize("name", ["direct", *(pytest.param(name, marks=pytest.mark.catalogue) for name in ("s3", "stream"))])
def test_all_kinds_of_failures_within_the_budget(name: str, run: Any, fault_proxy: Any, s3_server: Server) -> None:
    """Of obstore, s3fs (in worker processes, whose counts reach the rank), and streams that break off and go on behind what came."""
    proxy = fault_proxy(s3_server, MIXED, match="/shards/", seed=4)
    proxy.slow_s, proxy.stall_s = 0.05, 3.0
    check(run, proxy, CASES[name], epochs=1)
    assert sum(proxy.injected.values()) >= 5


# Every kind through the two engines of our own, and all kinds together through each of the others. pyarrow does not show the range of an answer: only
# checksums find another one (tests/unit/test_lying_server.py).
ALONE = [
    *((name, kind) for name in ("direct", "s3") for kind in (*COUNTED_AS, "slow")),
    *(
        pytest.param(name, "cut" if name == "arrow" else "mixed", marks=pytest.mark.nightly)
        for name in CASES
        if name not in ("direct", "s3", "stream")
    ),
]


@pytest.mark.catalogue
@pytest.mark.parametrize(("name", "kind"), ALONE)
def test_each_kind_alone(name: str, kind: str, run: Any, fault_proxy: Any, s3_server: Server) -> None:
    rates = MIXED if kind == "mixed" else {kind: 0.02 if kind == "stall" else 0.1}
    proxy = fault_proxy(s3_server, rates, match="/shards/", seed=7)
    proxy.slow_s, proxy.stall_s = 0.1, 30.0 if name == "arrow" else 3.0  # curl finds out 6 s after the timeout
    summary = check(run, proxy, CASES[name], epochs=2)
    assert sum(proxy.injected.values()) > 0 or kind in ("full", "stall")
    if kind == "slow":
        assert summary["retries"] == 0


def assert_ended(result: Any, summary: dict[str, Any], proxy: Any, *words: str) -> None:
    """Exit 4 with what happened, the trace kept, and nothing delivered that did not come whole."""
    assert result.returncode == 4, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
    assert "hint: " in result.stderr
    assert (summary["status"], summary["valid"], summary["exit_code"]) == ("failed", False, 4)
    assert summary["failure"] in result.stderr
    assert summary["delivered_bytes"] <= min(summary["planned_bytes"], proxy.passed_bytes)


@pytest.mark.parametrize("name", ["direct", pytest.param("s3", marks=pytest.mark.catalogue), pytest.param("stream", marks=pytest.mark.catalogue)])
def test_beyond_the_attempts_of_a_request(name: str, run: Any, fault_proxy: Any, s3_server: Server) -> None:
    """Half of all answers are SlowDown, and a request is asked for twice: some samples come, and then the run ends."""
    proxy = fault_proxy(s3_server, {"503": 0.5}, match="/shards/", seed=2)
    result, summary = run(CASES[name], proxy.endpoint_url, "--storage-option", "retries=1", "--storage-option", "retry_budget=100%")
    words = (
        "shards/",
        proxy.endpoint_url,
        "(SlowDown)",
        "asked 2 times",
        "status 503",
        "the limit is retries=1",
        "503 x ",
        "--storage-option retries=",
    )
    assert_ended(result, summary, proxy, *words)


@pytest.mark.parametrize("name", ["s3-here", pytest.param("direct", marks=pytest.mark.catalogue)])
def test_beyond_the_budget_of_the_run(name: str, run: Any, fault_proxy: Any, s3_server: Server) -> None:
    proxy = fault_proxy(s3_server, {"503": 0.2, "cut": 0.2}, match="/shards/", seed=2)
    result, summary = run(CASES[name], proxy.endpoint_url, "--storage-option", "retry_budget=5")
    words = ("shards/", proxy.endpoint_url, "the retry budget is spent (retry_budget=5)", "this process: 5 retries of ", "503 x ", "truncated x ")
    assert_ended(result, summary, proxy, *words)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("direct", "stall"), pytest.param("direct-ranges", "stall", marks=pytest.mark.catalogue), pytest.param("s3", "stall", marks=pytest.mark.catalogue),
        pytest.param("stream", "stall", marks=pytest.mark.catalogue), pytest.param("s3-here", "drip", marks=pytest.mark.catalogue),
    ],
)  # fmt: skip
def test_a_body_that_stops_is_no_hang(name: str, kind: str, run: Any, fault_proxy: Any, s3_server: Server) -> None:
    proxy = fault_proxy(s3_server, {kind: 1.0}, match="/shards/")
    proxy.stall_s = 120
    begin = time.monotonic()
    result, summary = run(CASES[name], proxy.endpoint_url, "--storage-option", "timeout=500ms", "--storage-option", "retries=1")
    assert_ended(result, summary, proxy, "shards/", "no byte within the timeout", "asked 2 times")
    assert summary["delivered_bytes"] == 0 and time.monotonic() - begin < 60


@pytest.mark.parametrize(
    "name", ["s3-here", pytest.param("direct", marks=pytest.mark.catalogue), pytest.param("stream", marks=pytest.mark.catalogue)]
)
def test_a_token_that_expires_in_mid_run_is_not_asked_about_again(name: str, run: Any, fault_proxy: Any, s3_server: Server) -> None:
    proxy = fault_proxy(s3_server, {"denied": 0.05}, match="/shards/", seed=3)
    result, summary = run(CASES[name], proxy.endpoint_url)
    assert_ended(result, summary, proxy, "shards/", "refused to read", "(ExpiredToken)", "sign in again")
    assert "asked" not in result.stderr and 1 <= proxy.injected["denied"] <= 16  # no more than were in flight


@pytest.mark.parametrize("name", ["direct", pytest.param("s3", marks=pytest.mark.catalogue), pytest.param("stream", marks=pytest.mark.catalogue)])
def test_several_endpoints_share_the_work(name: str, run: Any, cli: Any, fault_proxy: Any, s3_server: Server, datasets: Any, tmp_path: Path) -> None:
    proxies = [fault_proxy(s3_server, {"503": 0.05}, match="/shards/", seed=seed) for seed in (1, 2)]
    both = ",".join(proxy.endpoint_url for proxy in proxies)
    result, summary = run(CASES[name], both)
    assert_whole(result, summary)
    assert_counted(summary, sum((proxy.injected for proxy in proxies), Counter()))
    good = [proxy.objects - sum(proxy.injected.values()) for proxy in proxies]
    assert abs(good[0] - good[1]) <= 0.25 * sum(good), good
    assert sorted(summary["bytes_by_endpoint"]) == sorted(proxy.endpoint_url for proxy in proxies)
    assert sum(summary["bytes_by_endpoint"].values()) == summary["storage_bytes"]
    assert json.loads((tmp_path / "r" / "run.json").read_text())["store"]["options"]["endpoint_url"] == both
    report = cli("report", str(tmp_path / "r"), "--html", str(tmp_path / "page.html"))
    assert report.returncode == 0 and f"{summary['retries']} retried: 503 x " in (tmp_path / "page.html").read_text()
    assert all(f"from {proxy.endpoint_url}" in report.stdout for proxy in proxies), report.stdout
    assert f"{summary['retries']} retried: 503 x {summary['retries']}" in report.stdout


def test_an_endpoint_that_fails_is_named(run: Any, fault_proxy: Any, s3_server: Server) -> None:
    good, bad = fault_proxy(s3_server), fault_proxy(s3_server, {"503": 1.0}, match="/shards/")
    result, summary = run(CASES["s3-here"], f"{good.endpoint_url},{bad.endpoint_url}", "--storage-option", "retries=1")
    assert_ended(result, summary, good, f"{bad.endpoint_url} failed to read shards/", "asked 2 times")
    assert good.endpoint_url not in summary["failure"]


@pytest.mark.nightly
@pytest.mark.catalogue
def test_what_a_library_asks_again_is_unknown(run: Any, cli: Any, fault_proxy: Any, s3_server: Server, tmp_path: Path) -> None:
    """pyarrow reads Parquet by itself: as often as `retries` says, and nobody sees it."""
    proxy = fault_proxy(s3_server, {"503": 0.1, "cut": 0.1}, match="/shards/")
    result, summary = run(Case("parquet", "parquet", ("--num-workers", "2")), proxy.endpoint_url)
    assert result.returncode == 0 and proxy.injected.total() > 0, result.stderr
    assert (summary["status"], summary["missing_samples"], summary["delivered_bytes"]) == ("complete", 0, summary["planned_bytes"])
    assert (summary["requests"], summary["retries"], summary["retries_by_kind"]) == (None, None, {})
    assert "retries unknown" in cli("report", str(tmp_path / "r")).stdout


@pytest.mark.catalogue
def test_several_endpoints_for_generate_verify_and_probe(cli: Any, fault_proxy: Any, s3_server: Server, s3_environment: Any) -> None:
    """All three ask all servers, and are asked again where these fail."""
    proxies = [fault_proxy(s3_server, {"503": 0.1}, seed=seed) for seed in (1, 2)]
    options = ("--storage-option", "endpoint_url=" + ",".join(proxy.endpoint_url for proxy in proxies))
    url = "s3://bench/several"
    made = cli(
        "generate", "quick", "--format", "npz", "--payload", "bytes", "--num-samples", "64", "--record-length", "10kB", "--data-dir", url, *options
    )
    assert made.returncode == 0, made.stderr
    assert all(proxy.requests["PUT"] >= 20 for proxy in proxies)
    before = [proxy.objects for proxy in proxies]
    checked = cli("verify", "--data-dir", url, *options)
    assert checked.returncode == 0, checked.stderr
    assert all(proxy.objects - count >= 20 for proxy, count in zip(proxies, before, strict=True))
    before = [proxy.objects for proxy in proxies]
    probed = cli("probe", url, *options, "--seconds", "200ms")
    assert probed.returncode == 0, probed.stderr
    assert all(proxy.objects > count for proxy, count in zip(proxies, before, strict=True))
