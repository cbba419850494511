"""Rule sets for `check --rules`: tables of named rules over one or several runs. Here warnings and a missed AU become failures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from storagebench.checks.case import WARNING, Case, Found
from storagebench.checks.mlperf import MLPERF_SETS, find_ground, set_name
from storagebench.checks.mlperf_au import EditionFigures, edition_figures
from storagebench.checks.mlperf_tables import EDITIONS
from storagebench.checks.setrules import SetRule, no_errors, of_severity, same_conditions
from storagebench.errors import UsageError, did_you_mean


def no_warnings(cases: Sequence[Case]) -> Iterator[Found]:
    yield from of_severity(cases, WARNING)


def au_reached(cases: Sequence[Case]) -> Iterator[Found]:
    for case in cases:
        au, threshold = case.summary["au_nominal"], case.summary["au_threshold"]
        if au is None:
            yield Found(
                f"run {case.run['run_id']} has no AU, and the threshold is {threshold}", "give --accelerator or --compute-time, and run it again"
            )
        elif au < threshold:
            yield Found(
                f"run {case.run['run_id']} has AU {au:.4f}, under the threshold of {threshold}",
                "use fewer accelerators, or see in the report what the rest of the time went to",
            )


DEFAULT: tuple[SetRule, ...] = (
    SetRule("no_errors", "no finding says that a number is false", no_errors),
    SetRule("no_warnings", "no finding says that a number is weak", no_warnings),
    SetRule("au_reached", "each run reaches the AU threshold of its workload", au_reached),
    SetRule("same_conditions", "all runs are repeats of one measurement", same_conditions),
)

RULE_SETS: Mapping[str, tuple[SetRule, ...]] = {"default": DEFAULT, **MLPERF_SETS}


def full_name(name: str) -> str:
    """The name of the rule set that is meant: one of MLPerf Storage without its division means closed."""
    if name in {set_name(edition, "closed").removesuffix("-closed") for edition in EDITIONS.values()}:
        return set_name(find_ground(name).edition, "closed")
    return name


def find_rule_set(name: str) -> tuple[SetRule, ...]:
    """Raises UsageError for a name that no rule set has."""
    known = full_name(name)
    if known not in RULE_SETS:
        raise UsageError(f"unknown rule set {name!r}", did_you_mean(name, list(RULE_SETS)))
    return RULE_SETS[known]


def figures_of_rules(name: str, cases: Sequence[Case]) -> dict[str, EditionFigures | None] | None:
    """AU and rate of each run, by its id, in the window of these rules; None where the rules have no window of their own."""
    if name not in MLPERF_SETS:
        return None
    engine = find_ground(name).edition.engine
    return {str(case.run["run_id"]): edition_figures(case, engine) for case in cases}
