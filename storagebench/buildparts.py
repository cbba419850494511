"""What makes a build resumable: the layout of shards, the units they are committed in, and the sidecars that prove which units are done.

Only `storagebench.build` uses it. It writes below `.storagebench-parts/` and deletes there by name; it never touches a file that is not its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from storagebench.errors import DatasetError, UsageError
from storagebench.manifest import INDEX_DTYPE, INDEX_KEY, MANIFEST_KEY, PARTITION_OPTION, Dataset, load_dataset, side_key
from storagebench.protocols import DatasetIndexed, Format, ShardIndexed, Store
from storagebench.sampling import shard_sizes

PARTS_FOLDER = ".storagebench-parts"
SPEC_KEY = f"{PARTS_FOLDER}/spec.json"
# A unit is what a killed build loses at most per thread, and one small sidecar: big enough that a million samples make a few hundred of them.
_UNIT_BYTES = 256 * 10**6
_UNIT_SHARDS = 256
_UNIT_SAMPLES = 65536
_MAX_SIDECAR_BYTES = 2**34
_SIDECAR = re.compile(re.escape(PARTS_FOLDER) + r"/(?:spec|[0-9]{6,})\.json")
_TEMP_OF_PROCESS = re.compile(r"\.part-([0-9]+)-[0-9a-f]+$")


class Unit(NamedTuple):
    """Shards first .. stop, committed together."""

    number: int
    first: int
    stop: int

    @property
    def key(self) -> str:
        return f"{PARTS_FOLDER}/{self.number:06d}.json"


@dataclass(frozen=True)
class Layout:
    """Which samples lie in which shard, and what is found out about them: the columns are filled in as shards are committed."""

    names: tuple[str, ...]
    first_sample: NDArray[np.int64]
    shard_samples: NDArray[np.int64]
    units: tuple[Unit, ...]
    shard_bytes: NDArray[np.int64]
    shard_crc32c: NDArray[np.uint32]
    index: NDArray[Any]

    @classmethod
    def plan(
        cls,
        approx_bytes: NDArray[np.int64],
        samples_per_shard: int,
        one_per_shard: bool,
        suffix: str,
        num_subfolders: int,
        partition: Sequence[Sequence[int]] = (),
    ) -> Layout:
        """A pure function of its arguments; `approx_bytes` int64[num_samples] are record lengths, as far as they are known beforehand. No unit has shards of
        two parts of the `partition`."""
        sizes = shard_sizes(len(approx_bytes), samples_per_shard, one_per_shard)
        first = np.cumsum(sizes) - sizes
        names = tuple(_shard_name(shard, suffix, num_subfolders) for shard in range(len(sizes)))
        units = tuple(_units(np.add.reduceat(approx_bytes, first), sizes, {part[0] for part in partition}))
        columns = np.zeros(len(sizes), np.int64), np.zeros(len(sizes), np.uint32), np.zeros(len(approx_bytes), INDEX_DTYPE)
        return cls(names, first, sizes, units, *columns)

    def rows(self, first_shard: int, stop_shard: int) -> NDArray[Any]:
        """The index rows of these shards: a view, to be filled."""
        last = stop_shard - 1
        return self.index[int(self.first_sample[first_shard]) : int(self.first_sample[last] + self.shard_samples[last])]

    def columns(self, first_shard: int, stop_shard: int) -> bytes:
        """What is known of these shards, for `take_columns` of another process."""
        shards = slice(first_shard, stop_shard)
        return self.shard_bytes[shards].tobytes() + self.shard_crc32c[shards].tobytes() + self.rows(first_shard, stop_shard).tobytes()

    def take_columns(self, first_shard: int, stop_shard: int, data: bytes) -> None:
        """Fill in what another process knows of these shards. Raises ValueError for bytes of another length."""
        count, rows = stop_shard - first_shard, self.rows(first_shard, stop_shard)
        split = [count * self.shard_bytes.itemsize, count * (self.shard_bytes.itemsize + self.shard_crc32c.itemsize)]
        if len(data) != split[1] + rows.nbytes:
            raise ValueError(f"{len(data)} bytes for {count} shards")
        self.shard_bytes[first_shard:stop_shard] = np.frombuffer(data[: split[0]], self.shard_bytes.dtype)
        self.shard_crc32c[first_shard:stop_shard] = np.frombuffer(data[split[0] : split[1]], self.shard_crc32c.dtype)
        rows[:] = np.frombuffer(data[split[1] :], INDEX_DTYPE)

    def take_dataset(self, dataset: Dataset) -> None:
        """Fill in all columns from the finished dataset."""
        self.shard_bytes[:], self.shard_crc32c[:], self.index[:] = dataset.shard_bytes, dataset.shard_crc32c, dataset.index

    def take(self, shard: int, num_bytes: int, crc32c: int, rows: NDArray[Any]) -> None:
        """Fill in the columns of a shard that was written; `rows` INDEX_DTYPE[samples], but for the number of the shard."""
        self.shard_bytes[shard], self.shard_crc32c[shard] = num_bytes, crc32c
        kept = self.rows(shard, shard + 1)
        kept[:] = rows
        kept["shard"] = shard


def _shard_name(shard: int, suffix: str, num_subfolders: int) -> str:
    folder = f"shards/{shard % num_subfolders:04d}" if num_subfolders else "shards"
    return f"{folder}/{shard:06d}{suffix}"


def _units(shard_bytes: NDArray[np.int64], shard_samples: NDArray[np.int64], cuts: Set[int]) -> Iterator[Unit]:
    number = first = num_bytes = num_samples = 0
    for shard, (size, samples) in enumerate(zip(shard_bytes.tolist(), shard_samples.tolist(), strict=True)):
        full = num_bytes + size > _UNIT_BYTES or shard - first >= _UNIT_SHARDS or num_samples + samples > _UNIT_SAMPLES
        if (full or shard in cuts) and shard > first:
            yield Unit(number, first, shard)
            number, first, num_bytes, num_samples = number + 1, shard, 0, 0
        num_bytes, num_samples = num_bytes + size, num_samples + samples
    yield Unit(number, first, len(shard_bytes))


class Ledger:
    """The written state of one build. `spec` is everything that determines the dataset's bytes, as JSON-able fields."""

    def __init__(self, store: Store, spec: dict[str, Any], layout: Layout, form: Format) -> None:
        self._store = store
        self._form = form
        self._spec: dict[str, Any] = json.loads(json.dumps(spec))
        self._layout = layout
        self._spec_digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()

    def finished(self) -> Dataset | None:
        """The dataset, when it is complete and has our spec (left-over sidecars are then removed). UsageError when it has another spec."""
        if not self._store.exists(MANIFEST_KEY):
            return None
        dataset = load_dataset(self._store)
        # A complete dataset stays what it is when an encoder library is upgraded; only a half-made one must not be continued with another.
        self._refuse_other(dataset.origin, "complete", skip=("encoder",))
        self.remove_sidecars()
        return dataset

    def begin(self) -> set[int]:
        """Claim the store, or find what an earlier build left; the numbers of the finished units, whose columns are filled in.

        UsageError where another build was begun, or where something lies that is not ours.
        """
        if not self._store.exists(SPEC_KEY):
            self._refuse_foreign()
            self._write(SPEC_KEY, json.dumps(self._spec, sort_keys=True).encode())
            return set()
        try:
            begun = json.loads(bytes(self._store.read_all(SPEC_KEY, 2**24)))
            if not isinstance(begun, dict):
                raise ValueError("not an object")
        except ValueError:
            raise DatasetError(f"{SPEC_KEY} in {self._store.url} is damaged", "remove the folder and generate again, or choose another") from None
        self._refuse_other(begun, "unfinished")
        sizes = {info.key: info.num_bytes for info in self._store.list()}
        self._remove_temporaries()
        return {unit.number for unit in self._layout.units if unit.key in sizes and self._load(unit, sizes)}

    def is_begun(self) -> bool:
        """Whether this very build was begun where the store is, by another process."""
        if not self._store.exists(SPEC_KEY):
            return False
        return bool(json.loads(bytes(self._store.read_all(SPEC_KEY, 2**24))) == self._spec)

    def take_unit(self, unit: Unit) -> bool:
        """Fill in the columns of a unit that another process has committed; whether its sidecar could be read. Looks at no listing: that of a network file
        system may be older than the files."""
        return self._load(unit, None)

    def commit(self, unit: Unit) -> None:
        """Write down that all shards of the unit are stored, with what the layout knows of them."""
        layout = self._layout
        rows = layout.rows(unit.first, unit.stop).tobytes()
        entry = {
            "spec": self._spec_digest,
            "bytes": layout.shard_bytes[unit.first : unit.stop].tolist(),
            "crc32c": layout.shard_crc32c[unit.first : unit.stop].tolist(),
            "index": base64.b64encode(rows).decode(),
            "index_crc32c": crc32c(rows),
        }
        self._write(unit.key, json.dumps(entry).encode())

    def finish(self, dataset: Dataset) -> None:
        """Make the dataset complete: index, manifest, and then the sidecars are of no more use."""
        manifest, index = dataset.to_bytes()
        if isinstance(self._form, DatasetIndexed):
            self._write(*self._form.dataset_index(dataset.names, dataset.shard_bytes.tolist(), dataset.shard_samples.tolist()))
        self._write(INDEX_KEY, index)
        self._write(MANIFEST_KEY, manifest)
        self.remove_sidecars()

    def remove_leftovers(self) -> None:
        """Delete what killed writers left of this dataset's files, whatever the processes' numbers: on other hosts they say nothing. Only while nobody writes."""
        self._remove_temporaries(everybodys=True)

    def remove_sidecars(self) -> None:
        ours = {SPEC_KEY, *(unit.key for unit in self._layout.units)}
        self._store.delete([info.key for info in self._store.list(PARTS_FOLDER) if info.key in ours])

    def _write(self, key: str, data: bytes) -> None:
        with self._store.create(key) as sink:
            sink.write(data)

    def _refuse_other(self, found: dict[str, Any], state: str, skip: tuple[str, ...] = ()) -> None:
        wanted = {name: value for name, value in {PARTITION_OPTION: None, **self._spec}.items() if name not in skip}
        differences = [f"{name} {found.get(name)!r} (asked: {value!r})" for name, value in wanted.items() if found.get(name) != value]
        if differences:
            raise UsageError(
                f"{self._store.url} holds {'a complete' if state == 'complete' else 'an unfinished'} dataset with {', '.join(differences)}",
                "ask for the same dataset, or choose an empty --data-dir",
            )

    def _refuse_foreign(self) -> None:
        ours = set(_temporaries(self._store, [SPEC_KEY]))
        foreign = next((info.key for info in self._store.list() if info.key not in ours), None)
        if foreign is not None:
            raise UsageError(
                f"{self._store.url} is not empty ({foreign!r} lies there) and holds no dataset of storagebench", "choose an empty --data-dir"
            )

    def _remove_temporaries(self, everybodys: bool = False) -> None:
        ours = [*self._layout.names, *(unit.key for unit in self._layout.units), SPEC_KEY, INDEX_KEY, MANIFEST_KEY]
        if isinstance(self._form, ShardIndexed):
            ours += [side_key(self._form, name) for name in self._layout.names]
        if isinstance(self._form, DatasetIndexed):
            ours.append(self._form.dataset_index((), (), ())[0])
        self._store.delete([key for key in _temporaries(self._store, ours) if everybodys or not _writer_is_alive(key)])

    def _load(self, unit: Unit, sizes: dict[str, int] | None) -> bool:
        """Fill in the columns of a finished unit; False where its sidecar does not fit (or, with `sizes`, its shards), and the unit is to be made again."""
        layout = self._layout
        rows = layout.rows(unit.first, unit.stop)
        try:
            entry = json.loads(bytes(self._store.read_all(unit.key, _MAX_SIDECAR_BYTES)))
            index = base64.b64decode(entry["index"], validate=True)
            shard_bytes, checksums = np.array(entry["bytes"], np.int64), np.array(entry["crc32c"], np.uint32)
            intact = entry["spec"] == self._spec_digest and entry["index_crc32c"] == crc32c(index) and len(index) == rows.nbytes
        except (ValueError, KeyError, TypeError, OverflowError, DatasetError):
            return False
        count = unit.stop - unit.first
        names = layout.names[unit.first : unit.stop]
        there = sizes is None or [sizes.get(name, -1) for name in names] == shard_bytes.tolist()
        if not intact or shard_bytes.shape != (count,) or checksums.shape != (count,) or not there:
            return False
        layout.shard_bytes[unit.first : unit.stop] = shard_bytes
        layout.shard_crc32c[unit.first : unit.stop] = checksums
        rows[:] = np.frombuffer(index, INDEX_DTYPE)
        return True


def begun_partition(store: Store) -> list[list[int]] | None:
    """How the dataset is partitioned that is complete or unfinished in this store; None where there is none, or it is whole."""
    if store.exists(MANIFEST_KEY):
        return [list(part) for part in load_dataset(store).partition] or None
    if not store.exists(SPEC_KEY):
        return None
    try:
        found = json.loads(bytes(store.read_all(SPEC_KEY, 2**24)))[PARTITION_OPTION]
        return [[int(first), int(stop)] for first, stop in found] if found else None
    except (ValueError, KeyError, TypeError):
        return None  # of a whole dataset, or damaged, which `Ledger.begin` tells


def _temporaries(store: Store, keys: Iterable[str]) -> list[str]:
    """Left-overs of killed writers of these keys, for stores that write through temporary names."""
    finder = getattr(store, "temporaries", None)
    return list(finder(keys)) if finder is not None else []


def _writer_is_alive(temporary: str) -> bool:
    """Whether the process that a temporary name carries still runs here (it may be another build of the same dataset)."""
    match = _TEMP_OF_PROCESS.search(temporary)
    if match is None or int(match.group(1)) == os.getpid():
        return match is None
    try:
        os.kill(int(match.group(1)), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
