"""Real runs, scraped while they go on: what a page said last agrees with the summary, and nothing secret is on it."""

from __future__ import annotations

import http.server
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic

from storagebench.build import generate
from storagebench.configfile import load_workload
from storagebench.storage import open_store

CANARY = "CANARYsecret0123456789"
SHORT = ("--batch-size", "4", "--cache", "as-is", "--null-duration", "0.05", "--headroom-duration", "0")


def scrape(url: str) -> bytes | None:
    """The page, or None where nobody listens any more."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
            return bytes(answer.read())
    except OSError:
        return None


def samples(page: bytes | str, parse: Any = parse_openmetrics) -> dict[tuple[str, str], float]:
    """(name, rank, `-` where it has none) -> value, without the buckets of histograms."""
    text = page.decode() if isinstance(page, bytes) else page
    every = [sample for family in parse(text) for sample in family.samples if "le" not in sample.labels]
    return {(sample.name, sample.labels.get("rank", "-")): sample.value for sample in every}


def agrees(found: dict[tuple[str, str], float], summary: dict[str, Any]) -> None:
    """Whole numbers exactly; times too, since both sides divide the same nanoseconds."""
    for row in summary["per_rank"]:
        rank = str(row["rank"])
        expected = {"steps_total": row["steps"], "samples_total": row["samples"], "rank_finished": float(row["finished"])}
        expected |= {f"{name}_seconds_total": row[f"{name}_s"] for name in ("window", "compute", "fetch", "sync", "host_delay")}
        expected |= {f"{name}_ratio": row[name] for name in ("au_uncorrected", "au_nominal")}
        assert {name: found["storagebench_" + name, rank] for name in expected} == expected

    def total(name: str) -> float:
        return sum(value for (each, _), value in found.items() if each == "storagebench_" + name)

    counted = {"samples_total": "samples", "delivered_bytes_total": "delivered_bytes", "retries_total": "retries", "io_errors_total": "io_errors"}
    counted |= {"checksum_errors_total": "checksum_errors", "ranks": "world_size", "run_exit_code": "exit_code", "run_valid": "valid"}
    counted |= {"samples_per_second": "samples_per_s", "delivered_bytes_per_second": "delivered_bytes_per_s", "sync_wait_seconds": "sync_wait_s"}
    assert {name: total(name) for name in counted} == {name: float(summary[key]) for name, key in counted.items()}
    assert sum(found["storagebench_au_nominal_ratio", str(row["rank"])] for row in summary["per_rank"]) / summary["world_size"] == pytest.approx(
        summary["au_nominal"], rel=1e-12
    )


@pytest.mark.catalogue
def test_two_ranks_are_scraped_while_they_run(make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset()
    (tmp_path / CANARY).symlink_to(path)  # where the data lies is nobody's business either
    (tmp_path / "textfile").mkdir()
    textfile = tmp_path / "textfile" / "bench.prom"
    command = ["run", "quick", "--data-dir", str(tmp_path / CANARY), "--results-dir", str(tmp_path / "results"), "--run-id", "r", *SHORT]
    command += ["--num-accelerators", "2", "--epochs", "4", "--compute-time", "50ms", "--metrics-port", "0", "--metrics-textfile", str(textfile)]
    environment = {**os.environ, "AWS_SECRET_ACCESS_KEY": CANARY, "HTTP_PROXY": f"http://u:{CANARY}@127.0.0.1:9"}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "storagebench", *command, "--metrics-linger", "60s"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    url = re.fullmatch(r"metrics at (http://127\.0\.0\.1:\d+/metrics)\n", process.stderr.readline())
    assert url is not None
    pages = []
    while (page := scrape(url[1])) is not None and (not pages or process.poll() is None):
        pages.append(page)
        if ("storagebench_run_finished", "-") in samples(page) and samples(page)["storagebench_run_finished", "-"]:
            break  # the final state was served: the command may end
        time.sleep(0.2)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "AU" in out

    summary = json.loads((tmp_path / "results" / "r" / "summary.json").read_text())
    agrees(samples(pages[-1]), summary)
    assert samples(textfile.read_text(), parse_classic) == samples(pages[-1])
    every = [samples(page) for page in pages]
    steps = [found.get(("storagebench_steps_total", "1"), 0.0) for found in every]
    assert any(0 < count < steps[-1] for count in steps), steps  # while it went on
    for earlier, later in pairwise(every):
        assert all(later[key] >= value for key, value in earlier.items() if key[0].endswith("_total"))
    for text in (*pages, textfile.read_bytes(), out.encode(), err.encode()):
        assert CANARY.encode() not in text.replace(str(tmp_path / CANARY).encode(), b"")
    assert not any(CANARY.encode() in page or b"results" in page for page in pages)


def test_repeats_follow_one_another_on_the_page(make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["run", "quick", "--data-dir", path, "--results-dir", str(tmp_path), "--run-id", "r", "--repeat", "2", *SHORT]
    command += ["--compute-time", "20ms", "--metrics-port", str(port), "--metrics-linger", "60s"]
    process = subprocess.Popen([sys.executable, "-P", "-m", "storagebench", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    shown: list[str] = []
    while process.poll() is None:
        page = scrape(f"http://127.0.0.1:{port}/metrics")
        for family in parse_openmetrics((page or b"# EOF\n").decode()):
            shown += [sample.labels["run_id"] for sample in family.samples if sample.name == "storagebench_run_info"]
        time.sleep(0.1)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert list(dict.fromkeys(shown)) == ["r-1", "r-2"]


def test_a_false_run_leaves_its_verdict_in_the_file(cli: Any, tmp_path: Path) -> None:
    overrides = [("dataset.num_samples", 16, "test"), ("dataset.format", "npz", "test"), ("dataset.payload", "bytes", "test")]
    dataset = generate(load_workload("quick", overrides).workload, open_store(str(tmp_path / "data")))
    shard = tmp_path / "data" / dataset.names[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    textfile = tmp_path / "bench.prom"
    arguments = ["run", "quick", "--data-dir", str(tmp_path / "data"), "--results-dir", str(tmp_path / "results"), "--run-id", "r", *SHORT]
    result = cli(*arguments, "--compute-time", "1ms", "--metrics-textfile", str(textfile))
    assert result.returncode == 3, result.stderr
    found = samples(textfile.read_text(), parse_classic)
    assert (found["storagebench_run_valid", "-"], found["storagebench_run_exit_code", "-"]) == (0, 3)
    summary = json.loads((tmp_path / "results" / "r" / "summary.json").read_text())
    codes = {sample.labels["code"] for family in parse_classic(textfile.read_text()) for sample in family.samples if "code" in sample.labels}
    assert codes == {finding["code"] for finding in summary["findings"]} and codes


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (["--metrics-linger", "1s"], "--metrics-linger belongs to --metrics-port", "--metrics-port PORT"),
        (["--metrics-address", "::1"], "--metrics-address belongs to --metrics-port", "--metrics-port PORT"),
        (["--metrics-textfile", "bench.txt"], "reads only names that end in .prom", "name it bench.prom"),
        (["--metrics-textfile", "/no/such/bench.prom"], "there is no folder /no/such", "make the folder"),
        (["--metrics-port", "0", "--metrics-linger", "2000h"], "a day is the most", "scrape intervals"),
        (["--mlflow-experiment", "x"], "belong to --mlflow", "--mlflow URI"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run(
    options: list[str], message: str, hint: str, cli_here: Any, make_dataset: Any, tmp_path: Path
) -> None:
    path, _ = make_dataset()
    result = cli_here("run", "quick", "--data-dir", path, "--results-dir", str(tmp_path / "results"), *options)
    assert result.returncode == 2
    error, hinted = result.stderr.strip().splitlines()
    assert error.startswith("error: ") and message in error
    assert hinted.startswith("hint: ") and hint in hinted
    assert not (tmp_path / "results").exists()


def test_a_port_in_use_is_refused_before_the_run(cli_here: Any, make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset()
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        port = str(other.server_address[1])
        result = cli_here("run", "quick", "--data-dir", path, "--results-dir", str(tmp_path / "results"), "--metrics-port", port)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"error: --metrics-port {port} on 127.0.0.1 cannot be listened to: Address already in use" in result.stderr
    assert not (tmp_path / "results").exists()


def test_without_mlflow_its_option_is_refused(cli_here: Any, make_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storagebench.registry._is_installed", lambda name: False)
    path, _ = make_dataset()
    result = cli_here("run", "quick", "--data-dir", path, "--results-dir", str(tmp_path / "results"), "--mlflow", "sqlite:///x.db")
    assert result.returncode == 2
    assert "error: --mlflow needs mlflow, sqlalchemy, alembic, which is not installed\nhint: pip install 'storagebench[mlflow]'" in result.stderr
