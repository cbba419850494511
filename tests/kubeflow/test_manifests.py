"""Every exported manifest against an offline validator of its kind, and every pod in it against Kubernetes' own schema. Each validator is shown to bite."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from storagebench.export.targets import MANIFESTS, export

jsonschema = pytest.importorskip("jsonschema")
kubernetes_validate = pytest.importorskip("kubernetes_validate")
trainer = pytest.importorskip("kubeflow_trainer_api.models")
katib = pytest.importorskip("kubeflow_katib_api.models")

# The oldest Kubernetes that knows backoffLimitPerIndex by default, and the newest that the validator has.
VERSIONS = ("1.29", "1.37")
CORE = {"Job", "Service", "ConfigMap"}
ROUND_TRIPS = {
    "JobSet": trainer.JobsetV1alpha2JobSet,
    "TrainingRuntime": trainer.TrainerV1alpha1TrainingRuntime,
    "TrainJob": trainer.TrainerV1alpha1TrainJob,
    "Experiment": katib.V1beta1Experiment,
}

CASES = [
    pytest.param(target, hosts, s3, shipped, id=f"{target}-{hosts}-{'s3' if s3 else 'pvc'}-{'shipped' if shipped else 'file'}")
    for target in MANIFESTS
    for hosts, s3, shipped in ((1, False, True), (3, True, False))
    if not (target == "katib" and hosts > 1)
] + [pytest.param("katib", 1, True, False, id="katib-1-s3-file")]

# Schemas of kinds for which no package has models: the fields that their API's source documents, of those that we write, and no other. A new one has to be
# added here. Kueue: kubernetes-sigs/kueue, apis/kueue/v1beta2/{clusterqueue,localqueue,resourceflavor}_types.go. PyTorchJob: kubeflow/training-operator,
# pkg/apis/kubeflow.org/v1/{pytorch,common}_types.go. Read in November 2026.
NAME = {"type": "string", "maxLength": 253, "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
METADATA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {"name": NAME, "namespace": NAME, "labels": STRINGS, "annotations": STRINGS},
}


def strict(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def listed(item: dict[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "maxItems": most, "items": item}


def kind(api_version: str, name: str, spec: dict[str, Any], needs_spec: bool = True) -> dict[str, Any]:
    needed = ["apiVersion", "kind", "metadata", *(["spec"] if needs_spec else [])]
    return strict(needed, apiVersion={"const": api_version}, kind={"const": name}, metadata=METADATA, spec=spec)


_KUEUE = "kueue.x-k8s.io/v1beta2"
_QUOTA = strict(["name", "nominalQuota"], name={"type": "string"}, nominalQuota=QUANTITY)
_FLAVOR_QUOTAS = strict(["name", "resources"], name=NAME, resources=listed(_QUOTA, 64))
_RESOURCE_GROUP = strict(["coveredResources", "flavors"], coveredResources=listed({"type": "string"}, 64), flavors=listed(_FLAVOR_QUOTAS, 64))
_REPLICAS = strict(
    ["template"],
    replicas={"type": "integer", "minimum": 0},
    restartPolicy={"enum": ["Always", "OnFailure", "Never", "ExitCode"]},
    template=strict(["spec"], metadata={"type": "object"}, spec={"type": "object"}),  # a pod, which kubernetes-validate takes
)
_RUN_POLICY = strict(
    [],
    cleanPodPolicy={"enum": ["", "All", "Running", "None"]},
    ttlSecondsAfterFinished={"type": "integer"},
    activeDeadlineSeconds={"type": "integer"},
    backoffLimit={"type": "integer"},
)

SCHEMAS: dict[str, dict[str, Any]] = {
    "ResourceFlavor": kind(_KUEUE, "ResourceFlavor", strict([], nodeLabels={**STRINGS, "maxProperties": 8}), needs_spec=False),
    "ClusterQueue": kind(
        _KUEUE,
        "ClusterQueue",
        strict(
            [],
            namespaceSelector={"type": "object"},
            queueingStrategy={"enum": ["StrictFIFO", "BestEffortFIFO"]},
            resourceGroups=listed(_RESOURCE_GROUP, 16),
        ),
    ),
    "LocalQueue": kind(_KUEUE, "LocalQueue", strict([], clusterQueue=NAME)),
    "PyTorchJob": kind(
        "kubeflow.org/v1",
        "PyTorchJob",
        strict(
            ["pytorchReplicaSpecs"],
            nprocPerNode={"type": "string", "pattern": "^(auto|cpu|gpu|[0-9]+)$"},
            runPolicy=_RUN_POLICY,
            pytorchReplicaSpecs=strict(["Master"], Master=_REPLICAS, Worker=_REPLICAS),
        ),
    ),
}


@pytest.fixture(scope="session")
def documents(asked: Any, place: Any) -> Callable[..., list[dict[str, Any]]]:
    """What `export` writes, read again from its text."""

    def read(target: str, num_hosts: int = 1, s3: bool = False, shipped: bool = True) -> list[dict[str, Any]]:
        run = asked(shipped, **({"endpoint_url": "https://s3.example.org"} if s3 else {}))
        (text,) = export(target, run, place(num_hosts, s3), None).files.values()
        return list(yaml.safe_load_all(text))

    return read


def validate(document: dict[str, Any]) -> None:
    """Raises where the document is not of its kind, or has a field that the kind does not know."""
    if document["kind"] in CORE:
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)
    elif document["kind"] in SCHEMAS:
        jsonschema.validate(document, SCHEMAS[document["kind"]])
    else:
        model = ROUND_TRIPS[document["kind"]].from_dict(copy.deepcopy(document))
        assert model.to_dict() == document, "a field was dropped"


def pods(part: Any) -> Iterator[dict[str, Any]]:
    """Pod templates anywhere in a document."""
    if isinstance(part, dict):
        if "containers" in part.get("spec", {}) if isinstance(part.get("spec"), dict) else False:
            yield part
        for item in part.values():
            yield from pods(item)
    elif isinstance(part, list):
        for item in part:
            yield from pods(item)


@pytest.mark.parametrize(("target", "hosts", "s3", "shipped"), CASES)
def test_each_document_is_valid(target: str, hosts: int, s3: bool, shipped: bool, documents: Any) -> None:
    found = documents(target, hosts, s3, shipped)
    for document in found:
        validate(document)
    assert any(document["kind"] == "ConfigMap" for document in found) is not shipped


@pytest.mark.parametrize(("target", "hosts", "s3", "shipped"), CASES)
def test_each_pod_is_valid(target: str, hosts: int, s3: bool, shipped: bool, documents: Any) -> None:
    found = [pod for document in documents(target, hosts, s3, shipped) for pod in pods(document)]
    assert found
    for pod in found:
        labels = {"name": "pod", **pod["metadata"]}
        for container in pod["spec"]["containers"]:
            container.setdefault("command", ["true"])  # a runtime's, whose command is the TrainJob's
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", "metadata": labels, "spec": pod["spec"]}, "1.37", strict=True)


@pytest.mark.parametrize(("target", "hosts", "s3", "shipped"), CASES)
def test_a_field_that_no_kind_knows_is_refused(target: str, hosts: int, s3: bool, shipped: bool, documents: Any) -> None:
    for document in documents(target, hosts, s3, shipped):
        if document["kind"] == "ConfigMap":
            document["datum"] = {}
        else:
            document.setdefault("spec", {})["shmSize"] = "8Gi"
        with pytest.raises((AssertionError, jsonschema.ValidationError)):
            validate(document)


def test_the_trial_of_the_experiment_is_a_valid_job(documents: Any) -> None:
    """`trialSpec` is free-form to the Experiment's schema: with the parameters put in, it has to be a Job."""
    (experiment,) = documents("katib")
    template = experiment["spec"]["trialTemplate"]
    names = {parameter["name"]: parameter["feasibleSpace"] for parameter in experiment["spec"]["parameters"]}
    assert {parameter["reference"] for parameter in template["trialParameters"]} == {*names, "${trialSpec.Name}"}
    job = {"metadata": {"name": "trial-abc"}, **template["trialSpec"]}
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["name"] == template["primaryContainerName"]
    for parameter in template["trialParameters"]:
        placeholder = "${trialParameters." + parameter["name"] + "}"
        assert placeholder in container["command"]
        container["command"] = [word.replace(placeholder, "2") for word in container["command"]]
    assert not any("${" in word for word in container["command"])
    kubernetes_validate.validate(job, "1.37", strict=True)
    assert experiment["spec"]["parallelTrialCount"] == 1


def test_the_manifests_of_the_reference_pass_as_well() -> None:
    """The same validators take documents that are not ours: a ClusterQueue and a PyTorchJob as their projects' pages have them."""
    queue = {"name": "bench-cq"}
    quota = {"name": "bench-nodes", "resources": [{"name": "cpu", "nominalQuota": "64"}]}
    groups = [{"coveredResources": ["cpu"], "flavors": [quota]}]
    validate(
        {
            "apiVersion": "kueue.x-k8s.io/v1beta2",
            "kind": "ClusterQueue",
            "metadata": queue,
            "spec": {"namespaceSelector": {}, "resourceGroups": groups},
        }
    )
    pod = {"spec": {"containers": [{"name": "pytorch", "image": "x"}]}}
    replicas = {"Master": {"replicas": 1, "restartPolicy": "Never", "template": pod}}
    validate({"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": "simple"}, "spec": {"pytorchReplicaSpecs": replicas}})
