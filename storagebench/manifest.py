"""The dataset's written description: `manifest.json` (shards, bytes, checksums) and `samples.idx` (32 bytes a sample).

A dataset is complete when its manifest exists: it is written last. Sample ids run from 0 in shard order, and record `id` of the index stands at
byte `32 * id`, so a sample's length, place and checksum are found without reading any other.

The shards lie beside the manifest, or, for a dataset that others made and that is measured in place, below `data_root`, where nothing is ever written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from storagebench.errors import DatasetError
from storagebench.protocols import DatasetIndexed, Extent, Format, ShardIndexed, Store
from storagebench.registry import format_info

MANIFEST_KEY = "manifest.json"
INDEX_KEY = "samples.idx"
SCHEMA_VERSION = 1
# Of a manifest that names a `data_root`: a storagebench that does not know it would look for the shards beside the manifest.
IN_PLACE_VERSION = 2
SHARDS_PREFIX = "shards/"
PARTITION_OPTION = "partition"
MAX_MANIFEST_BYTES = 2**30

INDEX_DTYPE = np.dtype(
    [
        ("offset", "<u8"),  # of the record in its shard; for Parquet the row
        ("record_bytes", "<u8"),
        ("crc32c", "<u4"),  # of the record
        ("shard", "<u4"),
        ("label", "<i4"),
        ("reserved", "<u4"),
    ]
)


@dataclass(frozen=True)
class Dataset:
    """A manifest in memory. Columns over shards: `names`, `shard_bytes`, `shard_crc32c`, `first_sample`, `shard_samples`; over samples: `index`."""

    format: str
    payload: str
    names: tuple[str, ...]
    shard_bytes: NDArray[np.int64]
    shard_crc32c: NDArray[np.uint32]
    first_sample: NDArray[np.int64]
    shard_samples: NDArray[np.int64]
    index: NDArray[Any]
    origin: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    data_root: str = ""  # the root of the store that the shards lie in, as StoreSpec.root has it; empty: beside the manifest

    @property
    def whole_shards(self) -> bool:
        """Whether a sample is read as its whole shard. Not where files of a format for one sample (npz, npy), made by others, hold several (option
        `ranges`): a sample is a range of its file then."""
        return format_info(self.format).one_sample_per_shard and not self.options.get("ranges")

    @property
    def shard_prefix(self) -> str:
        """Below which prefix of their store the shards lie."""
        return "" if self.data_root else SHARDS_PREFIX

    @property
    def num_samples(self) -> int:
        return len(self.index)

    @property
    def num_shards(self) -> int:
        return len(self.names)

    @property
    def record_bytes(self) -> int:
        """Record bytes of one epoch over all samples."""
        return int(self.index["record_bytes"].sum())

    @property
    def stored_bytes(self) -> int:
        """Bytes of all shards as they lie in the storage."""
        return int(self.shard_bytes.sum())

    @property
    def partition(self) -> tuple[tuple[int, int], ...]:
        """Shards [first, stop) of each host where the dataset is spread over the local disks of hosts; empty: every shard is wherever the manifest is."""
        return tuple((int(first), int(stop)) for first, stop in self.options.get(PARTITION_OPTION, ()))

    def part(self, first_shard: int, stop_shard: int) -> Dataset:
        """The shards [first, stop) as a dataset of their own, with sample ids from 0."""
        shards = slice(first_shard, stop_shard)
        first_sample = int(self.shard_samples[:first_shard].sum())
        index = self.index[first_sample : first_sample + int(self.shard_samples[shards].sum())].copy()
        index["shard"] -= first_shard
        return replace(
            self,
            names=self.names[shards],
            shard_bytes=self.shard_bytes[shards],
            shard_crc32c=self.shard_crc32c[shards],
            first_sample=self.first_sample[shards] - first_sample,
            shard_samples=self.shard_samples[shards],
            index=index,
            options={name: value for name, value in self.options.items() if name != PARTITION_OPTION},
        )

    def extent(self, sample_id: int, whole_shard: bool) -> Extent:
        """Where the sample lies: the whole shard for formats with one sample a shard, else just the record."""
        entry = self.index[sample_id]
        shard = int(entry["shard"])
        if whole_shard:
            return Extent(self.names[shard], 0, int(self.shard_bytes[shard]))
        return Extent(self.names[shard], int(entry["offset"]), int(entry["record_bytes"]))

    def shard_of(self, sample_id: int) -> str:
        return self.names[int(self.index["shard"][sample_id])]

    def row_groups(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Parquet row groups of all shards in order: shard, first sample, samples (option `row_group_samples` at most in each)."""
        limit = int(self.options.get("row_group_samples", 1))
        shards, firsts, sizes = [], [], []
        for shard in range(self.num_shards):
            first, left = int(self.first_sample[shard]), int(self.shard_samples[shard])
            while left > 0:
                size = min(limit, left)
                shards.append(shard)
                firsts.append(first)
                sizes.append(size)
                first, left = first + size, left - size
        return np.array(shards, np.int64), np.array(firsts, np.int64), np.array(sizes, np.int64)

    def describe(self) -> dict[str, Any]:
        """What a run folder says of the dataset that it read."""
        names = ("format", "payload", "num_samples", "num_shards", "record_bytes", "stored_bytes", "options", "origin")
        return {"digest": self.digest(), **{name: getattr(self, name) for name in names}}

    def digest(self) -> str:
        """sha256 over what the dataset is: format, options, shards with bytes and checksums, and the index. Where it lies does not count."""
        hasher = hashlib.sha256()
        hasher.update(json.dumps([SCHEMA_VERSION, self.format, self.payload, self.options, list(self.names)], sort_keys=True).encode())
        for column in (self.shard_bytes, self.shard_crc32c, self.first_sample, self.shard_samples, self.index):
            hasher.update(np.ascontiguousarray(column).tobytes())
        return hasher.hexdigest()

    def to_bytes(self) -> tuple[bytes, bytes]:
        """The two objects as they are stored: (manifest.json, samples.idx)."""
        index = self.index.tobytes()
        text = json.dumps(
            {
                "storagebench": "dataset",
                "schema_version": IN_PLACE_VERSION if self.data_root else SCHEMA_VERSION,
                **({"data_root": self.data_root} if self.data_root else {}),
                "format": self.format,
                "payload": self.payload,
                "options": self.options,
                "origin": self.origin,
                "num_samples": self.num_samples,
                "num_shards": self.num_shards,
                "record_bytes": self.record_bytes,
                "stored_bytes": self.stored_bytes,
                "digest": self.digest(),
                "index": {"name": INDEX_KEY, "bytes": len(index), "crc32c": crc32c(index)},
                "shards": {
                    "name": list(self.names),
                    "bytes": self.shard_bytes.tolist(),
                    "crc32c": self.shard_crc32c.tolist(),
                    "first_sample": self.first_sample.tolist(),
                    "num_samples": self.shard_samples.tolist(),
                },
            }
        )
        return text.encode(), index

    def with_shards(self, names: tuple[str, ...]) -> Dataset:
        """The same dataset with its shard names as another source (a listing) gives them."""
        return replace(self, names=names)


