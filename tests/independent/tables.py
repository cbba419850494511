"""The rows of `per_epoch`, `per_rank` and `per_host`. Part of the independent computation; see `recompute`."""

from __future__ import annotations

from rank import NS, RankFigures, Row, all_or_none, average, by_name, kind


def epoch_row(run: Row, ranks: list[list[Row]], ends: list[Row], epoch: int) -> Row:
    mine = [row for row in ends if row["epoch"] == epoch]
    cache: Row = {}
    for rows in ranks:
        for row in kind(rows, "cache"):
            cache = row if row["epoch"] == epoch else cache
    stored = all_or_none([row["storage_bytes"] for row in mine])
    served = [row["server_device_bytes"] for row in mine if row["server_device_bytes"] is not None]
    device = max(served) if served else all_or_none([row["device_read_bytes"] for row in mine]) if run["store"]["kind"] == "posix" else None
    amplified = device / stored if stored and device is not None else None
    return {
        "epoch": epoch,
        "samples": sum(row["samples"] for row in mine),
        "duration_s": (max(row["end_ns"] for row in mine) - min(row["start_ns"] for row in mine)) / NS,
        "storage_bytes": stored,
        "retries": all_or_none([row["retries"] for row in mine]),
        "retries_by_kind": by_name([row.get("retries_by_kind") or {} for row in mine]),
        "device_read_bytes": device,
        "read_amplification": amplified,
        "cached_fraction_served": None if amplified is None or amplified > 1.2 else max(0.0, 1 - amplified),
        "cached_fraction_before": cache.get("cached_fraction_before"),
        "cache_method": cache.get("method"),
        "metadata_cache": cache.get("metadata_cache"),
        "server_cache": cache.get("server_cache"),
        "local_cache_bytes": all_or_none([row.get("local_cache_bytes") for row in mine]),
        "from_local_cache": _was_held([row["local_cache_bytes_before"] for row in mine if row.get("local_cache_bytes_before") is not None]),
    }


def _was_held(before: list[int]) -> bool | None:
    """Whether a loader's own cache held anything when the epoch began; nothing is known of loaders without one."""
    return max(before) > 0 if before else None


def rank_row(each: RankFigures) -> Row:
    spans: dict[str, float] = {}
    for row in each.work:
        for name, seconds in row["spans_s"].items():
            spans[name] = spans.get(name, 0.0) + seconds
    every = kind(each.rows, "warmup", "step", "idle")
    return {
        "rank": each.header.get("rank"),
        "host": each.header.get("host"),
        "steps": each.total["steps"],
        "last_step": every[-1]["step"] if every else None,
        "samples": sum(row["samples"] for row in each.work),
        "au_nominal": each.au_nominal,
        "au_uncorrected": each.au(each.total["compute"]),
        "window_s": each.total["window"] / NS,
        **{
            f"{name}_s": each.total[part] / NS
            for name, part in {"fetch": "fetch", "compute": "compute", "sync": "sync", "host_delay": "host"}.items()
        },
        "credit_steps": sum(each.free.values()),
        "spans_s": dict(sorted(spans.items())),
        "finished": bool(kind(each.rows, "footer")),
    }


def host_row(name: str, figures: list[RankFigures], hosts: list[list[Row]]) -> Row:
    mine = [each for each in figures if str(each.header.get("host")) == name]
    ends = [row for each in mine for row in kind(each.rows, "epoch_end")]
    samples = [row for rows in hosts if any(str(row.get("host")) == name for row in kind(rows, "header")) for row in kind(rows, "host")]

    def grown(*counters: str) -> float | None:
        if len(samples) < 2 or any(samples[0][counter] is None for counter in counters):
            return None
        return float(sum(samples[-1][counter] - samples[0][counter] for counter in counters))

    return {
        "host": name,
        "ranks": len(mine),
        "au_nominal": average([each.au_nominal for each in mine]),
        "device_read_bytes": all_or_none([row["device_read_bytes"] for row in ends]),
        "storage_bytes": all_or_none([row["storage_bytes"] for row in ends]),
        "block_device_read_bytes": grown("device_read_bytes"),
        "cpu_busy_s": grown("cpu_user_s", "cpu_system_s"),
        "cpu_steal_s": grown("cpu_steal_s"),
    }
