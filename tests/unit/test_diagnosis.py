"""Diagnosis without a bench: the verdict's tree, the ladder's arithmetic, predictions, and what is saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storagebench.diagnosis.ladder import PARTS, diagnose
from storagebench.diagnosis.online import attribute, wants_headroom
from storagebench.diagnosis.saved import judged, load, measured, save
from storagebench.diagnosis.verdict import Evidence, needs_storage_rate, verdict_of
from storagebench.diagnosis.whatif import parse_change, predict
from storagebench.errors import DatasetError, RunInvalidError, UsageError
from storagebench.experiments.ladder import Asked, Ran, climb, rung_settings, turn
from storagebench.report.diagnosis import diagnosis_text, knob_setting

SETTING = {"num_workers": 4, "prefetch_batches": 2, "world_size": 1, "cache": "cold", "cacheable": False}
# Two cores, accelerators that take 1000 samples/s, a run that reaches half of that; each case moves one thing.
HALF_BUSY = Evidence(
    achieved=500, accelerator=1000, cpu=5000, storage=510, workers=520, au=0.5, au_null=1.0, prep_cpu_share=0.2, fetch_share=0.9, cores=2.0, setting=SETTING
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "bottleneck", "word"),
    [
        ({}, "storage", "a faster tier"),
        ({"storage": 625.0}, "storage", "a faster tier"),  # just at 0.8 of it
        ({"storage": 626.0}, "loader", "--num-workers 16"),
        ({"storage": None}, None, "run --ceiling"),
        ({"au": 0.98}, "accelerator", "more accelerators"),
        ({"au": 0.979}, "storage", ""),
        ({"au": 0.5, "au_null": 0.505}, "host", "without any storage"),
        ({"host_delay_share": 0.25}, "host", "stop what else runs"),
        ({"host_delay_share": 0.24}, "storage", ""),
        ({"worker_delay_share": 0.3, "cores_of_others": 1.0}, "host", "it uses 1.0 of 2 cores"),
        ({"worker_delay_share": 0.3, "cores_of_others": 0.1}, "storage", ""),  # its own threads crowd one another
        ({"worker_delay_share": 0.05, "cores_of_others": 1.9}, "storage", ""),  # others run, and take nothing from it
        ({"cpu": 520.0, "prep_cpu_share": 0.9, "storage": None}, "decode", "decoded ahead of time"),
        ({"cpu": 520.0, "prep_cpu_share": 0.4, "storage": None}, "host", "fewer copies"),
        ({"cpu": 520.0, "prep_cpu_share": 0.9}, "storage", ""),  # the storage is the smaller limit
        ({"epoch_start_share": 0.7, "storage": 5000.0}, "loader", "longer epochs"),
        ({"slowest_steps_share": 0.6, "storage": 5000.0}, "storage", "--prefetch-batches 8"),
        ({"slowest_steps_share": 0.6, "storage": 5000.0, "fetch_share": 0.4}, "loader", "--num-workers"),
        ({"storage": 5000.0, "fetch_share": 0.1}, "loader", "--num-workers"),
        ({"setting": {**SETTING, "cacheable": True}}, "storage", "--cache warm"),
        ({"accelerator": None, "au": None}, "storage", "no setting of the loader"),
        ({"storage": None, "setting": {**SETTING, "writers": 2}}, None, "--writers 0"),
    ],
)
def test_the_verdict(change: dict[str, Any], bottleneck: str | None, word: str) -> None:
    verdict = verdict_of(replace(HALF_BUSY, **change))
    assert verdict.bottleneck == bottleneck
    assert verdict.why and all(reason == reason.strip() and not reason.endswith(".") for reason in verdict.why)
    assert word in verdict.knob or any(word in reason for reason in verdict.why)


def test_the_storage_is_asked_for_more_only_where_that_decides() -> None:
    unknown = replace(HALF_BUSY, storage=None)
    assert needs_storage_rate(unknown)
    assert not needs_storage_rate(HALF_BUSY)
    for change in ({"au": 1.0}, {"cpu": 520.0}, {"host_delay_share": 0.4}, {"epoch_start_share": 0.7}):
        assert not needs_storage_rate(replace(unknown, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "fetch_share", "expected"),
    [
        ({"num_workers": 0}, 0.1, {"loader.num_workers": 4, "loader.prefetch_batches": 4}),
        ({"num_workers": 4}, 0.9, {"loader.num_workers": 16, "loader.prefetch_batches": 4}),
        ({"num_workers": 1}, 0.1, {"loader.num_workers": 2, "loader.prefetch_batches": 4}),
        ({"num_workers": 64, "prefetch_batches": 8}, 0.9, {}),
    ],
)
def test_the_knob_of_a_loader_that_asks_for_too_little(setting: dict[str, int], fetch_share: float, expected: dict[str, int]) -> None:
    verdict = verdict_of(replace(HALF_BUSY, storage=9999.0, fetch_share=fetch_share, setting={**SETTING, **setting}))
    assert (verdict.bottleneck, dict(verdict.settings)) == ("loader", expected)


# -- an ordinary run -----------------------------------------------------------------------------------------------------------------------------------


def test_a_run_has_its_verdict(report_make: Any) -> None:
    calm, starved = report_make(stalled=0.0), report_make(stall_ms=60.0, stalled=0.9)
    assert calm.summary["bottleneck"] == "accelerator"
    assert starved.summary["bottleneck"] is None and "not known" in starved.summary["verdict"]["why"][0]
    assert wants_headroom(starved.run, starved.summary) and not wants_headroom(calm.run, calm.summary)
    limits = starved.summary["limits"]
    assert limits["accelerator_samples_per_s"] == pytest.approx(2 * 16 / 0.02)
    assert limits["cores_used"] == pytest.approx(0.1) and limits["cores_of_others"] == pytest.approx(0.3 / 16)
    known = {**starved.summary, "limits": {**limits, "storage_samples_per_s": starved.summary["samples_per_s"] * 1.1}}
    found = attribute(starved.run, known)
    assert found is not None and found.bottleneck == "storage"
    assert attribute(starved.run, {**known, "samples_per_s": None}) is None
    assert attribute(starved.run, {**known, "loader": "null"}) is None


# -- the ladder ----------------------------------------------------------------------------------------------------------------------------------------


def ladder(**rates: float) -> dict[str, list[float]]:
    given = {
        "null": 90_000.0,
        "synthetic": 1000.0,
        "pinned": 5000.0,
        "warm": 4000.0,
        "cold": 500.0,
        "fetch": 520.0,
        "ceiling": 530.0,
        "client": 9000.0,
    }
    return {rung: [rate, rate * 1.01, rate * 0.99] for rung, rate in {**given, **rates}.items() if rate}


IDLE = [replace(HALF_BUSY, storage=None, achieved=5000.0, cpu=50_000.0)] * 3
FULL = [replace(HALF_BUSY, storage=None, achieved=510.0, cpu=520.0, prep_cpu_share=0.9)] * 3
STARVED = replace(HALF_BUSY, worker_delay_share=0.5, cores_of_others=1.5)


@pytest.mark.parametrize(
    ("rates", "cold", "pinned", "bottleneck", "part"),
    [
        ({}, HALF_BUSY, IDLE, "storage", "storage"),
        ({"ceiling": 4000.0}, HALF_BUSY, IDLE, "loader", "loader"),
        ({"ceiling": 4000.0, "fetch": 4000.0}, HALF_BUSY, IDLE, "loader", "overlap"),
        ({"ceiling": 4000.0, "fetch": 4000.0, "pinned": 510.0}, HALF_BUSY, FULL, "decode", "decode"),
        ({"ceiling": 4000.0, "fetch": 4000.0, "pinned": 510.0}, HALF_BUSY, IDLE, "loader", "loader"),
        ({"ceiling": 4000.0, "fetch": 4000.0, "pinned": 510.0}, STARVED, FULL, "host", "host"),
        ({"cold": 999.0}, replace(HALF_BUSY, au=0.999), IDLE, "accelerator", None),
        ({"cold": 980.0, "ceiling": 990.0}, replace(HALF_BUSY, au=0.975), IDLE, "accelerator", None),  # 2 %: not told from noise
        ({"pinned": 0.0, "warm": 0.0, "client": 0.0}, HALF_BUSY, [], "storage", "storage"),
    ],
)
def test_the_ladder_names_what_is_in_the_way(
    rates: dict[str, float], cold: Evidence, pinned: list[Evidence], bottleneck: str, part: str | None
) -> None:
    rungs = ladder(**rates)
    evidence = [replace(cold, storage=None, achieved=rate) for rate in rungs["cold"]]
    found = diagnose(rungs, {}, evidence, pinned)
    assert found.verdict.bottleneck == bottleneck
    if part is not None:
        assert max(PARTS, key=lambda name: found.split[name].value) == part
    assert sum(each.value for each in found.split.values()) == pytest.approx(found.stall.value, abs=0.02)
    assert f"{bottleneck.upper()}: " in diagnosis_text(found)


@given(st.lists(st.floats(1.0, 1e6), min_size=5, max_size=5))
def test_the_parts_of_a_stall_add_up(rates: list[float]) -> None:
    names = ("synthetic", "pinned", "cold", "fetch", "ceiling")
    rungs = {name: [rate] for name, rate in zip(names, rates, strict=True)}
    found = diagnose(rungs, {}, [replace(HALF_BUSY, storage=None)], IDLE[:1])
    total = 1 - rungs["cold"][0] / rungs["synthetic"][0]
    assert sum(part.value for part in found.split.values()) == pytest.approx(total, rel=1e-9, abs=1e-9)
    assert found.stall.value == pytest.approx(total, rel=1e-9, abs=1e-9)
    assert all(found.split[name].value >= 0 for name in PARTS if name != "overlap")


# -- climbing ------------------------------------------------------------------------------------------------------------------------------------------


class FakeBench:
    """Runs nothing: a summary whose rate is the rung's, and AU that the knob raises."""

    def __init__(self, make: Any, refused: str = "", empty: str = "") -> None:
        self.calls: list[tuple[str, int, Mapping[str, Any], bool]] = []
        self._loaded = make()
        self._refused = refused
        self._empty = empty

    def run(self, rung: str, repeat: int, settings: Mapping[str, Any], on_copy: bool = False) -> Ran:
        self.calls.append((rung, repeat, settings, on_copy))
        if rung == self._refused:
            raise UsageError("no room", "free some")
        au = 0.9 if "loader.num_workers" in settings else 0.5
        return Ran(self._loaded.run, {**self._loaded.summary, "samples_per_s": None if rung == self._empty else 100.0, "au_nominal": au})

    def raw(self, cache: str) -> float:
        self.calls.append((f"raw {cache}", 0, {}, False))
        return 1e8


