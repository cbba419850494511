"""The table of what can be exported, and how each becomes files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from storagebench.errors import UsageError
from storagebench.export.asked import Asked
from storagebench.export.files import MARK, as_yaml
from storagebench.export.jobs import job, jobset
from storagebench.export.katib import katib
from storagebench.export.kueue import kueue
from storagebench.export.place import Place, refuse_unreachable
from storagebench.export.pod import Document
from storagebench.export.slurm import sbatch
from storagebench.export.training import pytorchjob, trainjob

MANIFESTS: dict[str, Callable[[Asked, Place], list[Document]]] = {
    "job": job,
    "jobset": jobset,
    "trainjob": trainjob,
    "pytorchjob": pytorchjob,
    "katib": katib,
    "kueue": kueue,
}
TARGETS = (*MANIFESTS, "kfp", "slurm")


@dataclass(frozen=True)
class Exported:
    """File name -> text, the main one first, and what the user should know."""

    files: dict[str, str]
    notes: tuple[str, ...] = ()


def export(target: str, asked: Asked, place: Place, folder: Path | None) -> Exported:
    """The files of one target. `folder` is where they will lie, which only a script with a workload file of its own needs to know.

    Raises UsageError for what does not fit the target.
    """
    if target == "slurm":
        return _slurm(asked, place, folder)
    refuse_unreachable(asked, place)
    notes = tuple(_notes(asked, place, target))
    if target == "kfp":
        from storagebench.export.kfpcompile import compiled

        return Exported(compiled(asked, place), notes)
    return Exported({f"{place.name}-{target}.yaml": as_yaml(MANIFESTS[target](asked, place))}, notes)


def _slurm(asked: Asked, place: Place, folder: Path | None) -> Exported:
    files = {}
    path = ""
    if asked.workload_yaml:
        if folder is None:
            raise UsageError(
                "the workload is no shipped one, so the script needs its file beside it", "give --out DIR on a file system that all hosts have"
            )
        file = f"{place.name}-workload.yaml"
        path = str(folder.absolute() / file)
        files[file] = f"{MARK}\n{asked.workload_yaml}"
    return Exported({f"{place.name}.sbatch": sbatch(asked, place, path), **files})


def _notes(asked: Asked, place: Place, target: str) -> list[str]:
    """What is true and may be overlooked."""
    notes = []
    if not place.cpu or not place.memory:
        notes.append("without --cpu and --memory neighbours may take the pod's cores: its host is then part of what is measured")
    if not place.results_pvc and target != "kfp":
        notes.append("without --results-pvc the run folder goes with its pod: its log keeps what the run printed")
    if asked.storage_options.get("endpoint_url") and not place.s3_secret:
        notes.append("without --s3-secret the pod has only what the AWS chain finds there (a role of the node, say)")
    return notes
