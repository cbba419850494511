"""Cold is cold and warm is warm: what the kernel read from the device, over all ranks and workers, against what the loader read."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import mmap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from storagebench.storage import pagecache

FORMATS = {"files": "jpeg", "parquet": "parquet", "webdataset": "webdataset", "direct": "npz"}


@pytest.fixture(scope="session")
def on_disk(make_dataset: Any) -> Callable[[str], str]:
    """A format's dataset of 130 MB, far smaller than RAM, on a file system with a block device under it; made once.

    The size is for the bounds below: what a process reads besides the dataset counts as well, and the kernel reads inode tables 128 KiB at a time.
    Three of them, as there once were, are 0.3 % of 130 MB, and would be 1.2 % of 34 MB.
    """

    @cache
    def make(form: str) -> str:
        path, _ = make_dataset(format=form, num_samples=640, record_length_bytes=200 * 1024, record_length_bytes_stdev=8192, samples_per_shard=8)
        mounts = sorted(psutil.disk_partitions(all=True), key=lambda part: len(part.mountpoint))
        kind = [part.fstype for part in mounts if Path(path).is_relative_to(part.mountpoint)][-1]
        if kind in ("tmpfs", "ramfs", "overlay"):
            pytest.skip(f"the temporary folder lies on {kind}, whose reads no device counts (set TMPDIR)")
        return str(path)

    return make


@contextmanager
def held_in_memory(dataset: str) -> Iterator[None]:
    """The shards, and torch's libraries, locked into memory where that is allowed (root).

    A host may take pages of the cache away within seconds of their last use, free memory or not (DAMON does on the machines that run this): up to 2 %
    of the shards were gone between the fill of a warm run and the read. Then the device was read, and the figure is right, but of no use here. Pages of
    libraries that are gone come back in the first epoch and count as that process's reads, too.
    """
    torch = importlib.util.find_spec("torch")
    assert torch is not None and torch.origin is not None
    lock = ctypes.CDLL(None).mlock
    with ExitStack() as stack:
        for path in [*Path(dataset, "shards").iterdir(), *Path(torch.origin).parent.glob("lib/*.so*")]:
            with open(path, "rb") as file:
                mapped = stack.enter_context(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
            lock(ctypes.c_void_p(np.frombuffer(mapped, np.uint8).ctypes.data), ctypes.c_size_t(len(mapped)))
        yield


def run(cli: Any, dataset: str, results: Path, loader: str, cache: str, ranks: int = 2, epochs: int = 2) -> dict[str, Any]:
    result = cli("run", "quick", "--data-dir", dataset, "--results-dir", str(results), "--run-id", f"{loader}-{cache}", "--loader", loader, "--cache", cache,
                 "--num-accelerators", str(ranks), "--compute-time", "2ms", "--epochs", str(epochs), "--remainder", "keep", "--null-duration", "0", "--headroom-duration", "0",
                 "--verify", "full")  # fmt: skip
    assert result.returncode == 0, result.stderr
    return dict(json.loads((results / f"{loader}-{cache}" / "summary.json").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "loader",
    [
        pytest.param("files", marks=pytest.mark.catalogue),
        "direct",
        pytest.param("parquet", marks=pytest.mark.catalogue),
        pytest.param("webdataset", marks=pytest.mark.catalogue),
    ],
)
def test_cold_reads_the_device_and_warm_does_not(loader: str, cli: Any, on_disk: Callable[[str], str], tmp_path: Path) -> None:
    cold = run(cli, on_disk(FORMATS[loader]), tmp_path, loader, "cold", epochs=3)
    assert [row["epoch"] for row in cold["per_epoch"]] == [0, 1, 2]
    for row in cold["per_epoch"]:
        assert 0.99 <= row["device_read_bytes"] / row["storage_bytes"] <= 1.2, row
        assert row["cached_fraction_before"] == 0.0
        assert row["cache_method"] in ("cachestat", "mincore")
        assert row["metadata_cache"] == "warm"
    assert (cold["valid"], cold["missing_samples"], cold["duplicate_samples"]) == (True, 0, 0)
    with held_in_memory(on_disk(FORMATS[loader])):
        warm = run(cli, on_disk(FORMATS[loader]), tmp_path, loader, "warm")
    for row in warm["per_epoch"]:
        assert row["device_read_bytes"] / row["storage_bytes"] <= 0.01, row
        assert row["cached_fraction_before"] == 1.0
    assert warm["valid"] is True


def test_dropped_is_gone_and_filled_is_there(on_disk: Callable[[str], str]) -> None:
    """What a run calls before its epochs; a warm run above has nothing left to fill."""
    paths = [str(path) for path in Path(on_disk("npz"), "shards").iterdir()][:4]
    for _ in range(2):
        pagecache.drop(paths)
        assert pagecache.residency(paths).fraction == 0.0
        pagecache.fill(paths)
        assert pagecache.residency(paths).fraction == 1.0


@pytest.mark.parametrize("loader", ["files", "direct"])
def test_direct_goes_around_the_cache(loader: str, cli: Any, on_disk: Callable[[str], str], tmp_path: Path) -> None:
    summary = run(cli, on_disk(FORMATS[loader]), tmp_path, loader, "direct", ranks=1)
    for row in summary["per_epoch"]:
        assert 0.99 <= row["device_read_bytes"] / row["storage_bytes"] <= 1.2, row
    assert summary["valid"] is True


def test_a_loader_that_cannot_go_direct_is_refused(cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    result = cli("run", "quick", "--data-dir", make_dataset(format="parquet")[0], "--results-dir", str(tmp_path), "--loader", "parquet", "--cache", "direct",
                 "--compute-time", "2ms")  # fmt: skip
    assert result.returncode == 2
    assert "error: --cache direct needs O_DIRECT, which loader parquet on posix storage cannot do" in result.stderr


def test_cached_data_that_is_called_as_is_is_marked(cli: Any, on_disk: Callable[[str], str], tmp_path: Path) -> None:
    with held_in_memory(on_disk("npz")):
        run(cli, on_disk("npz"), tmp_path, "direct", "warm", ranks=1)
        summary = run(cli, on_disk("npz"), tmp_path, "direct", "as-is", ranks=1)
    assert "CACHED" in [finding["code"] for finding in summary["findings"]]
    assert summary["cached_fraction_served"] > 0.9
