"""Katib's own regular expressions read our metric lines, each figure once and to its full value."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from storagebench.report.metriclines import figures, metric_lines

# kubeflow/katib, pkg/metricscollector/v1beta1/common/const.go: DefaultFilter, of 0.19 and of the years before.
FILTERS = (r"([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)", r"([\w|-]+)\s*=\s*((-?\d+)(\.\d+)?)")
SUMMARY: dict[str, Any] = {
    "valid": True,
    "au_nominal": 0.9312345678901,
    "au_uncertainty": None,
    "samples_per_s": 12345678.25,
    "delivered_bytes_per_s": 3.2e12,
    "time_to_first_batch_s": 1e-7,
    "fetch_s": 0.0,
    "fetch_quantiles_s": {"p50": None, "p90": 1.0, "p99": 2.5e-3, "max": 3.0},
    "cpu_s_per_gb": math.nan,
    "peak_rss_bytes": 123456789,
}


def collected(text: str, pattern: str, metrics: list[str]) -> dict[str, list[str]]:
    """file-metricscollector.go, parseLogsInTextFormat: lines with a metric's name in them, every match of the filter, names that are asked for."""
    found: dict[str, list[str]] = {}
    for line in text.split("\n"):
        if any(metric in line for metric in metrics):
            for match in re.finditer(pattern, line, re.ASCII):
                if match.group(1).strip() in metrics:
                    found.setdefault(match.group(1).strip(), []).append(match.group(2).strip())
    return found


@pytest.mark.parametrize("pattern", FILTERS)
def test_katibs_filter_reads_every_figure(pattern: str) -> None:
    known = figures(SUMMARY)
    assert set(known) == {"au", "samples_per_s", "delivered_bytes_per_s", "time_to_first_batch_s", "fetch_s", "fetch_p99_s", "peak_rss_bytes"}
    found = collected(metric_lines(SUMMARY), pattern, list(known))
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(known, 1)
    for name, (value,) in found.items():
        assert float(value) == pytest.approx(known[name], rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("pattern", FILTERS)
def test_the_collector_finds_nothing_in_other_spellings(pattern: str) -> None:
    """What the reference warns of: so the test above can fail."""
    assert not any(collected("au: 0.93", pattern, ["au"]).values())
    assert collected("samples/s=12", pattern, ["samples/s", "s"]) == {"s": ["12"]}
    assert not any(value for values in collected("au=nan", pattern, ["au"]).values() for value in values)


def test_an_invalid_run_says_nothing() -> None:
    assert metric_lines({**SUMMARY, "valid": False}) == ""
