"""Formats that another library owns, against that library's own writer: there are such tests where it is installed (`.ci/loaders`)."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from storagebench.datasets.litdata import LitDataFormat
from storagebench.protocols import Record
from storagebench.registry import missing_modules

PAYLOADS = [bytes([number]) * (5 + number) for number in range(7)]


def ours() -> tuple[list[bytes], Any]:
    """Chunks of three samples, and the index."""
    form, chunks = LitDataFormat(), []
    for first in range(0, len(PAYLOADS), 3):
        sink = io.BytesIO()
        some = PAYLOADS[first : first + 3]
        form.write_shard(sink, [Record(first + n, memoryview(data), 2 * (first + n), "bin") for n, data in enumerate(some)], {})
        chunks.append(sink.getvalue())
    names = [f"shards/chunk-0-{number}.bin" for number in range(len(chunks))]
    return chunks, json.loads(form.dataset_index(names, [len(chunk) for chunk in chunks], [3, 3, 1])[1])


if not missing_modules(("litdata",)):

    def test_litdata_writes_the_same_chunks_and_index(tmp_path: Path) -> None:
        """All but the time of writing, and the number of samples to a chunk that it was asked for."""
        from litdata.streaming.cache import Cache

        cache = Cache(str(tmp_path), chunk_size=3)
        for number, payload in enumerate(PAYLOADS):
            cache._add_item(number, (number, payload, 2 * number))
        cache.done()
        cache.merge()
        chunks, index = ours()
        assert [(tmp_path / f"chunk-0-{number}.bin").read_bytes() for number in range(3)] == chunks
        theirs = json.loads((tmp_path / "index.json").read_text())
        assert theirs.pop("updated_at") and index.pop("updated_at") == "0"
        assert theirs["config"].pop("chunk_size") == 3 and index["config"].pop("chunk_size") is None
        assert theirs == index
