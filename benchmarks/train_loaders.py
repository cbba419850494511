"""Does each loader train the same model? The digits in each loader's format, several seeds, resnet8 on one thread: data integrity from the storage to the accuracy.

Judged: every run reaches the target; none takes longer than 180 s; loaders that shuffle samples (files, s3, direct) take them in the same order with one
seed, so their accuracies after each epoch are equal, bit for bit; and after the same number of epochs (that of the run with the fewest) the accuracies of
different orders (those, Parquet's row groups, shards) differ by no more than the seeds' own spread explains: a one-way permutation test
(storagebench/model/agreement.py) at 5 %, which is to say that loaders that are all right are called different in one of twenty tries. A loader that hands
over one sample's image under another's id ends far below the others. Prints a table, with --json the figures; exit code 1 where one of the four fails.

    python benchmarks/train_loaders.py --folder /data/train --seeds 3
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from common import say

from storagebench import s3server
from storagebench.errors import StorageBenchError, StorageError
from storagebench.launch import handling_signals
from storagebench.model.agreement import Agreement, agreement

CLI = (sys.executable, "-P", "-m", "storagebench")
FORMATS = {"files": "png", "parquet": "parquet", "webdataset": "webdataset", "s3": "png", "direct": "png"}
SAME_ORDER = ("files", "s3", "direct")
MODEL, BATCH, MOST_EPOCHS = "resnet8", 32, 40
WALL_LIMIT_S = 180.0
BUCKET = "digits"


@dataclass(frozen=True)
class Trained:
    """One run. `accuracies` after each epoch; `wall_s` of the whole command."""

    loader: str
    seed: int
    accuracies: tuple[float, ...]
    reached: bool
    tta_s: float | None
    stall_share: float | None
    wall_s: float


def make(folder: Path, form: str) -> None:
    """The digits in this format and their held-out split, below the bucket's folder; made where they are not there."""
    place = folder / BUCKET / form
    if not (Path(f"{place}-held-out") / "manifest.json").exists():
        say(f"generating {place}")
        checked([*CLI, "generate", "digits", "--format", form, "--data-dir", str(place)], {})


def checked(command: Sequence[str], environment: Mapping[str, str]) -> None:
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StorageError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-600:]}", "run it by hand")


def train(loader: str, seed: int, folder: Path, server: s3server.Server | None, model: str, target: float | None, epochs: int) -> Trained:
    """One training to the target. Raises StorageError where it fails or says that its figures are false."""
    form, options, environment = FORMATS[loader], [], {}
    url = str(folder / BUCKET / form)
    if loader == "s3":
        assert server is not None
        url, options, environment = f"s3://{BUCKET}/{form}", ["--storage-option", f"endpoint_url={server.endpoint_url}"], server.environment()
    with tempfile.TemporaryDirectory(prefix="storagebench-train-") as results:
        begin = time.monotonic()
        checked(
            [
                *CLI, "run", "digits", "--data-dir", url, *options, "--loader", loader, "--accelerator", f"train:{model}@cpu", "--seed", str(seed),
                "--decode", "full", "--verify", "full", "--cache", "as-is", "--batch-size", str(BATCH), "--epochs", str(epochs), "--headroom-duration", "0",
                *(["--target-quality", str(target)] if target is not None else []), "--results-dir", results, "--run-id", "run",
            ],
            environment,
        )  # fmt: skip
        wall_s = time.monotonic() - begin
        summary = json.loads(Path(results, "run", "summary.json").read_text())
    errors = [finding["message"] for finding in summary["findings"] if finding["severity"] == "error"]
    if summary["status"] != "complete" or errors:
        raise StorageError(f"the training with {loader}, seed {seed}, is {summary['status']}: {'; '.join(errors)}", "run it by hand")
    t = summary["training"]
    accuracies = tuple(point["accuracy"] for point in t["curve"])
    return Trained(loader, seed, accuracies, bool(t["reached"]), t["tta_s"], t["stall_share"], wall_s)


def compared(runs: Sequence[Trained]) -> tuple[int, Agreement | None]:
    """(epochs, the test of the accuracies after so many, of one loader for each order of the samples; None where there is one order only). Raises ValueError
    where there are too few runs to tell."""
    epochs = min(len(run.accuracies) for run in runs)
    first = next((run.loader for run in runs if run.loader in SAME_ORDER), None)
    groups: dict[str, list[float]] = {}
    for run in runs:
        if run.loader == first or run.loader not in SAME_ORDER:
            groups.setdefault(run.loader, []).append(run.accuracies[epochs - 1])
    return epochs, agreement(groups) if len(groups) > 1 else None


