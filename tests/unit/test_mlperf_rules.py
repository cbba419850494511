"""The rule sets of MLPerf Storage: for each set runs that break no rule, and for every judged rule of every set runs that break just it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from storagebench import registry
from storagebench.checks.case import Case
from storagebench.checks.judge import attributed
from storagebench.checks.mlperf import MLPERF_SETS, find_ground
from storagebench.checks.mlperf_au import edition_figures
from storagebench.checks.not_yet import NOT_YET
from storagebench.checks.setrules import SetRule, judge_rules
from storagebench.errors import UsageError
from storagebench.host import facts
from storagebench.ranks import Ranks
from storagebench.traces import Steps, Trace

Runs = list[dict[str, Any]]
Edit = Callable[[Runs], Any]
Recast = Callable[[list[Case], "Traces"], list[Case]]
NUM_RUNS = {"v1.0": 5, "v2.0": 5, "v3.0": 6}
SECOND_NS = 10**9


class Traces(NamedTuple):
    """Made-up runs of unet3d on one accelerator: its name, a steady run, one some 6 % slower, one far under the threshold; and one on two."""

    accelerator: str
    steady: Any
    slower: Any
    starved: Any
    pair: Any


@pytest.fixture(scope="module")
def traces(report_make: Any) -> dict[str, Traces]:
    """By compute time: h100 for v1.0 and v2.0, b200 for v3.0. Their records are small; their facts are made those of the workload below."""

    def of(accelerator: str, compute_ms: float) -> Traces:
        def made(world_size: int = 1, **stalls: float) -> Any:
            return report_make(
                steps=500, epochs=5, world_size=world_size, batch_size=7, compute_ms=compute_ms, loader="files", format="npz", **stalls
            )

        unit = compute_ms / 100
        return Traces(
            accelerator,
            made(stall_ms=12 * unit, stalled=0.2),
            made(stall_ms=9 * unit, stalled=1.0),
            made(stall_ms=20 * unit, stalled=1.0),
            made(world_size=2, stall_ms=6 * unit, stalled=0.1),
        )

    h100 = of("h100", 323.0)
    return {"v1.0": h100, "v2.0": h100, "v3.0": of("b200", 162.0)}


def good_runs(edition: str, traces: Traces, count: int | None = None) -> Runs:
    """`run.json` of as many runs as a result has: they differ in id, seed and time, 10 s apart."""
    runs = []
    made = traces.steady
    for number in range(NUM_RUNS[edition] if count is None else count):
        run = copy.deepcopy(dict(made.run))
        config = run["config"]
        run["run_id"] = f"run-{number}"
        run["created"]["wall_ns"] += number * (length_ns(run, made.ranks) + 10 * SECOND_NS)
        config["name"] = "unet3d"
        config["dataset"].update(record_length_bytes=146_600_628, record_length_bytes_stdev=68_341_808)
        config["train"].update(au_threshold=0.9, epochs=5)
        config["run"].update(seed=number, accelerator=traces.accelerator)
        config["loader"].update(num_workers=4, prefetch_batches=2)
        run["dataset"].update(num_samples=3500, num_shards=3500, record_bytes=3500 * 146_000_000, stored_bytes=3500 * 146_001_000)
        run["hosts"][0]["results_filesystem"] = {"mount": "/", "type": "ext4", "device": "/dev/vda"}
        runs.append(run)
    return runs


def cases(runs: Runs, made: Any) -> list[Case]:
    """The runs judged, each on the same traces."""
    return [Case(run, attributed(run, made.ranks, made.hosts), made.ranks, made.hosts) for run in runs]


def failed(rules: Sequence[SetRule], given: Sequence[Case]) -> set[str]:
    return {verdict.rule for verdict in judge_rules(rules, given) if verdict.status == "failed"}


def each(edit: Callable[[dict[str, Any]], Any]) -> Edit:
    def apply(runs: Runs) -> None:
        for run in runs:
            edit(run)

    return apply


def config(section: str, **fields: Any) -> Edit:
    return each(lambda run: run["config"][section].update(fields))


def dataset(**fields: Any) -> Edit:
    return each(lambda run: run["dataset"].update(fields))


def both(*edits: Edit) -> Edit:
    def apply(runs: Runs) -> None:
        for edit in edits:
            edit(runs)

    return apply


def summary(**fields: Any) -> Recast:
    return lambda given, traces: [replace(case, summary={**case.summary, **fields}) for case in given]


def on(made: Callable[[Traces], Any], which: slice) -> Recast:
    """These runs on other traces."""

    def recast(given: list[Case], traces: Traces) -> list[Case]:
        changed = list(given)
        changed[which] = cases([copy.deepcopy(dict(case.run)) for case in given[which]], made(traces))
        return one_after_another(changed)

    return recast


def one_after_another(given: list[Case]) -> list[Case]:
    """The runs anew on the clock, 10 s apart: those on other traces take another time."""
    now_ns = given[0].run["created"]["wall_ns"]
    for case in given:
        case.run["created"]["wall_ns"] = now_ns
        now_ns += length_ns(case.run, case.ranks) + 10 * SECOND_NS
    return given


def length_ns(run: Mapping[str, Any], ranks: Ranks) -> int:
    return max(rank.last_ns or 0 for rank in ranks) - int(run["command_start_ns"])


def shifted(which: int, seconds: float) -> Edit:
    def edit(runs: Runs) -> None:
        for run in runs[which:]:
            run["created"]["wall_ns"] += round(seconds * SECOND_NS)

    return edit


def with_writers(given: Sequence[Case], traces: Traces) -> list[Case]:
    """Two writers that wrote to the end."""
    ended = Trace({}, Steps.of([]), ({"kind": "end"},), False)
    return [replace(case, writers=(ended, ended)) for case in given]


@dataclass(frozen=True)
class Failing:
    """Runs that break one rule: `edit` changes what `run.json` says, `recast` the judged runs. `sets`: a part of the names of the sets that it is for."""

    rule: str
    about: str
    edit: Edit = lambda runs: None
    recast: Recast = lambda given, traces: given
    sets: tuple[str, ...] = ("v1.0", "v2.0", "v3.0")


BOTH = ("v2.0", "v3.0")
FAILING = (
    Failing("no_errors", "on tmpfs", each(lambda run: run["hosts"][0]["data_filesystem"].update(type="tmpfs"))),
    Failing("workload_values", "an accelerator of no edition", config("run", accelerator="v100")),
    Failing("workload_values", "another compute time", each(lambda run: run["plan"].update(compute_time_s=run["plan"]["compute_time_s"] - 1e-4))),
    Failing("workload_values", "another batch size", config("train", batch_size=8)),
    Failing("workload_values", "fewer epochs", config("train", epochs=4)),
    Failing("workload_values", "another threshold", config("train", au_threshold=0.89)),
    Failing("workload_values", "no shuffle", config("loader", shuffle=False)),
    Failing("workload_values", "shorter records", config("dataset", record_length_bytes=146_600_000)),
    Failing("workload_values", "equal records", config("dataset", record_length_bytes_stdev=0)),
    Failing("workload_values", "a bounded run", config("run", max_steps=2500)),
    Failing("workload_values", "writers beside the readers", config("run", writers=2), with_writers),
    Failing("dataset_made", "another format", dataset(format="npy"), sets=("closed",)),
    Failing("dataset_made", "two samples a file", dataset(num_shards=1750), sets=("closed",)),
    Failing("dataset_made", "shorter records than asked for", dataset(record_bytes=3500 * 139_000_000)),
    Failing("dataset_made", "zeros", dataset(origin={"compressibility": 0.5})),
    Failing("data_loader", "another loader", config("loader", name="direct"), sets=("closed",)),
    Failing("data_loader", "a loader that is not here", config("loader", name="gone"), sets=("closed",)),
    Failing("data_loader", "the null loader", recast=summary(loader="null")),
    Failing("data_loader", "not parsed", recast=summary(decode="touch", decode_asked="touch")),
    Failing("parameters", "a deep queue", config("loader", prefetch_batches=5)),
    Failing("parameters", "a deep queue of one worker", config("loader", num_workers=1, prefetch_batches=3)),
    Failing(
        "parameters",
        "two accelerators, no barrier",
        both(
            config("run", sync="none"),
            dataset(num_samples=7000, num_shards=7000, record_bytes=7000 * 146_000_000),
            each(lambda run: run["plan"].update(world_size=2)),
        ),
        on(lambda traces: traces.pair, slice(None)),
    ),
    Failing("dataset_size", "under 500 steps", dataset(num_samples=3499, num_shards=3499)),
    Failing("dataset_size", "under 5 x memory", each(lambda run: run["hosts"][0].update(memory_bytes=3500 * 146_600_628 // 5 + 30_000_000))),
    Failing("dataset_size", "under 5 x the memory of two hosts", each(lambda run: run["hosts"].append({**run["hosts"][0], "host": "b"}))),
    Failing("dataset_size", "a file more than datasize gives", dataset(num_samples=3501, num_shards=3501), sets=("v3.0",)),
    Failing("cache_state", "filled before each epoch", config("run", cache="warm"), summary(cached_fraction_served=1.0)),
    Failing("cache_state", "left as it is", config("run", cache="as-is"), sets=("v3.0",)),
    Failing("au_threshold", "starved", recast=on(lambda traces: traces.starved, slice(None))),
    Failing("au_threshold", "one starved run", recast=on(lambda traces: traces.starved, slice(2, 3)), sets=("v1.0", "v3.0")),
    Failing("equal_hosts", "one host with two", each(lambda run: run["members"].append({**run["members"][0], "member": 1, "host": "b", "ranks": 2}))),
    Failing(
        "results_apart",
        "on one mount",
        each(lambda run: run["hosts"][0].update(results_filesystem=run["hosts"][0]["data_filesystem"])),
        sets=("v3.0",),
    ),
    Failing(
        "results_apart", "one device mounted twice", each(lambda run: run["hosts"][0]["results_filesystem"].update(device="/dev/vdb")), sets=("v3.0",)
    ),
    Failing("results_apart", "not recorded", each(lambda run: run["hosts"][0].pop("results_filesystem")), sets=("v3.0",)),
    Failing("number_of_runs", "a run is left out", lambda runs: runs.pop(), sets=BOTH),
    Failing("spread", "a slow run", recast=on(lambda traces: traces.slower, slice(4, 5)), sets=("v2.0",)),
    Failing("seeds", "the same seed twice", lambda runs: runs[4]["config"]["run"].update(seed=1), sets=("v2.0",)),
    Failing("consecutive", "a long gap", shifted(3, 1e5), sets=BOTH),
    Failing("consecutive", "two at once", shifted(3, -60), sets=BOTH),
    Failing("same_conditions", "another dataset", lambda runs: runs[2]["dataset"].update(digest="sha256:other")),
    Failing("same_conditions", "other workers", lambda runs: runs[2]["config"]["loader"].update(num_workers=5)),
)


def applies(failing: Failing, name: str) -> bool:
    return any(part in name for part in failing.sets)


PAIRS = [(name, failing) for name in MLPERF_SETS for failing in FAILING if applies(failing, name)]


def edition_of(name: str) -> str:
    return find_ground(name).edition.name


@pytest.mark.parametrize("name", MLPERF_SETS)
def test_good_runs_break_no_rule_and_the_others_say_why_they_are_not_judged(name: str, traces: dict[str, Traces]) -> None:
    made = traces[edition_of(name)]
    verdicts = judge_rules(MLPERF_SETS[name], cases(good_runs(edition_of(name), made), made.steady))
    assert [(verdict.rule, verdict.failures) for verdict in verdicts if verdict.status == "failed"] == []
    unjudged = [verdict for verdict in verdicts if verdict.status == "not_judged"]
    assert {verdict.rule for verdict in unjudged} == {rule.name for rule in MLPERF_SETS[name] if rule.check is None}
    assert all(verdict.why for verdict in unjudged)


@pytest.mark.parametrize(("name", "failing"), PAIRS, ids=[f"{name.removeprefix('mlperf-storage-')}-{f.rule}-{f.about}" for name, f in PAIRS])
def test_a_broken_rule_fails_alone(name: str, failing: Failing, traces: dict[str, Traces]) -> None:
    made, rules = traces[edition_of(name)], MLPERF_SETS[name]
    runs = good_runs(edition_of(name), made)
    failing.edit(runs)
    given = failing.recast(cases(runs, made.steady), made)
    assert failed(rules, given) == {failing.rule}
    mutated = [replace(row, check=always_passes) if row.name == failing.rule else row for row in rules]
    assert failed(mutated, given) == set()


def always_passes(given: Sequence[Case]) -> Iterator[Any]:
    return iter(())


@pytest.mark.parametrize("name", MLPERF_SETS)
def test_every_judged_rule_has_runs_that_break_it(name: str) -> None:
    rules = [rule.name for rule in MLPERF_SETS[name]]
    assert len(rules) == len(set(rules))
    judged = {rule.name for rule in MLPERF_SETS[name] if rule.check is not None}
    assert judged == {failing.rule for failing in FAILING if applies(failing, name)}


def test_what_is_not_run_here_is_not_judged_in_the_editions_that_have_it() -> None:
    for name, rules in MLPERF_SETS.items():
        unjudged = {rule.name for rule in rules if rule.check is None}
        assert {other.name for other in NOT_YET if edition_of(name) in other.editions} == {other.name for other in NOT_YET} & unjudged
    assert {"number_of_runs", "spread", "seeds"} <= {rule.name for rule in MLPERF_SETS["mlperf-storage-v1.0-closed"] if rule.check is None}


def test_a_name_without_division_means_closed_and_another_is_refused() -> None:
    assert find_ground("mlperf-storage-v2.0") == find_ground("mlperf-storage-v2.0-closed")
    assert find_ground("mlperf-storage-v3.0-open").division == "open"
    with pytest.raises(UsageError) as caught:
        find_ground("mlperf-storage-v2.0-opn")
    assert caught.value.hint == "did you mean 'mlperf-storage-v2.0-open'?"


# -- what the editions and divisions differ in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edition", NUM_RUNS)
def test_open_stores_the_records_otherwise_and_reads_them_with_another_loader(edition: str, traces: dict[str, Traces]) -> None:
    runs = good_runs(edition, traces[edition])
    dataset(format="webdataset", num_shards=700)(runs)
    config("loader", name="direct")(runs)
    given = cases(runs, traces[edition].steady)
    assert failed(MLPERF_SETS[f"mlperf-storage-{edition}-open"], given) == set()
    assert failed(MLPERF_SETS[f"mlperf-storage-{edition}-closed"], given) == {"dataset_made", "data_loader"}


def test_the_warm_up_run_of_v3_may_be_slow_and_is_the_first_by_time(traces: dict[str, Traces]) -> None:
    made = traces["v3.0"]
    given = on(lambda traces: traces.starved, slice(0, 1))(cases(good_runs("v3.0", made), made.steady), made)
    rules = MLPERF_SETS["mlperf-storage-v3.0-closed"]
    assert failed(rules, given[::-1]) == set()
    assert failed(rules, one_after_another([*given[1:], given[0]])) == {"au_threshold"}


def test_an_unknown_accelerator_does_not_excuse_a_small_dataset(traces: dict[str, Traces]) -> None:
    runs = good_runs("v2.0", traces["v2.0"])
    config("run", accelerator="v100")(runs)
    dataset(num_samples=3499, num_shards=3499)(runs)
    assert failed(MLPERF_SETS["mlperf-storage-v2.0-closed"], cases(runs, traces["v2.0"].steady)) == {"workload_values", "dataset_size"}


def test_a_run_records_where_its_results_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a folder that does not exist yet, and for a path from where one is."""
    monkeypatch.chdir(tmp_path)
    found = facts(None, Path("results/run"))
    assert found["data_filesystem"] is None
    assert found["results_filesystem"] == facts(tmp_path)["data_filesystem"] is not None