ASKED = Asked(seconds=2.0, repeats=2, compute_s=0.2, cache="direct", pinned_loader="files")


def test_rungs_are_climbed_in_turn(report_make: Any) -> None:
    bench = FakeBench(report_make)
    climbed = climb(bench, ASKED)
    one = ["null", "synthetic", "pinned", "warm", "cold", "fetch", "raw direct", "raw warm"]
    assert [call[0] for call in bench.calls] == one * 2
    assert [call[0] for call in bench.calls if call[3]] == ["pinned", "pinned"]
    assert climbed.rungs["cold"] == [100.0, 100.0] and len(climbed.cold) == len(climbed.pinned) == 2
    assert climbed.rungs["ceiling"][0] == pytest.approx(1e8 / climbed.bytes_per_sample)


def test_each_rung_changes_what_it_says() -> None:
    settings = rung_settings(ASKED)
    assert settings["cold"]["run.duration_s"] == 5.0 and "run.compute_time_s" not in settings["cold"]  # 25 steps of 0.2 s
    assert all(
        settings[rung]["run.compute_time_s"] == 0.0 and settings[rung]["run.duration_s"] == 2.0 for rung in ("null", "pinned", "warm", "fetch")
    )
    assert settings["synthetic"]["loader.name"] == settings["null"]["loader.name"] == "null"
    assert (settings["pinned"]["loader.name"], settings["pinned"]["run.cache"]) == ("files", "as-is")
    assert settings["fetch"]["run.decode"] == "none"


