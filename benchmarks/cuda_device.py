"""A real CUDA device as the consumer, against the closed form and against the emulated accelerator on the same shaped store.

Three cells, each with both consumers in turn: demand of 0.5 and of 1.5 of the store's bandwidth (expected AU 1 and 0.667), and long batches out of memory,
which show what the hand-over to the device takes: into pinned memory and then onto the device, before each compute and not beside the one before. Prints
AU, what the device's kernels took by its own events, the copy's rate, and what NVML says. Exit code 1 where AU of the device is further than 0.02 from
what the closed form gives with the hand-over in it.

    python benchmarks/cuda_device.py --folder /data/cuda
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from storagebench.records import rank_traces
from storagebench.traces import STEP, Steps, read_trace

CLI = (sys.executable, "-P", "-m", "storagebench")
AU_WITHIN = 0.02
WARMUP_STEPS = 10


@dataclass(frozen=True)
class Cell:
    """`demand`: of the store's bandwidth; None has no such limit."""

    name: str
    record_bytes: int
    batch: int
    compute_s: float
    demand: float | None
    steps: int

    @property
    def batch_bytes(self) -> int:
        return self.batch * self.record_bytes


SMOKE = (Cell("smoke, demand 0.5 of the bandwidth", 115_000, 2, 0.02, 0.5, 20),)
CELLS = (
    Cell("demand 0.5 of the bandwidth", 115_000, 4, 0.02, 0.5, 300),
    Cell("demand 1.5 of the bandwidth", 115_000, 4, 0.02, 1.5, 300),
    Cell("batches of 40 MB out of memory", 20_000_000, 2, 0.1, None, 60),
)


def run(cell: Cell, data: Path, accelerator: str | None) -> tuple[Mapping[str, Any], Steps]:
    """The summary, and the measured steps."""
    shaped = [] if cell.demand is None else ["--storage-option", f"bandwidth={round(cell.batch_bytes / cell.compute_s / cell.demand)}"]
    with tempfile.TemporaryDirectory(prefix="storagebench-cuda-") as results:
        command = [
            *CLI, "run", "quick", "--data-dir", f"shaped+{data}" if cell.demand else str(data), *shaped, "--loader", "direct", "--cache", "warm",
            "--batch-size", str(cell.batch), "--compute-time", f"{cell.compute_s}s", "--warmup-steps", str(WARMUP_STEPS), "--epochs", "1",
            "--max-steps", str(cell.steps + WARMUP_STEPS), "--headroom-duration", "0", "--verify", "full", "--results-dir", results, "--run-id", "run",
            *(["--accelerator", accelerator] if accelerator else []),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        summary = json.loads((Path(results) / "run" / "summary.json").read_text())
        steps = read_trace(rank_traces(Path(results) / "run")[0]).steps
        return summary, steps.pick(steps.kind == STEP)


def expected(cell: Cell, handover_s: float) -> float:
    """The closed form: a step takes the compute and the hand-over before it, or what the store needs for its bytes."""
    fetch_s = 0.0 if cell.demand is None else cell.compute_s * cell.demand
    return cell.compute_s / max(cell.compute_s + handover_s, fetch_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the datasets (1.5 GB) are made, and kept for the next time")
    parser.add_argument("--accelerator", default="cuda:0", help="the device")
    parser.add_argument("--smoke", action="store_true", help="seconds, without a device: the emulated accelerator only, and no bound")
    asked = parser.parse_args()
    missed = 0
    for cell in SMOKE if asked.smoke else CELLS:
        data = asked.folder / f"npy-{cell.record_bytes}-{cell.steps}"
        if not (data / "manifest.json").exists():
            count = cell.batch * (cell.steps + WARMUP_STEPS)
            options = ["--payload", "bytes", "--num-samples", str(count), "--record-length", str(cell.record_bytes), "--record-length-stdev", "0"]
            subprocess.run([*CLI, "generate", "quick", "--format", "npy", *options, "--data-dir", str(data)], check=True, stdout=subprocess.DEVNULL)
        for accelerator in (None,) if asked.smoke else (None, asked.accelerator):
            summary, steps = run(cell, data, accelerator)
            computes_s = ((steps.compute_end_ns - steps.start_ns) / 1e9).tolist()
            # From a batch that is there to its compute: into pinned memory, and onto the device. An emulated accelerator takes it as it lies.
            handover_s = median(((steps.start_ns - steps.got_ns) / 1e9).tolist()) if accelerator else 0.0
            copy_s = median(steps.copy_s.tolist())
            au, should = summary["au_nominal"], expected(cell, handover_s)
            line = (
                f"{cell.name}: {accelerator or 'emulated'}: AU {au:.4f}, expected {should:.4f} ({au - should:+.4f}), au_null {summary['au_null']:.4f}"
            )
            line += f"; compute {median(computes_s) * 1e3:.3f} ms (largest {max(computes_s) * 1e3:.3f}) of {cell.compute_s * 1e3:g}"
            if copy_s:
                line += f"; hand-over {handover_s * 1e3:.3f} ms, of it the copy {copy_s * 1e3:.3f} ({cell.batch_bytes / copy_s / 1e9:.1f} GB/s)"
            line += f"; {summary['verified_samples']} of {summary['samples']} samples verified"
            is_missed = accelerator is not None and abs(au - should) > AU_WITHIN
            missed += is_missed
            print(f"{line}  {'MISSED' if is_missed else 'ok'}", flush=True)
            for row in summary.get("devices", []):
                print(f"  NVML: {json.dumps(row)}", flush=True)
            for finding in summary["findings"]:
                print(f"  {finding['severity']} {finding['code']}: {finding['message']}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
