"""Kueue: a queue with one slot, so that two benchmarks never share the storage, and the Job that waits in it."""

from __future__ import annotations

import re

from storagebench.export.asked import Asked
from storagebench.export.jobs import bare_job, service
from storagebench.export.place import Place
from storagebench.export.pod import Document, metadata, workload_config

API = "kueue.x-k8s.io/v1beta2"
QUEUE = "storagebench"
_AMOUNT = re.compile(r"^([0-9.]+)([A-Za-z]*)$")


def times(amount: str, factor: int) -> str:
    """A quantity so many times.

    >>> times("500m", 3), times("16Gi", 2), times("1.5", 2)
    ('1500m', '32Gi', '3')
    """
    match = _AMOUNT.match(amount)
    if match is None:
        raise ValueError(f"{amount!r} is no quantity")
    if "." not in match.group(1):
        return f"{int(match.group(1)) * factor}{match.group(2)}"
    return f"{float(match.group(1)) * factor:.3f}".rstrip("0").rstrip(".") + match.group(2)


def queues(place: Place) -> list[Document]:
    """Flavor, ClusterQueue and LocalQueue. The quota is what this run asks for, its pods among it: a second run of the size has to wait.

    Kueue admits no workload that asks for a resource which the queue does not cover, so cpu and memory are covered where they are asked for.
    """
    amounts = [("pods", str(place.num_hosts))]
    amounts += [(name, times(amount, place.num_hosts)) for name, amount in (("cpu", place.cpu), ("memory", place.memory)) if amount]
    flavor: Document = {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": QUEUE}}
    if place.node_selector:
        flavor["spec"] = {"nodeLabels": dict(place.node_selector)}
    flavors = [{"name": QUEUE, "resources": [{"name": name, "nominalQuota": amount} for name, amount in amounts]}]
    cluster_queue = {
        "apiVersion": API,
        "kind": "ClusterQueue",
        "metadata": {"name": QUEUE},
        "spec": {
            "namespaceSelector": {},
            "queueingStrategy": "StrictFIFO",
            "resourceGroups": [{"coveredResources": [name for name, _ in amounts], "flavors": flavors}],
        },
    }
    local_queue = {"apiVersion": API, "kind": "LocalQueue", "metadata": metadata(place, QUEUE), "spec": {"clusterQueue": QUEUE}}
    return [flavor, cluster_queue, local_queue]


def kueue(asked: Asked, place: Place) -> list[Document]:
    """The queues and a suspended Job with the label that puts it into one; Kueue resumes it."""
    found = bare_job(asked, place)
    found["metadata"]["labels"] = {**found["metadata"]["labels"], "kueue.x-k8s.io/queue-name": QUEUE}
    found["spec"] = {"suspend": True, **found["spec"]}
    return [*queues(place), *workload_config(asked, place), *service(place), found]
