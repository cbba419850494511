"""Sizes, durations and rates: parse what people type, print what people read. MB is 1000^2 bytes, MiB is 1024^2, nothing else."""

from __future__ import annotations

import math
import re

from storagebench.errors import UsageError

_SIZE_FACTORS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "pb": 10**15,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
    "pib": 2**50,
}
_DURATION_FACTORS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "m": 60.0, "min": 60.0, "h": 3600.0}
_NUMBER = re.compile(r"^([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)$", re.ASCII)
MAX_SIZE_BYTES = 2**63 - 1


def _split(text: str, kind: str, example: str, factors: dict[str, float] | dict[str, int]) -> tuple[str, str]:
    match = _NUMBER.match(text.strip())
    if match is None or match.group(2).lower() not in factors:
        units = ", ".join(unit for unit in factors if unit)
        raise UsageError(f"{kind} {text!r} is not a number with one of the units {units}", f"write it like {example}")
    return match.group(1), match.group(2).lower()


def parse_size(text: str | int) -> int:
    """Bytes of `20MB`, `1.5GiB`, `4096`. Raises UsageError for a negative, fractional-byte, unknown or too large value.

    >>> parse_size("20MB"), parse_size("1.5GiB"), parse_size("0")
    (20000000, 1610612736, 0)
    """
    if isinstance(text, int):
        text = str(text)
    number, unit = _split(text, "size", "20MB or 1.5GiB", _SIZE_FACTORS)
    factor = _SIZE_FACTORS[unit]
    size = int(number) * factor if number.isdigit() else _whole(float(number) * factor, text)
    if size > MAX_SIZE_BYTES:
        raise UsageError(f"size {text!r} is over the largest, {MAX_SIZE_BYTES} bytes", "choose a smaller size")
    return size


def _whole(value: float, text: str) -> int:
    if not math.isfinite(value) or value > MAX_SIZE_BYTES:
        raise UsageError(f"size {text!r} is over the largest, {MAX_SIZE_BYTES} bytes", "choose a smaller size")
    return round(value)


def parse_duration(text: str | float) -> float:
    """Seconds of `323ms`, `2.5`, `10min`. Raises UsageError for anything else.

    >>> parse_duration("323ms"), parse_duration("2min"), parse_duration("0")
    (0.323, 120.0, 0.0)
    """
    if isinstance(text, int | float):
        text = repr(text)
    number, unit = _split(text, "duration", "323ms, 2.5s or 10min", _DURATION_FACTORS)
    seconds = float(number) * _DURATION_FACTORS[unit]
    if not math.isfinite(seconds):
        raise UsageError(f"duration {text!r} is not finite", "write it like 323ms, 2.5s or 10min")
    return round(seconds, 12)


def format_bytes(num_bytes: float) -> str:
    """Decimal, three digits: 147 MB, 1.03 GB."""
    value = float(num_bytes)
    units = ["B", "kB", "MB", "GB", "TB", "PB"]
    while abs(value) >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    unit = units[0]
    return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 99.95 else f"{value:.3g} {unit}"


def format_gib(num_bytes: float) -> str:
    """Binary, as memory is spoken of: 1.50 GiB."""
    return f"{num_bytes / 2**30:.2f} GiB"


def format_seconds(seconds: float) -> str:
    """Three digits with the unit that fits: 323 ms, 1.36 s, 12 us."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if abs(seconds) >= factor * 0.9995:
            return f"{seconds / factor:.3g} {unit}"
    return "0 s" if seconds == 0 else f"{seconds / 1e-9:.3g} ns"


def format_rate(bytes_per_s: float) -> str:
    """Bytes per second in MB/s, the unit of every table."""
    return f"{bytes_per_s / 1e6:.1f} MB/s"


def parse_rate(text: str) -> float:
    """Bytes per second of `40GB/s`, `2GiB`, `100Gbit/s`: a size in a second, with or without the `/s`; with `bit` an eighth of it. Raises
    UsageError for 0 and anything else.

    >>> parse_rate("40GB/s"), parse_rate("100Gbit/s")
    (40000000000.0, 12500000000.0)
    """
    size = text.strip().removesuffix("/s")
    bits = size.lower().endswith("bit")
    try:
        rate = parse_size(size[:-3] + "B") / 8 if bits else float(parse_size(size))
    except UsageError:
        raise UsageError(f"rate {text!r} is not bytes or bits per second", "write it like 40GB/s, 2GiB/s or 100Gbit/s") from None
    if rate <= 0:
        raise UsageError(f"rate {text!r} is not above 0", "leave it out for no limit")
    return rate


def parse_per_second(text: str) -> float:
    """Requests per second of `500k`, `1.2M`, `3000/s`. Raises UsageError for 0 and anything else.

    >>> parse_per_second("500k"), parse_per_second("3000/s")
    (500000.0, 3000.0)
    """
    match = _NUMBER.match(text.strip().removesuffix("/s"))
    factor = {"": 1.0, "k": 1e3, "m": 1e6}.get(match.group(2).lower()) if match is not None else None
    if match is None or factor is None:
        raise UsageError(f"rate {text!r} is not a number per second", "write it like 3000, 500k or 1.2M")
    if not 0 < float(match.group(1)) * factor < math.inf:
        raise UsageError(f"rate {text!r} is not above 0", "leave it out for no limit")
    return float(match.group(1)) * factor
