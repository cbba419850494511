"""What `generate`, `import` and `verify` say of a dataset."""

from __future__ import annotations

import json

from storagebench.manifest import Dataset
from storagebench.units import format_bytes


def facts(dataset: Dataset, url: str) -> dict[str, object]:
    """A dataset in a few plain values; bytes."""
    return {
        "data_dir": url,
        "format": dataset.format,
        "payload": dataset.payload,
        "num_samples": dataset.num_samples,
        "num_shards": dataset.num_shards,
        "record_bytes": dataset.record_bytes,
        "stored_bytes": dataset.stored_bytes,
        "digest": dataset.digest(),
        **({"partition": [list(part) for part in dataset.partition]} if dataset.partition else {}),
        **({"data_root": dataset.data_root} if dataset.data_root else {}),
    }


def made(dataset: Dataset, url: str, as_json: bool) -> str:
    """The result of making a dataset, as text or JSON."""
    if as_json:
        return json.dumps(facts(dataset, url), indent=1) + "\n"
    where = f" in place at {dataset.data_root}" if dataset.data_root else ""
    where += f", partitioned over {len(dataset.partition)} hosts" if dataset.partition else ""
    return (
        f"{url}: {dataset.num_samples} samples of {dataset.payload} in {dataset.num_shards} {dataset.format} shards{where}, "
        f"{format_bytes(dataset.record_bytes)} of records, {format_bytes(dataset.stored_bytes)} stored\ndigest {dataset.digest()}\n"
    )
