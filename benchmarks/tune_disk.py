"""Does `tune` beat the defaults on a real disk, and is what it says true?

For each loader: a tuning of a cold data set of 115 KB npz files for a given time, with so little compute that the defaults starve. Whatever it says is then
held against runs of its own making: pairs of the defaults and of the command line that it ended with, in turns. Exit code 1 where it said that it beats the
defaults and these pairs do not show it (median of the ratios at or under 1), or where the pairs show a gain of over 10 % of a best that it would not name.

    python benchmarks/tune_disk.py --folder /data/tune
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from common import CLI, data_set, say, scratch

MOST_MISSED = 1.10


@dataclass(frozen=True)
class Case:
    """A loader, and a compute time of a step of 16 samples at which its defaults leave the accelerator waiting."""

    loader: str
    compute: str


CASES = (Case("direct", "1ms"), Case("files", "2ms"))


def tune(folder: str, case: Case, time: str, trial: str, results: Path) -> dict[str, Any]:
    """What `tune --json` printed."""
    command = [
        *CLI, "tune", "quick", "--data-dir", folder, "--loader", case.loader, "--compute-time", case.compute, "--batch-size", "16",
        "--time", time, "--trial-duration", trial, "--results-dir", str(results), "--tune-id", f"tune-{case.loader}", "--json",
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def value(words: Sequence[str], metric: str, unpaced: bool, seconds: str, results: Path, run_id: str) -> float:
    """The metric of one run of a command line, for so long, as a trial is made."""
    fixed = ["--duration", seconds, "--epochs", "100000", "--null-duration", "0", "--headroom-duration", "0"]
    fixed += ["--compute-time", "0"] if unpaced else []
    command = [*CLI, *without(words[1:], fixed), *fixed, "--results-dir", str(results), "--run-id", run_id, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    return float(json.loads(done.stdout)[metric])


def without(words: Sequence[str], fixed: Sequence[str]) -> list[str]:
    """The words less the options (with their values) that are said again."""
    kept: list[str] = []
    skip = False
    for word in words:
        if not skip and word not in fixed[::2]:
            kept.append(word)
        skip = not skip and word in fixed[::2]
    return kept


def settled(found: dict[str, Any], words: Sequence[str]) -> list[str]:
    """The command line of the best point, also where `tune` ended with the defaults."""
    flags = {"loader.num_workers": "--num-workers", "loader.prefetch_batches": "--prefetch-batches", "loader.io_depth": "--io-depth"}
    return [*words, *(part for key, at in (found["best"] or {}).items() for part in (flags[key], str(at)))]


def check(folder: str, case: Case, asked: argparse.Namespace, results: Path) -> bool:
    """Tune, and hold what it said against pairs of our own; whether that stands."""
    found = tune(folder, case, asked.time, asked.trial, results)
    metric, unpaced, why = (found["objective"][name] for name in ("metric", "unpaced", "why"))
    default = [
        "storagebench", "run", "quick", "--data-dir", folder, "--loader", case.loader, "--compute-time", case.compute, "--batch-size", "16",
    ]  # fmt: skip
    best = shlex.split(found["command"]) if found["better"] else settled(found, default)
    ratios = []
    for pair in range(asked.pairs):
        sides = [("default", default), ("best", best)]
        got = {
            name: value(words, metric, unpaced, asked.trial, results, f"{case.loader}-{name}-{pair}")
            for name, words in (sides if pair % 2 == 0 else sides[::-1])
        }
        ratios.append(got["best"] / got["default"])
        say(f"  {case.loader} pair {pair + 1}: best/defaults {ratios[-1]:.3f}")
    middle = median(ratios)
    said = found["ratio"]
    print(f"{case.loader}, {metric}: {why}")
    print(f"  best {found['best']} in {len(found['trials'])} trials")
    print(f"  tune says {found['verdict']}: {said['value']:.3f} ({said['low']:.3f} to {said['high']:.3f})" if said else "  tune says nothing")
    print(f"  own pairs {middle:.3f} ({min(ratios):.3f} to {max(ratios):.3f}, n {len(ratios)})")
    print(f"  {found['command']}", flush=True)
    return middle > 1 if found["better"] else middle <= MOST_MISSED


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="folder for the data set (kept for the next time)")
    parser.add_argument("--only", action="append", choices=[case.loader for case in CASES], help="only this loader")
    parser.add_argument("--time", default="10min", help="of each tuning")
    parser.add_argument("--trial", default="5s", help="length of a trial, and of a run of the pairs")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--smoke", action="store_true", help="one loader for seconds on a tiny data set, to see that it works: nothing is judged")
    asked = parser.parse_args()
    cases = [case for case in CASES if not asked.only or case.loader in asked.only]
    samples = "10000"
    if asked.smoke:
        cases, samples = [CASES[0]], "64"
        asked.time, asked.trial, asked.pairs = "6s", "0.4s", 1
    with scratch(asked.folder) as place:
        folder = (place if asked.smoke else asked.folder) / "npz115"
        data = data_set(folder, ["--format", "npz", "--record-length", "115000", "--num-samples", samples])
        stands = [check(str(data.folder), case, asked, place / "results") for case in cases]
    return 0 if asked.smoke or all(stands) else 1


if __name__ == "__main__":
    sys.exit(main())
