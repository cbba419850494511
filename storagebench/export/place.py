"""Where a run is to be started: names, resources and volumes, checked before a line is written. Nothing here is a secret: those are named, never held."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from storagebench.errors import UsageError
from storagebench.export.asked import Asked
from storagebench.plan import make_plan

# A DNS label that starts with a letter (RFC 1035, as names of Services want it). The longest host name made of it, NAME-member-0-99999, stays below 63.
_NAME = re.compile(r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")
_LABEL = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
_OBJECT = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")
_LABEL_KEY = re.compile(r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")
_LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$")
_IMAGE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}$")
_CPU = re.compile(r"^([1-9][0-9]*m?|[0-9]+\.[0-9]{1,3})$")
_MEMORY = re.compile(r"^([1-9][0-9]*)(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$")
_LEAST_SHM_BYTES = 2**30
_MIB = 2**20


@dataclass(frozen=True)
class Place:
    """What the user said of the cluster; quantities as Kubernetes writes them. Empty strings were not said. Use `checked` to make one."""

    name: str
    image: str = ""
    namespace: str = ""
    num_hosts: int = 1
    accelerators_per_host: int = 1
    pvc: str = ""
    mount_path: str = "/data"
    results_pvc: str = ""
    s3_secret: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    cpu: str = ""
    memory: str = ""
    shm_size: str = ""


def default_name(workload: str) -> str:
    """A name for the run's objects, out of the workload's.

    >>> default_name("Train_ResNet 50")
    'storagebench-train-resnet-50'
    """
    return f"storagebench-{re.sub('[^a-z0-9]+', '-', workload.lower())}"[:40].rstrip("-")


def quantity(option: str, text: str) -> str:
    """A size as Kubernetes writes it: `16Gi` and `500M` stay, `16GiB` and `500MB` lose their B. Raises UsageError for anything else.

    >>> quantity("--memory", "16GiB"), quantity("--memory", "500MB")
    ('16Gi', '500M')
    """
    short = text.strip().removesuffix("B")
    short = f"{short[:-1]}k" if short.endswith("K") else short
    if not _MEMORY.match(short):
        raise UsageError(f"{option} {text!r} is no size", "write it like 16Gi or 16GiB")
    return short


def checked(place: Place) -> Place:
    """The same place, its sizes as Kubernetes writes them. Raises UsageError for a name or size that the API server would refuse."""
    objects = (("--pvc", place.pvc), ("--results-pvc", place.results_pvc), ("--s3-secret", place.s3_secret))
    if not _NAME.match(place.name):
        raise UsageError(
            f"--name {place.name!r} is no name of at most 40 small letters, digits and '-' that starts with a letter", "such as storagebench-unet3d"
        )
    if place.namespace and not _LABEL.match(place.namespace):
        raise UsageError(f"--namespace {place.namespace!r} is no namespace", "small letters, digits and '-', at most 63")
    for option, name in objects:
        if name and not _OBJECT.match(name):
            raise UsageError(f"{option} {name!r} is no name of an object", "small letters, digits, '-' and '.'")
    if place.image and not _IMAGE.match(place.image):
        raise UsageError(f"--image {place.image!r} is no image", "such as registry.example.org/storagebench:0.1.0")
    for key, value in place.node_selector.items():
        if not _LABEL_KEY.match(key) or not _LABEL_VALUE.match(value):
            raise UsageError(f"--node-selector {key}={value} is no label of a node", "such as --node-selector kubernetes.io/hostname=node1")
    if place.cpu and not _CPU.match(place.cpu):
        raise UsageError(f"--cpu {place.cpu!r} is no number of cores", "such as 8 or 500m")
    if not place.mount_path.startswith("/") or ".." in place.mount_path.split("/") or place.mount_path == "/":
        raise UsageError(f"--mount-path {place.mount_path!r} is no absolute path below /", "such as /data")
    memory, shm = (quantity(option, size) if size else "" for option, size in (("--memory", place.memory), ("--shm-size", place.shm_size)))
    return replace(place, mount_path=place.mount_path.rstrip("/"), memory=memory, shm_size=shm)


def refuse_unreachable(asked: Asked, place: Place) -> None:
    """Raises UsageError where a pod could not read the data: no volume for a path, a path outside of it, a server on the pod's own loopback."""
    if not place.image:
        raise UsageError("a pod needs an image, and there is no --image", "build deploy/Containerfile, push it, and give its name")
    for root in asked.data_roots:
        path = root.removeprefix("shaped+").removeprefix("file://")
        if "://" in path:
            continue
        if not place.pvc:
            raise UsageError(f"--data-dir {root} is a path, and the pod has no volume", "give --pvc NAME and --mount-path PATH, or an s3:// URL")
        if path != place.mount_path and not path.startswith(f"{place.mount_path}/"):
            raise UsageError(
                f"the data at {root} is not below --mount-path {place.mount_path}, where the pod has volume {place.pvc}",
                "give --mount-path, or --data-dir as the pod sees it",
            )
    endpoint = asked.storage_options.get("endpoint_url", "")
    if (urlsplit(endpoint).hostname or "") in ("localhost", "::1") or (urlsplit(endpoint).hostname or "").startswith("127."):
        raise UsageError(
            f"endpoint_url={endpoint} is the pod itself there", "give --storage-option endpoint_url= with an address that the cluster reaches"
        )


def shm_size(asked: Asked, place: Place) -> str:
    """Size of /dev/shm: as said, else half as much again as the plan needs, at least 1 GiB (Kubernetes gives 64 MiB, which kills workers that share
    tensors). It is memory of the pod, and only what is used counts."""
    if place.shm_size:
        return place.shm_size
    try:
        need = make_plan(asked.workload, place.accelerators_per_host).shared_memory_bytes
    except UsageError:  # the workload's own number of samples may be too small for it; the dataset's is not known here
        need = 0
    return f"{-(-max(_LEAST_SHM_BYTES, need * 3 // 2) // _MIB)}Mi"
