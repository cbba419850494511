"""Kubeflow's training operators: TrainJob of Trainer v2, PyTorchJob of its predecessor. One process for each pod, which is one member of the run."""

from __future__ import annotations

from storagebench.export.asked import Asked
from storagebench.export.place import Place
from storagebench.export.pod import Document, metadata, pod_template, run_command, workload_config

# Trainer v2 finds the replicated job and the container that it has to fill by these names.
_NODE = "node"
_STEP = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
# training-operator, pytorch_types.go: PytorchJobDefaultContainerName.
_PYTORCH = "pytorch"


def trainjob(asked: Asked, place: Place) -> list[Document]:
    """A TrainingRuntime with the pod, and the TrainJob that runs it.

    On one host no framework's policy: plain. On several `torch: {}`, whose variables (PET_*) only torchrun reads, so the command starts under it.
    """
    several = place.num_hosts > 1
    template = pod_template(asked, place, container=_NODE)
    del template["spec"]["containers"][0]["command"]  # that of the TrainJob
    # The Job's completions and its mode are the operator's, out of numNodes.
    node = {"name": _NODE, "template": {"metadata": {"labels": dict(_STEP)}, "spec": {"backoffLimit": 0, "template": template}}}
    runtime = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainingRuntime",
        "metadata": metadata(place),
        "spec": {
            "mlPolicy": {"numNodes": place.num_hosts, **({"torch": {}} if several else {})},
            "template": {"spec": {"failurePolicy": {"maxRestarts": 0}, "replicatedJobs": [node]}},
        },
    }
    command = run_command(asked, place)
    trainer: Document = {"numNodes": place.num_hosts, "image": place.image, "command": command}
    if several:
        trainer |= {"numProcPerNode": 1, "command": ["torchrun", "--no-python", *command]}
    train = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": metadata(place),
        "spec": {
            "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": place.name},
            "trainer": trainer,
        },
    }
    return [*workload_config(asked, place), runtime, train]


def pytorchjob(asked: Asked, place: Place) -> list[Document]:
    """A PyTorchJob: the operator sets MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE in each pod. The master is the run's member 0."""

    def replicas(count: int) -> Document:
        return {"replicas": count, "restartPolicy": "Never", "template": pod_template(asked, place, container=_PYTORCH)}

    spec = {
        "nprocPerNode": "1",
        "runPolicy": {"backoffLimit": 0, "cleanPodPolicy": "None"},
        "pytorchReplicaSpecs": {"Master": replicas(1), **({"Worker": replicas(place.num_hosts - 1)} if place.num_hosts > 1 else {})},
    }
    document = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": metadata(place), "spec": spec}
    return [*workload_config(asked, place), document]