def test_objects_lie_on_no_file_system(traces: dict[str, Traces]) -> None:
    runs = good_runs("v3.0", traces["v3.0"])
    each(lambda run: run["store"].update(kind="s3"))(runs)
    each(lambda run: run["hosts"][0].update(data_filesystem=None))(runs)
    assert "results_apart" not in failed(MLPERF_SETS["mlperf-storage-v3.0-closed"], cases(runs, traces["v3.0"].steady))


def of_resnet50(traces: dict[str, Traces], loader: str) -> list[Case]:
    runs = good_runs("v2.0", traces["v2.0"])
    for run in runs:
        run["config"]["name"] = "resnet50"
        run["config"]["loader"]["name"] = loader
        run["dataset"].update(format="tfrecord")
    return cases(runs, traces["v2.0"].steady)


def test_tensorflow_reads_the_tfrecords_of_closed_where_the_registry_has_it(traces: dict[str, Traces], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name, row in registry.LOADERS.items() if row.needs == ("tensorflow",)]:
        monkeypatch.delitem(registry.LOADERS, name)
    rules = [rule for rule in MLPERF_SETS["mlperf-storage-v2.0-closed"] if rule.name in ("data_loader", "parameters")]
    verdict = judge_rules(rules, of_resnet50(traces, "files"))[0]
    assert verdict.failures[0].message == "run run-0: loader is files, and closed reads tfrecord with TensorFlow"
    assert verdict.failures[0].hint == "no loader here reads tfrecord with it: judge the run as open"
    row = replace(registry.LOADERS["files"], needs=("tensorflow",), formats=("tfrecord",))
    monkeypatch.setitem(registry.LOADERS, "tf", row)
    assert failed(rules, of_resnet50(traces, "tf")) == set()
    assert judge_rules(rules, of_resnet50(traces, "files"))[0].failures[0].hint == "use --loader tf"
    deep = of_resnet50(traces, "tf")
    deep[0].run["config"]["loader"]["prefetch_batches"] = 3
    assert failed(rules, deep) == {"parameters"}