def unequal(runs: Sequence[Trained]) -> list[str]:
    """Where loaders that take the samples in one order came to different accuracies with one seed."""
    said = []
    for seed in dict.fromkeys(run.seed for run in runs):
        mine = [run for run in runs if run.seed == seed and run.loader in SAME_ORDER]
        said += [
            f"seed {seed}: {other.loader} came to {other.accuracies}, and {mine[0].loader} in the same order to {mine[0].accuracies}"
            for other in mine[1:]
            if other.accuracies != mine[0].accuracies
        ]
    return said


def problems(runs: Sequence[Trained], found: Agreement | None) -> list[str]:
    """What is not as it has to be."""
    said = [f"{run.loader}, seed {run.seed}: the target was not reached in {len(run.accuracies)} epochs" for run in runs if not run.reached]
    said += [f"{run.loader}, seed {run.seed}: {run.wall_s:.0f} s, over {WALL_LIMIT_S:.0f} s" for run in runs if run.wall_s > WALL_LIMIT_S]
    said += unequal(runs)
    if found is not None and not found.agrees:
        said.append(f"the loaders' accuracies differ by more than their seeds' spread: p = {found.p_value:.4f}, means {found.means}")
    return said


def show(runs: Sequence[Trained]) -> str:
    lines = [f"{'loader':<12} {'epochs':>8} {'TTA s (median)':>15} {'wall s (most)':>14} {'stall share':>12} {'accuracy at the end':>20}"]
    for loader in dict.fromkeys(run.loader for run in runs):
        mine = [run for run in runs if run.loader == loader]
        times = [run.tta_s for run in mine if run.tta_s is not None]
        stalls = [run.stall_share for run in mine if run.stall_share is not None]
        epochs, ends = sorted(len(run.accuracies) for run in mine), sorted(run.accuracies[-1] for run in mine)
        lines.append(
            f"{loader:<12} {f'{epochs[0]} to {epochs[-1]}':>8} {median(times) if times else float('nan'):>15.1f} {max(run.wall_s for run in mine):>14.1f} "
            f"{median(stalls) if stalls else float('nan'):>12.3f} {f'{ends[0]:.3f} to {ends[-1]:.3f}':>20}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the data sets are, or are made (a temporary folder with --smoke)")
    parser.add_argument("--loaders", default=",".join(FORMATS), help="which, with commas (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each loader")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--target", type=float, help="accuracy to reach (default: that of the workload digits)")
    parser.add_argument("--smoke", action="store_true", help="two loaders, two seeds, a linear model: that it works, not how fast")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    loaders = args.loaders.split(",")
    unknown = sorted(set(loaders) - set(FORMATS))
    if unknown or (args.folder is None and not args.smoke):
        parser.error(f"unknown loaders: {', '.join(unknown)}" if unknown else "--folder is needed")
    seeds, model, target, epochs = args.seeds, args.model, args.target, MOST_EPOCHS
    if args.smoke:
        loaders, seeds, model, target = ["direct", "files"], 2, "mlp", 0.5
    with handling_signals(), ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="storagebench-digits-")))
        for form in dict.fromkeys(FORMATS[loader] for loader in loaders):
            make(folder, form)
        server = stack.enter_context(s3server.start(folder)) if "s3" in loaders else None
        runs: list[Trained] = []
        for seed in range(1, seeds + 1):
            for loader in loaders:
                runs.append(train(loader, seed, folder, server, model, target, epochs))
                say(f"{loader}, seed {seed}: {len(runs[-1].accuracies)} epochs, {runs[-1].accuracies[-1]:.4f}, {runs[-1].wall_s:.1f} s")
    found: Agreement | None = None
    print(show(runs))
    if not args.smoke:
        at, found = compared(runs)
    if found is not None:
        print(
            f"after {at} epochs: means apart {found.spread:.4f}, standard deviation over the seeds {found.pooled:.4f}, p = {found.p_value:.4f}: "
            + ("they agree" if found.agrees else "THEY DIFFER")
        )
    bad = problems(runs, found)
    print("\n".join(bad) or "each training reached its target in time, and equal orders of the samples gave equal accuracies")
    if args.json:
        figures: dict[str, Any] = {"runs": [asdict(run) for run in runs], "agreement": None if found is None else asdict(found), "problems": bad}
        print(json.dumps(figures, indent=1))
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (StorageBenchError, ValueError) as error:
        sys.exit(f"error: {error}")
