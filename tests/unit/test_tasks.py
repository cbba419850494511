"""Small real tasks: the very pixels and labels of scikit-learn, splits that share nothing, and datasets that every loader gives back by sample id."""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crews import everywhere
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from storagebench import buildparts
from storagebench.build import generate, generate_together, verify
from storagebench.commands.together import _ending
from storagebench.configfile import load_workload
from storagebench.datasets import photographs, taskimages
from storagebench.datasets.tasks import TaskSource
from storagebench.errors import UsageError
from storagebench.heldout import HELD_OUT, TRAINING
from storagebench.manifest import Dataset, load_dataset
from storagebench.protocols import LoadJob, StoreSpec
from storagebench.registry import open_loader
from storagebench.storage import open_store
from storagebench.storage.posix import PosixStore
from storagebench.workload import Workload

TASKS = ("digits", "photographs")
CLASSES = {"digits": 10, "photographs": 12}
SIDES = {"digits": 8, "photographs": 32}


def a_workload(task: str, /, **fields: Any) -> Workload:
    return load_workload(task, [(key if "." in key else f"dataset.{key}", value, "test") for key, value in fields.items()]).workload


def a_source(task: str, split: str = TRAINING, **fields: Any) -> TaskSource:
    return TaskSource(a_workload(task, **fields).dataset, split)


def a_store(folder: Path) -> PosixStore:
    return PosixStore(StoreSpec("posix", str(folder)))


def taken(source: TaskSource, count: int | None = None) -> list[tuple[bytes, int]]:
    """(bytes, label) of the first records."""
    return [(bytes(record.payload), record.label) for record in source.records(0, count or source.num_samples)]


def pixels_of(payload: bytes) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(payload)) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def sources() -> dict[tuple[str, str], TaskSource]:
    return {(task, split): a_source(task, split) for task in TASKS for split in (TRAINING, HELD_OUT)}


# -- what is in the splits ---------------------------------------------------------------------------------------------------------------------


def test_digits_are_the_pixels_and_labels_of_scikit_learn(sources: Any) -> None:
    """The ink counts 0 to 16 are told apart in the grey levels, so they come back as they were."""
    found = load_digits()
    wanted: dict[str, Counter[tuple[bytes, int]]] = {TRAINING: Counter(), HELD_OUT: Counter()}
    for label in range(10):
        images = found.images[found.target == label]
        cut = len(images) - len(images) // 5
        for place, image in enumerate(images):
            wanted[HELD_OUT if place >= cut else TRAINING][image.astype(np.uint8).tobytes(), label] += 1
    for split in (TRAINING, HELD_OUT):
        records = taken(sources["digits", split])
        grey = [(pixels_of(payload), label) for payload, label in records]
        assert {image.shape for image, _ in grey} == {(8, 8)} and {image.dtype for image, _ in grey} == {np.dtype(np.uint8)}
        assert Counter((np.rint(image * (16 / 255)).astype(np.uint8).tobytes(), label) for image, label in grey) == wanted[split]
    levels = {int(value) for payload, _ in taken(sources["digits", TRAINING]) for value in np.unique(pixels_of(payload))}
    assert levels == {round(255 * count / 16) for count in range(17)}
    assert {split: wanted[split].total() for split in wanted} == {TRAINING: 1442, HELD_OUT: 355}


def test_photographs_are_windows_of_scikit_learns(sources: Any) -> None:
    """Each record is what Pillow makes of one window's pixels, and near to these."""
    images = load_sample_images().images
    for split in (TRAINING, HELD_OUT):
        wanted: Counter[tuple[bytes, int]] = Counter()
        worst = 0.0
        for window in photographs.windows(split):
            pixels = images[window.photograph][window.top : window.top + 32, window.left : window.left + 32]
            encoded = io.BytesIO()
            Image.fromarray(pixels).save(encoded, "JPEG", quality=95, subsampling=0)
            decoded = pixels_of(encoded.getvalue())
            worst = max(worst, float(np.abs(decoded.astype(int) - pixels).mean()))
            wanted[decoded.tobytes(), window.label] += 1
        found = Counter((pixels_of(payload).tobytes(), label) for payload, label in taken(sources["photographs", split]))
        assert found == wanted
        assert worst < 4, "levels of 255 between a window and its record, mean over its pixels"


