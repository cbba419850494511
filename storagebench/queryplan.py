"""What a query run follows from, and what is refused before its first query. Touches no clock, and of the store only its listing."""

from __future__ import annotations

from typing import Final

from storagebench import host
from storagebench.datasets.decode import IMAGE_PAYLOADS
from storagebench.errors import DatasetError, UsageError
from storagebench.manifest import Dataset
from storagebench.protocols import Store, StoreSpec
from storagebench.registry import format_info, misfit, open_format, refuse_missing
from storagebench.scenarios.early_stopping import queries_needed
from storagebench.scenarios.schedule import Plan, Seeds, offline_samples
from storagebench.units import format_gib
from storagebench.workload import QuerySpec, Workload

QUERY_LOADER: Final = "direct"  # whose S3 client and way of reading a query run has
START_QPS: Final = 100.0  # of a search that is given no rate
# A trial of a search has so many queries that some over the limit still prove the percentile: else one outlier decides, or a low rate fails for its count.
_SEARCH_OVER: Final = 10


def refuse_settings(query: QuerySpec) -> None:
    if query.scenario == "server" and query.target_qps is None and not query.find_max_qps:
        raise UsageError("scenario server needs a rate", "give --target-qps N, or --find-max-qps to look for the largest")
    if query.find_max_qps and query.scenario != "server":
        raise UsageError(f"--find-max-qps is for scenario server, and this is {query.scenario}", "use --scenario server, or leave it out")


def refuse_format(dataset: Dataset, spec: StoreSpec, workload: Workload) -> None:
    problem = misfit(QUERY_LOADER, dataset.format, spec.kind, workload.run.cache == "direct")
    if problem is not None:
        raise problem
    form = open_format(dataset.format)
    if not (form.one_sample_per_shard or form.byte_addressed):
        raise UsageError(
            f"samples of format {dataset.format} have no places of their own, and a query asks for single samples",
            "use a dataset of npz, npy, jpeg, raw or webdataset",
        )
    if workload.run.decode == "full" and dataset.payload in IMAGE_PAYLOADS:
        refuse_missing("--decode full of images", ("PIL",))
    refuse_missing(f"format {dataset.format}", format_info(dataset.format).needs if workload.run.decode in ("parse", "full") else ())


def check_shards(store: Store, dataset: Dataset) -> None:
    found = {item.key: item.num_bytes for item in store.list("shards/")}
    for name, expected in zip(dataset.names, dataset.shard_bytes, strict=True):
        if found.get(name) != expected:
            have = "is missing" if name not in found else f"has {found[name]} bytes, and the manifest says {expected}"
            raise DatasetError(
                f"shard {name} of the dataset at {store.url} {have}", "run `storagebench verify`, then generate or import the dataset again"
            )


def query_plan(query: QuerySpec, dataset: Dataset, target_qps: float | None = None) -> Plan:
    """What the queries follow from. Raises UsageError where the QSL is larger than the dataset."""
    qsl_samples = query.qsl_samples or dataset.num_samples
    if qsl_samples > dataset.num_samples:
        raise UsageError(
            f"query.qsl_samples is {qsl_samples}, and the dataset has {dataset.num_samples} samples",
            "generate more samples, or give --set query.qsl_samples=0 for all of them",
        )
    width = {"multi-stream": query.samples_per_query}.get(query.scenario, 1)
    if query.scenario == "offline":
        width = offline_samples(query.offline_samples, query.min_duration_s, query.target_qps)
    least = query.min_queries_or_default()
    if query.find_max_qps:
        least = max(least, queries_needed(_SEARCH_OVER, query.percentile_or_default()))
    rate = target_qps or query.target_qps or START_QPS
    seeds = Seeds(query.qsl_seed, query.sample_index_seed, query.schedule_seed)
    return Plan(query.scenario, qsl_samples, width, least, rate, seeds)


def num_workers_of(workload: Workload, asked: bool) -> int:
    """Reads in flight at most. Where nobody says, multi-stream has one for each sample of a query: it is the gather of so many."""
    if workload.query.scenario == "single-stream":
        return 1
    if workload.query.scenario == "multi-stream" and not asked:
        return workload.query.samples_per_query
    return max(workload.loader.num_workers, 1)


def refuse_memory(workload: Workload, dataset: Dataset, num_workers: int) -> None:
    need = num_workers * longest_bytes(dataset, open_format(dataset.format).one_sample_per_shard)
    have, share = host.free().memory_bytes, workload.run.memory_limit_fraction
    if need > share * have:
        raise UsageError(
            f"{num_workers} workers with the longest sample each need {format_gib(need)}, over {share:.0%} of the {format_gib(have)} free",
            "use fewer --num-workers, or raise it with --set run.memory_limit_fraction=X",
        )


def longest_bytes(dataset: Dataset, whole_shard: bool) -> int:
    """Bytes of the longest extent of a sample."""
    return int((dataset.shard_bytes if whole_shard else dataset.index["record_bytes"]).max())