def test_odirect_is_for_unet3d_only(traces: dict[str, Traces]) -> None:
    runs = good_runs("v2.0", traces["v2.0"])
    config("run", cache="direct")(runs)
    assert failed(MLPERF_SETS["mlperf-storage-v2.0-closed"], cases(runs, traces["v2.0"].steady)) == set()
    each(lambda run: run["config"].update(name="cosmoflow"))(runs)
    assert "parameters" in failed(MLPERF_SETS["mlperf-storage-v2.0-closed"], cases(runs, traces["v2.0"].steady))


def test_a_workload_that_the_edition_does_not_have_passes_nothing_of_it(traces: dict[str, Traces]) -> None:
    runs = good_runs("v3.0", traces["v3.0"])
    each(lambda run: run["config"].update(name="resnet50"))(runs)
    of_workload = {"workload_values", "dataset_made", "data_loader", "parameters", "dataset_size", "cache_state", "au_threshold", "equal_hosts"}
    assert failed(MLPERF_SETS["mlperf-storage-v3.0-open"], cases(runs, traces["v3.0"].steady)) == of_workload | {"results_apart"}


def test_one_run_is_no_result(traces: dict[str, Traces]) -> None:
    one = cases(good_runs("v2.0", traces["v2.0"], 1), traces["v2.0"].steady)
    assert failed(MLPERF_SETS["mlperf-storage-v2.0-closed"], one) == {"number_of_runs", "spread", "seeds"}
    assert failed(MLPERF_SETS["mlperf-storage-v3.0-closed"], cases(good_runs("v3.0", traces["v3.0"], 1), traces["v3.0"].steady)) == {"number_of_runs"}