def side_files(form: Format, dataset: Dataset) -> Iterator[tuple[str, bytes]]:
    """(key, bytes) of the files that a format has beside its shards, for other readers; all of them follow from the manifest."""
    if isinstance(form, ShardIndexed):
        for shard, name in enumerate(dataset.names):
            first, count = int(dataset.first_sample[shard]), int(dataset.shard_samples[shard])
            yield side_key(form, name), form.shard_index(first, dataset.index[first : first + count])
    if isinstance(form, DatasetIndexed):
        yield form.dataset_index(dataset.names, dataset.shard_bytes.tolist(), dataset.shard_samples.tolist())


def side_key(form: ShardIndexed, name: str) -> str:
    """Where the index file of this shard lies."""
    return name.rpartition(".")[0] + form.index_suffix


def safe_key(name: object) -> str:
    """A shard name that stays inside the dataset. Raises DatasetError for absolute, parent, control-character or over-long names."""
    text = name if isinstance(name, str) else ""
    parts = text.split("/")
    if not text or len(text.encode()) > 1024 or text.startswith("/") or any(part in ("", ".", "..") for part in parts) or not text.isprintable():
        raise DatasetError(f"manifest has the shard name {name!r}, which is not a plain relative path", "generate or import the dataset again")
    return text


def parse_dataset(manifest: bytes, index: bytes, where: str) -> Dataset:
    """The dataset of these two objects. Raises DatasetError when they do not fit together; `where` names it in the message."""
    hint = "generate or import the dataset again"
    try:
        data = json.loads(manifest)
        version = data["schema_version"]
        if version not in (SCHEMA_VERSION, IN_PLACE_VERSION):
            raise DatasetError(
                f"{where}/{MANIFEST_KEY} has schema version {version}, and this storagebench reads {SCHEMA_VERSION} and {IN_PLACE_VERSION}", hint
            )
        shards, entry = data["shards"], data["index"]
        if len(index) != entry["bytes"] or crc32c(index) != entry["crc32c"]:
            raise DatasetError(
                f"{where}/{INDEX_KEY} has {len(index)} bytes and another checksum than the manifest says ({entry['bytes']} bytes)", hint
            )
        dataset = Dataset(
            format=str(data["format"]),
            payload=str(data["payload"]),
            names=tuple(safe_key(name) for name in shards["name"]),
            shard_bytes=np.array(shards["bytes"], np.int64),
            shard_crc32c=np.array(shards["crc32c"], np.uint32),
            first_sample=np.array(shards["first_sample"], np.int64),
            shard_samples=np.array(shards["num_samples"], np.int64),
            index=np.frombuffer(index, INDEX_DTYPE),
            origin=dict(data["origin"]),
            options=dict(data["options"]),
            data_root=str(data["data_root"]) if version == IN_PLACE_VERSION else "",
        )
        dataset.partition  # noqa: B018 - raises where it is none
        digest = data["digest"]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DatasetError(f"{where}/{MANIFEST_KEY} is not a manifest of storagebench ({type(error).__name__}: {error})", hint) from None
    _check_columns(dataset, where, hint)
    if dataset.digest() != digest:
        raise DatasetError(f"{where}/{MANIFEST_KEY} does not have the digest it says ({digest[:12]})", hint)
    return dataset


