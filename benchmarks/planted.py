"""Five planted bottlenecks: does an ordinary run's verdict name each, does `diagnose`, and does the knob that it names raise AU where there is one?

Slow storage (the shaped store's bandwidth), slow decode (large JPEGs), a loader with one worker before a store of high latency, a host whose cores
are taken by other processes, and nothing but the accelerator. Prints each verdict and how often it was right; exit code 1 where one was not.

    python benchmarks/planted.py --folder /data/planted --times 5
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

_CLI = (sys.executable, "-P", "-m", "storagebench")
_DATASETS = {
    "npz": ("--format", "npz", "--record-length", "64KiB", "--record-length-stdev", "0", "--num-samples", "1024"),
    "jpeg": ("--format", "jpeg", "--payload", "jpeg", "--record-length", "300KB", "--record-length-stdev", "0", "--num-samples", "256"),
}


@dataclass(frozen=True)
class Plant:
    """What is planted: the true bottleneck, the dataset, options of the job, and processes that take the cores meanwhile."""

    bottleneck: str
    dataset: str
    options: tuple[str, ...]
    hogs: int = 0
    shaped: bool = False


PLANTS = (
    Plant("storage", "npz", ("--storage-option", "bandwidth=20MB", "--compute-time", "10ms", "--batch-size", "8"), shaped=True),
    Plant("decode", "jpeg", ("--decode", "full", "--compute-time", "20ms", "--batch-size", "8")),
    Plant("loader", "npz", ("--storage-option", "latency=20ms", "--compute-time", "10ms", "--batch-size", "8", "--num-workers", "1"), shaped=True),
    Plant("host", "jpeg", ("--decode", "full", "--compute-time", "75ms", "--batch-size", "8"), hogs=6),
    Plant("accelerator", "npz", ("--compute-time", "50ms", "--batch-size", "16")),
)


@contextmanager
def hogs(count: int) -> Iterator[None]:
    """So many processes that spin."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def ask(verb: str, plant: Plant, loader: str, folder: Path, results: str, more: Sequence[str]) -> dict[str, Any]:
    """One run or diagnosis of a plant, as its JSON."""
    url = f"{'shaped+' if plant.shaped else ''}{folder / plant.dataset}"
    command = [*_CLI, verb, "quick", "--data-dir", url, *plant.options, "--loader", loader, "--results-dir", results, "--json", *more]
    with hogs(plant.hogs):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return dict(json.loads(done.stdout))


def one_plant(plant: Plant, loader: str, folder: Path, times: int, with_ladder: bool) -> int:
    """Ask so many times, print what was said; how often it was wrong."""
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="planted-") as results:
        for turn in range(times):
            run = ask("run", plant, loader, folder, results, ("--run-id", f"run-{turn}", "--max-steps", "100", "--epochs", "4"))
            said, au, reason = run["bottleneck"], run["au_nominal"], "; ".join(run["verdict"]["why"])
            wrong += said != plant.bottleneck
            print(f"  run       {turn + 1}: {said}  AU {au:.3f}  {reason}", flush=True)
        for turn in range(times if with_ladder else 0):
            more = ("--run-id", f"ladder-{turn}", "--repeats", "1", "--rung-duration", "1s")
            found = ask("diagnose", plant, loader, folder, results, more)
            trial = found["trial"]
            turned = "" if trial is None else f"  knob {trial['settings']}: AU {median(trial['before']):.3f} -> {median(trial['after']):.3f}"
            wrong += found["bottleneck"] != plant.bottleneck or (trial is not None and trial["gain"] <= 0)
            print(f"  diagnose  {turn + 1}: {found['bottleneck']}  AU {found['au']:.3f}{turned}", flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="folder on a local disk for the datasets (kept for the next time)")
    parser.add_argument("--times", type=int, default=5, help="runs and diagnoses of each plant")
    parser.add_argument("--loader", action="append", help="loaders to ask (default: direct)")
    parser.add_argument("--plant", action="append", choices=[plant.bottleneck for plant in PLANTS], help="only these")
    parser.add_argument("--no-ladder", action="store_true", help="ordinary runs only")
    asked = parser.parse_args()
    for name, options in _DATASETS.items():
        subprocess.run([*_CLI, "generate", "quick", *options, "--data-dir", str(asked.folder / name)], check=True, stdout=subprocess.DEVNULL)
    wrong = 0
    for plant in PLANTS:
        if asked.plant and plant.bottleneck not in asked.plant:
            continue
        for loader in asked.loader or ["direct"]:
            print(f"{plant.bottleneck}, loader {loader}", flush=True)
            wrong += one_plant(plant, loader, asked.folder, asked.times, not asked.no_ladder)
    print(f"{wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
