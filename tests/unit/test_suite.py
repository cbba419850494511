"""A suite file: its mistakes told at once with file and line, its cells, the order of its rounds, and where a sweep goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storagebench.errors import DatasetError, InterruptedRunError, UsageError
from storagebench.experiments.journal import Journal, read_rows
from storagebench.experiments.suite import Suite, load_suite
from storagebench.experiments.sweep import Ended, Refused, drive, run_ids, standing, turns
from storagebench.experiments.units_of_suite import Job, Unit, units_of

MATRIX = """\
name: m
workload: quick
settings:
  run.compute_time_s: 5ms
stores:
  disk: {data_dir: '/data/{format}'}
axes:
  loaders: [direct, files]
  formats: [npz, jpeg]
  accelerators: [1, 2]
  settings:
    loader.prefetch_batches: [2, 4]
"""
JOBS = """\
name: j
workload: quick
settings: {run.compute_time_s: 5ms}
alone: true
jobs:
  train: {data_dir: /data/a, settings: {run.null_duration_s: 1s}}
  eval: {data_dir: /data/b}
  logs: {kind: writer, data_dir: /data/c, write_rate: 2MB}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "suite.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(UsageError) as raised:
        units_of(load_suite(write(folder, text)), lambda job: "")
    return raised.value.message.split("; ")


