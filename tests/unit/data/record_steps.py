"""Record `steps.json`: 40 real runs of one request, taken one after another, as their rates and the microseconds of their steps.

    python tests/unit/data/record_steps.py

Local files, warm, one worker and one prefetched batch against 0.1 ms of compute: data-bound, so that the steps stall, burst and correlate.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from storagebench.checks.comparison import METRICS, step_series
from storagebench.report.load import load_runs

NUM_RUNS, BATCH_SIZE = 40, 8
DATASET = ["--num-samples", "1600", "--record-length", "60000", "--record-length-stdev", "20000", "--format", "npz", "--payload", "bytes"]
RUN = [
    "--compute-time",
    "0.1ms",
    "--batch-size",
    str(BATCH_SIZE),
    "--num-workers",
    "1",
    "--prefetch-batches",
    "1",
    "--cache",
    "as-is",
    "--epochs",
    "1",
]


def _storagebench(*arguments: str) -> None:
    subprocess.run([sys.executable, "-P", "-m", "storagebench", *arguments], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data, results = f"{folder}/data", f"{folder}/results"
        _storagebench("generate", "quick", "--data-dir", data, *DATASET)
        _storagebench("run", "quick", "--data-dir", data, "--results-dir", results, "--run-id", "r", "--repeat", str(NUM_RUNS), "--null-duration", "0", *RUN)  # fmt: skip
        runs = load_runs([results])
    runs.sort(key=lambda saved: int(str(saved.run["run_id"]).rpartition("-")[2]))
    amount = METRICS["samples_per_s"].step_amount
    assert amount is not None
    rows = []
    for saved in runs:
        steps = step_series(saved, amount)
        assert steps is not None and set(steps.amounts) == {BATCH_SIZE}
        rows.append({"samples_per_s": saved.summary["samples_per_s"], "step_us": [round(seconds * 1e6) for seconds in steps.seconds]})
    text = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    Path(__file__).with_name("steps.json").write_text(f'{{"batch_size":{BATCH_SIZE},"runs":[\n{text}\n]}}\n')


if __name__ == "__main__":
    main()
