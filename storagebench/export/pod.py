"""The pod of a run, as data: the same in all kinds. One container, no privileges, no restarts, no service account, its shared memory and its volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from storagebench.export.asked import Asked
from storagebench.export.place import Place, shm_size

Document = dict[str, Any]

CONTAINER = "bench"
MASTER_PORT = 29_500
RESULTS_PATH = "/results"
WORKLOAD_PATH = "/etc/storagebench/workload.yaml"
USER_ID = 1000  # that of deploy/Containerfile
_HOSTNAME = "kubernetes.io/hostname"
SECRET_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
OPTIONAL_SECRET_KEYS = ("AWS_SESSION_TOKEN",)


def labels(place: Place) -> dict[str, str]:
    """Labels of all objects of this run. `instance` is what its Service and its anti-affinity select."""
    return {"app.kubernetes.io/name": "storagebench", "app.kubernetes.io/instance": place.name}


def metadata(place: Place, name: str = "", **more: Any) -> Document:
    found: Document = {"name": name or place.name}
    if place.namespace:
        found["namespace"] = place.namespace
    return {**found, "labels": labels(place), **more}


def escaped(word: str) -> str:
    """A word that Kubernetes hands on as it is: it expands $(NAME) in commands, and reads $$ as $.

    >>> escaped("a$(b)")
    'a$$(b)'
    """
    return word.replace("$", "$$")


def run_command(asked: Asked, place: Place) -> list[str]:
    """`storagebench run` in a pod. Results go to a folder of the pod's own, so that pods may share a volume and none overwrites another's."""
    words = [escaped(word) for word in asked.run_words(WORKLOAD_PATH, place.accelerators_per_host)]
    return [*words, "--results-dir", f"{RESULTS_PATH}/$(POD_NAME)", "--run-id", place.name]


def world_environment(place: Place, address: str) -> list[Document]:
    """What the members of an Indexed Job need beside JOB_COMPLETION_INDEX, which Kubernetes sets: how many there are, and where member 0 is."""
    if place.num_hosts == 1:
        return []
    return [
        {"name": "WORLD_SIZE", "value": str(place.num_hosts)},
        {"name": "MASTER_ADDR", "value": address},
        {"name": "MASTER_PORT", "value": str(MASTER_PORT)},
    ]


def environment(place: Place) -> list[Document]:
    """Variables that every pod has. Credentials come out of a Secret that is named and never read here."""
    found: list[Document] = [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    if place.s3_secret:
        for key in (*SECRET_KEYS, *OPTIONAL_SECRET_KEYS):
            optional = {"optional": True} if key in OPTIONAL_SECRET_KEYS else {}
            found.append({"name": key, "valueFrom": {"secretKeyRef": {"name": place.s3_secret, "key": key, **optional}}})
    return found


def _volumes(asked: Asked, place: Place) -> list[tuple[Document, Document]]:
    """(volume, where it is mounted), in order."""
    found: list[tuple[Document, Document]] = [
        ({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shm_size(asked, place)}}, {"name": "shm", "mountPath": "/dev/shm"}),
        (
            {"name": "results", **({"persistentVolumeClaim": {"claimName": place.results_pvc}} if place.results_pvc else {"emptyDir": {}})},
            {"name": "results", "mountPath": RESULTS_PATH},
        ),
    ]
    if place.pvc:
        # A run only reads, except that its writers store shards beside the dataset.
        read_only: Document = {} if asked.workload.run.writers else {"readOnly": True}
        claim = {"claimName": place.pvc, **read_only}
        found.append(({"name": "data", "persistentVolumeClaim": claim}, {"name": "data", "mountPath": place.mount_path, **read_only}))
    if asked.workload_yaml:
        source = {"name": workload_config_name(place)}
        mount = {"name": "workload", "mountPath": WORKLOAD_PATH.rpartition("/")[0], "readOnly": True}
        found.append(({"name": "workload", "configMap": source}, mount))
    return found


def workload_config_name(place: Place) -> str:
    return f"{place.name}-workload"


def workload_config(asked: Asked, place: Place) -> list[Document]:
    """The ConfigMap of a workload that does not come with storagebench; none for one that does."""
    if not asked.workload_yaml:
        return []
    data = {WORKLOAD_PATH.rpartition("/")[2]: asked.workload_yaml}
    return [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(place, workload_config_name(place)), "data": data}]


def _container(asked: Asked, place: Place, name: str, command: Sequence[str], world: Sequence[Document]) -> Document:
    container: Document = {
        "name": name,
        "image": place.image,
        "command": list(command),
        "env": [*environment(place), *world],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [mount for _, mount in _volumes(asked, place)],
    }
    amounts = {key: value for key, value in (("cpu", place.cpu), ("memory", place.memory)) if value}
    if amounts:  # equal, so that the pod is Guaranteed: no neighbour takes its cores, and it is evicted last
        container["resources"] = {"requests": amounts, "limits": dict(amounts)}
    return container


def _affinity(place: Place) -> Document:
    """A node for each pod: two on one would share its page cache and its network, and count as two hosts."""
    if place.num_hosts == 1:
        return {}
    selector = {"matchLabels": {"app.kubernetes.io/instance": place.name}}
    term = {"labelSelector": selector, "topologyKey": _HOSTNAME}
    return {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}


def pod_template(
    asked: Asked,
    place: Place,
    *,
    command: Sequence[str] | None = None,
    container: str = CONTAINER,
    world: Sequence[Document] = (),
    more: Mapping[str, Any] | None = None,
) -> Document:
    """The pod template. `more` are fields of the pod's spec that only some kinds have (subdomain)."""
    security: Document = {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if place.results_pvc or (place.pvc and asked.workload.run.writers):
        security |= {"fsGroup": USER_ID, "fsGroupChangePolicy": "OnRootMismatch"}  # never a walk over a million files
    spec: Document = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        # A Service of our name would put STORAGEBENCH_... variables into the pod.
        "enableServiceLinks": False,
        "securityContext": security,
        **(more or {}),
        **_affinity(place),
        **({"nodeSelector": dict(place.node_selector)} if place.node_selector else {}),
        "containers": [_container(asked, place, container, run_command(asked, place) if command is None else command, world)],
        "volumes": [volume for volume, _ in _volumes(asked, place)],
    }
    # No proxy between the loader and an object store; and with a sidecar a Job would not end.
    return {"metadata": {"labels": {**labels(place), "sidecar.istio.io/inject": "false"}}, "spec": spec}
