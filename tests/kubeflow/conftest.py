"""These tests need the packages of `.ci/kubeflow`; without them they skip, and say which is missing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from storagebench.configfile import load_workload
from storagebench.export.asked import Asked, asked_by_options
from storagebench.export.place import Place, checked

FLAGS = ("--loader", "--accelerator", "--batch-size")
SHIPPED = (("run.accelerator", "h100", "--accelerator"), ("loader.name", "direct", "--loader"))


def _asked(shipped: bool = True, **storage: str) -> Asked:
    """unet3d on a volume, or where `storage` has an endpoint on S3; as the shipped workload or as a file of the user's."""
    configured = load_workload("unet3d", list(SHIPPED))
    url = "s3://bench/unet3d" if storage else "/data/unet3d"
    return asked_by_options("unet3d" if shipped else "./ours.yaml", configured, FLAGS, url, storage)


def _place(num_hosts: int, s3: bool = False) -> Place:
    """With everything that can be said."""
    return checked(
        Place(
            name="bench-unet3d",
            image="registry.example.org/storagebench:0.1.0",
            namespace="bench",
            num_hosts=num_hosts,
            accelerators_per_host=4,
            pvc="" if s3 else "train-data",
            results_pvc="results",
            s3_secret="store" if s3 else "",
            node_selector={"node.kubernetes.io/instance-type": "m5.metal"},
            cpu="8",
            memory="64GiB",
            shm_size="8GiB",
        )
    )


@pytest.fixture(scope="session")
def asked() -> Callable[..., Asked]:
    return _asked


@pytest.fixture(scope="session")
def place() -> Callable[..., Place]:
    return _place