def test_a_rung_that_cannot_be_done_is_left_out_and_the_job_cannot(report_make: Any) -> None:
    climbed = climb(FakeBench(report_make, refused="warm"), ASKED)
    assert climbed.absent == {"warm": "no room"} and "warm" not in climbed.rungs
    with pytest.raises(UsageError, match="no room"):
        climb(FakeBench(report_make, refused="cold"), ASKED)
    climbed = climb(FakeBench(report_make, empty="pinned"), ASKED)
    assert climbed.absent == {"pinned": "the rung pinned measured no step after its warm-up"} and not climbed.pinned
    with pytest.raises(RunInvalidError, match="rung cold measured no step"):
        climb(FakeBench(report_make, empty="cold"), ASKED)


def test_the_knob_is_turned_in_turns(report_make: Any) -> None:
    bench = FakeBench(report_make)
    verdict = verdict_of(replace(HALF_BUSY, storage=9999.0))
    trial = turn(bench, ASKED, verdict, 2)
    assert [call[0] for call in bench.calls] == ["before", "after", "after", "before"]
    assert trial is not None and (trial.before, trial.after, trial.gain) == ((0.5, 0.5), (0.9, 0.9), pytest.approx(0.4))
    assert turn(bench, ASKED, verdict_of(HALF_BUSY), 2) is None  # slow storage has no knob that we can turn
    assert turn(FakeBench(report_make, refused="after"), ASKED, verdict, 2) is None
    assert knob_setting(trial.settings) == "--num-workers 16 --prefetch-batches 4"


