"""Does a throttled storage cost the time that the projection foretells? For each seed the digits are trained to their target twice, with the same loader: free, then
behind a store throttled to a half of what the free training took from it.

The projection knows the free training (epochs to the target, step compute, evaluation, opening) and the bandwidth, and nothing of the throttled one: `TTA = start +
E x (N / min(R_compute, R_storage) + evaluation)` (storagebench/model/tta.py), where R_storage is the bandwidth over the stored bytes of a sample. Judged: the throttled
training took that time within 5 %, as the median over the seeds and for each of them; and it reached the same accuracies after each epoch, bit for bit (the loader
`direct` gives the same batches), so that nothing but time was lost. Exit code 1 where one of them fails.

    python benchmarks/train_throttled.py --folder /data/train --seeds 3
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from common import say
from train_loaders import BUCKET, CLI, checked, make

from storagebench.errors import StorageBenchError, StorageError
from storagebench.launch import handling_signals
from storagebench.model.tta import epoch_s, rate_with_overlap, time_to_target_s

WITHIN = 0.05
SHARE = 0.5
"""Of what the free training takes from the storage."""


@dataclass(frozen=True)
class Pair:
    """A seed's two trainings. Seconds; `bandwidth` in bytes/s."""

    seed: int
    epochs: int
    free_s: float
    bandwidth: int
    foretold_s: float
    throttled_s: float
    stall_share: float
    same_accuracies: bool

    @property
    def ratio(self) -> float:
        return self.throttled_s / self.foretold_s


def trained(url: str, seed: int, options: list[str], model: str, loader: str, target: float | None) -> dict[str, Any]:
    """The summary of one training to the target. Raises StorageError where it is none."""
    with tempfile.TemporaryDirectory(prefix="storagebench-train-") as results:
        checked(
            [
                *CLI, "run", "digits", "--data-dir", url, *options, "--loader", loader, "--accelerator", f"train:{model}@cpu", "--seed", str(seed),
                "--cache", "as-is", "--headroom-duration", "0", *(["--target-quality", str(target)] if target is not None else []),
                "--results-dir", results, "--run-id", "run",
            ],
            {},
        )  # fmt: skip
        summary: dict[str, Any] = json.loads(Path(results, "run", "summary.json").read_text())
    if not summary["valid"] or summary["training"]["tta_s"] is None:
        raise StorageError(f"the training with seed {seed} is not valid, or did not reach its target: {summary['findings']}", "run it by hand")
    return summary


def pair_of(place: Path, seed: int, model: str, loader: str, target: float | None) -> Pair:
    """Both trainings of a seed, and what was foretold in between."""
    free = trained(str(place), seed, [], model, loader, target)
    t = free["training"]
    samples = free["samples"] / t["epochs_run"]
    bytes_of_sample = free["storage_bytes"] / free["samples"]
    of_epochs_s = t["train_s"] / t["epochs_run"]
    bandwidth = round(SHARE * bytes_of_sample * samples / of_epochs_s)
    compute_rate = free["batch_size"] / t["step_compute_s"]
    rate = rate_with_overlap(compute_rate, bandwidth / bytes_of_sample)
    foretold_s = time_to_target_s(t["epochs_to_target"], epoch_s(samples, rate, t["eval_s"] / t["epochs_run"]), t["start_s"])
    slow = trained(f"shaped+{place}", seed, ["--storage-option", f"bandwidth={bandwidth}"], model, loader, target)["training"]
    same = [point["accuracy"] for point in slow["curve"]] == [point["accuracy"] for point in t["curve"]]
    return Pair(seed, t["epochs_to_target"], t["tta_s"], bandwidth, foretold_s, slow["tta_s"], slow["stall_share"], same)


def show(pairs: list[Pair]) -> str:
    lines = [f"{'seed':>4} {'epochs':>6} {'free s':>8} {'MB/s':>8} {'foretold s':>10} {'throttled s':>11} {'ratio':>7} {'stall':>6}  accuracies"]
    for pair in pairs:
        lines.append(
            f"{pair.seed:>4} {pair.epochs:>6} {pair.free_s:>8.2f} {pair.bandwidth / 1e6:>8.4f} {pair.foretold_s:>10.2f} {pair.throttled_s:>11.2f} {pair.ratio:>7.4f} "
            f"{pair.stall_share:>6.3f}  {'the same' if pair.same_accuracies else 'OTHERS'}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the data set is, or is made (a temporary folder with --smoke)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--loader", default="direct")
    parser.add_argument("--smoke", action="store_true", help="one seed of a small model to a low target: that it works; the times are not judged")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    if args.folder is None and not args.smoke:
        parser.error("--folder is needed")
    seeds, model, target = (1, "mlp", 0.5) if args.smoke else (args.seeds, args.model, None)
    with handling_signals(), ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="storagebench-digits-")))
        make(folder, "png")
        pairs: list[Pair] = []
        for seed in range(1, seeds + 1):
            pairs.append(pair_of(folder / BUCKET / "png", seed, model, args.loader, target))
            say(f"seed {seed}: foretold {pairs[-1].foretold_s:.2f} s, took {pairs[-1].throttled_s:.2f} s")
    print(show(pairs))
    middle = median(pair.ratio for pair in pairs)
    print(f"took / foretold: {middle:.4f} in the middle, {min(pair.ratio for pair in pairs):.4f} to {max(pair.ratio for pair in pairs):.4f}")
    if args.json:
        print(json.dumps([asdict(pair) for pair in pairs], indent=1))
    in_time = args.smoke or all(abs(pair.ratio - 1.0) <= WITHIN for pair in pairs)
    return 0 if in_time and all(pair.same_accuracies for pair in pairs) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StorageBenchError as error:
        sys.exit(f"error: {error}")
