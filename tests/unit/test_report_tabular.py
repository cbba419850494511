"""JSON and CSV: stable bytes, units in the names, unknown empty, no formula for a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable

from storagebench.report.load import LoadedRun
from storagebench.report.tabular import as_csv, as_json

Make = Callable[..., LoadedRun]


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_json_is_the_summaries_in_order(report_gallery: list[LoadedRun]) -> None:
    summaries = [loaded.summary for loaded in report_gallery]
    text = as_json(summaries)
    assert json.loads(text) == summaries
    assert list(json.loads(text)[0]) == list(summaries[0])
    assert as_json(json.loads(text)) == text and text.endswith("]\n")


def test_csv_has_a_row_a_run_and_only_scalars(report_gallery: list[LoadedRun]) -> None:
    summaries = [loaded.summary for loaded in report_gallery]
    text = as_csv(summaries)
    rows = _rows(text)
    assert [row["run_id"] for row in rows] == [summary["run_id"] for summary in summaries]
    assert "{" not in text and "[" not in text
    assert all(None not in row and None not in row.values() for row in rows)
    assert as_csv(json.loads(as_json(summaries))) == text


def test_csv_figures_are_exact_and_flat(report_make: Make) -> None:
    summary = report_make(missing=4).summary
    (row,) = _rows(as_csv([summary]))
    assert float(row["au_nominal"]) == summary["au_nominal"]
    assert float(row["fetch_p99_s"]) == summary["fetch_quantiles_s"]["p99"]
    assert float(row["step_max_s"]) == summary["step_quantiles_s"]["max"]
    assert (row["valid"], row["errors"], row["warnings"]) == ("false", "SAMPLE_COVERAGE", "TOO_SHORT")
    assert (row["listed_objects"], row["listing_s"]) == ("64", "0.0123")
    assert float(row["limits_cpu_samples_per_s"]) == summary["limits"]["cpu_samples_per_s"]
    (row,) = _rows(as_csv([{**summary, "ceiling_range_bytes_per_s": [1.5, 2.5]}]))
    assert (row["ceiling_lowest_bytes_per_s"], row["ceiling_highest_bytes_per_s"]) == ("1.5", "2.5")


def test_csv_unknown_is_empty_and_keeps_its_column(report_make: Make) -> None:
    summary = {**report_make(compute_ms=0.0).summary, "listing": None, "fetch_quantiles_s": None, "bottleneck": None}
    (row,) = _rows(as_csv([summary]))
    assert row["au_nominal"] == row["listing_s"] == row["fetch_p50_s"] == row["bottleneck"] == ""
    assert row["checksum_errors"] == "0"
    assert list(row) == list(_rows(as_csv([report_make().summary]))[0])


def test_csv_disarms_formulas(report_make: Make) -> None:
    for evil in ("=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1"):
        (row,) = _rows(as_csv([report_make(run_id=evil, steps=3, epochs=1).summary]))
        assert row["run_id"] == "'" + evil.replace("\t", " ").replace("\r", " ")
    (row,) = _rows(as_csv([{**report_make().summary, "startup_s": -0.5}]))
    assert row["startup_s"] == "-0.5"  # a number stays one


def test_nothing_of_nothing() -> None:
    assert as_json([]) == "[]\n"
    assert as_csv([]) == ""


def test_csv_says_which_hosts(report_make: Make) -> None:
    summary = report_make(world_size=2, hosts=("a", "b"), steps=20).summary
    rows = [{**row, "au_nominal": au, "wall_offset_s": offset} for row, au, offset in zip(summary["per_host"], (0.9, 0.7), (0.0, -7.5), strict=True)]
    (row,) = _rows(as_csv([{**summary, "per_host": rows}]))
    assert (row["num_hosts"], row["hosts"], row["least_host_au_nominal"], row["largest_wall_offset_s"]) == ("2", "a b", "0.7", "-7.5")
