"""Drives a search: asks the policy, makes the run that it wants through what it is handed, writes down what came of it, until there is an answer.

What makes a run is one function: `run_one(accelerators, run_id)` returns the summary of that run, also of one that failed; it raises UsageError where so
many accelerators do not fit, before anything was run. On one host or on several, it is all that differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from storagebench.errors import EXIT_RANK, UsageError
from storagebench.experiments.search import Answer, Ask, Rules, Trial, next_step, num_runs

Summary = Mapping[str, Any]
ABOUT: Final = {"bracket": "looking", "confirm": "confirming"}


class Log(Protocol):
    """Where a search is written down as it goes; `experiments.searchstate` has it on disk."""

    @property
    def history(self) -> Sequence[Trial]: ...
    def begin(self, ask: Ask) -> str:
        """A run is about to begin; its run id."""

    def refuse(self, run_id: str, why: str) -> None:
        """It was refused."""

    def end(self, run_id: str, trial: Trial) -> None:
        """It was made, and this is what it says."""


def search(rules: Rules, log: Log, run_one: Callable[[int, str], Summary], say: Callable[[str], None] = lambda _text: None) -> Answer:
    """The answer. Goes on where the log's history ends. Raises UsageError where not even one accelerator can be tried, and what `run_one` raises else."""
    while isinstance(step := next_step(rules, log.history), Ask):
        run_id = log.begin(step)
        say(f"run {num_runs(log.history) + 1}: {plural(step.accelerators)}, {ABOUT[step.purpose]}")
        try:
            summary = run_one(step.accelerators, run_id)
        except UsageError as error:
            log.refuse(run_id, error.message)
            if step.accelerators == 1:
                raise  # it is the request that cannot be met, not the number
            say(f"{plural(step.accelerators)} cannot be tried: {error.message}")
            continue
        trial = trial_of(summary, step, rules.threshold)
        log.end(run_id, trial)
        said = f"AU {trial.au:.3f}, {trial.outcome} {rules.threshold:g}" if trial.au is not None else f"cannot be used: {trial.why}"
        say(f"{plural(step.accelerators)}: {said}")
    return step


def trial_of(summary: Summary, ask: Ask, threshold: float) -> Trial:
    """What a run says. One that is incomplete or invalid, or has no AU, says nothing."""
    why = _why_unusable(summary)
    if why:
        code = EXIT_RANK if summary["exit_code"] is None else int(summary["exit_code"])
        return Trial(ask.accelerators, ask.purpose, "unusable", why=why, exit_code=code)
    au = float(summary["au_nominal"])
    return Trial(ask.accelerators, ask.purpose, "met" if au >= threshold else "missed", au)


def _why_unusable(summary: Summary) -> str:
    if summary["status"] != "complete":
        return f"run {summary['run_id']} is {summary['status']}: {summary['failure'] or 'nothing says why'}"
    errors = [finding["message"] for finding in summary["findings"] if finding["severity"] == "error"]
    if errors or not summary["valid"]:
        return f"run {summary['run_id']} is invalid: {errors[0] if errors else 'see its findings'}"
    return "" if summary["au_nominal"] is not None else f"run {summary['run_id']} measured no step after its warm-up, so that it has no AU"


def plural(accelerators: int) -> str:
    return f"{accelerators} accelerator{'' if accelerators == 1 else 's'}"