# -- the windows -----------------------------------------------------------------------------------------------------------------------------------


def as_case(loaded: Any) -> Case:
    return Case(loaded.run, loaded.summary, loaded.ranks, loaded.hosts)


def test_au_and_rate_in_the_window_of_each_engine(report_make: Any) -> None:
    """10 steps of 100 ms an epoch, each 25 ms late and 0.02 ms of sync: the window begins with the first step's sync and has 9 more steps, 9 x 125.02 +
    25.02 = 1150.2 ms. E2 takes 2 steps of 16 samples off, E3 counts the 9."""
    loaded = report_make(steps=10, epochs=2, world_size=2, compute_ms=100.0, stall_ms=0.0, stalled=0.0, host_ms=25.0)
    given = as_case(loaded)
    e2, e3 = edition_figures(given, "E2"), edition_figures(given, "E3")
    assert e2 is not None and e3 is not None
    assert e2.nominal == e2.measured == e3.nominal == e3.measured == pytest.approx(9 * 100 / 1150.2, rel=1e-12)
    assert e2.samples_per_s == pytest.approx(2 * 8 * 16 / 1.1502, rel=1e-12)
    assert e3.samples_per_s == pytest.approx(2 * 9 * 16 / 1.1502, rel=1e-12)
    trace = loaded.ranks.trace(0)
    assert edition_figures(replace(given, ranks=Ranks(loaded.run, [trace._replace(steps=trace.steps[:1])])), "E3") is None


def test_the_wait_of_the_first_step_is_in_neither_window(report_make: Any) -> None:
    """Both ranks' first step waits as all others do; only the waits of the 9 later steps count, and the mean of the epochs is plain."""
    loaded = report_make(steps=10, epochs=1, world_size=1, compute_ms=100.0, stall_ms=30.0, stalled=1.0)
    steps = loaded.ranks.trace(0).steps
    later_ns = sum(int(steps.start_ns[index]) - int(steps.release_ns[index - 1]) for index in range(-9, 0))
    figures = edition_figures(as_case(loaded), "E3")
    assert figures is not None
    assert figures.nominal == pytest.approx(900e6 / (900e6 + later_ns + 10 * 20_000), rel=1e-12)
