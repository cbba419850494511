"""Does `storagebench query` measure what MLPerf's own LoadGen measures, on the same storage with the same queries at the same times?

The store is shaped to 5 ms a read. LoadGen (`mlcommons-loadgen`) issues to a system under test that reads with our own readers, and writes down what it
measured; then `storagebench query` does the same with LoadGen's seeds, so both ask for the same samples at the same nanoseconds. Compared are the verdict
and the percentiles that LoadGen reports. Server at rates below, near and above what the workers can give, and single-stream.

    python benchmarks/query_vs_loadgen.py --folder DIR [--smoke]       (half a minute)
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any, NamedTuple

from storagebench.build import generate
from storagebench.configfile import load_workload
from storagebench.manifest import Dataset, load_dataset
from storagebench.protocols import LoadJob, Store, StoreSpec
from storagebench.queryengine import Reader
from storagebench.querysession import execute_queries, prepare_queries
from storagebench.request import Request
from storagebench.storage import open_spec, open_store, parse_url

DRIVER = Path(__file__).parents[1] / "tests" / "truth" / "loadgen_driver.py"
LATENCY = "5ms"
LIMIT_S = 0.05
SAMPLES = 100
BOUND = 0.25  # of the 90th percentile: both are one run on a machine that is not idle, and what differs is a thread that woke late
TAKES = 3  # an answer that differs is taken again: near its capacity a queue remembers each moment in which others had the cores
SHARES = ("50.00", "90.00", "99.00")


class Rate(NamedTuple):
    """One comparison: queries a second (0: single-stream), how many queries, how many workers."""

    qps: int
    queries: int
    workers: int


RATES = (Rate(0, 300, 1), Rate(100, 500, 1), Rate(150, 500, 1), Rate(300, 300, 1), Rate(400, 1000, 4), Rate(600, 1000, 4))
SMOKE = (Rate(0, 70, 1), Rate(300, 100, 1))


def driver() -> ModuleType:
    """The module that drives LoadGen for the tests."""
    spec = importlib.util.spec_from_file_location("loadgen_driver", DRIVER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["loadgen_driver"] = module
    spec.loader.exec_module(module)
    return module


class System:
    """A system under test: worker threads that read with our readers and tell LoadGen when a sample is there."""

    def __init__(self, lg: Any, readers: Sequence[Reader]) -> None:
        self._lg = lg
        self._queue: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, args=(reader,)) for reader in readers]
        for thread in self._threads:
            thread.start()

    def issue(self, samples: Sequence[Any]) -> None:
        for sample in samples:
            self._queue.put((sample.id, sample.index))

    def _work(self, reader: Reader) -> None:
        while (item := self._queue.get()) is not None:
            reader.read(item[1])
            self._lg.QuerySamplesComplete([self._lg.QuerySampleResponse(item[0], 0, 0)])

    def close(self) -> None:
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()


def theirs(rate: Rate, store: Store, spec: StoreSpec, dataset: Dataset) -> Mapping[str, Any]:
    """What LoadGen says."""
    module = driver()
    readers = [Reader(store, LoadJob(spec, dataset, 0, 1, 1, decode="parse", verify="sample")) for _ in range(rate.workers)]
    module._System = lambda lg, _: System(lg, readers)
    scenario = "server" if rate.qps else "single-stream"
    case = module.Case(
        "benchmark", scenario, 0.9, rate.queries, qps=rate.qps or 1000.0, limit_ms=LIMIT_S * 1e3, total_samples=SAMPLES, qsl_samples=SAMPLES
    )
    said: Mapping[str, Any] = module.drive(case)["said"]
    return said


def ours(rate: Rate, url: str, options: Mapping[str, str], folder: Path) -> Mapping[str, Any]:
    """What `storagebench query` says."""
    values = {
        "query.scenario": "server" if rate.qps else "single-stream",
        "query.target_qps": rate.qps or None,
        "query.percentile": 0.9,
        "query.min_query_count": rate.queries,
        "query.min_duration_s": 0,
        "query.latency_limit_s": LIMIT_S,
        "query.qsl_samples": 0,
        "loader.num_workers": rate.workers,
        "run.cache": "as-is",
    }
    configured = load_workload("inference-resnet50", [(key, value, "benchmark") for key, value in values.items()])
    run_id = f"{rate.qps}-{rate.workers}"
    return execute_queries(prepare_queries(Request(configured, url, options, folder, run_id, sys.argv, time.monotonic_ns())))


def compare(rate: Rate, folder: Path, url: str, options: Mapping[str, str]) -> bool:
    """One rate on both sides, printed; whether they agree."""
    spec = parse_url(url, options)
    store = open_spec(spec)
    said = theirs(rate, store, spec, load_dataset(store))
    store.close()
    summary = ours(rate, url, options, folder)
    their_ms = [said[f"result_{share}_percentile_latency_ns"] / 1e6 for share in SHARES]
    our_ms = [summary["latency_quantiles_s"][f"p{float(share):g}"] * 1e3 for share in SHARES]
    same = said["result_validity"] == summary["verdict"] and abs(our_ms[1] / their_ms[1] - 1) <= BOUND
    what = f"server at {rate.qps} queries/s, {rate.workers} workers" if rate.qps else "single-stream"
    print(
        f"{what}: LoadGen {said['result_validity']} {_ms(their_ms)}, ours {summary['verdict']} {_ms(our_ms)}{'' if same else '  DIFFERS'}", flush=True
    )
    return same


def _ms(values: Sequence[float]) -> str:
    return "p50/p90/p99 " + "/".join(f"{value:.1f}" for value in values) + " ms"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the small dataset is made; all of it is removed")
    parser.add_argument("--smoke", action="store_true", help="two short comparisons, and no bound")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="query-", dir=arguments.folder) as name:
        data = str(Path(name) / "data")
        shape = {"format": "npy", "payload": "bytes", "num_samples": SAMPLES, "record_length_bytes": 5000, "record_length_bytes_stdev": 0}
        workload = load_workload("quick", [(f"dataset.{key}", value, "benchmark") for key, value in shape.items()]).workload
        generate(workload, open_store(data))
        found = []
        for rate in SMOKE if arguments.smoke else RATES:
            takes = (compare(rate, Path(name) / str(take), f"shaped+{data}", {"latency": LATENCY}) for take in range(1 if arguments.smoke else TAKES))
            found.append(any(takes))
    return 0 if all(found) or arguments.smoke else 1


if __name__ == "__main__":
    sys.exit(main())
