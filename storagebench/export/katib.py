"""Katib: an experiment that tunes the loader's settings for AU, one trial after another, since trials share the storage."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from storagebench.errors import UsageError
from storagebench.export.asked import Asked
from storagebench.export.jobs import bare_job
from storagebench.export.place import Place
from storagebench.export.pod import CONTAINER, RESULTS_PATH, WORKLOAD_PATH, Document, metadata, workload_config

# The collector writes the command into `sh -c "..."`, where words stand as they are.
_PLAIN_WORD = re.compile(r"^[A-Za-z0-9_@%+=:,./-]+$")
_MAX_TRIALS = 30
_MAX_FAILED_TRIALS = 3


@dataclass(frozen=True)
class Parameter:
    """One setting to tune: the option of `run`, its name in the search, and its space (whole numbers, or some of them)."""

    option: str
    name: str
    about: str
    space: tuple[int, int] | tuple[str, ...]

    def spec(self) -> Document:
        if isinstance(self.space[0], int):
            return {"name": self.name, "parameterType": "int", "feasibleSpace": {"min": str(self.space[0]), "max": str(self.space[1])}}
        return {"name": self.name, "parameterType": "discrete", "feasibleSpace": {"list": [str(value) for value in self.space]}}


def parameters(loader: str) -> list[Parameter]:
    """What is tuned: workers and prefetch, and for the loader that has reads in flight of its own, how many."""
    found = [
        Parameter("--num-workers", "num-workers", "workers of one accelerator", (1, 16)),
        Parameter("--prefetch-batches", "prefetch-batches", "batches ready or in flight", (1, 8)),
    ]
    if loader == "direct":
        found.append(Parameter("--io-depth", "io-depth", "reads in flight of one worker", ("1", "4", "16", "64")))
    return found


def _trial_command(asked: Asked, place: Place, tuned: list[Parameter]) -> list[str]:
    """`storagebench run` with placeholders for what is tuned, told last so that they win; prints metric lines and nothing else."""
    words = asked.run_words(WORKLOAD_PATH, place.accelerators_per_host)
    for parameter in tuned:
        while parameter.option in words:
            at = words.index(parameter.option)
            del words[at : at + 2]
    unsafe = [word for word in words if not _PLAIN_WORD.match(word)]
    if unsafe:
        raise UsageError(
            f"Katib hands the command to a shell without quotes, and {unsafe[0]!r} has more than letters, digits and _@%+=:,./-",
            "put such settings into a workload file and export that",
        )
    for parameter in tuned:
        words += [parameter.option, f"${{trialParameters.{_camel(parameter.name)}}}"]
    return [*words, "--results-dir", RESULTS_PATH, "--run-id", "${trialParameters.trialName}", "--metric-lines"]


def _largest(asked: Asked, tuned: list[Parameter]) -> Asked:
    """The trial that holds the most batches: its shared memory is what every trial gets."""
    prefetch = max(int(parameter.space[1]) for parameter in tuned if parameter.name == "prefetch-batches")
    loader = asked.workload.loader.model_copy(update={"prefetch_batches": prefetch})
    return replace(asked, workload=asked.workload.model_copy(update={"loader": loader}))


def _camel(name: str) -> str:
    """Katib's placeholders know letters and digits only in their own names.

    >>> _camel("io-depth")
    'ioDepth'
    """
    first, *rest = name.split("-")
    return first + "".join(part.capitalize() for part in rest)


def katib(asked: Asked, place: Place) -> list[Document]:
    """The Experiment. Raises UsageError for several hosts: a trial is one pod."""
    if place.num_hosts > 1:
        raise UsageError(f"--num-hosts is {place.num_hosts}, and a trial of Katib is one pod", "tune on one host, or sweep over several by hand")
    tuned = parameters(asked.workload.loader.name)
    trial = bare_job(_largest(asked, tuned), place, _trial_command(asked, place, tuned))
    del trial["metadata"]  # the trial's, which Katib gives
    references = [{"name": _camel(parameter.name), "description": parameter.about, "reference": parameter.name} for parameter in tuned]
    spec = {
        "objective": {
            "type": "maximize",
            "objectiveMetricName": "au",
            "additionalMetricNames": ["samples_per_s", "delivered_bytes_per_s"],
        },
        "algorithm": {"algorithmName": "tpe"},
        "parallelTrialCount": 1,
        "maxTrialCount": _MAX_TRIALS,
        "maxFailedTrialCount": _MAX_FAILED_TRIALS,
        "metricsCollectorSpec": {"collector": {"kind": "StdOut"}},
        "parameters": [parameter.spec() for parameter in tuned],
        "trialTemplate": {
            "primaryContainerName": CONTAINER,
            "trialParameters": [*references, {"name": "trialName", "description": "names the run", "reference": "${trialSpec.Name}"}],
            "trialSpec": trial,
        },
    }
    experiment = {"apiVersion": "kubeflow.org/v1beta1", "kind": "Experiment", "metadata": metadata(place), "spec": spec}
    return [*workload_config(asked, place), experiment]
