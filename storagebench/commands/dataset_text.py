"""What `generate`, `import` and `verify` say of a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping

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


def made_splits(datasets: Mapping[str, Dataset], as_json: bool) -> str:
    """The result of `generate` by URL: of the dataset, and of a task of its held-out split behind it."""
    (url, dataset), *held_out = datasets.items()
    if not held_out:
        return made(dataset, url, as_json)
    (place, rest), *_ = held_out
    if as_json:
        return json.dumps({**facts(dataset, url), "held_out": facts(rest, place)}, indent=1) + "\n"
    return made(dataset, url, False) + "held out: " + made(rest, place, False)
