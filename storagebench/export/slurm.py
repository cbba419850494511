"""Slurm: a batch script. One task on each host, which is one member of the run; srun sets what they need to find each other."""

from __future__ import annotations

import re
import shlex

from storagebench.errors import UsageError
from storagebench.export.asked import Asked
from storagebench.export.files import MARK
from storagebench.export.place import Place

_BYTES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
_MIB = 2**20


def memory_mib(memory: str) -> int:
    """Slurm's --mem, whole MiB, rounded up, out of a size as Kubernetes writes it.

    >>> memory_mib("16Gi"), memory_mib("1G")
    (16384, 954)
    """
    match = re.match(r"^([0-9]+)([A-Za-z]*)$", memory)
    if match is None:
        raise ValueError(f"{memory!r} is no size")
    return -(-int(match.group(1)) * _BYTES[match.group(2)] // _MIB)


def sbatch(asked: Asked, place: Place, workload_path: str) -> str:
    """The script's text. All tasks are given one folder for results, which the hosts may share or each have for itself: the run takes it as it finds it.

    Raises UsageError for what a batch script has no place for.
    """
    _refuse_what_is_of_pods(place)
    lines = ["#!/bin/bash", MARK, f"#SBATCH --job-name={place.name}", f"#SBATCH --nodes={place.num_hosts}", "#SBATCH --ntasks-per-node=1"]
    if place.cpu:
        lines.append(f"#SBATCH --cpus-per-task={place.cpu}")
    if place.memory:
        lines.append(f"#SBATCH --mem={memory_mib(place.memory)}M")
    words = " ".join(shlex.quote(word) for word in asked.run_words(workload_path, place.accelerators_per_host))
    return "\n".join(
        [
            *lines,
            "#SBATCH --exclusive",
            f"#SBATCH --output={place.name}-%j.out",
            "# Submit it with: sbatch [--partition=NAME ...] FILE. Options given there win. Results: $STORAGEBENCH_RESULTS, else ./results.",
            "set -euo pipefail",
            "",
            "# A member that fails ends the others itself, and member 0 says in its report who it was: srun would end it before.",
            "# srun takes the cores of a task from its own options only, since Slurm 22.05.",
            'srun --kill-on-bad-exit=0 ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \\',
            f'    {words} --results-dir "${{STORAGEBENCH_RESULTS:-$PWD/results}}" --run-id {place.name}-"$SLURM_JOB_ID"',
            "",
        ]
    )


def _refuse_what_is_of_pods(place: Place) -> None:
    given = {
        "--image": place.image,
        "--namespace": place.namespace,
        "--pvc": place.pvc,
        "--results-pvc": place.results_pvc,
        "--s3-secret": place.s3_secret,
        "--node-selector": place.node_selector,
        "--shm-size": place.shm_size,
    }
    said = [option for option, value in given.items() if value]
    if said:
        raise UsageError(
            f"{said[0]} is of pods, and --target slurm writes a batch script", "leave it out; give sbatch its own options when you submit"
        )
    if place.cpu and not place.cpu.isdigit():
        raise UsageError(f"--cpu {place.cpu} is no whole number of cores, as Slurm counts them", "such as --cpu 8")
