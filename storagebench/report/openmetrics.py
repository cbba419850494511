"""A run as Prometheus and its kin read it: OpenMetrics 1.0 text, or the classic text format of node exporter's textfile collector.

While the run goes on the numbers are those of its traces so far (`storagebench.follow`); once it is judged, those that
need the whole run follow out of its summary. Every series has the label `run_id`, so that the pages of several runs may lie in one folder; those of a
rank have `rank` and `host` too. Nothing else of a run is a label: no path, no URL, no option, so no secret can be one.

The text is written here, and not by `prometheus_client`, whose parsers the tests hold it against: its writer looks at each character of each label again and
took 1.4 s where this takes 0.08 s, for the 40,000 samples of 1000 ranks on a busy machine. That is time of the host that is measured, for every scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, NamedTuple

from storagebench.follow import FETCH_BUCKETS_S, RankState

OPENMETRICS_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
CLASSIC_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS: Final = (*(f',le="{bound!r}"}}' for bound in FETCH_BUCKETS_S), ',le="+Inf"}')


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
    _OfRank("gauge", "storagebench_rank_failed", "", "1 where an error of its own ended the rank, or its trace cannot be read; a killed rank says nothing.", lambda r: r.failed or r.damaged),
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


class _Family(NamedTuple):
    """A family: its samples are (suffix of the name, labels in braces, value)."""

    kind: str  # counter, gauge, histogram or info
    name: str
    unit: str
    text: str
    samples: Iterable[tuple[str, str, float]]


def _families(view: View) -> Iterator[_Family]:
    yield _Family("info", "storagebench_run", "", "What is run.", [("_info", _braces(_info(view.run)), 1)])
    of_run = _braces({"run_id": view.run_id})
    for each in _RUN_FAMILIES:
        value = each.value(view)
        if value is not None:
            yield _Family("gauge", each.name, each.unit, each.text, [("", of_run, value)])
    if view.ranks:
        # The labels of a rank once, without the closing brace: buckets have one more.
        ranks = [(state, _of_rank(view, state.rank, state.host)) for state in view.ranks]
        for family in _RANK_FAMILIES:
            yield _Family(family.kind, family.name, family.unit, family.text, _rank_samples(family, ranks))
        text = "How long each measured step waited for its batch; le 0 are those that did not wait."
        yield _Family("histogram", "storagebench_fetch_wait_seconds", "seconds", text, _histogram_samples(ranks))
    if view.summary is not None:
        yield from _judged(view, view.summary)


def _rank_samples(family: _OfRank, ranks: Iterable[tuple[RankState, str]]) -> Iterator[tuple[str, str, float]]:
    suffix = "_total" if family.kind == "counter" else ""
    for state, labels in ranks:
        value = family.value(state)
        if value is not None:
            yield suffix, labels + "}", value


def _histogram_samples(ranks: Iterable[tuple[RankState, str]]) -> Iterator[tuple[str, str, float]]:
    for state, labels in ranks:
        count = 0
        for count, bound in zip(accumulate(state.fetch_buckets), _BUCKETS, strict=True):
            yield "_bucket", labels + bound, count
        yield "_count", labels + "}", count
        yield "_sum", labels + "}", state.waits_ns / 1e9


def _judged(view: View, summary: Mapping[str, Any]) -> Iterator[_Family]:
    rows = [row for row in summary["per_rank"] if row["au_nominal"] is not None]
    text = "AU of the rank, corrected for batches that were prefetched before the window; after the end."
    nominal = [("", _of_rank(view, row["rank"], row["host"]) + "}", row["au_nominal"]) for row in rows]
    yield _Family("gauge", "storagebench_au_nominal_ratio", "ratio", text, nominal)
    codes = [(str(finding["code"]), str(finding["severity"])) for finding in summary["findings"]]
    counted = {pair: codes.count(pair) for pair in codes}
    findings = [("", _braces({"run_id": view.run_id, "code": code, "severity": severity}), count) for (code, severity), count in counted.items()]
    yield _Family("gauge", "storagebench_findings", "", "Findings of the run; after the end.", findings)


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


def _of_rank(view: View, rank: object, host: object) -> str:
    return _braces({"run_id": view.run_id, "rank": str(rank), "host": str(host)})[:-1]


def _braces(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def as_openmetrics(view: View | None) -> bytes:
    """The page as OpenMetrics 1.0 text, of content type OPENMETRICS_TYPE. Without a view (nothing runs yet) it is empty."""
    parts = []
    for family in () if view is None else _families(view):
        parts.append(f"# HELP {family.name} {_escaped(family.text)}\n# TYPE {family.name} {family.kind}\n")
        if family.unit:
            parts.append(f"# UNIT {family.name} {family.unit}\n")
        parts += _lines(family)
    return "".join([*parts, "# EOF\n"]).encode()


def as_classic(view: View | None) -> bytes:
    """The page in the classic text format 0.0.4: counters are declared under their `_total` names, an info is a gauge, and neither units nor `# EOF` are there."""
    parts = []
    for family in () if view is None else _families(view):
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.kind, "")
        kind = "gauge" if family.kind == "info" else family.kind
        parts.append(f"# HELP {name} {family.text}\n# TYPE {name} {kind}\n")
        parts += _lines(family)
    return "".join(parts).encode()


def _lines(family: _Family) -> Iterator[str]:
    name = family.name
    for suffix, labels, value in family.samples:
        yield f"{name}{suffix}{labels} {value + 0!r}\n"  # + 0: True is 1
