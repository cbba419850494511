"""What a laid-out submission lacks, line by line, and the page that says what the folder is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from storagebench.checks.case import Case
from storagebench.checks.mlperf import set_name
from storagebench.checks.mlperf_rules import Ground
from storagebench.checks.setrules import Verdict
from storagebench.report.wording import printable

# In the folder of each run (R2 11.3.1, R3 2.1.19), beside what storagebench gives under names of its own.
_ENGINE_FILES = (
    ("training_run.stdout.log, training_run.stderr.log", "what the engine printed"),
    ("dlio.log", "the engine's log"),
    ("dlio_config/config.yaml, hydra.yaml, overrides.yaml", "the engine's configuration; storagebench's is in storagebench/run.json"),
    ("*_output.json", "the engine's times of each step; storagebench's are in storagebench/trace/"),
    ("*_per_epoch_stats.json, *summary.json", "as the engine writes them; storagebench_* are the same figures out of another engine"),
)
_V3_RUN_FILES = (
    ("mlpstorage.log", "the log of the round's tool"),
    ("provenance.json, .mlps-code-image", "stamps of the round's tool and a pointer to its code image"),
)


def missing_text(ground: Ground, root: str, system: str, org_given: bool, cases: Sequence[Case], verdicts: Sequence[Verdict]) -> str:
    """One line for each thing that is lacking: where it belongs, and why it is not there."""
    name = set_name(ground.edition, ground.division)
    lines = [f"What this folder lacks of a submission by the rules {name}. It is no submission as it is.", ""]
    lines += _of_the_package(ground, root, system, org_given)
    lines += [f"{root}/results/{system}/.../run/*/{file}: {why}" for file, why in _run_files(ground)]
    lines += _of_the_making(ground, root, system)
    lines += _of_the_runs(ground, cases)
    lines += ["", "Rules that these runs break, and rules that nobody can judge of saved runs (`storagebench check --rules`):"]
    lines += _of_the_rules(verdicts)
    return "\n".join(lines) + "\n"


def _run_files(ground: Ground) -> tuple[tuple[str, str], ...]:
    return (*_ENGINE_FILES, *(_V3_RUN_FILES if ground.edition.name == "v3.0" else ()))


def _of_the_package(ground: Ground, root: str, system: str, org_given: bool) -> Iterator[str]:
    suffix = "json" if ground.edition.name == "v1.0" else "yaml"
    if not org_given:
        yield f"{root}: no organisation was given; name it with --org"
    if ground.edition.name == "v3.0":
        yield "code-images/code-HASH/: the source of the round's tool; storagebench is another program"
        yield f"{root}/submission.yaml: the manifest that the round's tool writes"
    else:
        yield f"{root}/code/: the source of the round's benchmark; storagebench is another program"
    if ground.edition.name == "v1.0":
        yield f"{root}/results/{system}/mlperf_storage_report.json: the report of the round's tool"
    if ground.division == "open":
        yield f"{root}/code/ or code-images/: the source of what was changed, under a licence that lets MLCommons use it"
    yield f"{root}/systems/{system}.pdf: the description for readers, with diagram, power and rack units"
    yield f"{root}/systems/{system}.{suffix}: every field that says TODO; its schema is the round's, which was not at hand"
    yield "README.md, MISSING.txt, SHA256SUMS: to be taken out; a submission has nothing but its division's folder and the code beside it"


def _of_the_making(ground: Ground, root: str, system: str) -> Iterator[str]:
    if ground.edition.name == "v3.0":
        yield f"{root}/results/{system}/training/*/datasize/*_metadata.json: the record of the tool's datasize; storagebench_datasize.json is our own"
        yield f"{root}/results/{system}/training/*/run/results.json: the tool's; storagebench_results.json is our own"
        yield f"{root}/results/{system}/training/*/datagen/TIMESTAMP/: logs of the tool's datagen; storagebench_dataset.json says how the data were made"
    else:
        yield f"{root}/results/{system}/.../datagen/: logs of the generator; storagebench_dataset.json says how the data were made"


def _of_the_runs(ground: Ground, cases: Sequence[Case]) -> Iterator[str]:
    edition, given = ground.edition, f"{len(cases)} run{'s' if len(cases) > 1 else ''} given"
    if edition.num_runs is not None and len(cases) != edition.num_runs:
        yield f"runs: {given}, and a result is {edition.num_runs}{', the first of them the warm-up run' if edition.with_warm_up else ''}"
    if edition.num_runs is not None and not edition.with_warm_up:
        yield f"the warm-up run before the {edition.num_runs}: a run does not say what ran before it"
    yield "time zone: the names of the runs' folders are in UTC, and the rules want the local time of the test"
    if edition.engine == "E2":
        yield "checkpoint: unet3d writes one after its last epoch, and storagebench does not"


def _of_the_rules(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for verdict in verdicts:
        for failure in verdict.failures:
            yield f"broken {verdict.rule}: {printable(failure.message)}"
    for verdict in verdicts:
        if verdict.status == "not_judged":
            yield f"not judged {verdict.rule}: {verdict.why}"


def readme_text(ground: Ground, org: str, system: str, num_runs: int) -> str:
    """What this folder is."""
    return f"""# Runs of storagebench in the layout of MLPerf Storage {ground.edition.name}, {ground.division}

Made by `storagebench report --submission` out of {num_runs} saved run{"s" if num_runs > 1 else ""} of {system}, for {org}.
**This is no submission to MLPerf Storage and its figures are no MLPerf results**: the runs were not made by the engine of the round.
`MISSING.txt` says line by line what the rules want and this folder does not have.

- `storagebench_*.json`: figures out of our own traces, in the window of the edition, under the engine's names where it has them
- `.../run/TIMESTAMP/storagebench/`: the run folder as it was saved (`storagebench report` and `check` read it)
- `systems/`: the hosts as the runs saw them; `TODO` where only the owner of the system knows
- `SHA256SUMS`: of every other file here (`sha256sum -c SHA256SUMS`)

The run folders name hosts, paths and the command line: look through them before you hand them on.
"""
