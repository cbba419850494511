"""The summary's key `training`, worked out a second time. Part of the independent computation; see `recompute`."""

from __future__ import annotations

import struct
from typing import Any

from rank import NS, RankFigures, Row, average, kind


def training(run: Row, figures: list[RankFigures]) -> Row | None:
    asked = run.get("training")
    if asked is None:
        return None
    opened = [(row["open_end_ns"] - row["open_begin_ns"]) / NS for each in figures for row in kind(each.rows, "opened")]
    points = [_point(figures, epoch) for epoch in sorted({row["epoch"] for each in figures for row in kind(each.rows, "eval")})]
    clock = max(opened, default=0.0)
    hit = None
    for point in points:
        clock += point["train_s"] + point["eval_s"]
        point["time_s"] = clock
        if hit is None and asked["target"] is not None and _single(point["accuracy"]) >= _single(asked["target"]):
            hit = point
    models = [row for each in figures for row in kind(each.rows, "model")]
    model = models[0] if models else {}
    sums: dict[str, Any] = {name: sum(point[name] for point in points) if points else None for name in ("train_s", "eval_s", "stall_s")}
    return {
        "model": asked["model"],
        "device": asked["device"] + (f" ({model['device_name']})" if model.get("device_name") else ""),
        "parameters": model.get("parameters"),
        "seed": run["config"]["run"]["seed"],
        **{name: asked[name] for name in ("metric", "target", "target_source", "target_date")},
        "reached": None if asked["target"] is None else hit is not None,
        "epochs_run": len(points),
        "epochs_to_target": hit["epoch"] + 1 if hit else None,
        "tta_s": hit["time_s"] if hit else None,
        "start_s": max(opened, default=None),
        **sums,
        "stall_share": sums["stall_s"] / sums["train_s"] if sums["train_s"] else None,
        "step_compute_s": _middle(run, figures),
        "final_accuracy": points[-1]["accuracy"] if points else None,
        "best_accuracy": max((point["accuracy"] for point in points), default=None),
        "curve": points,
    }


def _single(value: float) -> float:
    """Rounded to single precision."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def _point(figures: list[RankFigures], epoch: int) -> Row:
    judged = [row for each in figures for row in kind(each.rows, "eval") if row["epoch"] == epoch]
    trained = [row for each in figures for row in kind(each.rows, "trained") if row["epoch"] == epoch]
    lengths, waits = [], []
    for each in figures:
        steps = [row for row in each.every if row["epoch"] == epoch]
        if steps:
            begin = each.starts[epoch]["start_ns"]
            lengths.append((max(row["sync_end_ns"] for row in steps) - begin) / NS)
            ends = [begin, *(row["release_ns"] for row in steps)]
            waits.append(sum(row["start_ns"] - end for row, end in zip(steps, ends, strict=False) if row["kind"] != "idle") / NS)
    known = bool(trained) and all(row["loss"] is not None for row in trained) and sum(row["samples"] for row in trained) > 0
    return {
        "epoch": epoch,
        "accuracy": judged[0]["correct"] / judged[0]["samples"],
        "loss": sum(row["loss"] * row["samples"] for row in trained) / sum(row["samples"] for row in trained) if known else None,
        "train_s": max(lengths, default=0.0),
        "eval_s": max((row["end_ns"] - row["start_ns"]) / NS for row in judged),
        "stall_s": average(waits) or 0.0,
    }


def _middle(run: Row, figures: list[RankFigures]) -> float | None:
    """The lower median of the measured steps with a full batch."""
    batch = run["config"]["train"]["batch_size"]
    times = sorted(row["compute_end_ns"] - row["start_ns"] for each in figures for row in kind(each.rows, "step") if row["samples"] == batch)
    return times[(len(times) - 1) // 2] / NS if times else None


def evaluating_ns(mine: list[RankFigures]) -> tuple[int, list[int]]:
    """(ns of all evaluations of a host's ranks, the longest of each epoch; when they ended)."""
    longest: dict[int, int] = {}
    ends = []
    for each in mine:
        for row in kind(each.rows, "eval"):
            longest[row["epoch"]] = max(longest.get(row["epoch"], 0), row["end_ns"] - row["start_ns"])
            ends.append(row["end_ns"])
    return sum(longest.values()), ends
