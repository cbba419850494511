"""Does the simulation foretell real runs? 1, 2, 4 and 8 emulated accelerators on the shaped store, real bytes, against two predictions of each.

- known: from what the store was set to. Of a random latency its very values are known too, since they follow from the seed; in which order they
  come is left to chance.
- measured: from a run of one accelerator with one worker: the times of its reads less what their bytes take on the wire, and its CPU time. Of two
  such runs the one whose reads took less, since what else a host does can only add to them.

Prints AU, both predictions and the differences; exit code 1 where one is more than 0.03 off. On a host that others keep busy reads take
longer than they should, so an answer that is off is taken again, twice at most; how much of the run its late wake-ups took stands beside it.

    python benchmarks/simulate_real.py --folder DIR        (6 minutes)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from storagebench.manifest import load_dataset
from storagebench.model.measured import Measured, measured_of
from storagebench.model.simulate import simulate
from storagebench.model.system import Hosts, Job, Latency, Store, System
from storagebench.report.load import load_runs
from storagebench.storage import open_store
from storagebench.storage.shaped import jitter_ns

CLI = (sys.executable, "-P", "-m", "storagebench")
WITHIN = 0.03
TAKES = 3
RECORD_BYTES = 64_000
SEED = 1
SIMULATED_STEPS = 2_000


@dataclass(frozen=True)
class Setting:
    """One store and loader. Seconds; `knee`: so many accelerators take all of the bandwidth, 0 for no limit; `jitter_s` is the mean of an
    exponential time."""

    name: str
    compute_s: float
    steps: int
    batch: int
    prefetch: int
    workers: int
    knee: float = 0.0
    latency_s: float = 0.0
    jitter_s: float = 0.0
    sync: str = "step"

    @property
    def warmup(self) -> int:
        return 3 * self.prefetch + 4

    def options(self, stored_bytes: float) -> dict[str, str]:
        """Of the store."""
        options = {"latency": f"{self.latency_s}s", "jitter": f"{self.jitter_s}s", "seed": str(SEED)}
        if self.knee:
            options["bandwidth"] = str(round(self.knee * self.batch * stored_bytes / self.compute_s))
        return options


# Steps are long, so that what the host adds to a read (0.2 to 2 ms, as busy as it is) is little of it; and latencies vary by a third, so that the
# order in which a run of so few steps meets them moves its AU by some hundredths at most.
SETTINGS = (
    Setting("bandwidth", 0.080, 90, 4, 4, 2, knee=3),
    Setting("latency with jitter", 0.070, 260, 1, 2, 1, latency_s=0.048, jitter_s=0.022),
    Setting("mixed", 0.080, 100, 4, 4, 2, knee=4.5, latency_s=0.045, jitter_s=0.030),
    Setting("mixed, each on its own", 0.080, 100, 4, 2, 2, knee=4.5, latency_s=0.065, jitter_s=0.030, sync="none"),
)
# Small enough for a test: half a minute with 1, 2, 4 and 8.
SMOKE = (Setting("mixed", 0.050, 50, 4, 2, 2, knee=3.5, latency_s=0.030, jitter_s=0.012),)


@dataclass(frozen=True)
class Row:
    """One run: AU as measured, and as foretold."""

    setting: str
    accelerators: int
    measured: float
    host_delay_share: float
    from_known: float
    from_measured: float
    limited_by: str

    @property
    def worst(self) -> float:
        return max(abs(self.from_known - self.measured), abs(self.from_measured - self.measured))

    def show(self) -> str:
        known, found = (f"{au:.4f} ({au - self.measured:+.4f})" for au in (self.from_known, self.from_measured))
        return (
            f"{self.setting}, {self.accelerators}: AU {self.measured:.4f} (late wake-ups of the host {self.host_delay_share:.1%}), "
            f"known {known}, measured {found}, {self.limited_by}  {'ok' if self.worst <= WITHIN else 'OFF'}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the dataset is made, and kept for the next time")
    parser.add_argument("--accelerators", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N")
    parser.add_argument("--only", default="", metavar="WORD", help="only settings with this word in their name")
    parser.add_argument("--smoke", action="store_true", help="one short setting; the bound is judged as in full")
    asked = parser.parse_args()
    settings = SMOKE if asked.smoke else SETTINGS
    data = dataset(asked.folder, max(asked.accelerators) * max((one.steps + one.warmup) * one.batch for one in settings))
    rows = [row for setting in settings if asked.only in setting.name for row in compare(data, setting, asked.accelerators)]
    off = [row for row in rows if row.worst > WITHIN]
    print(f"largest difference {max(row.worst for row in rows):.4f} AU over {len(rows)} runs, {len(off)} of them off by more than {WITHIN}")
    return 1 if off else 0


def dataset(folder: Path, num_samples: int) -> Path:
    """Files of one length, each sample one request of known bytes."""
    place = folder / f"npy-{num_samples}"
    if not (place / "manifest.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        options = (
            "--format",
            "npy",
            "--payload",
            "bytes",
            "--num-samples",
            str(num_samples),
            "--record-length",
            str(RECORD_BYTES),
            "--record-length-stdev",
            "0",
        )
        subprocess.run([*CLI, "generate", "quick", *options, "--data-dir", str(place)], check=True, stdout=subprocess.DEVNULL)
    return place


def compare(data: Path, setting: Setting, accelerators: Sequence[int]) -> list[Row]:
    """All numbers of accelerators of one setting."""
    store = open_store(str(data))
    stored = load_dataset(store)
    store.close()
    stored_bytes = stored.stored_bytes / stored.num_samples
    with tempfile.TemporaryDirectory(prefix="storagebench-simulate-") as results:
        one = replace(setting, workers=1, prefetch=1)  # one read at a time, so that none waits for another
        found = min(
            (measured_of_run(run(data, one, stored_bytes, 1, Path(results))) for _ in range(2)),
            key=lambda some: sum(some.fetch_s) / len(some.fetch_s),
        )
        rows = []
        for number in accelerators:
            for _ in range(TAKES):
                summary = load(run(data, setting, stored_bytes, number, Path(results)))
                row = foretold(setting, number, stored_bytes, drawn_s(setting, stored, number), found, summary)
                print(row.show(), flush=True)
                if row.worst <= WITHIN:
                    break
            rows.append(row)
    return rows


def run(data: Path, setting: Setting, stored_bytes: float, accelerators: int, results: Path) -> Path:
    """A real run; its folder."""
    run_id = f"run-{len(list(results.iterdir()))}"
    store = [word for name, value in setting.options(stored_bytes).items() for word in ("--storage-option", f"{name}={value}")]
    command = [
        *CLI, "run", "quick", "--data-dir", f"shaped+{data}", *store, "--loader", "direct", "--num-accelerators", str(accelerators),
        "--accelerators-per-process", str(accelerators), "--batch-size", str(setting.batch), "--prefetch-batches", str(setting.prefetch), "--num-workers", str(setting.workers),
        "--compute-time", f"{setting.compute_s}s", "--epochs", "1", "--warmup-steps", str(setting.warmup),
        "--max-steps", str(setting.warmup + setting.steps), "--sync", setting.sync, "--seed", str(SEED), "--cache", "warm", "--headroom-duration", "0", "--null-duration", "0.3s",
        "--results-dir", str(results), "--run-id", run_id,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return results / run_id


def load(folder: Path) -> Mapping[str, Any]:
    summary: Mapping[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def measured_of_run(folder: Path) -> Measured:
    (found,) = load_runs([folder])
    return measured_of(found.summary, found.run, found.ranks.traces())


def drawn_s(setting: Setting, stored: Any, accelerators: int) -> tuple[float, ...]:
    """The random latencies of the samples that such a run reads: those of the first so many of the epoch's order."""
    from storagebench.sampling import epoch_order

    if not setting.jitter_s:
        return ()
    count = accelerators * (setting.steps + setting.warmup) * setting.batch
    extents = [stored.extent(int(sample), stored.whole_shards) for sample in epoch_order(SEED, 0, stored.num_samples, True)[:count]]
    return tuple(np.sort([jitter_ns(SEED, extent.key, extent.offset, round(setting.jitter_s * 1e9)) / 1e9 for extent in extents]).tolist())


