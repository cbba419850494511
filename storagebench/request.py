"""A run as the user asked for it, and the store that this implies. Measures nothing but the depth at which a loader reads best, where the user left it open."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from storagebench.clock import SystemClock
from storagebench.configfile import Configured, changed
from storagebench.manifest import MANIFEST_KEY, Dataset
from storagebench.probe.depth import find_depth, find_requests
from storagebench.protocols import StoreSpec
from storagebench.rankmain import shard_paths
from storagebench.registry import loader_info
from storagebench.storage import data_spec, parse_url
from storagebench.storage.posix import takes_odirect
from storagebench.storage.s3_config import endpoint_of_environment
from storagebench.workload import Workload


@dataclass(frozen=True)
class Request:
    """A run as the user asked for it. `command_start_ns` is CLOCK_MONOTONIC when the command began."""

    configured: Configured
    data_dir: str
    storage_options: Mapping[str, str]
    results_dir: Path
    run_id: str
    command: Sequence[str]
    command_start_ns: int
    debug: bool = False
    ceiling: bool = False
    ranks: int | None = None

    @property
    def own_ranks(self) -> int:
        """Accelerators of this member: what --num-accelerators says, unless something else shares them out (0 lets it sit out)."""
        return self.configured.workload.run.num_accelerators if self.ranks is None else self.ranks


def store_spec(request: Request, dataset: Dataset | None = None) -> StoreSpec:
    """The store with what the job implies: O_DIRECT for --cache direct, the loader's own S3 client where the user names none. It is that of the
    manifest, or, where the dataset is given, that of its shards."""
    workload = request.configured.workload
    info = loader_info(workload.loader.name)
    spec, probed = parse_url(request.data_dir, request.storage_options), MANIFEST_KEY
    if dataset is not None and dataset.data_root:
        spec, probed = data_spec(spec, dataset), dataset.names[0]
    options = dict(spec.options)
    if spec.kind == "posix" and workload.run.cache == "direct":
        options["io"] = "direct"
    if spec.kind == "posix" and workload.run.cache == "cold" and info.prefers_odirect and takes_odirect(os.path.join(spec.root, probed)):
        options.setdefault("io", "direct")  # what is not cached is read the shortest way
    if spec.kind == "s3":
        options.setdefault("client", info.s3_client)
        endpoint = endpoint_of_environment()
        if endpoint:
            options.setdefault("endpoint_url", endpoint)  # written down, since it is what is measured
    return replace(spec, options=options)


def with_depth(configured: Configured, spec: StoreSpec, dataset: Dataset) -> Configured:
    """Threads and reads in flight as a short probe finds them, where the user leaves them open and the loader keeps reads in flight."""
    loader = configured.workload.loader
    if loader.io_depth or not loader_info(loader.name).prefers_odirect or loader_info(loader.name).unit_of(dataset.format) != "sample":
        return configured
    settings: dict[str, int] = {}
    if spec.kind == "s3":
        requests = find_requests(spec, dataset)
        if requests is not None:
            settings["loader.io_depth"] = max(1, requests // max(loader.num_workers, 1))
    elif spec.kind == "posix" and spec.options.get("io") == "direct":
        found = find_depth(dataset, shard_paths(spec, dataset)[0])
        if found is not None:
            settings["loader.io_depth"] = found[1]
            if "loader.num_workers" not in configured.provenance:
                settings["loader.num_workers"] = found[0]
    return changed(configured, settings, "a short probe of the dataset") if settings else configured


def default_run_id(workload: Workload, clock: SystemClock) -> str:
    """workload-loader-time, unique to the millisecond."""
    milliseconds = clock.wall_ns() // 1_000_000
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(milliseconds // 1000))
    return f"{workload.name}-{workload.loader.name}-{stamp}-{milliseconds % 1000:03d}"
