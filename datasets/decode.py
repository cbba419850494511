"""Decode level `full`: from a record to what the workload hands to the accelerator. Pure; knows payloads, not formats."""

from __future__ import annotations

from typing import Any

import numpy as np

from storagebench.errors import UsageError

IMAGE_PAYLOADS = ("jpeg", "png")


def decode_full(payload: str, record: memoryview, handover_bytes: int) -> tuple[Any, int]:
    """(decoded object, its bytes) of one record.

    Payloads `bytes` and `text`: the first `handover_bytes` where they lie, or the whole record when that is 0 or more than there are (uint8, 1-D).
    Payloads `jpeg` and `png`: pixels as `decode_image` gives them. Raises UsageError for another payload, DatasetError for an image that does not decode.
    """
    if payload in IMAGE_PAYLOADS:
        from storagebench.datasets.image import decode_image

        pixels = decode_image(record, handover_bytes)
        return pixels, pixels.nbytes
    if payload not in ("bytes", "text"):
        raise UsageError(f"payload {payload!r} cannot be decoded; bytes, text, {' and '.join(IMAGE_PAYLOADS)} can", "use --decode parse")
    size = min(handover_bytes, len(record)) if handover_bytes > 0 else len(record)
    return np.frombuffer(record, dtype=np.uint8, count=size), size
