"""Does `compare` find a slow-down of 10 %, and does it keep quiet where there is none? Real runs on the shaped store.

Each round makes runs of three sides in turns - the base, the same again, and one with 10 % less bandwidth - and compares the base with both others,
at a margin of 5 %. Prints the verdicts; exit code 1 where more than 3 of 20 equal pairs are called different, or fewer than 19 of 20 slow-downs found.

    python benchmarks/compare_power.py --folder /data/power --rounds 20
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

_CLI = (sys.executable, "-P", "-m", "storagebench")
_SIDES = {"base": 20_000_000, "same": 20_000_000, "slow": 18_000_000}
_DATASET = ("--format", "npz", "--record-length", "32KiB", "--record-length-stdev", "0", "--num-samples", "512")
MOST_ALARMS, LEAST_FOUND = 3 / 20, 19 / 20


def measure(dataset: str, bandwidth: int, results: Path, run_id: str, steps: int) -> None:
    command = [
        *_CLI, "run", "quick", "--data-dir", f"shaped+{dataset}", "--storage-option", f"bandwidth={bandwidth}", "--compute-time", "5ms", "--batch-size", "8",
        "--max-steps", str(steps), "--epochs", "9", "--null-duration", "0", "--headroom-duration", "0", "--results-dir", str(results), "--run-id", run_id,
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)


def compare(base: Path, new: Path) -> tuple[int, str]:
    """Exit code and verdict of `compare`."""
    done = subprocess.run([*_CLI, "compare", str(base), str(new), "--margin", "5%", "--json"], capture_output=True, text=True, check=False)
    if not done.stdout:
        raise SystemExit(done.stderr)
    return done.returncode, str(json.loads(done.stdout)["verdict"])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="folder for the dataset (kept for the next time)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--runs", type=int, default=5, help="runs of each side in a round")
    parser.add_argument("--steps", type=int, default=80, help="steps of a run")
    asked = parser.parse_args()
    dataset = str(asked.folder / "power-npz")
    subprocess.run([*_CLI, "generate", "quick", *_DATASET, "--data-dir", dataset], check=True, stdout=subprocess.DEVNULL)
    alarms = found = shown = 0
    for turn in range(1, asked.rounds + 1):
        with tempfile.TemporaryDirectory(prefix="power-") as folder:
            for run in range(1, asked.runs + 1):
                sides = list(_SIDES.items())
                for name, bandwidth in sides[run % 3 :] + sides[: run % 3]:
                    measure(dataset, bandwidth, Path(folder), f"{name}-{run}", asked.steps)
            _, same = compare(Path(folder, "base"), Path(folder, "same"))
            code, slow = compare(Path(folder, "base"), Path(folder, "slow"))
        alarms += same != "not distinguishable"
        found += slow == "worse"
        shown += code == 6
        print(f"round {turn}: the same again {same}; 10 % less bandwidth {slow}, exit code {code}", flush=True)
    print(f"false alarms {alarms} of {asked.rounds}; slow-downs found {found} of {asked.rounds} (beyond the margin of 5 % in {shown})")
    return 0 if alarms <= MOST_ALARMS * asked.rounds and found >= LEAST_FOUND * asked.rounds else 1


if __name__ == "__main__":
    sys.exit(main())
