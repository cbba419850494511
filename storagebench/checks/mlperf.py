"""The rule sets of MLPerf Storage, training: v1.0, v2.0 and v3.0, closed and open, as tables of named rules.

Passing the judged rules is not a submission: that needs the engine of the round. A rule that cannot be judged of a saved run stands in the table and
says why. What the editions fix is in `mlperf_tables`, the rules are in `mlperf_rules` (each run) and `mlperf_runs` (all runs together).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import get_args

from storagebench.checks import mlperf_rules as of_run
from storagebench.checks import mlperf_runs as of_runs
from storagebench.checks.mlperf_rules import Ground, each
from storagebench.checks.mlperf_tables import EDITIONS, Division, Edition
from storagebench.checks.not_yet import NOT_YET
from storagebench.checks.setrules import SetRule, no_errors, same_conditions
from storagebench.errors import UsageError, did_you_mean

PREFIX = "mlperf-storage-"
DIVISIONS: tuple[Division, ...] = get_args(Division)
_REF = "mlperf-storage.md section"
_NO_TEXT = "the text of v1.0 was not to be had (v2.0 asks for a warm-up run and 5 more, within 5 %, each with another seed)"


def set_name(edition: Edition, division: Division) -> str:
    return f"{PREFIX}{edition.name}-{division}"


def find_ground(name: str) -> Ground:
    """Edition and division of a rule set's name; without a division, closed. Raises UsageError for another name."""
    for edition in EDITIONS.values():
        for division in DIVISIONS:
            if name in (set_name(edition, division), *([PREFIX + edition.name] if division == "closed" else [])):
                return Ground(edition, division)
    known = [set_name(edition, division) for edition in EDITIONS.values() for division in DIVISIONS]
    raise UsageError(f"{name!r} is no edition of the rules of MLPerf Storage", did_you_mean(name, known))


def _rules(ground: Ground) -> Iterator[SetRule]:
    yield SetRule("no_errors", "no finding says that a number is false", no_errors)
    yield from _rules_of_each_run(ground)
    yield from _rules_of_the_runs(ground)
    yield SetRule("same_conditions", "nothing but the seed differs between the runs (R2 section 3, R3 2.1.9)", same_conditions)
    yield from _not_judged(ground)


def _rules_of_each_run(ground: Ground) -> Iterator[SetRule]:
    edition, is_open = ground.edition, ground.division == "open"
    size = "exactly the least size" if edition.exact_size else "at least the least size"
    yield SetRule("workload_values", f"the values of the workload, all its steps and epochs ({_REF} 4)", each(of_run.workload_values, ground))
    made = "the records of the workload, in any format" if is_open else "the closed format, samples per file and record length"
    yield SetRule("dataset_made", f"{made} ({_REF} 4)", each(of_run.dataset_made, ground))
    reader = "any data loader that reads and parses" if is_open else "the data loader of the workload's framework"
    yield SetRule("data_loader", f"{reader} ({_REF} 4)", each(of_run.data_loader, ground))
    yield SetRule("parameters", f"prefetch, O_DIRECT and sync within their bounds ({_REF} 4)", each(of_run.parameters, ground))
    yield SetRule("dataset_size", f"{size}: 5 x host memory or 500 steps, rounded up ({_REF} 2)", each(of_run.dataset_size, ground))
    emptied = "dropped before each epoch, as the engine does" if edition.flushes else "never filled on purpose"
    yield SetRule("cache_state", f"the page cache is {emptied} ({_REF} 3)", each(of_run.cache_state, ground))
    yield SetRule(
        "au_threshold",
        f"AU in the window of {edition.name} reaches the threshold ({_REF} 1{'; not of the warm-up run' if edition.with_warm_up else ''})",
        each(of_run.au_threshold, ground, partial(of_runs.counted_runs, edition=edition)),
    )
    yield SetRule("equal_hosts", f"as many accelerators on each host ({_REF} 3)", each(of_run.equal_hosts, ground))
    if edition.apart:
        yield SetRule("results_apart", f"results and data on different file systems ({_REF} 3; R3 3.4.2)", each(of_run.results_apart, ground))


