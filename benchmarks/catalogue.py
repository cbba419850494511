"""Every workload that comes with storagebench, scaled down: its dataset is generated and verified, and read with two loaders. Does the whole catalogue work here?

No comparison of loaders: datasets are a few steps long. The table says what was read, whether each sample was right, and which verdict the run got.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storagebench.configfile import known_workloads, load_workload, variants
from storagebench.registry import loaders, missing_modules
from storagebench.workload import Workload

CLI = (sys.executable, "-P", "-m", "storagebench")
MOST_RECORD_BYTES = 16 * 10**6
MOST_BATCH_BYTES = 24 * 10**6
MOST_BATCH = 2048
STEPS = 24
SCENARIOS = ("single-stream", "multi-stream", "server", "offline")


@dataclass(frozen=True)
class Scaled:
    """A workload made small: fewer samples, shorter records where they are long, smaller batches. `format`: where a format has one loader here, another
    one of the same records stands in for the second."""

    workload: Workload
    record_bytes: int
    stdev_bytes: int
    batch: int
    samples: int

    @classmethod
    def of(cls, workload: Workload, steps: int) -> Scaled:
        data = workload.dataset
        if data.task:  # small as it is, and its records are what they are
            return cls(workload, data.record_length_bytes, 0, workload.train.batch_size, min(workload.train.batch_size * steps, data.num_samples))
        record = min(data.record_length_bytes, MOST_RECORD_BYTES)
        batch = max(1, min(workload.train.batch_size, MOST_BATCH, MOST_BATCH_BYTES // record))
        stdev = data.record_length_bytes_stdev * record // data.record_length_bytes
        return cls(workload, record, stdev, batch, max(batch * steps, 64))

    def dataset_options(self, form: str) -> list[str]:
        data = self.workload.dataset
        lengths = [] if data.task else ["--record-length", str(self.record_bytes), "--record-length-stdev", str(self.stdev_bytes)]
        return [
            "--format", form, "--num-samples", str(self.samples), *lengths,
            "--samples-per-shard", str(max(1, min(data.samples_per_shard, self.samples // 8))), "--row-group-size", str(min(data.row_group_bytes, 2**21)),
        ]  # fmt: skip


def able(form: str) -> list[str]:
    """Loaders that read this format from a local path and are installed."""
    found = loaders().items()
    return [name for name, row in found if name != "null" and form in row.formats and "posix" in row.stores and not missing_modules(row.needs)]


def pairs(form: str) -> list[tuple[str, str]]:
    """Two (format, loader) to read such a dataset with; plain TFRecord where the compressed one has one loader only."""
    own = [(form, name) for name in able(form)]
    if len(own) < 2 and form == "tfrecord_zlib":
        own.append(("tfrecord", "direct"))
    return own[:2] if len(own) >= 2 else sys.exit(f"error: {form} has the loaders {able(form)} here, and two are needed")  # type: ignore[return-value]


@contextmanager
def dataset(scaled: Scaled, form: str) -> Iterator[Path]:
    """The dataset on disk, generated and verified."""
    with tempfile.TemporaryDirectory(prefix="storagebench-catalogue-") as folder:
        data = Path(folder, "data")
        call("generate", scaled.workload.name, "--data-dir", str(data), *scaled.dataset_options(form))
        call("verify", "--data-dir", str(data))
        yield data


def call(*arguments: str, codes: Sequence[int] = (0,)) -> str:
    """stdout of a verb. Ends the program where it does not end with one of these codes."""
    done = subprocess.run([*CLI, *arguments], capture_output=True, text=True, check=False)
    if done.returncode not in codes:
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def run(scaled: Scaled, data: Path, loader: str) -> Mapping[str, Any]:
    """The summary of one run over the dataset, every sample compared."""
    accelerator = scaled.workload.run.accelerator
    with tempfile.TemporaryDirectory(prefix="storagebench-catalogue-") as results:
        options = [
            "--loader", loader, "--batch-size", str(scaled.batch), "--epochs", "1", "--verify", "full", "--null-duration", "0.2", "--headroom-duration", "0.2",
            "--num-workers", "2", "--prefetch-batches", "2", "--results-dir", results, "--run-id", "r", "--json", "--memory-limit", "0.9",
        ]  # fmt: skip
        options += ["--accelerator", accelerator] if accelerator else ["--compute-time", "10ms"]
        options += ["--compute-time", "50ms"] if accelerator and scaled.workload.compute_time_of_step_s() > 0.05 else []
        found: Mapping[str, Any] = json.loads(call("run", scaled.workload.name, "--data-dir", str(data), *options, codes=(0, 6)))
    return found[0] if isinstance(found, list) else found


def runs(scaled: Scaled) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(format, loader, summary) of its runs."""
    chosen = pairs(scaled.workload.dataset.format)
    for form in dict.fromkeys(form for form, _ in chosen):
        with dataset(scaled, form) as data:
            for loader in (loader for other, loader in chosen if other == form):
                yield form, loader, run(scaled, data, loader)


def queries(scaled: Scaled) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(scenario, summary) of short query runs over its dataset."""
    with dataset(scaled, scaled.workload.dataset.format) as data, tempfile.TemporaryDirectory(prefix="storagebench-catalogue-") as results:
        for scenario in SCENARIOS:
            options = [
                "--scenario", scenario, "--min-duration", "10ms", "--min-queries", "64", "--target-qps", "100", "--latency-limit", "1s", "--percentile", "0.9",
                "--set", "query.offline_samples=256", "--set", "query.qsl_samples=0", "--results-dir", results, "--run-id", scenario, "--json",
            ]  # fmt: skip
            found = json.loads(call("query", scaled.workload.name, "--data-dir", str(data), *options, codes=(0, 6)))
            yield scenario, found[0] if isinstance(found, list) else found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help="only these")
    parser.add_argument("--smoke", action="store_true", help="three workloads with fewer steps")
    asked = parser.parse_args()
    chosen = asked.workloads or (["quick", "train-ncf", "train-gnmt"] if asked.smoke else known_workloads())
    begin, wrong = time.monotonic(), 0
    print(f"{'workload':<24}{'format':<16}{'loader':<12}{'samples':>9}{'verified':>10}{'MB':>8}{'AU':>7}  {'in the way':<13}{'state'}")
    for name in chosen:
        load_workload(name)
        scaled = Scaled.of(variants(name)[0], 6 if asked.smoke else STEPS)
        for form, loader, found in runs(scaled):
            good = (
                found["valid"] and found["verified_samples"] == found["samples"] > 0 and not found["missing_samples"] and not found["checksum_errors"]
            )
            wrong += not good
            au = "-" if found["au_nominal"] is None else f"{found['au_nominal']:.3f}"
            print(
                f"{name:<24}{form:<16}{loader:<12}{found['samples']:>9}{found['verified_samples']:>10}{found['delivered_bytes'] / 1e6:>8.1f}{au:>7}  "
                f"{found['bottleneck'] or '-':<13}{'ok' if good else 'WRONG ' + ', '.join(row['code'] for row in found['findings'])}",
                flush=True,
            )
        for scenario, found in queries(scaled) if scaled.workload.query.offline_samples_per_s else ():
            good = found["valid"] and found["verdict"] == "VALID"
            wrong += not good
            print(f"{name:<24}{'query':<16}{scenario:<14}{'ok' if good else 'WRONG'}: {found['verdict']}", flush=True)
    print(f"{len(chosen)} workloads in {(time.monotonic() - begin) / 60:.1f} minutes, {wrong} of their runs wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
