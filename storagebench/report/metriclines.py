"""A run's figures as lines `name=number`, for collectors that read a log. Katib's StdOut collector takes these with its default filter.

That filter has changed: one edition knows no exponent, another takes `nan` for an empty value, and both cut a name at any other character than letters,
digits, `_`, `|` and `-` (kubeflow/katib, pkg/metricscollector/v1beta1/common/const.go). So numbers are plain decimals, and what is unknown has no line.
"""

from __future__ import annotations

import math
from typing import Any, Final

from storagebench.report.wording import Summary

# line name -> where the figure is in the summary
_FIGURES: Final[dict[str, tuple[str, ...]]] = {
    "au": ("au_nominal",),
    "au_uncertainty": ("au_uncertainty",),
    "samples_per_s": ("samples_per_s",),
    "delivered_bytes_per_s": ("delivered_bytes_per_s",),
    "time_to_first_batch_s": ("time_to_first_batch_s",),
    "fetch_s": ("fetch_s",),
    "fetch_p50_s": ("fetch_quantiles_s", "p50"),
    "fetch_p99_s": ("fetch_quantiles_s", "p99"),
    "cpu_s_per_gb": ("cpu_s_per_gb",),
    "peak_rss_bytes": ("peak_rss_bytes",),
    "tta_s": ("training", "tta_s"),
    "accuracy": ("training", "final_accuracy"),
    "stall_share": ("training", "stall_share"),
}
_DECIMALS: Final = 9


def figures(summary: Summary) -> dict[str, float]:
    """The known, finite figures of a run, by name. None of an invalid run: its numbers are false, and nobody may tune by them."""
    if not summary["valid"]:
        return {}
    found: dict[str, float] = {}
    for name, path in _FIGURES.items():
        value: Any = summary
        for key in path:
            value = value.get(key) if value else None
        if isinstance(value, int | float) and math.isfinite(value):
            found[name] = float(value)
    return found


def metric_lines(summary: Summary) -> str:
    """One line a figure; empty for an invalid run.

    >>> metric_lines({"valid": True, "au_nominal": 0.93, "fetch_s": 1e-7, "samples_per_s": None})
    'au=0.93\\nfetch_s=0.0000001\\n'
    """
    return "".join(f"{name}={_decimal(value)}\n" for name, value in figures(summary).items())


def _decimal(value: float) -> str:
    text = f"{value:.{_DECIMALS}f}"
    return text.rstrip("0").rstrip(".")
