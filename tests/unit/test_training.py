"""A real training step: models, batches as tensors, the held-out split, determinism, several ranks. Small models on scikit-learn's digits, with torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from storagebench.clock import SystemClock
from storagebench.errors import DatasetError, RankError, UsageError
from storagebench.loaders.files import FilesLoader
from storagebench.manifest import Dataset, load_dataset
from storagebench.protocols import Batch, LoadJob
from storagebench.storage import open_store, parse_url
from storagebench.training import heldout
from storagebench.training.batches import Batches, classes_of, normalised
from storagebench.training.heldout import HeldOut, read_held_out
from storagebench.training.models import MODELS, build, model_of, num_parameters
from storagebench.training.trainer import TorchTrainer, TrainJob
from storagebench.world import SingleWorld


class Records:
    """A trace that keeps what is written."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, record: Any) -> None:
        self.rows.append(dict(record))

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["kind"] == kind]


def stages(kernel: int, blocks: int, classes: int) -> int:
    """Numbers of a network of He et al. for CIFAR, added up by hand: convolutions without bias, two numbers a channel of each batch normalisation."""
    total, inputs = 3 * 16 * kernel**2 + 2 * 16, 16
    for width in (16, 32, 64):
        for _ in range(blocks):
            total += kernel**2 * (inputs * width + width * width) + 4 * width
            inputs = width
    return total + 64 * classes + classes


@pytest.mark.parametrize("name", list(MODELS))
def test_each_model_gives_a_score_for_each_class_and_has_its_size(name: str) -> None:
    model = model_of(name)
    net = build(model, 10, 8, 8)
    assert net(torch.zeros(2, 3, 8, 8)).shape == (2, 10)
    expected = {"linear": 192 * 10 + 10, "mlp": 192 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10}
    assert num_parameters(net) == expected.get(name, stages(3, (model.layers - 2) // 6, 10))
    weighted = [module for module in net.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(weighted) == model.layers


def test_sizes_are_those_of_the_paper() -> None:
    """He et al. 2015, table 6: 0.27 M numbers for 20 layers, 0.46 M for 32, 0.85 M for 56."""
    millions = {name: num_parameters(build(model_of(name), 10, 32, 32)) / 1e6 for name in ("resnet20", "resnet32", "resnet56", "plain20")}
    assert {name: round(value, 2) for name, value in millions.items()} == {"resnet20": 0.27, "resnet32": 0.46, "resnet56": 0.85, "plain20": 0.27}


def test_only_resnets_have_shortcuts() -> None:
    torch.manual_seed(1)
    image = torch.rand(2, 3, 8, 8)
    nets = {name: build(model_of(name), 3, 8, 8).eval() for name in ("resnet8", "plain8")}
    nets["plain8"].load_state_dict(nets["resnet8"].state_dict())
    assert not torch.allclose(nets["resnet8"](image), nets["plain8"](image))


def test_an_unknown_model_is_named_with_the_list() -> None:
    with pytest.raises(UsageError, match="unknown model 'resnet9' to train; known: linear, mlp, plain8"):
        model_of("resnet9")


# -- batches --------------------------------------------------------------------------------------------------------------------------------------------


def batch_of(images: list[Any], ids: list[int] | None = None) -> Batch:
    ids = list(range(len(images))) if ids is None else ids
    middle = len(images) // 2
    return Batch(np.array(ids), 0, 0, data=[images[:middle], images[middle:]])


def test_pixels_and_classes_arrive_as_they_are() -> None:
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (9, 8, 3), np.uint8) for _ in range(5)]
    mixed = [torch.from_numpy(image) if index % 2 else image for index, image in enumerate(images)]
    labels = np.array([3, 30, -7, 3, 30, 99], np.int32)
    batches = Batches(torch, torch.device("cpu"), classes_of(labels, np.unique(labels)), (9, 8, 3), 8)
    pixels, classes = batches.take(batch_of(mixed, [5, 4, 3, 2, 1]))
    assert np.array_equal(pixels.numpy(), np.stack(images))
    assert classes.tolist() == [3, 2, 1, 0, 2]
    scaled = normalised(torch, pixels)
    assert scaled.shape == (5, 3, 9, 8)
    assert torch.allclose(scaled[2, 1], (torch.from_numpy(images[2][:, :, 1]) / 255 - 0.5) / 0.25, atol=1e-6)


def test_images_of_another_size_and_no_images_are_told() -> None:
    batches = Batches(torch, torch.device("cpu"), np.zeros(4, np.int64), (8, 8, 3), 4)
    with pytest.raises(DatasetError, match="sample 1 is an image of 8 x 9 x 3 pixels, and the model takes 8 x 8 x 3"):
        batches.take(batch_of([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)]))
    with pytest.raises(RankError, match="no data to train on"):
        batches.take(Batch(np.arange(2), 0, 0))


# -- the held-out split -----------------------------------------------------------------------------------------------------------------------------------


def dataset_at(path: str) -> Dataset:
    return load_dataset(open_store(path))


def job_of(path: str, **fields: Any) -> LoadJob:
    dataset = dataset_at(path)
    values = {"batch_size": 64, "shuffle": False, "keep_remainder": True, "decode": "full", "verify": "full", **fields}
    return LoadJob(store=parse_url(path, {}), dataset=dataset, rank=0, world_size=1, **values)


def held_out_of(path: str, rank: int = 0, world_size: int = 1) -> HeldOut:
    job = job_of(path + "-held-out")
    loader = FilesLoader().open(job)
    try:
        return read_held_out(loader, job.dataset, np.unique(dataset_at(path).index["label"]), rank, world_size)
    finally:
        loader.close()


