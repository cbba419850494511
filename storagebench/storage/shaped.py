"""Another store, made slow by known amounts: `shaped+<inner url>`. The known answer behind `storagebench selfcheck` and the tests of AU.

Bandwidth is one wire for all ranks and workers of the host: each request reserves its place on it, [max(now, free), + bytes / bandwidth), and returns
not before the end of its reservation plus the latency. So bandwidth never overlaps, latency always does, and an idle wire saves nothing up (no burst
credit). The option `clock_id` names the wire, which all openers of a spec have in common (`storagebench.storage.wire`).
Writing, listing and deleting are the inner store's, and are not slowed down.
"""

from __future__ import annotations

import hashlib
import io
import math
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from storagebench.clock import Clock, SystemClock
from storagebench.errors import UsageError
from storagebench.protocols import Extent, IOCounters, ObjectInfo, Sink, Store, StoreSpec
from storagebench.storage.counting import STREAM_BUFFER_BYTES, Tally, checked_stream
from storagebench.storage.wire import Wire
from storagebench.units import parse_duration, parse_size

OPTIONS = ("bandwidth", "latency", "jitter", "seed", "clock_id")


def jitter_ns(seed: int, key: str, offset: int, mean_ns: int) -> int:
    """Extra latency of a request: exponential with that mean, a pure function of the seed and the place that is read, so that the very draws of a
    run can be worked out afterwards."""
    word = int.from_bytes(hashlib.blake2b(f"{seed}:{offset}:{key}".encode(), digest_size=8).digest(), "little")
    return round(-mean_ns * math.log1p(-(word >> 11) / 2**53))


