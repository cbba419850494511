"""`export --target kfp`: the pipeline and the container component, compiled to files that Kubeflow Pipelines takes. Needs the extra `kubeflow`."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from storagebench.errors import UsageError
from storagebench.export.asked import Asked
from storagebench.export.files import MARK, as_yaml
from storagebench.export.place import Place, shm_size
from storagebench.export.pod import OPTIONAL_SECRET_KEYS, SECRET_KEYS, WORKLOAD_PATH, workload_config, workload_config_name


def compiled(asked: Asked, place: Place) -> dict[str, str]:
    """File name -> text: the pipeline, the component, and the ConfigMap of a workload that is no shipped one. Raises UsageError."""
    if place.num_hosts > 1:
        raise UsageError(
            f"--num-hosts is {place.num_hosts}, and a step of a pipeline is one pod", "export --target trainjob or jobset, and start that from a step"
        )
    if place.results_pvc:
        raise UsageError("--results-pvc does not fit --target kfp: the run folder is an artifact of the pipeline", "leave it out")
    try:
        import kfp  # noqa: F401
        from kfp import kubernetes  # noqa: F401
    except ImportError:
        raise UsageError("--target kfp needs the packages kfp and kfp-kubernetes", "pip install 'storagebench[kubeflow]'") from None
    from storagebench.export import kfppipeline

    built = kfppipeline.pipeline(place.name, place.image, defaults(asked, place), lambda task, writes: _prepare(task, writes, asked, place))
    files = {f"{place.name}-kfp.yaml": _compile(built), f"{place.name}-kfp-component.yaml": _compile(kfppipeline.measurement(place.image))}
    config = workload_config(asked, place)
    if config:
        files[f"{place.name}-kfp-workload.yaml"] = as_yaml(config)
    return files


def defaults(asked: Asked, place: Place) -> dict[str, Any]:
    """Values of the pipeline's parameters. The dataset is that of the workload; a saved run's is there already."""
    words = asked.run_words(WORKLOAD_PATH, place.accelerators_per_host)[2:]
    workload, options = words[0], words[3:]  # between them: `--data-dir URL`
    dataset = [word for pair in pairwise(asked.options) if _is_of_the_dataset(*pair) for word in pair]
    return {
        "workload": workload,
        "data_dir": asked.data_dir,
        "generate_options": [*dataset, *asked.storage_words()],
        "storage_options": asked.storage_words(),
        "run_options": options,
        "exists": asked.exists,
        "rules": "",
    }


def _is_of_the_dataset(option: str, value: str) -> bool:
    """Whether `generate` is to be told this too."""
    return option == "--held-out-dir" or (option == "--set" and value.startswith("dataset."))


def _compile(built: Any) -> str:
    """The compiler writes to a file only. Whatever can be switched off of caching is: a component that is compiled alone is a pipeline of one cached step."""
    from kfp import compiler

    with tempfile.TemporaryDirectory(prefix="storagebench-kfp-") as folder:
        path = Path(folder) / "compiled.yaml"
        compiler.Compiler().compile(built, str(path))
        text = path.read_text()
    return f"{MARK}\n{text.replace('enableCache: true', 'enableCache: false')}"


def _prepare(task: Any, writes: bool, asked: Asked, place: Place) -> None:
    """What the step's pod needs beside its image."""
    from kfp import kubernetes

    if place.pvc:
        kubernetes.mount_pvc(task, pvc_name=place.pvc, mount_path=place.mount_path)
    if place.s3_secret:
        kubernetes.use_secret_as_env(task, secret_name=place.s3_secret, secret_key_to_env={key: key for key in SECRET_KEYS})
        keys = {key: key for key in OPTIONAL_SECRET_KEYS}
        kubernetes.use_secret_as_env(task, secret_name=place.s3_secret, secret_key_to_env=keys, optional=True)
    if asked.workload_yaml:
        kubernetes.use_config_map_as_volume(task, config_map_name=workload_config_name(place), mount_path=WORKLOAD_PATH.rpartition("/")[0])
    if not writes:
        kubernetes.empty_dir_mount(task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=shm_size(asked, place))
    for key, value in place.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    if place.cpu:
        task.set_cpu_request(place.cpu).set_cpu_limit(place.cpu)
    if place.memory:
        task.set_memory_request(place.memory).set_memory_limit(place.memory)