def test_ranks_share_the_held_out_split(make_digits: Callable[..., str]) -> None:
    path = make_digits()
    whole, parts = held_out_of(path), [held_out_of(path, rank, 3) for rank in range(3)]
    assert whole.pixels.shape == (200, 8, 8, 3) and whole.num_samples == 200
    assert np.array_equal(whole.classes, dataset_at(path + "-held-out").index["label"])
    for rank, part in enumerate(parts):
        assert np.array_equal(part.pixels, whole.pixels[rank::3]) and np.array_equal(part.classes, whole.classes[rank::3])


def test_a_damaged_or_too_large_held_out_split_is_refused(make_digits: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_digits()
    job = job_of(path + "-held-out")
    index = job.dataset.index.copy()
    index["crc32c"][17] ^= 1
    loader = FilesLoader().open(job)
    with pytest.raises(DatasetError, match=r"sample 17 of the held-out split in shards/.* does not have the checksum"):
        read_held_out(loader, replace(job.dataset, index=index), np.arange(10), 0, 1)
    loader.close()
    monkeypatch.setattr(heldout, "MOST_BYTES", 1000)
    loader = FilesLoader().open(job)
    with pytest.raises(UsageError, match=r"the held-out split has 38\.4 kB, and 1 kB at most"):
        read_held_out(loader, job.dataset, np.arange(10), 0, 1)
    loader.close()


# -- training ---------------------------------------------------------------------------------------------------------------------------------------------


def train(
    path: str, model: str = "linear", epochs: int = 3, seed: int = 1, rate: float = 0.01, target: float | None = None, **fields: Any
) -> Records:
    """A training without the engine: the batches of the loader in order, no clock but the real one."""
    job = job_of(path, shuffle=True, seed=seed, batch_size=32, keep_remainder=False)
    labels, trace = job.dataset.index["label"], Records()
    known = np.unique(labels)
    classes = fields.get("classes", classes_of(labels, known))
    asked = TrainJob(model_of(model), "cpu", seed, rate, epochs, 32, classes, len(known), target)
    trainer = TorchTrainer(asked, held_out_of(path), SingleWorld(), SystemClock(), trace)
    loader = FilesLoader().open(job)
    loader.counters()
    for epoch in range(epochs):
        loader.start(epoch)
        while (batch := loader.next()) is not None:
            begun = trainer.begin(batch, 32, 0, 0, 0)
            done = trainer.compute(begun)
            assert trainer.wait(done, done.due_ns).compute_end_ns == done.due_ns > done.start_ns >= begun.due_ns
        loader.drain()
        if trainer.end_epoch(epoch):
            break
    loader.close()
    trainer.close()
    return trace


def test_the_same_seed_gives_the_same_weights_bit_for_bit(make_digits: Callable[..., str]) -> None:
    first, again, other = (train(make_digits(), "resnet8", 2, seed, 0.1).of_kind("eval") for seed in (3, 3, 4))
    assert [(row["correct"], row["weights_crc32c"]) for row in first] == [(row["correct"], row["weights_crc32c"]) for row in again]
    assert first[-1]["weights_crc32c"] != other[-1]["weights_crc32c"]
    assert torch.get_num_threads() == 1


def test_it_learns_and_stops_at_the_target(make_digits: Callable[..., str]) -> None:
    trace = train(make_digits(), "linear", 20, target=0.9)
    rows = trace.of_kind("eval")
    assert rows[-1]["reached"] and rows[-1]["accuracy"] >= 0.9 and 1 < len(rows) < 20
    assert not any(row["reached"] for row in rows[:-1])
    assert trace.of_kind("trained")[-1]["loss"] < trace.of_kind("trained")[0]["loss"]
    (model,) = trace.of_kind("model")
    assert (model["parameters"], model["classes"], model["device_name"], model["held_out_samples"]) == (1930, 10, None, 200)


def test_wrong_labels_teach_nothing(make_digits: Callable[..., str]) -> None:
    path = make_digits()
    shuffled = np.random.default_rng(1).permutation(np.asarray(dataset_at(path).index["label"], np.int64))
    assert train(path, "linear", 4, classes=shuffled).of_kind("eval")[-1]["accuracy"] < 0.4
    assert train(path, "linear", 4).of_kind("eval")[-1]["accuracy"] > 0.7


def test_a_diverged_training_stops_and_says_so(make_digits: Callable[..., str]) -> None:
    trace = train(make_digits(), "mlp", 3, rate=100.0)
    assert trace.of_kind("trained")[-1]["loss"] is None
    assert len(trace.of_kind("eval")) < 3


def test_a_cuda_device_is_waited_for(make_digits: Callable[..., str]) -> None:
    """As far as it goes without one: what waits for a device is called after the copy and after the step, and never for a CPU."""
    calls: list[str] = []
    trainer = TorchTrainer(
        TrainJob(model_of("linear"), "cpu", 1, 0.01, 1, 4, np.zeros(8, np.int64), 2, None),
        HeldOut(np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.int64), 2),
        SingleWorld(),
        SystemClock(),
        Records(),
    )

    class Device:
        type = "cuda"

    class Cuda:
        def synchronize(self, device: Any) -> None:
            calls.append(device.type)

    class Torch:
        cuda, nn = Cuda(), torch.nn
        float32 = torch.float32

    batch = batch_of([np.zeros((8, 8, 3), np.uint8)] * 4)
    trainer.compute(trainer.begin(batch, 4, 0, 0, 0))
    assert calls == []
    trainer._device, trainer._torch = Device(), Torch()
    trainer.compute(trainer.begin(batch, 4, 0, 0, 0))
    assert calls == ["cuda", "cuda"]


def test_torch_is_not_imported_by_the_table_of_models(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import sys; import storagebench.trainprep, storagebench.training.models; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
