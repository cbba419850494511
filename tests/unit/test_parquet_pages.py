"""Parquet column chunks read by structure, against pyarrow."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storagebench.datasets.parquet_pages import chunk_values, footer_bytes, payload_chunks
from storagebench.errors import DatasetError, StorageBenchError, UsageError


def written(values: list[bytes], **options: Any) -> bytes:
    nullable = options.pop("nullable", False)
    schema = pa.schema([pa.field("sample_id", pa.int64(), nullable=False), pa.field("payload", pa.binary(), nullable=nullable)])
    sink = io.BytesIO()
    plain = {"compression": "NONE", "use_dictionary": False, "row_group_size": 7, "data_page_size": 4096, "write_batch_size": 1}
    pq.write_table(pa.table([list(range(len(values))), values], schema=schema), sink, **{**plain, **options})
    return sink.getvalue()


def read_back(data: bytes) -> list[bytes]:
    view = memoryview(data)
    return [
        bytes(value) for chunk in payload_chunks(view) for value in chunk_values(view[chunk.offset : chunk.offset + chunk.length], chunk.num_values)
    ]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=40), st.sampled_from(["1.0", "2.0"]), st.booleans())
def test_the_values_come_back(values: list[bytes], page_version: str, with_checksum: bool) -> None:
    assert read_back(written(values, data_page_version=page_version, write_page_checksum=with_checksum)) == values


def test_our_own_shards_come_back(make_dataset: Any) -> None:
    folder, dataset = make_dataset(format="parquet", num_samples=200, samples_per_shard=50, row_group_bytes=30_000)
    data = (Path(folder) / dataset.names[0]).read_bytes()
    expected = pq.read_table(io.BytesIO(data)).column("payload").to_pylist()
    assert read_back(data) == expected
    assert 8 < footer_bytes(memoryview(data)) < len(data)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"compression": "SNAPPY"}, "SNAPPY"),
        ({"use_dictionary": True}, "DICTIONARY"),
        ({"column_encoding": {"payload": "DELTA_LENGTH_BYTE_ARRAY"}}, "DELTA_LENGTH_BYTE_ARRAY"),
        ({"nullable": True}, "optional"),
    ],
)
def test_other_parquet_is_refused_with_the_reason(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        payload_chunks(memoryview(written([os.urandom(100)] * 20, **options)))
    assert words in caught.value.message and "--loader parquet" in caught.value.hint


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**30), st.binary(min_size=1, max_size=6))
def test_damage_is_an_error_or_another_value_and_never_anything_else(place: int, noise: bytes) -> None:
    data = bytearray(_GOOD)
    chunk = payload_chunks(memoryview(_GOOD))[0]
    start = chunk.offset + place % chunk.length
    data[start : start + len(noise)] = noise[: len(data) - start]
    view = memoryview(data)[chunk.offset : chunk.offset + chunk.length]
    try:
        found = chunk_values(view, chunk.num_values)
    except DatasetError:
        return
    assert len(found) == chunk.num_values and sum(map(len, found)) <= chunk.length


_GOOD = written([os.urandom(700 + 10 * index) for index in range(6)])


@pytest.mark.parametrize("data", [b"", b"PAR1", b"\0" * 100, _GOOD[:-1], _GOOD[:-60] + bytes(52) + _GOOD[-8:]])
def test_what_is_no_footer_is_told(data: bytes) -> None:
    with pytest.raises(StorageBenchError):
        footer_bytes(memoryview(data))
        payload_chunks(memoryview(data))
