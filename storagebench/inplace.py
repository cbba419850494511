"""Data that others made, DLIO first, measured where they lie: a manifest in a folder of the user's own, and not a byte beside theirs.

`import_in_place` reads every file once (where its samples lie, and their checksums), writes `manifest.json` and `samples.idx` to the store it is given,
and nothing anywhere else. Which bytes are a sample, format by format, is said in `storagebench.datasets.foreign`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import storagebench
from storagebench.datasets.foreign import SIDE_FILES, SUFFIXES, Placed, place_samples
from storagebench.datasets.importers import list_files
from storagebench.errors import DatasetError, UsageError
from storagebench.inorder import in_order
from storagebench.manifest import INDEX_DTYPE, INDEX_KEY, MANIFEST_KEY, Dataset, load_dataset, safe_key
from storagebench.protocols import Extent, ObjectInfo, Store, StoreSpec
from storagebench.registry import open_format
from storagebench.storage import open_spec, parse_url
from storagebench.verify import checksums_in_one_pass
from storagebench.workload import PAYLOAD_OF_FORMAT

Progress = Callable[[int, int], None]
NO_LABEL = -1
_MOST_THREADS = 16
_MOST_BESIDE_BYTES = 2**34
_MOST_NAMED = 3


@dataclass(frozen=True)
class InPlace:
    """The dataset, and what is to be said of it: files that were passed over, samples that are not what their maker calls a sample."""

    dataset: Dataset
    notes: tuple[str, ...]


class _File:
    """One file of theirs, for reading (`foreign.Reader`)."""

    def __init__(self, store: Store, info: ObjectInfo) -> None:
        self._store, self.name, self.num_bytes = store, info.key, info.num_bytes

    def read(self, offset: int, length: int) -> memoryview:
        return self._store.read([Extent(self.name, offset, length)])[0]

    def beside(self, more: str) -> memoryview | None:
        name = self.name + more
        return self._store.read_all(name, _MOST_BESIDE_BYTES) if self._store.exists(name) else None


def import_in_place(
    source: str,
    store: Store,
    *,
    format: str | None = None,
    num_threads: int = 0,
    progress: Progress | None = None,
) -> InPlace:
    """Describe the files below `source`, a path or URL of the same kind of storage as `store`, in which the manifest is written.

    `format` None: by the names of the files. `progress(done, total)` is called with bytes. Raises UsageError where source and store do not fit
    together, the formats are several or unknown, or the store holds something else already; DatasetError for files that cannot be read so.
    """
    spec = _source_spec(source, store.spec)
    theirs = open_spec(spec)
    try:
        infos = _files(theirs)
        name = format or _format_of(infos, source)
        form = open_format(name)
        chosen = [info for info in infos if info.key.lower().endswith(SUFFIXES[name])]
        _refuse_dlio_root(chosen, source)
        if not chosen:
            raise DatasetError(
                f"{source} has no files that end with {' or '.join(SUFFIXES[name])}", "give the folder with the data, or another --format"
            )
        shards = list(_read_all(theirs, name, chosen, num_threads, progress))
    finally:
        theirs.close()
    dataset = _dataset(name, form.one_sample_per_shard, spec.root, chosen, shards)
    _write(store, dataset)
    return InPlace(dataset, tuple(_notes(name, infos, chosen, [placed for placed, _, _ in shards])))


def _source_spec(source: str, manifest: StoreSpec) -> StoreSpec:
    """Where their files lie. UsageError for another kind of storage, and where the manifest would come to lie among them."""
    inner = parse_url(manifest.root) if manifest.kind == "shaped" else manifest
    found = parse_url(source)
    if found.kind != inner.kind:
        raise UsageError(
            f"source {source} lies on {found.kind} storage and the data dir {manifest.url} on {inner.kind}", "choose a --data-dir of the same kind"
        )
    root = found.root
    if found.kind == "posix":
        if not Path(root).is_dir():
            raise DatasetError(f"source {source} is no folder", "give the folder with the data")
        root = str(Path(root).resolve())
        inside = Path(inner.root).resolve().is_relative_to(root)
    else:
        inside = f"{inner.root}/".startswith(f"{root}/")
    if inside:
        raise UsageError(
            f"the data dir {manifest.url} lies inside the source {source}, where nothing is written", "choose a --data-dir outside of it"
        )
    return StoreSpec(found.kind, root, {key: value for key, value in inner.options.items() if key != "io"})


def _files(store: Store) -> list[ObjectInfo]:
    """All files, sorted. Links among local files are refused: what is behind them may change without a trace."""
    if store.spec.kind == "posix":
        found = [ObjectInfo("/".join(file.parts), file.num_bytes) for file in list_files(Path(store.spec.root))]
    else:
        found = list(store.list())
    return sorted(ObjectInfo(safe_key(info.key), info.num_bytes) for info in found)


def _format_of(infos: list[ObjectInfo], source: str) -> str:
    """The one format that the names say. UsageError for none or several."""
    named = {form: sum(info.key.lower().endswith(suffixes) for info in infos) for form, suffixes in SUFFIXES.items() if form != "raw"}
    there = {form: count for form, count in named.items() if count}
    if len(there) == 1:
        return next(iter(there))
    what = ", ".join(f"{count} {form}" for form, count in there.items()) or "no files with a name that is known"
    raise UsageError(f"{source} has {what}", f"say which with --format: {', '.join(SUFFIXES)}")


def _refuse_dlio_root(chosen: list[ObjectInfo], source: str) -> None:
    """DLIO's data folder has `train` and `valid`; together they are no dataset that anything reads."""
    tops = {info.key.partition("/")[0] for info in chosen if "/" in info.key}
    if {"train", "valid"} <= tops:
        raise UsageError(f"{source} has the folders train and valid, with data in both", f"give one of them: {source.rstrip('/')}/train")