def test_every_unknown_key_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    text = MATRIX + "repeat: 3\n" + "seed: 1\nseed: 2\n"
    text = text.replace("loaders:", "loader:").replace("run.compute_time_s", "run.compute_tme_s").replace("prefetch_batches", "prefetch")
    text = text.replace("disk: {data_dir", "disk: {datadir")
    assert problems(tmp_path, text) == [
        "suite.yaml:4: unknown key 'run.compute_tme_s': did you mean 'compute_time_s'?",
        "suite.yaml:6: unknown key 'stores.disk.datadir': did you mean 'data_dir'?",
        "suite.yaml:8: unknown key 'axes.loader': did you mean 'loaders'?",
        "suite.yaml:12: unknown key 'loader.prefetch': did you mean 'prefetch_batches'?",
        "suite.yaml:13: unknown key 'repeat': did you mean 'repeats'?",
        "suite.yaml:15: key seed stands twice",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: m", "name: a/b", "suite.yaml:1: name is 'a/b': letters, digits, '.', '_' and '-' make one, 64 at most, since it names a folder"),
        ("accelerators: [1, 2]", "accelerators: [one]", "suite.yaml:10: axes.accelerators.0: Input should be a valid integer, unable to parse string as an integer (given: 'one')"),
        ("accelerators: [1, 2]", "accelerators: [0]", "suite.yaml:10: axes.accelerators has 0, below 1"),
        ("[direct, files]", "[direct, direct]", "suite.yaml:8: axes.loaders has a value twice"),
        ("[2, 4]", "[2, -4]", "suite.yaml:12: loader.prefetch_batches: Input should be greater than or equal to 1 (given: '-4')"),
        ("[2, 4]", "[]", "suite.yaml:12: loader.prefetch_batches has no values"),
        ("loader.prefetch_batches: [2, 4]", "loader.name: [files]", "suite.yaml:12: loader.name is the axis loaders: write axes.loaders"),
        ("loader.prefetch_batches: [2, 4]", "dataset.samples_per_shard: [1, 8]", "suite.yaml:12: dataset.samples_per_shard is made into a dataset: give a store with a data dir of its own for each value"),
        ("loader.prefetch_batches: [2, 4]", "run.compute_time_s: [1ms]", "suite.yaml:12: run.compute_time_s stands in settings too"),
        ("'/data/{format}'", "/data", "suite.yaml:6: stores.disk.data_dir has no '{format}', and 2 formats cannot share a data dir"),
        ("  disk: {data_dir: '/data/{format}'}", "  disk: {}", "suite.yaml:6: stores.disk has neither data_dir nor data_dirs"),
        ("  formats:", "  stores: [disc]\n  formats:", "suite.yaml:9: axes.stores names 'disc': did you mean 'disk'?"),
        ("run.compute_time_s: 5ms", "compute_time_s: 5ms", "suite.yaml:4: key 'compute_time_s' stands in section 'run': write run.compute_time_s"),
        ("run.compute_time_s: 5ms", "run: {compute_time_s: 5ms}", "suite.yaml:4: setting 'run' is no field of a section: write it as section.field, such as loader.num_workers"),
        ("run.compute_time_s: 5ms", "run.compute_time_s: soon", "suite.yaml:4: run.compute_time_s: duration 'soon' is not a number with one of the units s, ms, us, ns, m, min, h (given: 'soon')"),
        ("axes:", "jobs: {a: {data_dir: /x}}\naxes:", "suite.yaml:7: the suite has both axes and jobs, and needs one of them: axes make a matrix, jobs run at the same time"),
        ("workload: quick", "workload: quik", "unknown workload 'quik'"),
    ],
)  # fmt: skip
def test_mistakes_in_a_matrix(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert message in problems(tmp_path, MATRIX.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("data_dir: /data/b", "data_dir: /data/a", "suite.yaml:7: jobs train and eval read the same data dir with cache cold, and each would change the other's cache: give each a dataset of its own, or set run.cache: direct"),
        ("data_dir: /data/b", "data_dir: /data/b, write_rate: 1MB", "suite.yaml:7: jobs.eval.write_rate belongs to kind writer"),
        ("data_dir: /data/b", "settings: {}", "suite.yaml:7: jobs.eval.data_dir: Field required"),
        ("kind: writer", "kind: scribe", "suite.yaml:8: jobs.logs.kind: Input should be 'run' or 'writer' (given: 'scribe')"),
        ("  eval:", "  e val:", "suite.yaml:7: jobs has the name 'e val': letters, digits, '.', '_' and '-' make one, 64 at most"),
    ],
)  # fmt: skip
def test_mistakes_in_jobs(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert message in problems(tmp_path, JOBS.replace(old, new, 1))


def test_the_cells_of_a_matrix(tmp_path: Path) -> None:
    units = units_of(load_suite(write(tmp_path, MATRIX)), lambda job: "no" if job.labels["format"] == "jpeg" else "")
    assert (len(units), len({unit.name for unit in units})) == (2 * 2 * 2 * 2, 16)
    assert units[0].name == "001-direct-npz-disk-x1-prefetch_batches-2"
    assert Counter(unit.reason for unit in units) == {"no": 8, "": 8}
    job = units[-1].jobs[0]
    found = job.configured()
    assert (job.data_dir, found.workload.loader.name, found.workload.dataset.payload) == ("/data/jpeg", "files", "jpeg")
    assert (found.workload.run.num_accelerators, found.workload.loader.prefetch_batches, found.workload.run.compute_time_s) == (2, 4, 0.005)
    assert (found.provenance["loader.prefetch_batches"], found.provenance["run.compute_time_s"]) == ("suite.yaml:12", "suite.yaml:4")
    # Every loader is given the same workers, also one that would look for its own number.
    assert {unit.jobs[0].configured().provenance["loader.num_workers"] for unit in units} == {"equal budget of a suite"}


def test_jobs_at_the_same_time_and_alone(tmp_path: Path) -> None:
    units = units_of(load_suite(write(tmp_path, JOBS)), lambda job: "")
    assert [unit.name for unit in units] == ["together", "alone-train", "alone-eval"]
    assert ([job.name for job in units[0].jobs], [job.name for job in units[0].writers]) == (["train", "eval"], ["logs"])
    train, evaluate = (job.configured().workload for job in units[0].jobs)
    assert (train.run.null_duration_s, train.run.headroom_duration_s, evaluate.run.null_duration_s) == (1.0, 0.0, 0.0)
    assert units[0].writers[0].configured().workload.run.write_rate == 2_000_000
    assert run_ids(units[0], 2, 0) == ["together-train-r2", "together-eval-r2"]


@given(st.integers(1, 12), st.integers(1, 8), st.integers(0, 2**31))
def test_each_round_has_every_unit_once(num_units: int, repeats: int, seed: int) -> None:
    names = [f"u{index}" for index in range(num_units)]
    order = turns(names, repeats, seed)
    assert [turn.round for turn in order] == sorted(turn.round for turn in order)
    for number in range(1, repeats + 1):
        assert sorted(turn.unit for turn in order if turn.round == number) == sorted(names)
    assert order == turns(names, repeats, seed)


def test_the_suite_of_the_docs_has_every_key(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "suite.yaml").read_text()
    loaded = load_suite(write(tmp_path, text))
    assert len(units_of(loaded, lambda job: "")) == 3 * 2 * 1 * 2 * 2
    assert loaded.suite.model_fields_set == {*Suite.model_fields} - {"jobs", "alone"}
    matrix, jobs = text.index("stores:"), text.index("# Instead of stores and axes")
    lines = [line.removeprefix("# ") for line in text[jobs:].splitlines()[1:]]
    at_once = load_suite(write(tmp_path, text[:matrix] + "generate: true\n" + "\n".join(lines) + "\n"))
    assert [unit.name for unit in units_of(at_once, lambda job: "")] == ["together", "alone-train", "alone-eval"]


class FakePast:
    """Run ids that exist, and those of them that finished."""

    def __init__(self, existing: Sequence[str] = (), finished: Sequence[str] = ()) -> None:
        self.existing, self.done = {*existing, *finished}, set(finished)

    def exists(self, run_id: str) -> bool:
        return run_id in self.existing

    def finished(self, run_id: str) -> bool:
        return run_id in self.done


def unit(name: str, *jobs: str) -> Unit:
    return Unit(name, tuple(Job(job, "quick", (), "/data", {}, {}) for job in jobs or (name,)))


def test_an_interrupted_attempt_is_passed_over_and_a_finished_one_stays() -> None:
    assert standing(unit("a"), 1, FakePast()) == (["a-r1"], False)
    assert standing(unit("a"), 1, FakePast(["a-r1"])) == (["a-r1-again1"], False)
    assert standing(unit("a"), 1, FakePast(["a-r1", "a-r1-again1"])) == (["a-r1-again2"], False)
    assert standing(unit("a"), 1, FakePast(["a-r1"], ["a-r1-again1"])) == (["a-r1-again1"], True)
    both = unit("t", "x", "y")
    assert standing(both, 1, FakePast([], ["t-x-r1"])) == (["t-x-r1-again1", "t-y-r1-again1"], False)
    assert standing(both, 1, FakePast([], ["t-x-r1", "t-y-r1"])) == (["t-x-r1", "t-y-r1"], True)


def test_a_sweep_goes_on_where_it_stopped_and_a_refused_unit_is_asked_once() -> None:
    units = {name: unit(name) for name in ("a", "b", "c")}
    order = turns(list(units), 3, 5)
    past, made, notes = FakePast(), [], []

    def run_unit(one: Unit, round_: int, ids: Sequence[str]) -> Any:
        if len(made) == 4:
            raise InterruptedRunError("ended by SIGINT")
        made.append(ids[0])
        past.existing.add(ids[0])
        if one.name == "b":
            return Refused("does not fit", "use less", 2)
        past.done.add(ids[0])
        return [Ended(ids[0], 5 if ids[0] == "a-r2" else 0, "died" if ids[0] == "a-r2" else "")]

    with pytest.raises(InterruptedRunError):
        drive(units, order, past, run_unit, notes.append, lambda text: None)
    made_before, made[:] = list(made), ["x"] * 5
    past.existing.discard("b-r1")  # a refused unit leaves no folder
    drive(units, order, past, run_unit, notes.append, lambda text: None)
    every = [*made_before, *made[5:]]
    assert sorted(run_id for run_id in every if not run_id.startswith("b")) == [f"{name}-r{number}" for name in "ac" for number in (1, 2, 3)]
    assert sum(run_id.startswith("b") for run_id in every) == 2  # once a command
    assert [note for note in notes if note["kind"] == "ended" and note["exit_code"]] == [
        {"kind": "ended", "unit": "a", "round": 2, "run_id": "a-r2", "exit_code": 5, "message": "died"}
    ]


def test_a_row_that_a_kill_cut_off_is_left_out_and_cut_away(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    journal.write({"kind": "a", "n": 1})
    with pytest.raises(UsageError, match="being written by another process"):
        Journal(path)
    journal.close()
    with open(path, "ab") as file:
        file.write(b'{"kind":"b","n"')
    assert read_rows(path) == [{"kind": "a", "n": 1}]
    again = Journal(path)
    again.write({"kind": "c"})
    again.close()
    assert read_rows(path) == [{"kind": "a", "n": 1}, {"kind": "c"}]
    path.write_bytes(b"[1]\n")
    with pytest.raises(DatasetError, match=r"j\.jsonl:1 is no row"):
        read_rows(path)