def test_no_pixel_of_a_photograph_is_in_both_splits() -> None:
    seen = {}
    for split in (TRAINING, HELD_OUT):
        masks = np.zeros((2, 427, 640), bool)
        for window in photographs.windows(split):
            assert 0 <= window.top <= 427 - 32 and 0 <= window.left <= 640 - 32
            masks[window.photograph, window.top : window.top + 32, window.left : window.left + 32] = True
        seen[split] = masks
    assert not (seen[TRAINING] & seen[HELD_OUT]).any()
    # 141 blocks of 40 x 40 pixels have a class, 33 of them are held out.
    assert {split: int(seen[split].sum()) // 1600 for split in seen} == {TRAINING: 108, HELD_OUT: 33}


@pytest.mark.parametrize("task", TASKS)
def test_every_class_is_in_both_splits_in_its_share(task: str, sources: Any) -> None:
    counts = {}
    for split in (TRAINING, HELD_OUT):
        source = sources[task, split]
        assert len(source.classes) == len(set(source.classes)) == CLASSES[task]
        counts[split] = np.bincount([label for _, label in taken(source)], minlength=CLASSES[task])
        assert len(counts[split]) == CLASSES[task] and (counts[split] > 0).all()
    share = counts[HELD_OUT] / (counts[HELD_OUT] + counts[TRAINING])
    # Of photographs whole blocks are held out, of which a class has few.
    assert (np.abs(share - share.mean()) < (0.01 if task == "digits" else 0.06)).all() and 0.1 < share.mean() < 0.3


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", [TRAINING, HELD_OUT])
def test_the_data_seed_gives_the_order_and_nothing_else(task: str, split: str, sources: Any) -> None:
    first = taken(sources[task, split])
    assert taken(a_source(task, split)) == first
    other = taken(a_source(task, split, seed=7))
    assert other != first and Counter(other) == Counter(first)


@pytest.mark.parametrize("task", TASKS)
def test_fewer_samples_are_the_first_ones_and_of_all_classes(task: str, sources: Any) -> None:
    source = a_source(task, num_samples=96)
    assert taken(source) == taken(sources[task, TRAINING], 96)
    assert {label for _, label in taken(source)} == set(range(CLASSES[task]))
    assert a_source(task, HELD_OUT, num_samples=96).num_samples == sources[task, HELD_OUT].num_samples


@pytest.mark.parametrize("task", TASKS)
def test_the_workload_says_what_the_task_is(task: str, sources: Any) -> None:
    source, data = sources[task, TRAINING], a_workload(task).dataset
    assert (source.num_samples, source.payload) == (data.num_samples, data.payload)
    assert data.record_length_bytes == round(float(source.approx_bytes.mean()))
    assert data.record_length_bytes_stdev == 0 and data.record_length_bytes_resize == 3 * SIDES[task] ** 2


# -- what is refused ---------------------------------------------------------------------------------------------------------------------------


def test_more_samples_than_there_are_are_refused() -> None:
    with pytest.raises(UsageError, match="task digits has 1442 for training") as caught:
        a_source("digits", num_samples=1443)
    assert "--num-samples 1442" in caught.value.hint


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"record_length_bytes": 5000}, "test: dataset.record_length_bytes is 5000, and the records of task digits are real images"),
        ({"record_length_bytes_stdev": 5}, "record_length_bytes_stdev is 5"),
        ({"compressibility": 0.5}, "compressibility is 0.5"),
        ({"payload": "bytes", "format": "npz"}, "the records of task digits are png, and dataset.payload is bytes"),
        ({"payload": "jpeg", "format": "jpeg"}, "dataset.payload is jpeg, as format jpeg needs it"),
        ({"payload": "text", "format": "csv"}, "dataset.payload is text, as format csv needs it"),
        ({"format": "jpeg"}, "dataset.format jpeg needs dataset.payload jpeg, and got png"),
        ({"task": "digit"}, "dataset.task is 'digit': did you mean 'digits'?"),
    ],
)
def test_what_makes_no_sense_with_a_task_is_refused(overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        a_workload("digits", **overrides)
    assert words in caught.value.message


@pytest.mark.parametrize("task", TASKS)
def test_without_scikit_learn_the_message_says_what_to_install(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taskimages, "missing_modules", lambda needs: [name for name in needs if name == "sklearn"])
    with pytest.raises(UsageError, match=f"task {task} needs scikit-learn, which is not installed") as caught:
        a_source(task)
    assert caught.value.hint == "pip install 'storagebench[train]'"


def test_synthetic_records_have_no_held_out_split(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no held-out split"):
        generate(load_workload("quick").workload, a_store(tmp_path), split=HELD_OUT)
    assert not any(tmp_path.iterdir())


# -- datasets of them --------------------------------------------------------------------------------------------------------------------------


class Broken(Exception):
    """What the fault injection raises."""


class FaultyStore(PosixStore):
    """Raises when so many objects were begun."""

    def __init__(self, folder: Path, budget: int) -> None:
        super().__init__(StoreSpec("posix", str(folder)))
        self.budget, self.guard = budget, threading.Lock()

    @contextmanager
    def create(self, key: str) -> Iterator[Any]:
        with self.guard:
            self.budget -= 1
        if self.budget < 0:
            raise Broken
        with super().create(key) as sink:
            yield sink


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("task", "form"), [("digits", "png"), ("digits", "parquet"), ("photographs", "webdataset"), ("photographs", "npz")])
def test_an_interrupted_build_goes_on_to_the_same_bytes(task: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buildparts, "_UNIT_SHARDS", 20)
    workload = a_workload(task, format=form, num_samples=200)
    reference = generate(workload, a_store(tmp_path / "whole"))
    assert verify(a_store(tmp_path / "whole"), reference) == []
    with pytest.raises(Broken):
        generate(workload, FaultyStore(tmp_path / "broken", 50))
    assert not (tmp_path / "broken" / "manifest.json").exists()
    assert generate(workload, a_store(tmp_path / "broken")).digest() == reference.digest()
    assert files_of(tmp_path / "broken") == files_of(tmp_path / "whole")
    with pytest.raises(UsageError, match=r"holds a complete dataset with .*split 'training' \(asked: 'held-out'\)"):
        generate(workload, a_store(tmp_path / "whole"), split=HELD_OUT)


@pytest.mark.parametrize("task", TASKS)
def test_the_manifest_says_where_the_data_are_from(task: str, sources: Any, tmp_path: Path) -> None:
    import sklearn

    dataset = generate(a_workload(task, format="webdataset"), a_store(tmp_path), split=HELD_OUT)
    origin, source = load_dataset(a_store(tmp_path)).origin, sources[task, HELD_OUT]
    assert (origin["kind"], origin["task"], origin["split"], origin["seed"]) == ("task", task, HELD_OUT, 42)
    assert tuple(origin["classes"]) == source.classes and "scikit-learn" in origin["source"] and origin["licence"].startswith("CC BY ")
    assert origin["encoder"]["scikit-learn"] == sklearn.__version__ and "pillow" in origin["encoder"]
    assert len(origin["source_fingerprint"]) == 64
    assert dataset.index["label"].tolist() == [label for _, label in taken(source)]
    assert dataset.payload == source.payload


def test_each_host_of_a_partitioned_task_has_the_held_out_split_whole(three: list[Any], tmp_path: Path) -> None:
    folders = [tmp_path / host for host in ("a", "a", "b")]
    workload = a_workload("digits", format="webdataset", num_samples=200, **{"run.placement": "partitioned"})

    def work(member: Any) -> Any:
        with _ending(member, "generate", "go on"):
            return [
                generate_together(workload, a_store(folders[member.member] / split), member, num_threads=1, split=split)
                for split in (TRAINING, HELD_OUT)
            ]

    found = everywhere(list(three), work)
    assert isinstance(found[0], list), found
    assert len(found[0][0].partition) == 2 and found[0][1].partition == ()
    assert len(files_of(tmp_path / "a" / TRAINING)) < 64
    whole = generate(workload, a_store(tmp_path / "one"), split=HELD_OUT)
    assert files_of(tmp_path / "a" / HELD_OUT) == files_of(tmp_path / "b" / HELD_OUT) == files_of(tmp_path / "one")
    assert found[0][1].digest() == whole.digest()


CELLS = [
    ("files", "png", "shaped+{}"),
    ("direct", "png", "{}"),
    ("direct", "webdataset", "shaped+{}"),
    ("parquet", "parquet", "{}"),
    ("webdataset", "webdataset", "shaped+{}"),
]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("loader", "form", "url"), CELLS)
def test_every_loader_gives_the_same_pixels_by_sample_id(task: str, loader: str, form: str, url: str, sources: Any, tmp_path: Path) -> None:
    form = "jpeg" if (task, form) == ("photographs", "png") else form
    workload = a_workload(task, format=form, num_samples=200)
    options = {"bandwidth": "10GB"} if url.startswith("shaped+") else {}
    store = open_store(url.format(tmp_path), options)
    dataset = generate(workload, store)
    data = workload.dataset
    job = LoadJob(store.spec, dataset, 0, 1, 32, keep_remainder=True, decode="full", handover_bytes_per_sample=data.record_length_bytes_resize)
    seen = pixels_by_id(loader, replace(job, num_workers=2) if loader == "direct" else job, dataset)
    assert sorted(seen) == list(range(200))
    for sample, (payload, _) in enumerate(taken(sources[task, TRAINING], 200)):
        expected = pixels_of(payload)
        expected = np.repeat(expected[..., None], 3, axis=2) if expected.ndim == 2 else expected
        assert seen[sample].shape == (SIDES[task], SIDES[task], 3)
        assert (seen[sample] == expected).all(), f"sample {sample}"


def pixels_by_id(loader: str, job: LoadJob, dataset: Dataset) -> dict[int, Any]:
    """The decoded images of an epoch."""
    run = open_loader(loader).open(job)
    seen: dict[int, Any] = {}
    try:
        run.start(0)
        while (batch := run.next()) is not None:
            images = [np.array(image) for part in batch.data for image in part]
            assert batch.handover_bytes == sum(image.nbytes for image in images)
            seen.update(zip(batch.sample_ids.tolist(), images, strict=True))
    finally:
        run.close()
    return seen
