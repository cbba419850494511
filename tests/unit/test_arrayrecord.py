"""Format `arrayrecord` against the library's own reader: there are such tests where it is installed (`.ci/loaders`)."""

from __future__ import annotations

import io
import random
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from crc32c import crc32c

from storagebench.datasets.arrayrecord import ArrayRecordFormat
from storagebench.datasets.tfrecord import read_example
from storagebench.errors import StorageError, UsageError
from storagebench.protocols import Record
from storagebench.registry import missing_modules

PAYLOADS = [bytes([number]) * size for number, size in enumerate((1, 5, 4000, 70_000, 200_001))]


def shard(payloads: list[bytes]) -> tuple[bytes, list[int]]:
    sink = io.BytesIO()
    records = [Record(7 + number, memoryview(data), -3 * number, "bin") for number, data in enumerate(payloads)]
    numbers = ArrayRecordFormat().write_shard(sink, iter(records), {})
    return sink.getvalue(), numbers


def test_a_record_cannot_be_parsed_on_its_own() -> None:
    with pytest.raises(UsageError, match="only by its library") as caught:
        ArrayRecordFormat().parse(memoryview(b"x"))
    assert "--loader grain" in caught.value.hint


if not missing_modules(("array_record",)):
    from array_record.python.array_record_data_source import ArrayRecordDataSource
    from array_record.python.array_record_module import ArrayRecordReader

    def test_the_librarys_own_readers_find_the_records(tmp_path: Path) -> None:
        data, numbers = shard(PAYLOADS)
        (tmp_path / "one").write_bytes(data)
        reader = ArrayRecordReader(str(tmp_path / "one"))
        assert numbers == list(range(reader.num_records())) and len(numbers) == len(PAYLOADS)
        assert reader.writer_options_string().startswith("group_size:1,") and "uncompressed" in reader.writer_options_string()
        source = ArrayRecordDataSource(str(tmp_path / "one"))
        for found in (reader.read_all(), [source[number] for number in numbers]):
            examples = [read_example(memoryview(each)) for each in found]
            assert [(one.sample_id, one.label, bytes(one.record)) for one in examples] == [(7 + n, -3 * n, data) for n, data in enumerate(PAYLOADS)]
        reader.close()

    def test_the_same_records_give_the_same_bytes_in_any_process() -> None:
        program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_arrayrecord as t; "
        program += "import hashlib; print(hashlib.sha256(t.shard(t.PAYLOADS)[0]).hexdigest())"
        found = [subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True).stdout for _ in range(2)]
        assert len(set(found)) == 1 and len(found[0].strip()) == 64
        assert shard(PAYLOADS)[0] == shard(PAYLOADS)[0]

    def test_checksums_of_whole_and_of_damaged_shards() -> None:
        form, (data, _) = ArrayRecordFormat(), shard(PAYLOADS)
        sums = [crc32c(payload) for payload in PAYLOADS]
        whole = form.row_checksums(memoryview(data), trusted=True)
        assert whole is not None and whole.tolist() == sums
        chance, places = random.Random(1), [data.index(PAYLOADS[2]) + 17]
        places += [chance.randrange(len(data)) for _ in range(150)]
        for place in places:
            damaged = bytearray(data)
            damaged[place] ^= 1 << chance.randrange(8)
            found = form.row_checksums(memoryview(bytes(damaged)), trusted=False)
            if place == places[0]:
                assert found is not None and found.tolist() == [*sums[:2], -1, *sums[3:]]
            assert found is None or len(found) != len(sums) or all(one in (-1, expected) for one, expected in zip(found, sums, strict=True))
        for broken in (b"", data[:-3000], data[: len(data) // 2], bytes(len(data))):
            found = form.row_checksums(memoryview(broken), trusted=False)
            assert found is None or len(found) == 0

    def test_no_room_for_the_temporary_file_is_an_error_and_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        whole, _ = shard(PAYLOADS)
        before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            for attempt in (lambda: shard(PAYLOADS), lambda: ArrayRecordFormat().row_checksums(memoryview(whole), trusted=True)):
                with pytest.raises(StorageError, match=f"in {tmp_path} could not be written") as caught:
                    attempt()
                assert "TMPDIR" in caught.value.hint
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert list(tmp_path.iterdir()) == []
