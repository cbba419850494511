"""A real training: did it reach its target, is its accuracy worth the name, and did all ranks train one model. A missed target is a result, no failure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from storagebench.checks.case import Case, Found

# One sample of 100 is a whole percent of the accuracy.
LEAST_HELD_OUT = 100


def loss_not_finite(case: Case) -> Iterator[Found]:
    epochs = [record["epoch"] for rank in case.ranks for record in rank.of_kind("trained") if record["loss"] is None]
    if epochs:
        yield Found(
            f"the loss of epoch {min(epochs)} is no finite number: the training diverged, and was ended there",
            "use a smaller --learning-rate, and look at the images (`storagebench verify`)",
        )


def ranks_diverged(case: Case) -> Iterator[Found]:
    """All ranks train one model, so after each epoch they have the same weights."""
    weights: dict[int, set[int]] = defaultdict(set)
    for rank in case.ranks:
        for record in rank.of_kind("eval"):
            weights[record["epoch"]].add(record["weights_crc32c"])
    for epoch, found in sorted(weights.items()):
        if len(found) > 1:
            yield Found(
                f"after epoch {epoch} the ranks have {len(found)} different sets of weights",
                "this is a defect: do not use its numbers, and report it",
            )
            return


def target_not_reached(case: Case) -> Iterator[Found]:
    training = case.summary["training"]
    if training is None or training["reached"] is not False or not case.complete:
        return
    best = "no epoch was evaluated" if training["best_accuracy"] is None else f"the best was {training['best_accuracy']:.4f}"
    yield Found(
        f"the target of {training['target']:g} {training['metric']} was not reached in {training['epochs_run']} epochs: {best}",
        "allow more --epochs, or take another model or --learning-rate",
    )


def held_out_small(case: Case) -> Iterator[Found]:
    samples = next((record["samples"] for rank in case.ranks for record in rank.of_kind("eval")), None)
    if samples is not None and samples < LEAST_HELD_OUT:
        yield Found(
            f"the held-out split has {samples} samples, under {LEAST_HELD_OUT}: one of them is {1 / samples:.1%} of the accuracy",
            "use a larger held-out split (--held-out-dir)",
        )