def _check_columns(dataset: Dataset, where: str, hint: str) -> None:
    count = dataset.num_shards
    columns = (dataset.shard_bytes, dataset.shard_crc32c, dataset.first_sample, dataset.shard_samples)
    expected_first = np.concatenate([[0], np.cumsum(dataset.shard_samples)[:-1]]) if count else np.empty(0, np.int64)
    fits = (
        all(column.shape == (count,) for column in columns)
        and len(set(dataset.names)) == count
        and int(dataset.shard_samples.sum()) == dataset.num_samples
        and bool((dataset.shard_bytes >= 0).all())
        and bool((dataset.shard_samples >= 1).all())
        and bool((dataset.first_sample == expected_first).all())
        and _covers(dataset.partition, count)
        and bool((dataset.index["shard"] == np.repeat(np.arange(count), dataset.shard_samples)).all())
    )
    if not fits:
        raise DatasetError(f"{where}/{MANIFEST_KEY} has shards and samples that do not fit together", hint)


def _covers(partition: tuple[tuple[int, int], ...], num_shards: int) -> bool:
    """Whether the parts follow each other over all shards, none of them empty."""
    begins, ends = [0, *(stop for _, stop in partition)], [*(first for first, _ in partition), num_shards]
    return not partition or (begins == ends and all(first < stop for first, stop in partition))


def load_dataset(store: Store) -> Dataset:
    """Read and check the manifest behind a store. Raises DatasetError when there is none."""
    where = store.url
    if not store.exists(MANIFEST_KEY):
        raise DatasetError(f"no dataset at {where}: {MANIFEST_KEY} is missing", "make one with `storagebench generate` or `storagebench import`")
    manifest = bytes(store.read_all(MANIFEST_KEY, MAX_MANIFEST_BYTES))
    index = bytes(store.read_all(INDEX_KEY, 2**40))
    return parse_dataset(manifest, index, where)
