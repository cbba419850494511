"""Jobs of Kubernetes itself and of JobSet, and how the pods of one find its first. Several hosts are an Indexed Job: one pod, one member of the run, for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from storagebench.export.asked import Asked
from storagebench.export.place import Place
from storagebench.export.pod import Document, labels, metadata, pod_template, workload_config, world_environment

_JOBSET_JOB = "member"


def job_spec(place: Place, template: Document) -> Document:
    """A Job that runs once: a benchmark that was restarted would be another run.

    Of several hosts each fails for itself (Kubernetes 1.29 or later): the run's own liveness ends the other members, and member 0 reports who it was. With
    `backoffLimit: 0` the Job would end member 0 before.
    """
    if place.num_hosts == 1:
        return {"backoffLimit": 0, "template": template}
    indexed = {"completionMode": "Indexed", "completions": place.num_hosts, "parallelism": place.num_hosts, "backoffLimitPerIndex": 0}
    return {**indexed, "template": template}


def service(place: Place) -> list[Document]:
    """The headless Service that gives each pod its name, NAME-INDEX.NAME (kubernetes.io, "Job with Pod-to-Pod Communication"), before it is ready."""
    if place.num_hosts == 1:
        return []
    spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": labels(place)}
    return [{"apiVersion": "v1", "kind": "Service", "metadata": metadata(place), "spec": spec}]


def bare_job(asked: Asked, place: Place, command: Sequence[str] | None = None) -> Document:
    """The Job without what stands beside it."""
    several = place.num_hosts > 1
    world = world_environment(place, f"{place.name}-0.{place.name}")
    template = pod_template(asked, place, command=command, world=world, more={"subdomain": place.name} if several else None)
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata(place), "spec": job_spec(place, template)}


def job(asked: Asked, place: Place) -> list[Document]:
    """A Job, with what it needs beside it."""
    return [*workload_config(asked, place), *service(place), bare_job(asked, place)]


def jobset(asked: Asked, place: Place) -> list[Document]:
    """A JobSet of one Indexed Job; its controller makes the Service. Pod 0 is NAME-member-0-0.NAME (JobSet API: enableDNSHostnames)."""
    world = world_environment(place, f"{place.name}-{_JOBSET_JOB}-0-0.{place.name}")
    spec: dict[str, Any] = {
        "failurePolicy": {"maxRestarts": 0},
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True, "subdomain": place.name},
        "replicatedJobs": [{"name": _JOBSET_JOB, "replicas": 1, "template": {"spec": job_spec(place, pod_template(asked, place, world=world))}}],
    }
    document = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": metadata(place), "spec": spec}
    return [*workload_config(asked, place), document]
