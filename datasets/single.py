"""What the formats with one sample a shard share: they take exactly one record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from storagebench.protocols import Record


@contextmanager
def only_record(records: Iterable[Record], format_name: str) -> Iterator[Record]:
    """The one record, for use in the block. ValueError for none, or when more follow (checked after the block: memory may be reused then)."""
    iterator = iter(records)
    record = next(iterator, None)
    if record is None:
        raise ValueError(f"a {format_name} shard holds exactly one record, and got none")
    yield record
    if next(iterator, None) is not None:
        raise ValueError(f"a {format_name} shard holds exactly one record, and got more")
