"""Where synthetic records come from: the payload of each sample id, into a buffer that each thread uses again and again."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storagebench.datasets.decode import IMAGE_PAYLOADS
from storagebench.datasets.payload import GENERATOR_VERSION, PayloadGenerator, make_text, record_lengths
from storagebench.errors import UsageError
from storagebench.protocols import Record
from storagebench.workload import DatasetSpec

NUM_CLASSES = 1000
_SUFFIXES = {"bytes": "bin", "text": "txt", "jpeg": "jpg", "png": "png"}


class RecordMaker:
    """Makes the records of a spec, given their lengths. Thread-safe. `longest`: bytes of the longest record it is to make."""

    def __init__(self, spec: DatasetSpec, longest: int) -> None:
        self._payload_kind = spec.payload
        self._generator = PayloadGenerator(spec.seed, spec.compressibility)
        self._buffers = threading.local()
        self._longest = longest
        # Threads that all make bytes take the interpreter and the caches from those that write: with half of the cores for making, 8 threads wrote files of
        # 20 MB 1.15 times as fast here (2 cores).
        self._making = threading.Semaphore(max(1, len(os.sched_getaffinity(0)) // 2))

    def records(self, first: int, lengths: NDArray[np.int64]) -> Iterator[Record]:
        """Samples first .. first + len(lengths). The payload's memory is filled anew for the next record."""
        suffix = _SUFFIXES[self._payload_kind]
        for sample_id, length in enumerate(lengths.tolist(), first):
            payload, checksum = self._payload(sample_id, length)
            yield Record(sample_id, payload, sample_id % NUM_CLASSES, suffix, checksum)

    def _payload(self, sample_id: int, length: int) -> tuple[memoryview, int | None]:
        """The record, and its checksum where it is known."""
        if self._payload_kind == "jpeg":
            from storagebench.datasets.image import synthetic_jpeg

            return memoryview(synthetic_jpeg(self._generator, sample_id, length)), None
        if self._payload_kind == "png":
            from storagebench.datasets.png import synthetic_png

            return memoryview(synthetic_png(self._generator, sample_id, length)), None
        buffer: memoryview | None = getattr(self._buffers, "buffer", None)
        if buffer is None:
            buffer = self._buffers.buffer = np.empty(self._longest, dtype=np.uint8).data
        with self._making:
            checksum = self._generator.fill(buffer[:length], sample_id)
        if self._payload_kind == "text":
            make_text(buffer[:length])
            return buffer[:length], None
        return buffer[:length], checksum


class SyntheticSource:
    """The samples that a workload's dataset section describes. Thread-safe.

    `approx_bytes` int64[num_samples] are the exact record lengths here. The label of sample i is i modulo 1000.
    """

    kind = "synthetic"
    classes: tuple[str, ...] = ()

    def __init__(self, spec: DatasetSpec) -> None:
        self.spec = spec
        self.payload: str = spec.payload
        self.num_samples = spec.num_samples
        self.approx_bytes: NDArray[np.int64] = record_lengths(spec.seed, spec.num_samples, spec.record_length_bytes, spec.record_length_bytes_stdev)
        self._maker = RecordMaker(spec, int(self.approx_bytes.max()))
        if spec.payload in IMAGE_PAYLOADS:
            self._check_image(int(self.approx_bytes.min()))
        elif spec.payload == "text" and spec.compressibility:
            raise UsageError(
                f"compressibility is {spec.compressibility}, and text is made of printable bytes", "use --payload bytes or --compressibility 0"
            )

    def _check_image(self, shortest: int) -> None:
        from storagebench.datasets.image import MIN_JPEG_BYTES
        from storagebench.datasets.png import MIN_PNG_BYTES

        least, what = (MIN_JPEG_BYTES, "JPEG") if self.payload == "jpeg" else (MIN_PNG_BYTES, "PNG")
        if shortest < least:
            raise UsageError(
                f"the shortest record would have {shortest} bytes, and a synthetic {what} needs {least}",
                "choose a larger --record-length, a smaller --record-length-stdev, or --payload bytes",
            )
        if self.spec.compressibility:
            raise UsageError(
                f"compressibility is {self.spec.compressibility}, and a {what} is compressed already", "use --payload bytes or --compressibility 0"
            )

    def describe(self) -> dict[str, Any]:
        """All that determines the records' bytes."""
        spec = self.spec
        return {
            "seed": spec.seed,
            "generator_version": GENERATOR_VERSION,
            "record_length_bytes": spec.record_length_bytes,
            "record_length_bytes_stdev": spec.record_length_bytes_stdev,
            "compressibility": spec.compressibility,
        }

    def encoder(self) -> dict[str, str]:
        """Libraries, with versions, whose output the records are."""
        if self.payload == "jpeg":
            from storagebench.datasets.image import encoder_versions

            return encoder_versions()
        if self.payload == "png":
            from storagebench.datasets import png

            return png.encoder_versions()
        return {}

    def records(self, first: int, count: int) -> Iterator[Record]:
        """Samples first .. first + count. The payload's memory is filled anew for the next record."""
        return self._maker.records(first, self.approx_bytes[first : first + count])

    def close(self) -> None:
        """Nothing is open."""
