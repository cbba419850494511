"""The text report: what stands in it, what is marked, and that nothing is lost in a narrow terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storagebench.errors import DatasetError, UsageError
from storagebench.report import wording
from storagebench.report.load import LoadedRun, load_runs
from storagebench.report.text import one_run, run_table

Make = Callable[..., LoadedRun]

GOLDEN = """\
decode level: parse

run   loader  format  storage       AU  threshold  in the way     AU null  samples/s     MB/s  fetch p50  fetch p99  cached  CPU s/GB  validity
-----------------------------------------------------------------------------------------------------------------------------------------------
calm  direct  npz     posix    1.000 ~  pass 0.90  accelerator      0.998     1598 ~  104.8 ~      0 s        0 s    0.0%      7.15    warning
torn  files   npz     posix    0.999 !  -          accelerator !    0.998     1598 !  104.8 !      0 s !      0 s !  0.0% !    7.15 !  error

!  the number is false or of an incomplete run: it has an error finding
~  true, but weak: it has a warning
"""


def test_golden_table(report_make: Make) -> None:
    calm = report_make(run_id="calm", stalled=0.0)
    torn = report_make(run_id="torn", loader="files", stalled=0.0, missing=2)
    calm.summary["au_nominal"] = 0.9996  # type: ignore[index]
    torn.summary["au_nominal"] = 0.9994  # type: ignore[index]
    assert run_table([calm.summary, torn.summary]) == GOLDEN


def test_levels_never_share_a_table(report_gallery: list[LoadedRun]) -> None:
    text = run_table([loaded.summary for loaded in report_gallery])
    parse, full = text.split("decode level: ")[1:]
    assert parse.startswith("parse\n") and full.startswith("full\n")
    assert "quick-direct" in parse and "quick-webdataset" not in parse
    assert "quick-webdataset" in full and "quick-direct" not in full


def test_unknown_is_a_dash_and_never_zero(report_make: Make) -> None:
    summary = report_make(compute_ms=0.0, storage="s3").summary
    assert summary["au_nominal"] is None and summary["cached_fraction_served"] is None
    row = next(line for line in run_table([summary]).splitlines() if line.startswith("run-a"))
    assert row.split()[4:8] == ["-", "-", "host", "-"]
    assert "%" not in row
    assert "from the device           -" in one_run(summary)


def test_legend_only_for_marks_in_use(report_make: Make) -> None:
    long = {"steps": 1600, "epochs": 2}
    clean = report_make(run_id="clean", **long).summary
    assert clean["valid"] and not clean["findings"]
    assert "~" not in run_table([clean]) and "!" not in run_table([clean])
    warned = report_make(run_id="warned", notes=("half the workers",), **long).summary
    assert "\n~  true" in run_table([clean, warned]) and "\n!" not in run_table([clean, warned])


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_no_figure_is_cut_at_any_width(report_gallery: list[LoadedRun], width: int) -> None:
    summaries = [loaded.summary for loaded in report_gallery]
    text = run_table(summaries, width)
    for summary in summaries:
        for cell in (wording.megabytes_per_s(summary["delivered_bytes_per_s"]), wording.number(summary["cpu_s_per_gb"])):
            assert re.search(rf"(?<![\d.]){re.escape(cell)}(?![\d.])", text), cell
    if width >= 80:
        assert max(map(len, text.splitlines())) <= width


def test_colour_only_when_asked_for(report_gallery: list[LoadedRun], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    summaries = [loaded.summary for loaded in report_gallery]
    assert "\x1b" not in run_table(summaries)
    assert "\x1b[" in run_table(summaries, colour=True)


def test_au_is_not_rounded_over_its_threshold() -> None:
    assert wording.utilisation(0.8996, 0.9) == "0.8996"
    assert wording.utilisation(0.89999, 0.9) == "0.89999"
    assert wording.utilisation(0.9, 0.9) == "0.900"
    assert wording.utilisation(None, 0.9) == "-"


def test_page_of_a_run(report_make: Make) -> None:
    summary = report_make(stall_ms=20.0, stalled=0.9, corrupt=3, decode="full").summary
    text = one_run(summary)
    assert text.startswith("INVALID: direct on npz over posix: do not use these numbers: 3 of 800 checked samples")
    assert "full (parse was asked)" in text
    assert "cold; 0.0% was cached before the worst epoch (by cachestat)" in text
    assert "bad                                     sample 1 in shards/00001.npz" in text
    assert "error CHECKSUM: " in text and "hint: run `storagebench verify`" in text
    shares = [
        float(share) for share in re.findall(r"(?:fetch|compute|sync|host) .*? ([\d.]+)%", text.split("Where the time went")[1].split("window")[0])
    ]
    assert len(shares) == 5 and sum(shares) == pytest.approx(100.0, abs=0.3)


def test_incomplete_run_says_so_first(report_make: Make) -> None:
    text = one_run(report_make(steps=57, epochs=1, complete=False).summary)
    assert text.startswith("INCOMPLETE: 57 steps (1 of warm-up) were taken before the run ended, and nothing says why")
    assert " pass 0.90" not in text


def test_starved_run_names_what_ate_the_time_and_the_host_limit(report_make: Make) -> None:
    summary = dict(report_make(stall_ms=30.0, stalled=1.0, world_size=1).summary)
    said = wording.verdict(summary)
    assert said.state == "starved" and "most of the rest is fetch" in said.sentence and "without any storage" not in said.sentence
    assert "without any storage this host reaches only 0.700" in wording.verdict({**summary, "au_null": 0.7}).sentence


def test_control_characters_do_not_reach_the_terminal(report_make: Make) -> None:
    evil = "a\x1b[31mb\x07\r\nc[bold]d"
    summary = report_make(run_id=evil, loader=evil, notes=(evil,)).summary
    for text in (run_table([summary]), one_run(summary)):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
        assert "[bold]d" in text


def test_no_runs() -> None:
    assert run_table([]) == "no runs\n"


def test_load_runs_from_disk(report_gallery: list[LoadedRun], report_write: Callable[[Path, LoadedRun], Path], tmp_path: Path) -> None:
    written = [report_write(tmp_path, loaded) for loaded in report_gallery[2:5]]
    loaded = load_runs([written[1], tmp_path, str(written[0])])
    assert [run.run["run_id"] for run in loaded] == ["quick-s3-interrupted", "quick-parquet", "quick-webdataset"]
    assert loaded[1].summary == report_gallery[2].summary
    assert len(loaded[1].ranks) == 2 and len(loaded[1].hosts) == 1
    assert not list(tmp_path.rglob("summary.json"))


def test_load_runs_refuses(report_make: Make, report_write: Callable[[Path, LoadedRun], Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not exist: no run\.json"):
        load_runs([tmp_path / "nowhere"])
    with pytest.raises(UsageError, match=r"holds no run"):
        load_runs([tmp_path])
    run_dir = report_write(tmp_path, report_make(steps=3, epochs=1))
    trace = run_dir / "trace" / "rank-00000.jsonl"
    trace.write_text(trace.read_text().replace("\n", "\n{broken\n", 1))
    with pytest.raises(DatasetError, match="damaged in line 2"):
        load_runs([run_dir])


def test_summary_fields_named_here_exist(report_make: Make) -> None:
    summary: Any = report_make().summary
    assert set(wording.STEP_PARTS) <= set(summary)


def test_several_hosts_have_a_table(report_make: Make) -> None:
    """Rank 2 is alone on host c, and all wait for it; host b's clock was measured, c's was not."""
    summary = report_make(world_size=3, hosts=("a", "b", "c"), steps=100, stalled=0.0, slow_rank=2, slow_ms=4.0).summary
    rows = [{**row, "wall_offset_s": -0.25, "wall_offset_uncertainty_s": 0.001} if row["host"] == "b" else row for row in summary["per_host"]]
    text = one_run({**summary, "per_host": rows})
    table = text.partition("Hosts (")[2].partition("\n\n")[0].splitlines()
    assert table[1].split() == ["host", "ranks", "AU", "least", "AU", "MB/s", "sync", "others", "waited", "for", "it", "clock", "ahead"]
    assert [line.split()[0] for line in table[3:]] == ["a", "b", "c"]
    assert table[4].endswith("0 s  -250 ms +- 1 ms") and table[3].split()[-3:] == ["0", "s", "0"]
    assert table[5].split()[-3:] == ["531", "ms", "-"]
    assert "on 3 hosts" in text and "for rank 2 on host c" in " ".join(text.split())


def test_one_host_has_no_table_of_hosts(report_make: Make) -> None:
    text = one_run(report_make(world_size=2).summary)
    assert "Hosts (" not in text and "slowest host" not in text


def test_the_slowest_host_is_named_where_nothing_keeps_them_in_step(report_make: Make) -> None:
    summary = report_make(world_size=2, hosts=("a", "b"), steps=50).summary
    rows = [{**row, "au_nominal": 0.5} if row["host"] == "b" else row for row in summary["per_host"]]
    assert "  of the slowest host       0.500 (b) ~" in one_run({**summary, "per_host": rows})


def test_of_very_many_hosts_those_are_shown_that_others_waited_for(report_make: Make) -> None:
    summary = report_make(world_size=2, hosts=("a", "b"), steps=20).summary
    row = summary["per_host"][0]
    rows = [{**row, "host": f"n{number}", "sync_wait_caused_s": float(number)} for number in range(100)]
    text = one_run({**summary, "num_hosts": 100, "per_host": rows})
    table = text.partition("Hosts (")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in table[3:6]] == ["n99", "n98", "n97"] and table[-1].strip().startswith("and 68 more")