# -- what if -------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "au", "limited_by"),
    [
        (("accelerators=2",), 0.25, "storage"),
        (("storage=2x",), 1.0, "accelerator"),
        (("storage=1.5x",), 0.75, "storage"),
        (("workers=8",), 0.5, "storage"),
        (("accelerators=4x", "storage=4"), 0.5, "storage"),
    ],
)
def test_predictions(texts: tuple[str, ...], au: float, limited_by: str) -> None:
    evidence = replace(HALF_BUSY, storage=500.0, workers=600.0)
    found = predict(evidence, [parse_change(text, SETTING) for text in texts])
    assert found is not None
    assert (found.au, found.limited_by, found.unknown) == (pytest.approx(au, abs=0.01), limited_by, ())


def test_predictions_say_what_they_do_not_know() -> None:
    found = predict(replace(HALF_BUSY, storage=None, workers=520.0), [parse_change("accelerators=2", SETTING)])
    assert found is not None and found.unknown == ("storage",) and found.as_dict()["predicted"] is True
    assert predict(replace(HALF_BUSY, accelerator=None), []) is None


@pytest.mark.parametrize("text", ["cores=2", "accelerators", "accelerators=", "workers=-1", "storage=0x", "storage=fast", "workers=1e9"])
def test_a_bad_question_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--what-if"):
        parse_change(text, SETTING)


# -- on disk -------------------------------------------------------------------------------------------------------------------------------------------


def record(**more: Any) -> dict[str, Any]:
    rungs = ladder()
    cold = [replace(HALF_BUSY, storage=None, achieved=rate) for rate in rungs["cold"]]
    return {**measured("d", ["storagebench", "diagnose"], rungs, {"warm": "no"}, cold, IDLE), **more}


def test_a_saved_diagnosis_says_the_same_again(tmp_path: Path) -> None:
    trial = {"settings": {"run.cache": "warm"}, "before": [0.5], "after": [0.8]}
    save(tmp_path, record(trial=trial, what_if=["storage=2x"]))
    loaded = load(tmp_path)
    assert loaded is not None
    found, again = judged(record(trial=trial, what_if=["storage=2x"])), judged(loaded)
    assert asdict(found) == asdict(again) and json.dumps(found.as_dict()) == json.dumps(again.as_dict())
    text = diagnosis_text(again)
    assert "tried: --cache warm: AU 0.500 -> 0.800" in text and "storage=2x" in text and "not measured: no" not in text
    assert load(tmp_path / "nothing") is None


def test_an_invalid_job_makes_an_invalid_diagnosis(report_make: Any) -> None:
    climbed = climb(FakeBench(lambda: report_make(missing=2)), ASKED)
    assert climbed.invalid is not None and "4 planned samples never came" in climbed.invalid
    found = judged(record(invalid=climbed.invalid))
    assert diagnosis_text(found).startswith("INVALID: do not use this: 4 planned samples") and found.as_dict()["invalid"] == climbed.invalid
    assert climb(FakeBench(report_make), ASKED).invalid is None


@pytest.mark.parametrize("broken", [{"schema_version": 2}, {"cold": [{"speed": 1}]}, {"rungs": {}}, {"cold": []}])
def test_a_foreign_diagnosis_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(DatasetError, match="diagnosis"):
        judged(record(**broken))


def test_a_torn_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "diagnosis.json").write_text('{"schema_version": 1,')
    with pytest.raises(DatasetError, match="does not read"):
        load(tmp_path)