def foretold(setting: Setting, accelerators: int, stored_bytes: float, drawn: tuple[float, ...], found: Measured, summary: Mapping[str, Any]) -> Row:
    """Both predictions beside the run."""
    bandwidth = float(setting.options(stored_bytes).get("bandwidth", "inf"))
    job = Job(
        "run", accelerators, setting.compute_s, setting.batch, stored_bytes, prefetch_batches=setting.prefetch, readers=setting.workers,
        requests_per_read=setting.batch, in_step=setting.sync == "step",
    )  # fmt: skip
    known = System((job,), Store(bandwidth, latency=Latency(setting.latency_s, sample_s=drawn)))
    cpu_s = (found.cpu_s_per_gb or 0.0) * job.batch_bytes / 1e9
    other = System(
        (replace(job, cpu_s_per_batch=cpu_s),),
        Store(bandwidth, latency=Latency(sample_s=found.latency_s(bandwidth), of_read=True)),
        Hosts(cores=float(len(os.sched_getaffinity(0)))),
    )
    first, second = simulate(known, SIMULATED_STEPS), simulate(other, SIMULATED_STEPS)
    return Row(
        setting.name,
        accelerators,
        summary["au_nominal"],
        summary["host_delay_s"] / summary["window_s"],
        first.least_au,
        second.least_au,
        first.limited_by,
    )


if __name__ == "__main__":
    sys.exit(main())