class ShapedStore:
    """Options: `bandwidth` bytes/s of the whole host (such as 100MB; none: unlimited), `latency` of each request, `jitter` the mean of an exponential
    latency on top, `seed` of the jitter, `clock_id` the name of the wire. All others go to the inner store. Extents of one `read` are in flight at
    once. `clock` is the real one outside of tests."""

    def __init__(self, spec: StoreSpec, clock: Clock | None = None) -> None:
        from storagebench.storage import open_store

        options = spec.options
        self._bandwidth = _bandwidth(options)
        self._latency_ns = _duration_ns(options, "latency")
        self._jitter_ns = _duration_ns(options, "jitter")
        self._seed = _seed(options)
        self.spec = replace(spec, options={**options, "clock_id": options.get("clock_id") or secrets.token_hex(8)})
        self._inner: Store = open_store(spec.root, {name: value for name, value in options.items() if name not in OPTIONS})
        self._clock = clock or SystemClock()
        self._wire = Wire(self.spec.options["clock_id"]) if self._bandwidth else None
        self._tally = Tally()
        self.native_ranges = self._inner.native_ranges
        self.io: str = getattr(self._inner, "io", "client")

    @property
    def url(self) -> str:
        return f"shaped+{self._inner.url}"

    def exists(self, key: str) -> bool:
        return self._inner.exists(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._inner.list(prefix)

    def read(self, extents: Sequence[Extent]) -> Sequence[memoryview]:
        due_ns = self._due_ns(extents)
        found = self._inner.read(extents)
        self._return_at(due_ns, extents)
        return found

    def read_into(self, extent: Extent, target: memoryview) -> None:
        due_ns = self._due_ns([extent])
        self._inner.read_into(extent, target)
        self._return_at(due_ns, [extent])

    def read_all(self, key: str, limit_bytes: int) -> memoryview:
        found = self._inner.read_all(key, limit_bytes)
        extents = [Extent(key, 0, len(found))]
        self._return_at(self._due_ns(extents), extents)
        return found

    def open_stream(self, key: str, num_bytes: int) -> io.BufferedReader:
        """One request: its latency comes before the first byte, then each chunk waits for the wire."""
        chunks = self._chunks(self._inner.open_stream(key, num_bytes), key, num_bytes)
        next(chunks)
        self._tally.add(requests=1)
        return checked_stream(chunks, num_bytes, f"{key} in {self.url}", self._tally, lambda error: error)

    def create(self, key: str) -> AbstractContextManager[Sink]:
        return self._inner.create(key)

    def delete(self, keys: Iterable[str]) -> None:
        self._inner.delete(keys)

    def temporaries(self, keys: Iterable[str]) -> Iterator[str]:
        """Left-over temporary keys, where the inner store has such."""
        find: Any = getattr(self._inner, "temporaries", None)
        if find is not None:
            yield from find(keys)

    def remove_empty_folders(self, keys: Iterable[str]) -> None:
        """As the inner store does it, where it has folders."""
        remove: Any = getattr(self._inner, "remove_empty_folders", None)
        if remove is not None:
            remove(keys)

    def counters(self) -> IOCounters:
        """Bytes and requests as they were shaped; retries and errors are the inner store's, which an error in a stream has passed already."""
        shaped, inner = self._tally.counters(), self._inner.counters()
        return replace(inner, num_bytes=shaped.num_bytes, requests=shaped.requests)

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()
        self._inner.close()

    def _due_ns(self, extents: Sequence[Extent]) -> int:
        """Reserve the wire for all; when the last of these requests may return."""
        ends = self._on_wire_until_ns([extent.length or 0 for extent in extents])
        return max((end_ns + self._wait_ns(extent) for end_ns, extent in zip(ends, extents, strict=True)), default=0)

    def _on_wire_until_ns(self, lengths: Sequence[int]) -> Sequence[int]:
        """Reserve the wire for requests of these many bytes; when each has passed it."""
        if self._wire is None or self._bandwidth is None:
            return [self._clock.now_ns()] * len(lengths)
        return self._wire.reserve_ns(self._clock, [round(num_bytes * 1e9 / self._bandwidth) for num_bytes in lengths])

    def _wait_ns(self, extent: Extent) -> int:
        more_ns = jitter_ns(self._seed, extent.key, extent.offset, self._jitter_ns) if self._jitter_ns else 0
        return self._latency_ns + more_ns

    def _return_at(self, due_ns: int, extents: Sequence[Extent]) -> None:
        self._clock.sleep_until_ns(due_ns)
        self._tally.add(num_bytes=sum(extent.length or 0 for extent in extents), requests=len(extents))

    def _chunks(self, stream: Any, key: str, num_bytes: int) -> Iterator[bytes]:
        """Each chunk no earlier than the wire and the latency say. As with `read`, the wire is reserved before the inner store is asked, so that the
        inner store's own time is not added. The first chunk is empty: a generator that never began would not close the stream."""
        with stream:
            yield b""
            wait_ns, rest = self._wait_ns(Extent(key)), num_bytes
            while rest > 0:
                wanted = min(rest, STREAM_BUFFER_BYTES)
                due_ns = self._on_wire_until_ns([wanted])[0] + wait_ns
                data = stream.read(wanted)
                if not data:
                    return
                self._clock.sleep_until_ns(due_ns)
                wait_ns, rest = 0, rest - len(data)
                yield data
            yield stream.read(STREAM_BUFFER_BYTES)  # nothing, unless there is more than there should be


def _bandwidth(options: Mapping[str, str]) -> int | None:
    if "bandwidth" not in options:
        return None
    bandwidth = parse_size(options["bandwidth"].removesuffix("/s"))
    if bandwidth == 0:
        raise UsageError("storage option bandwidth is 0 bytes/s, and must be above it", "give a rate such as 100MB, or leave it out for no limit")
    return bandwidth


def _duration_ns(options: Mapping[str, str], name: str) -> int:
    return round(parse_duration(options.get(name, "0")) * 1e9)


def _seed(options: Mapping[str, str]) -> int:
    text = options.get("seed", "1")
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"storage option seed is {text!r}, and must be a whole number from 0", "such as seed=1")
    return int(text)
