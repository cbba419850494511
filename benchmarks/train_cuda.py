"""A real training on a CUDA device, beside the same one on the CPU: resnet8 on digits with the loader direct on both, and resnet20 on photographs with larger
batches on the device. Needs the repository, torch, pillow, scikit-learn and the core's own packages (numpy, pydantic, click, crc32c, msgspec, psutil, PyYAML,
rich, fsspec); nothing is fetched. Prints JSON: accuracies, time to the target, stall shares, the compute of a step. Exit code 1 where a training does not
reach its target or a run is not valid.

    python benchmarks/train_cuda.py --folder /tmp/train-cuda
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLI = (sys.executable, "-P", "-m", "storagebench")


@dataclass(frozen=True)
class Cell:
    """A training: `device` cpu or cuda."""

    name: str
    task: str
    model: str
    device: str
    batch: int
    epochs: int
    ranks: int = 1


def cells(device: str) -> tuple[Cell, ...]:
    return (
        Cell("digits-cpu", "digits", "resnet8", "cpu", 32, 20),
        Cell("digits-device", "digits", "resnet8", device, 32, 20),
        Cell("photographs-device", "photographs", "resnet20", device, 128, 40),
        Cell("digits-device-two-ranks", "digits", "resnet8", device, 32, 20, ranks=2),
    )


SMOKE = (Cell("smoke-cpu", "digits", "linear", "cpu", 32, 2),)


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, *words], capture_output=True, text=True, check=False)


def make(folder: Path, task: str) -> Path:
    place = folder / task
    if not (folder / f"{task}-held-out" / "manifest.json").exists():
        made = call("generate", task, "--data-dir", str(place))
        if made.returncode:
            sys.exit(f"generate {task} ended with {made.returncode}: {made.stderr[-600:]}")
    return place


def train(cell: Cell, folder: Path) -> Mapping[str, Any]:
    """What came of it, or the error."""
    data = make(folder, cell.task)
    with tempfile.TemporaryDirectory(prefix="storagebench-train-cuda-") as results:
        begin = time.monotonic()
        done = call(
            "run", cell.task, "--data-dir", str(data), "--loader", "direct", "--accelerator", f"train:{cell.model}@{cell.device}", "--decode", "full",
            "--batch-size", str(cell.batch), "--epochs", str(cell.epochs), "--num-accelerators", str(cell.ranks), "--cache", "as-is", "--headroom-duration", "0",
            "--results-dir", results, "--run-id", "run",
        )  # fmt: skip
        wall_s = time.monotonic() - begin
        path = Path(results, "run", "summary.json")
        summary = json.loads(path.read_text()) if path.exists() else None
    row: dict[str, Any] = {**cell.__dict__, "exit_code": done.returncode, "command_s": round(wall_s, 2)}
    if done.returncode or summary is None:
        return {**row, "error": done.stderr.strip()[-1500:]}
    keys = ("samples_per_s", "au_measured", "fetch_s", "compute_s", "copy_s", "window_s", "bottleneck", "valid", "devices")
    return {
        **row,
        **{key: summary[key] for key in keys},
        "training": summary["training"],
        "findings": [finding["code"] for finding in summary["findings"]],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the data sets are, or are made (a temporary folder otherwise)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:0 ... (cpu to try the script without one)")
    parser.add_argument("--only", help="names of cells, with commas")
    parser.add_argument("--smoke", action="store_true", help="two epochs of a linear model on the CPU")
    args = parser.parse_args()
    chosen = SMOKE if args.smoke else cells(args.device)
    if args.only:
        chosen = tuple(cell for cell in chosen if cell.name in args.only.split(","))
    with tempfile.TemporaryDirectory(prefix="storagebench-tasks-") as temporary:
        folder = args.folder or Path(temporary)
        rows = []
        for cell in chosen:
            rows.append(train(cell, folder))
            t = rows[-1].get("training") or {}
            print(f"{cell.name}: {t.get('final_accuracy')} in {t.get('epochs_run')} epochs, TTA {t.get('tta_s')}", file=sys.stderr, flush=True)
    print(json.dumps(rows, indent=1))
    bad = [row for row in rows if row["exit_code"] or not row["valid"] or (not args.smoke and not row["training"]["reached"])]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
