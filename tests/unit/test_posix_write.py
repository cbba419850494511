"""Writing local files: the right bytes by every way to the disk, whole or not at all, and folders synced before anyone is told."""

from __future__ import annotations

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from storagebench.errors import StorageError
from storagebench.protocols import StoreSpec
from storagebench.storage import posix_write
from storagebench.storage.posix import PosixStore
from storagebench.storage.posix_write import FileWriter

STAGING = posix_write._STAGING_BYTES
LENGTHS = (0, 1, 511, 512, 4095, 4096, 4097, 115_528, STAGING - 1, STAGING, STAGING + 1, 2 * STAGING + 4096, 2 * STAGING + 12_345)
DATA = os.urandom(1 << 20) * (LENGTHS[-1] // (1 << 20) + 1)
real_open, real_pwrite, real_fsync_folder = os.open, os.pwrite, posix_write._fsync_folder


def write(writer: FileWriter, path: Path, data: bytes, chunk: int) -> None:
    with writer.create(path) as sink:
        for start in range(0, len(data), chunk):
            piece = bytearray(data[start : start + chunk])
            sink.write(piece)
            piece[:] = bytes(len(piece))  # the sink may not keep it


def refuse_at_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tmpfs did for long: the file is made, and then O_DIRECT is refused."""

    def refusing(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_DIRECT:
            os.close(real_open(path, flags & ~os.O_DIRECT, *more, **named))
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_open(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", refusing)


def refuse_at_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """As some network file systems do: O_DIRECT may be asked for, and a write with it fails."""
    import fcntl

    def refusing(fd: int, data: Any, offset: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", refusing)


def short_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may take less than it is given, and leave us at an odd place."""
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real_pwrite(fd, data[: max(1, len(data) * 2 // 3)], offset))


@pytest.mark.parametrize("obstacle", [None, refuse_at_open, refuse_at_write, short_writes], ids=lambda value: getattr(value, "__name__", "none"))
def test_files_hold_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obstacle: Any) -> None:
    if obstacle is not None:
        obstacle(monkeypatch)
    writer = FileWriter()
    for length in LENGTHS:
        for chunk in (4097, 3 * STAGING):
            write(writer, tmp_path / "x", DATA[:length], chunk)
            assert (tmp_path / "x").read_bytes() == DATA[:length], (length, chunk)
    assert os.listdir(tmp_path) == ["x"]


def test_whole_pages_go_past_the_page_cache_and_the_rest_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    calls: list[tuple[bool, int, int]] = []

    def noting(fd: int, data: Any, offset: int) -> int:
        calls.append((bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT), len(data), offset))
        return real_pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", noting)
    write(FileWriter(), tmp_path / "x", DATA[: STAGING + 5000], 1 << 20)
    direct = calls[0][0]  # not on a file system that refuses it
    assert calls == [(direct, STAGING, 0), (direct, 4096, STAGING), (False, 904, STAGING + 4096)]


def test_everything_is_synced_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    real_sync, real_rename = os.fdatasync, os.rename
    monkeypatch.setattr(os, "fdatasync", lambda fd: (steps.append(f"file of {os.fstat(fd).st_size}"), real_sync(fd))[1])
    monkeypatch.setattr(os, "rename", lambda old, new: (steps.append(f"rename {Path(new).name}"), real_rename(old, new))[1])
    monkeypatch.setattr(posix_write, "_fsync_folder", lambda folder: (steps.append(f"folder {folder.name}"), real_fsync_folder(folder))[1])
    write(FileWriter(), tmp_path / "a" / "b" / "x", DATA[:5000], 1000)
    assert steps == [f"folder {tmp_path.name}", "folder a", "file of 5000", "rename x", "folder b"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    store = PosixStore(StoreSpec("posix", str(tmp_path)))

    def failing(fd: int, data: Any, offset: int) -> int:
        if offset:
            raise OSError(code, os.strerror(code))
        return real_pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(StorageError, match=os.strerror(code)) as caught, store.create("shards/x") as sink:
        sink.write(DATA[: STAGING + 5000])
    assert ("free space" in caught.value.hint) == (code == errno.ENOSPC)
    assert os.listdir(tmp_path / "shards") == []
    monkeypatch.undo()
    with store.create("shards/x") as sink:  # its staging buffer went back, with what lay in it forgotten
        sink.write(b"abc")
    assert bytes(store.read_all("shards/x", 10)) == b"abc"


def test_staging_buffers_are_used_again_and_given_back(tmp_path: Path) -> None:
    writer = FileWriter()
    with writer.create(tmp_path / "a") as first, writer.create(tmp_path / "b") as second:
        first.write(b"one")
        second.write(b"two")
    assert (tmp_path / "a").read_bytes() == b"one" and (tmp_path / "b").read_bytes() == b"two"
    for number in range(10):
        write(writer, tmp_path / str(number), DATA[:100], 100)
    assert len(writer._free) == 2
    writer.close()
    assert writer._free == []


def test_the_caller_fills_the_next_buffer_while_one_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_write = threading.Event()

    def slow(fd: int, data: Any, offset: int) -> int:
        assert may_write.wait(30)
        return real_pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", slow)
    writer = FileWriter()
    with writer.create(tmp_path / "x") as sink:
        sink.write(DATA[: 2 * STAGING - 1])  # returns, though nothing could be written yet
        may_write.set()
    writer.close()
    assert (tmp_path / "x").read_bytes() == DATA[: 2 * STAGING - 1]


class Folder:
    """Stands in for the fsync of a folder: counts, and waits until it may go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)
        self.calls = 0
        self.error: OSError | None = None
        monkeypatch.setattr(posix_write, "_fsync_folder", self)

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        self.begun.release()
        assert self.may_end.acquire(timeout=30)
        if self.error is not None:
            raise self.error


def waiting_for(sync: Any, folder: Path, pool: ThreadPoolExecutor, count: int) -> list[Any]:
    """So many calls of sync, all of them registered."""
    entered = threading.Barrier(count + 1)

    def call() -> None:
        entered.wait()
        sync.sync(folder)

    futures = [pool.submit(call) for _ in range(count)]
    entered.wait()
    return futures


def test_one_fsync_of_a_folder_serves_all_who_renamed_before_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, sync = Folder(monkeypatch), posix_write._FolderSync()
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(sync.sync, tmp_path)
        assert folder.begun.acquire(timeout=30)
        others = waiting_for(sync, tmp_path, pool, 8)
        while tmp_path not in sync._next or len(sync._next[tmp_path]._condition._waiters) < 7:  # one of the eight leads
            time.sleep(0.001)
        folder.may_end.release()
        first.result(timeout=30)
        assert not any(future.done() for future in others), "the first fsync began before they renamed"
        folder.may_end.release()
        for future in others:
            future.result(timeout=30)
    assert folder.calls == 2 and not sync._next


def test_a_failed_fsync_of_a_folder_reaches_everyone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, sync = Folder(monkeypatch), posix_write._FolderSync()
    folder.error = OSError(errno.EIO, os.strerror(errno.EIO))
    with ThreadPoolExecutor(5) as pool:
        futures = waiting_for(sync, tmp_path, pool, 5)
        for _ in range(5):
            folder.may_end.release()
        errors = [future.exception(timeout=30) for future in futures]
    assert all(isinstance(error, OSError) and error.errno == errno.EIO for error in errors) and not sync._next
    folder.error = None
    folder.may_end.release()
    sync.sync(tmp_path)
