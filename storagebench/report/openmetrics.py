"""A run as Prometheus and its kin read it: OpenMetrics 1.0 text, or the classic text format of node exporter's textfile collector.

Written by `prometheus_client`. While the run goes on the numbers are those of its traces so far (`storagebench.follow`); once it is judged, those that
need the whole run follow out of its summary. Every series has the label `run_id`, so that the pages of several runs may lie in one folder; those of a
rank have `rank` and `host` too. Nothing else of a run is a label: no path, no URL, no option, so no secret can be one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from storagebench.follow import FETCH_BUCKETS_S, RankState

if TYPE_CHECKING:
    from prometheus_client import Metric

OPENMETRICS_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
CLASSIC_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_RANK_LABELS: Final = ("run_id", "rank", "host")


@dataclass(frozen=True)
class View:
    """What a page shows: `run.json`, the ranks as far as they were read, and the summary once the run is judged."""

    run: Mapping[str, Any]
    ranks: Sequence[RankState]
    summary: Mapping[str, Any] | None = None

    @property
    def run_id(self) -> str:
        return str(self.run["run_id"])


class _OfRank(NamedTuple):
    """A family with one sample a rank; no sample where the value is None."""

    kind: str  # counter or gauge
    name: str
    unit: str
    text: str
    value: Callable[[RankState], float | None]


class _OfRun(NamedTuple):
    """A gauge with one sample."""

    name: str
    unit: str
    text: str
    value: Callable[[View], float | None]


def _of_summary(key: str) -> Callable[[View], float | None]:
    return lambda view: None if view.summary is None or view.summary[key] is None else float(view.summary[key])


_RANK_FAMILIES: Final = (
    _OfRank("gauge", "storagebench_au_uncorrected_ratio", "ratio", "Nominal compute time over the window so far, without the prefetch credit.", lambda r: r.au_uncorrected),
    _OfRank("counter", "storagebench_window_seconds", "seconds", "Time in the window: from the end of warm-up, or the start of the epoch, to the last step.", lambda r: r.window_ns / 1e9),
    _OfRank("counter", "storagebench_compute_seconds", "seconds", "Nominal compute time of the measured steps.", lambda r: r.compute_ns / 1e9),
    _OfRank("counter", "storagebench_fetch_seconds", "seconds", "Time that measured steps waited for their batch: the stall.", lambda r: r.fetch_ns / 1e9),
    _OfRank("counter", "storagebench_sync_seconds", "seconds", "Time in which the rank waited for the others at the end of a step, the sync's own cost included.", lambda r: r.sync_ns / 1e9),
    _OfRank("counter", "storagebench_host_delay_seconds", "seconds", "Time that this host woke the rank up too late.", lambda r: r.host_delay_ns / 1e9),
    _OfRank("counter", "storagebench_steps", "", "Measured steps.", lambda r: r.steps),
    _OfRank("counter", "storagebench_warmup_steps", "", "Warm-up steps.", lambda r: r.warmup_steps),
    _OfRank("counter", "storagebench_idle_steps", "", "Steps without a batch at the end of an epoch (--remainder keep).", lambda r: r.idle_steps),
    _OfRank("counter", "storagebench_samples", "", "Samples delivered, warm-up included.", lambda r: r.samples),
    _OfRank("counter", "storagebench_delivered_bytes", "bytes", "Record bytes delivered, warm-up included.", lambda r: r.delivered_bytes),
    _OfRank("counter", "storagebench_retries", "", "Requests that the storage client retried; known at each epoch's end.", lambda r: r.retries),
    _OfRank("counter", "storagebench_io_errors", "", "Reads that failed; known at each epoch's end.", lambda r: r.io_errors),
    _OfRank("counter", "storagebench_checksum_errors", "", "Samples whose checksum differs from the manifest's.", lambda r: r.checksum_errors),
    _OfRank("gauge", "storagebench_epoch", "", "The epoch that the rank is in, from 0; -1 before the first.", lambda r: r.epoch),
    _OfRank("gauge", "storagebench_rank_finished", "", "1 once the rank has done all its steps.", lambda r: r.finished),
    _OfRank("gauge", "storagebench_rank_failed", "", "1 where an error ended the rank, or its trace cannot be read.", lambda r: r.failed or r.damaged),
)  # fmt: skip
_RUN_FAMILIES: Final = (
    _OfRun("storagebench_ranks", "", "Ranks of the run: its accelerators.", lambda v: v.run["plan"]["world_size"]),
    _OfRun("storagebench_planned_steps", "", "Steps that each rank was to make, warm-up included.", lambda v: v.run["plan"]["planned_steps"]),
    _OfRun("storagebench_au_threshold_ratio", "ratio", "AU that the workload asks for.", lambda v: v.run["config"]["train"]["au_threshold"]),
    _OfRun("storagebench_run_finished", "", "1 once the run is over and judged.", lambda v: v.summary is not None),
    _OfRun("storagebench_run_valid", "", "1 where no finding says that a number is false; after the end.", _of_summary("valid")),
    _OfRun("storagebench_run_exit_code", "", "The command's exit code; after the end.", _of_summary("exit_code")),
    _OfRun("storagebench_sync_wait_seconds", "seconds", "Time that ranks waited for one another, mean over ranks, without the sync's own cost; after the end.", _of_summary("sync_wait_s")),
    _OfRun("storagebench_samples_per_second", "", "Samples of all ranks per second of the window, corrected like AU; after the end.", _of_summary("samples_per_s")),
    _OfRun("storagebench_delivered_bytes_per_second", "", "Record bytes of all ranks per second of the window, corrected like AU; after the end.", _of_summary("delivered_bytes_per_s")),
)  # fmt: skip


class _Page:
    """A collector of `prometheus_client` over one view."""

    def __init__(self, view: View) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        view = self._view
        yield InfoMetricFamily("storagebench_run", "What is run.", value=_info(view.run))
        for each in _RUN_FAMILIES:
            value = each.value(view)
            if value is not None:
                family = GaugeMetricFamily(each.name, each.text, labels=("run_id",), unit=each.unit)
                family.add_metric((view.run_id,), float(value))
                yield family
        if view.ranks:
            yield from map(self._of_rank, _RANK_FAMILIES)
            yield self._histogram()
        if view.summary is not None:
            yield from self._of_summary(view.summary)

    def _of_rank(self, each: _OfRank) -> Metric:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        kind = CounterMetricFamily if each.kind == "counter" else GaugeMetricFamily
        family: Metric = kind(each.name, each.text, labels=_RANK_LABELS, unit=each.unit)
        for state in self._view.ranks:
            value = each.value(state)
            if value is not None:
                family.add_metric(self._labels(state.rank, state.host), float(value))  # type: ignore[attr-defined]
        return family

    def _histogram(self) -> Metric:
        from prometheus_client.core import HistogramMetricFamily
        from prometheus_client.utils import floatToGoString

        names = [*map(floatToGoString, FETCH_BUCKETS_S), "+Inf"]
        text = "How long each measured step waited for its batch; le 0 are those that did not wait."
        family = HistogramMetricFamily("storagebench_fetch_wait_seconds", text, labels=_RANK_LABELS, unit="seconds")
        for state in self._view.ranks:
            buckets = list(zip(names, map(float, accumulate(state.fetch_buckets)), strict=True))
            family.add_metric(self._labels(state.rank, state.host), buckets, state.waits_ns / 1e9)
        return family

    def _of_summary(self, summary: Mapping[str, Any]) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        text = "AU of the rank, corrected for batches that were prefetched before the window; after the end."
        nominal = GaugeMetricFamily("storagebench_au_nominal_ratio", text, labels=_RANK_LABELS, unit="ratio")
        for row in summary["per_rank"]:
            if row["au_nominal"] is not None:
                nominal.add_metric(self._labels(row["rank"], row["host"]), row["au_nominal"])
        yield nominal
        findings = GaugeMetricFamily("storagebench_findings", "Findings of the run; after the end.", labels=("run_id", "code", "severity"))
        codes = [(str(finding["code"]), str(finding["severity"])) for finding in summary["findings"]]
        for code, severity in dict.fromkeys(codes):
            findings.add_metric((self._view.run_id, code, severity), codes.count((code, severity)))
        yield findings

    def _labels(self, rank: object, host: object) -> tuple[str, str, str]:
        return (self._view.run_id, str(rank), str(host))


def _info(run: Mapping[str, Any]) -> dict[str, str]:
    config = run["config"]
    return {
        "run_id": str(run["run_id"]),
        "workload": str(config["name"]),
        "accelerator": str(run["accelerator"]),
        "loader": str(config["loader"]["name"]),
        "format": str(run["dataset"]["format"]),
        "storage": str(run["store"]["kind"]),
        "cache": str(config["run"]["cache"]),
    }


def as_openmetrics(view: View | None) -> bytes:
    """The page as OpenMetrics 1.0 text, of content type OPENMETRICS_TYPE. Without a view (nothing runs yet) it is empty."""
    from prometheus_client.openmetrics.exposition import generate_latest

    return bytes(generate_latest(_registry(view)))  # type: ignore[no-untyped-call]


def as_classic(view: View | None) -> bytes:
    """The page in the classic text format 0.0.4: counters are typed under their `_total` names, an info is a gauge, and neither units nor `# EOF` are there."""
    from prometheus_client.exposition import generate_latest

    return bytes(generate_latest(_registry(view)))


def _registry(view: View | None) -> Any:
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry(auto_describe=False)
    if view is not None:
        registry.register(_Page(view))
    return registry