_Shard = tuple[Placed, int, NDArray[Any]]


def _read_all(store: Store, format_name: str, infos: list[ObjectInfo], num_threads: int, progress: Progress | None) -> Iterable[_Shard]:
    def read(number: int) -> _Shard:
        info = infos[number]
        file = _File(store, info)
        placed = place_samples(format_name, file)
        rows = np.zeros(len(placed.places), INDEX_DTYPE)
        rows["offset"], rows["record_bytes"] = np.array(placed.places, np.uint64).T
        rows["label"] = NO_LABEL
        try:
            checksum, rows["crc32c"] = checksums_in_one_pass(file.read, info.num_bytes, rows)
        except DatasetError as error:
            raise DatasetError(f"{info.key}: {error.message}", error.hint or "leave this file out of the folder") from None
        return placed, checksum, rows

    threads = num_threads or min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    done, total = 0, sum(info.num_bytes for info in infos)
    for number, shard in in_order(range(len(infos)), read, threads):
        done += infos[number].num_bytes
        if progress is not None:
            progress(done, total)
        yield shard


def _dataset(format_name: str, one_sample: bool, root: str, infos: list[ObjectInfo], shards: list[_Shard]) -> Dataset:
    samples = np.array([len(rows) for _, _, rows in shards], np.int64)
    index = np.concatenate([rows for _, _, rows in shards])
    index["shard"] = np.repeat(np.arange(len(shards)), samples)
    fingerprint = hashlib.sha256("".join(f"{info.key}\0{info.num_bytes}\n" for info in infos).encode()).hexdigest()
    exact = all(placed.exact for placed, _, _ in shards)
    return Dataset(
        format=format_name,
        payload=PAYLOAD_OF_FORMAT.get(format_name, "bytes"),
        names=tuple(info.key for info in infos),
        shard_bytes=np.array([info.num_bytes for info in infos], np.int64),
        shard_crc32c=np.array([checksum for _, checksum, _ in shards], np.uint32),
        first_sample=np.cumsum(samples) - samples,
        shard_samples=samples,
        index=index,
        origin={
            "kind": "in place",
            "source": root.rstrip("/").rpartition("/")[2],
            "source_fingerprint": fingerprint,
            "samples": "as their maker reads them" if exact else "equal shares of each array",
            "storagebench_version": storagebench.__version__,
        },
        options={"ranges": True} if one_sample and bool((samples > 1).any()) else {},
        data_root=root,
    )


def _write(store: Store, dataset: Dataset) -> None:
    """Index, then manifest. UsageError where the store holds anything but this very dataset."""
    if store.exists(MANIFEST_KEY):
        there = load_dataset(store)
        if (there.digest(), there.data_root) == (dataset.digest(), dataset.data_root):
            return
        raise UsageError(
            f"{store.url} has another dataset already", "choose another --data-dir, or remove its manifest.json and samples.idx yourself"
        )
    other = next((info.key for info in store.list() if info.key != INDEX_KEY), None)
    if other is not None:
        raise UsageError(f"{store.url} is not empty: it has {other}", "choose an empty or new --data-dir for the manifest")
    manifest, index = dataset.to_bytes()
    for key, data in ((INDEX_KEY, index), (MANIFEST_KEY, manifest)):
        with store.create(key) as sink:
            sink.write(data)


def _notes(format_name: str, infos: list[ObjectInfo], chosen: list[ObjectInfo], placed: list[Placed]) -> Iterable[str]:
    used = {info.key for info in chosen}
    beside = {key + more for key in used for more in SIDE_FILES.get(format_name, ())}
    over = [info.key for info in infos if info.key not in used | beside]
    if over:
        shown = ", ".join(over[:_MOST_NAMED]) + (f" and {len(over) - _MOST_NAMED} more" if len(over) > _MOST_NAMED else "")
        yield f"{len(over)} files that are no {format_name} were passed over: {shown}"
    if not all(one.exact for one in placed):
        yield (
            "files hold several samples, whose axis is the last of the array: a sample here is an equal share of the array's bytes; "
            "DLIO reads the whole file for each of its samples"
        )
