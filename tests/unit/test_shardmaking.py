"""Shards made by processes: the same dataset as by threads, and nothing left behind when one of them fails or dies."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from storagebench import build, shardmaking
from storagebench.build import generate, verify
from storagebench.datasets.synthetic import SyntheticSource
from storagebench.errors import StorageError
from storagebench.manifest import MANIFEST_KEY
from storagebench.protocols import StoreSpec
from storagebench.registry import open_format
from storagebench.shardmaking import ProcessMaker, ThreadMaker
from storagebench.storage.posix import PosixStore
from storagebench.workload import DatasetSpec, Workload


def a_workload(**fields: Any) -> Workload:
    spec = {
        "format": "webdataset",
        "num_samples": 200,
        "record_length_bytes": 3000,
        "record_length_bytes_stdev": 400,
        "samples_per_shard": 4,
        **fields,
    }
    return Workload(name="tests", dataset=DatasetSpec.model_validate(spec))


def a_store(folder: Path) -> PosixStore:
    return PosixStore(StoreSpec("posix", str(folder)))


@pytest.fixture
def by_processes(monkeypatch: pytest.MonkeyPatch) -> list[ProcessMaker]:
    """However small the dataset is; the processes that were started beside this one."""
    monkeypatch.setattr(build, "_LEAST_BYTES", 0)
    monkeypatch.setattr(build, "_LEAST_BYTES_IMAGES", 0)
    started: list[ProcessMaker] = []

    def start(*arguments: Any) -> ProcessMaker:
        started.append(ProcessMaker(*arguments))
        return started[-1]

    monkeypatch.setattr(build, "ProcessMaker", start)
    return started


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def temporaries(folder: Path) -> list[str]:
    return [name for name in files(folder) if ".part-" in name]


def assert_none_lives(started: list[ProcessMaker]) -> None:
    assert started
    assert all(maker._process.returncode is not None for maker in started)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"format": "parquet", "row_group_bytes": 5000},
        {"format": "jpeg", "payload": "jpeg", "num_samples": 70, "samples_per_shard": 1, "record_length_bytes_stdev": 0},
        {"format": "webdataset", "payload": "jpeg", "num_samples": 70, "record_length_bytes_stdev": 0},
        {"compressibility": 0.5, "num_subfolders": 3},
    ],
)
def test_processes_make_what_threads_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_processes: list[ProcessMaker], fields: Any) -> None:
    seen: list[tuple[int, int]] = []
    made = generate(a_workload(**fields), a_store(tmp_path / "p"), num_threads=3, progress=lambda *counts: seen.append(counts))
    assert len(by_processes) == 2, "and this one"
    assert_none_lives(by_processes)
    assert seen[-1] == (made.num_samples, made.num_samples)
    monkeypatch.setattr(build, "_LEAST_BYTES", 10**12)
    monkeypatch.setattr(build, "_LEAST_BYTES_IMAGES", 10**12)
    expected = generate(a_workload(**fields), a_store(tmp_path / "t"), num_threads=3)
    assert len(by_processes) == 2, "the second was made by threads"
    assert made.digest() == expected.digest()
    assert files(tmp_path / "p") == files(tmp_path / "t")
    assert not list(verify(a_store(tmp_path / "p"), made))


SHORT = {"record_length_bytes": 115_000, "record_length_bytes_stdev": 0}


@pytest.mark.parametrize(
    ("fields", "num_threads", "kind"),
    [
        ({**SHORT, "num_samples": 20_000}, 0, ProcessMaker),
        ({**SHORT, "num_samples": 20_000}, 2, ProcessMaker),
        ({**SHORT, "num_samples": 20_000}, 1, ThreadMaker),
        ({**SHORT, "num_samples": 4000}, 0, ThreadMaker),  # made before processes would have started
        ({**SHORT, "num_samples": 20_000, "format": "npz"}, 0, ThreadMaker),  # small files wait for the device
        ({"num_samples": 300, "record_length_bytes": 20_000_000, "record_length_bytes_stdev": 0}, 2, ThreadMaker),  # long records too
    ],
)
def test_processes_are_for_many_short_records(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fields: dict[str, Any], num_threads: int, kind: type
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(build, "ProcessMaker", lambda *_: object.__new__(ProcessMaker))
    source = SyntheticSource(a_workload(**fields).dataset)
    made = build._makers(source, open_format(fields.get("format", "webdataset")), a_store(tmp_path), {}, num_threads)
    assert {type(maker) for maker in made[1:]} <= {kind} and isinstance(made[0], ThreadMaker)
    assert num_threads != 1 or len(made) == 1


def test_a_failed_write_is_the_stores_error_and_the_same_command_goes_on(tmp_path: Path, by_processes: list[ProcessMaker]) -> None:
    with largest_file(9000), pytest.raises(StorageError) as caught:
        generate(a_workload(), a_store(tmp_path), num_threads=3)
    assert caught.value.hint and "shards/" in caught.value.message
    assert "Traceback" not in caught.value.message
    assert_none_lives(by_processes)
    assert temporaries(tmp_path) == []
    made = generate(a_workload(), a_store(tmp_path), num_threads=2)
    assert not list(verify(a_store(tmp_path), made))


def test_a_killed_process_is_named_and_the_same_command_goes_on(tmp_path: Path, by_processes: list[ProcessMaker]) -> None:
    big = a_workload(num_samples=3000, record_length_bytes=50_000, samples_per_shard=100)

    def kill_one(done: int, total: int) -> None:
        by_processes[1]._process.kill()

    with pytest.raises(StorageError) as caught:
        generate(big, a_store(tmp_path), num_threads=3, progress=kill_one)
    assert "was killed by signal 9" in caught.value.message and "--num-threads 1" in caught.value.hint
    assert_none_lives(by_processes)
    made = generate(big, a_store(tmp_path), num_threads=2)
    assert temporaries(tmp_path) == [], "the temporary of the killed one went with the second command"
    assert not list(verify(a_store(tmp_path), made))


def test_a_process_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_processes: list[ProcessMaker]) -> None:
    monkeypatch.setattr(shardmaking, "__name__", "storagebench.no_such_room")
    with pytest.raises(StorageError, match=r"ended with 1: ModuleNotFoundError: No module named 'storagebench.no_such_room'"):
        generate(a_workload(), a_store(tmp_path), num_threads=2)
    assert_none_lives(by_processes)


# A shell that starts tests in the background has them ignore SIGINT, and so do their children until told otherwise.
_BUILD = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from storagebench import build
build._LEAST_BYTES = 0
from storagebench.cli import main
main()
"""


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_an_interrupted_command_leaves_no_process(tmp_path: Path, signum: int, code: int) -> None:
    """The signal goes to the whole group, as from a terminal; the makers leave SIGINT to their parent, which then leaves no temporary either."""
    options = ["--format", "webdataset", "--num-samples", "40000", "--record-length", "100000", "--samples-per-shard", "200", "--num-threads", "2"]
    command = [sys.executable, "-P", "-c", _BUILD, "generate", "quick", "--payload", "bytes", *options, "--data-dir", str(tmp_path / "data")]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(files(tmp_path)) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    makers = psutil.Process(process.pid).children()
    assert len(makers) == 1
    os.killpg(process.pid, signum)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert psutil.wait_procs(makers, timeout=10)[1] == []
    assert not (tmp_path / "data" / MANIFEST_KEY).exists(), "it was interrupted before its end"
    if signum == signal.SIGINT:
        assert temporaries(tmp_path) == []