def _rules_of_the_runs(ground: Ground) -> Iterator[SetRule]:
    edition = ground.edition
    runs = "not known" if edition.num_runs is None else f"{edition.num_runs} runs{', the first of them the warm-up' if edition.with_warm_up else ''}"
    yield _judged_if(edition.num_runs, "number_of_runs", f"number of runs: {runs} ({_REF} 3)", of_runs.number_of_runs(ground), _NO_TEXT)
    within = "" if edition.spread is None else f" within {edition.spread:.0%}"
    why = _NO_TEXT if edition.name == "v1.0" else "R3, as far as it was read, gives no bound"
    yield _judged_if(edition.spread, "spread", f"the runs replicate{within} ({_REF} 3)", of_runs.spread(ground), why)
    why = _NO_TEXT if edition.name == "v1.0" else "R3, as far as it was read, says nothing of seeds"
    yield _judged_if(edition.seeds_change, "seeds", f"another seed of the order in each run ({_REF} 3)", of_runs.seeds(ground), why)
    about = f"each gap between runs is shorter than a run ({_REF} 3; R2 6.8, R3 2.1.18)"
    yield _judged_if(edition.consecutive, "consecutive", about, of_runs.consecutive(ground), _NO_TEXT)


def _judged_if(fixed: object, name: str, about: str, check: of_run.Check, why: str) -> SetRule:
    """The rule, where the edition is known to have it."""
    return SetRule(name, about, None, why) if fixed is None else SetRule(name, about, check)


def _not_judged(ground: Ground) -> Iterator[SetRule]:
    edition = ground.edition
    if edition.num_runs is not None and not edition.with_warm_up:
        yield SetRule("warm_up_run", f"one run before the {edition.num_runs}, not counted ({_REF} 3)", None, "a run does not say what ran before it")
    if ground.division == "closed":
        yield SetRule("engine", f"the engine of the round, unchanged ({_REF} 4)", None, "storagebench is not that engine")
    else:
        yield SetRule("engine", f"the engine of the round, changed or not, started by its tool ({_REF} 4)", None, "storagebench is not that engine")
        yield SetRule("disclosure", f"what was changed is disclosed, its source under a licence to use ({_REF} 4; R2 11.2)", None, "no run says so")
    yield SetRule("data_seed", "data are generated with the seed of the round (R2 6.3)", None, "storagebench's generator makes other bytes")
    yield SetRule(
        "stable_storage", f"data are on stable storage before the first run ({_REF} 3)", None, "a run cannot see what its storage holds in memory"
    )
    yield SetRule("all_data_everywhere", f"all data are visible to every host ({_REF} 3)", None, "a run of one host shows one")
    about = f"a result of one host shows the largest number of accelerators that passes ({_REF} 3)"
    yield SetRule("most_accelerators", about, None, "these runs do not show that one accelerator more would fail")
    yield SetRule("no_hints_to_storage", f"the storage does not know the seed of a run ({_REF} 3)", None, "nothing of it is in a run")
    if edition.engine == "E2":
        yield SetRule("checkpoint", "unet3d writes a checkpoint after its last epoch (workloads.md section 1)", None, "storagebench writes none")
    if edition.name == "v3.0":
        about = f"environment variables of s3dlio are declared, else the run is open ({_REF} 4; R3 1.2)"
        yield SetRule("declared_environment", about, None, "storagebench does not read through s3dlio")
    about = f"folders, system description and logs as the round wants them ({_REF} 6)"
    yield SetRule("submission_layout", about, None, "`report --submission` lays out what there is, and says what it lacks")
    for other in NOT_YET:
        if edition.name in other.editions:
            yield SetRule(other.name, f"{other.rule} ({other.source})", None, f"storagebench does not run {other.name} yet")


MLPERF_SETS: Mapping[str, tuple[SetRule, ...]] = {
    set_name(edition, division): tuple(_rules(Ground(edition, division))) for edition in EDITIONS.values() for division in DIVISIONS
}
