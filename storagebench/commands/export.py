"""`export RUN_OR_WORKLOAD --target T`: a run as a manifest or a script that starts it elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from storagebench.commands.options import RUN_OPTIONS, configured, parse_storage_options, storage_options, workload_options

if TYPE_CHECKING:
    from storagebench.export.asked import Asked

_TARGETS = ("job", "jobset", "trainjob", "pytorchjob", "kfp", "katib", "kueue", "slurm")


@click.command("export")
@click.argument("run_or_workload")
@click.option("--target", required=True, type=click.Choice(_TARGETS), help="What is to start the run.")
@click.option("--out", "folder", type=click.Path(path_type=Path), metavar="DIR", help="Write the files there; without it, the main one is printed.")
@click.option("--force", is_flag=True, help="Write files anew that an earlier export wrote.")
@click.option("--data-dir", metavar="URL", help="Place of the dataset as the hosts there see it; a saved run has its own.")
@click.option("--image", default="", metavar="NAME", help="Container image of storagebench, as deploy/Containerfile makes it.")
@click.option("--name", default="", metavar="NAME", help="Name of the objects and of the run; made of the workload otherwise.")
@click.option("--namespace", default="", metavar="NAME", help="Namespace of the objects; without it, that of whoever applies them.")
@click.option(
    "--num-hosts", type=click.IntRange(1, 10_000), metavar="N", help="Pods, or hosts of Slurm, one member each: 1, or those of the saved run."
)
@click.option("--accelerators-per-host", type=click.IntRange(1, 100_000), metavar="M", help="Accelerators of each; without it, the run's own number.")
@click.option("--pvc", default="", metavar="NAME", help="PersistentVolumeClaim with the dataset.")
@click.option("--mount-path", default="/data", show_default=True, metavar="PATH", help="Where the pods have it; --data-dir is below.")
@click.option("--results-pvc", default="", metavar="NAME", help="PersistentVolumeClaim for run folders; without it they go with the pod.")
@click.option(
    "--s3-secret", default="", metavar="NAME", help="Secret with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; only its name is written."
)
@click.option("--node-selector", multiple=True, metavar="KEY=VALUE", help="Label that the nodes must have.")
@click.option("--cpu", default="", metavar="CORES", help="Cores of each pod or task, requested and not exceeded.")
@click.option("--memory", default="", metavar="SIZE", help="Memory of each, such as 16Gi; /dev/shm counts into it.")
@click.option(
    "--shm-size", default="", metavar="SIZE", help="Size of /dev/shm; without it, what the plan needs, at least 1Gi (Kubernetes gives 64Mi)."
)
@workload_options(tuple(flag for flag in RUN_OPTIONS if flag != "--num-accelerators"))
@storage_options
def command(
    run_or_workload: str,
    target: str,
    folder: Path | None,
    force: bool,
    data_dir: str | None,
    node_selector: tuple[str, ...],
    num_hosts: int | None,
    accelerators_per_host: int | None,
    name: str,
    settings: tuple[str, ...],
    storage_option: tuple[str, ...],
    **values: Any,
) -> None:
    """A run as what starts it elsewhere: a manifest for Kubernetes or Kubeflow, a batch script for Slurm. RUN_OR_WORKLOAD is the folder of a saved run,
    or a workload with --data-dir and the options of `storagebench run`. Nothing is started, and no cluster is reached."""
    from storagebench.commands.progress import say
    from storagebench.export.files import write_files
    from storagebench.export.place import Place, checked, default_name
    from storagebench.export.targets import export

    options = {key: values.pop(key) for key in list(values) if key.startswith("opt_")}
    asked = _asked(run_or_workload, data_dir, options, settings, parse_storage_options(storage_option))
    place = checked(
        Place(
            name=name or default_name(asked.workload.name),
            num_hosts=num_hosts or len(asked.accelerators),
            accelerators_per_host=accelerators_per_host or _same_everywhere(asked.accelerators),
            node_selector=_pairs(node_selector),
            **values,
        )
    )
    exported = export(target, asked, place, folder)
    for note in exported.notes:
        say(f"note: {note}")
    if folder is None:
        click.echo(next(iter(exported.files.values())), nl=False)
        return
    for path in write_files(folder, exported.files, force):
        click.echo(str(path))


def _asked(run_or_workload: str, data_dir: str | None, options: Mapping[str, Any], settings: tuple[str, ...], storage: dict[str, str]) -> Asked:
    """The run that is meant. Raises UsageError for options beside a saved run, or a workload without a place."""
    from storagebench.errors import UsageError
    from storagebench.export.asked import asked_by_options, asked_by_run
    from storagebench.records import RUN_FILE, read_run

    folder = Path(run_or_workload)
    if folder.is_dir() and not run_or_workload.endswith((".yaml", ".yml")) and (folder / RUN_FILE).exists():
        given = [f"--{key.removeprefix('opt_').replace('_', '-')}" for key, value in options.items() if value is not None]
        if given or settings:
            raise UsageError(
                f"{(given or ['--set'])[0]} changes the run, and {run_or_workload} is a saved one", "export the workload with its options instead"
            )
        run = read_run(folder)
        if "kind" in run:  # of queries
            raise UsageError(f"{run_or_workload} is no folder of `storagebench run`", "give such a one, or a workload")
        return asked_by_run(run, RUN_OPTIONS, data_dir, storage)
    if folder.is_dir():
        raise UsageError(f"{run_or_workload} is a folder without {RUN_FILE}", "give the folder of a saved run, or a workload")
    if data_dir is None:
        raise UsageError(f"export of the workload {run_or_workload} needs --data-dir", "give the dataset's place as the hosts there will see it")
    return asked_by_options(run_or_workload, configured(run_or_workload, options, settings), RUN_OPTIONS, data_dir, storage)


def _same_everywhere(accelerators: tuple[int, ...]) -> int:
    from storagebench.errors import UsageError

    if len(set(accelerators)) > 1:
        raise UsageError(
            f"the run had {' + '.join(map(str, accelerators))} accelerators on its hosts, and what is exported has as many on each",
            "give --num-hosts and --accelerators-per-host",
        )
    return accelerators[0]


def _pairs(pairs: tuple[str, ...]) -> dict[str, str]:
    from storagebench.errors import UsageError

    found: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or key in found:
            raise UsageError(f"--node-selector {pair!r} has no '=', or its label stands twice", "write it as --node-selector label=value")
        found[key] = value
    return found
