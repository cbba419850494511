"""Format `webdataset`: tar shards as the webdataset library reads them, two members a sample. Bytes in, bytes out; no I/O, nothing is extracted."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal

from storagebench.errors import DatasetError
from storagebench.protocols import Record, Sink

_BLOCK = tarfile.BLOCKSIZE
# Bytes of a header block that hold the size and the checksum, as octal digits.
_SIZE_FIELD, _CHECKSUM_FIELD = slice(124, 135), slice(148, 154)
_SUFFIX = re.compile(r"[a-z0-9_]{1,16}")


class WebDatasetFormat:
    """`{sample_id:012d}.{suffix}` holds the record and `{sample_id:012d}.cls` the label as text. Owner, mode and time are the same everywhere."""

    name = "webdataset"
    suffix = ".tar"
    one_sample_per_shard = False
    byte_addressed = True

    def write_shard(self, sink: Sink, records: Iterable[Record], options: Mapping[str, Any]) -> list[int]:
        """Write the records one behind the other; the byte offset of each record in the tar file."""
        offsets, position = [], 0
        for record in records:
            header = _header(f"{record.sample_id:012d}.{_plain_suffix(record)}", len(record.payload))
            sink.write(header)
            offsets.append(position + len(header))
            sink.write(record.payload)
            label = str(record.label).encode()
            rest = _fill(len(record.payload)) + _header(f"{record.sample_id:012d}.cls", len(label)) + label + _fill(len(label))
            sink.write(rest)
            position = offsets[-1] + len(record.payload) + len(rest)
        sink.write(bytes(2 * _BLOCK))
        return offsets

    def parse(self, stored: memoryview) -> memoryview:
        """The stored bytes of one sample (its extent) are the record; the tar headers around it were needed to find it only."""
        return stored


def _plain_suffix(record: Record) -> str:
    """A member's suffix: the library cuts names at the first dot, and reads `cls` as the label."""
    if not _SUFFIX.fullmatch(record.suffix) or record.suffix == "cls":
        raise DatasetError(
            f"sample {record.sample_id} has the suffix {record.suffix!r}, and a tar member takes 1 to 16 of a-z, 0-9, _ and not 'cls'",
            "rename the source file",
        )
    return record.suffix


def _header(name: str, num_bytes: int) -> bytes:
    """One header block as `tarfile` makes it, at a tenth of its cost: ustar, with a binary size where the member is over 8 GiB (GNU)."""
    if num_bytes >= 8**11:
        return _made_by_tarfile(name, num_bytes, tarfile.GNU_FORMAT)
    fixed, checksum = _fixed_fields()
    block, name_field, size_field = bytearray(fixed), name.encode("ascii"), b"%011o" % num_bytes
    block[: len(name_field)] = name_field
    block[_SIZE_FIELD] = size_field
    block[_CHECKSUM_FIELD] = b"%06o" % (checksum + sum(name_field) + sum(size_field))
    return bytes(block)


@cache
def _fixed_fields() -> tuple[bytes, int]:
    """The header of no name and no size, and the sum of its bytes, in which the checksum counts as 8 spaces."""
    block = bytearray(_made_by_tarfile("", 0, tarfile.USTAR_FORMAT))
    block[_SIZE_FIELD] = bytes(11)
    return bytes(block), sum(block[:148]) + 8 * ord(" ") + sum(block[156:])


def _made_by_tarfile(name: str, num_bytes: int, version: Literal[0, 1]) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = num_bytes
    info.mode = 0o644
    return info.tobuf(version, "ascii", "strict")


def _fill(num_bytes: int) -> bytes:
    return bytes(-num_bytes % _BLOCK)
