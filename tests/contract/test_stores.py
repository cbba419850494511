"""One contract suite over every store: posix, memory, fsspec, shaped (with and without limits) and S3 (obstore and s3fs on a real `rclone serve s3`)."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from storagebench.errors import DatasetError, StorageError, UsageError
from storagebench.protocols import Extent, ObjectInfo, Store, StoreSpec
from storagebench.storage import open_spec, open_store

# Far above what a test reads: a shaped store has the whole contract, however it is shaped.
LIMITS = {"bandwidth": "500MB", "latency": "100us", "jitter": "100us"}
KINDS = [
    "posix",
    "memory",
    "fsspec",
    "shaped",
    "shaped with limits",
    pytest.param("obstore", marks=pytest.mark.s3),
    pytest.param("s3fs", marks=pytest.mark.s3),
]
Opener = Callable[[], Store]


def pattern(num_bytes: int, seed: int = 1) -> bytes:
    return bytes((position * 131 + seed * 17 + (position >> 8)) & 0xFF for position in range(min(num_bytes, 65536))) * (num_bytes // 65536 + 1)


def put(store: Store, key: str, data: bytes) -> None:
    with store.create(key) as sink:
        sink.write(data)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opener(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens stores of the kind on one fresh place; closes them all at the end."""
    name = f"t{abs(hash(request.node.name)):x}"
    opened: list[Store] = []
    if kind in ("obstore", "s3fs"):
        options = {**request.getfixturevalue("s3_environment"), "client": kind}
        url = f"s3://bench/{name}/data"
    else:
        options = LIMITS if kind == "shaped with limits" else {}
        url = {
            "posix": str(tmp_path / "data"),
            "memory": f"memory://{name}",
            "fsspec": f"memory://{name}/data",
            "shaped": f"shaped+{tmp_path / 'data'}",
            "shaped with limits": f"shaped+memory://{name}",
        }[kind]

    def make() -> Store:
        store = open_spec(StoreSpec("fsspec", url)) if kind == "fsspec" else open_store(url, options)
        opened.append(store)
        return store

    yield make
    for store in opened:
        store.close()
        store.close()


@pytest.fixture
def store(opener: Opener) -> Store:
    return opener()


def test_reads_what_was_written(store: Store) -> None:
    data = pattern(200_000)[:200_000]
    put(store, "a/b/x.bin", data)
    put(store, "empty", b"")
    assert bytes(store.read([Extent("a/b/x.bin", 0, len(data))])[0]) == data
    assert bytes(store.read_all("a/b/x.bin", 10**6)) == data
    assert bytes(store.read_all("empty", 10)) == b""
    assert [bytes(view) for view in store.read([Extent("empty", 0, 0)])] == [b""]
    assert store.read([]) == []


def test_ranges_in_order(store: Store) -> None:
    data = pattern(300_000)[:300_000]
    put(store, "r.bin", data)
    put(store, "s.bin", data[::-1])
    wanted = [(0, 1), (299_999, 1), (1000, 5000), (0, 300_000), (0, 10), (131_072, 65_536), (1000, 5000), (5, 0), (0, 0)]
    extents = [Extent(key, offset, length) for offset, length in wanted for key in ("r.bin", "s.bin")]
    found = store.read(extents)
    assert len(found) == len(extents)
    for extent, view in zip(extents, found, strict=True):
        source = data if extent.key == "r.bin" else data[::-1]
        assert bytes(view) == source[extent.offset : extent.offset + (extent.length or 0)], extent


def test_read_into(store: Store) -> None:
    data = pattern(100_000)[:100_000]
    put(store, "x", data)
    target = memoryview(bytearray(70_000))
    store.read_into(Extent("x", 20_000, 70_000), target)
    assert bytes(target) == data[20_000:90_000]
    whole = memoryview(bytearray(100_000))
    store.read_into(Extent("x", 0, 100_000), whole)
    assert bytes(whole) == data
    with pytest.raises(ValueError):
        store.read_into(Extent("x", 0, 5), target)


def test_counts_bytes_and_requests(store: Store) -> None:
    put(store, "x", b"0123456789" * 1000)
    before = store.counters()
    store.read([Extent("x", 0, 10_000), Extent("x", 100, 50)])
    done = store.counters() - before
    assert done.num_bytes == 10_050
    assert done.requests >= 2 and done.errors == 0 and done.retries == 0


def test_missing_key_is_the_datasets_fault(store: Store) -> None:
    put(store, "there", b"x")
    assert store.exists("there") and not store.exists("nope")
    for read in (
        lambda: store.read([Extent("there", 0, 1), Extent("nope", 0, 5)]),
        lambda: store.read([Extent("nope", 3, 5)]),
        lambda: store.read_all("nope", 100),
        lambda: store.open_stream("nope", 5).read(),
    ):
        with pytest.raises(DatasetError, match="nope") as caught:
            read()
        assert caught.value.hint


@pytest.mark.parametrize("extent", [Extent("x", 0, 101), Extent("x", 90, 11), Extent("x", 200, 5)])
def test_too_short_is_never_data(store: Store, extent: Extent) -> None:
    put(store, "x", b"0123456789" * 10)
    with pytest.raises((DatasetError, StorageError), match="x in"):
        store.read([extent])
    with pytest.raises((DatasetError, StorageError)):
        store.open_stream("x", 101).read()


def test_read_all_has_a_limit(store: Store) -> None:
    put(store, "x", b"0" * 1000)
    assert len(store.read_all("x", 1000)) == 1000
    with pytest.raises(StorageError, match="999"):
        store.read_all("x", 999)


def test_stream(store: Store) -> None:
    data = pattern(3_500_000)[:3_500_000]
    put(store, "s", data)
    before = store.counters()
    with store.open_stream("s", len(data)) as stream:
        parts = [stream.read(5), stream.read(1_000_000), stream.read(2_499_995), stream.read(10)]
    assert b"".join(parts) == data and parts[-1] == b""
    assert [len(part) for part in parts] == [5, 1_000_000, 2_499_995, 0]
    if store.spec.kind != "posix" or store.counters() != before:
        assert (store.counters() - before).num_bytes == len(data)
    with store.open_stream("s", len(data)) as stream:
        assert stream.read(3) == data[:3]  # and is closed early


def test_write_is_all_or_nothing(store: Store) -> None:
    put(store, "old", b"first")
    for key in ("new", "old"):
        with pytest.raises(RuntimeError, match="boom"), store.create(key) as sink:
            sink.write(b"x" * 100)
            assert not store.exists("new")
            raise RuntimeError("boom")
    assert not store.exists("new")
    assert bytes(store.read_all("old", 10)) == b"first"
    assert list(store.list()) == [ObjectInfo("old", 5)]
    put(store, "old", b"second one")
    assert bytes(store.read_all("old", 10)) == b"second one"
    assert bytes(store.read([Extent("old", 7, 3)])[0]) == b"one"


def test_sink_does_not_keep_the_callers_memory(store: Store) -> None:
    buffer = bytearray(b"abc")
    with store.create("k") as sink:
        sink.write(memoryview(buffer))
        buffer[:] = b"xyz"
        sink.write(buffer)
    assert bytes(store.read_all("k", 10)) == b"abcxyz"


def test_list_and_delete(store: Store) -> None:
    keys = ["train/a.npz", "train/b.npz", "train/deep/er/c.npz", "val/a.npz", "top"]
    assert list(store.list()) == []
    for number, key in enumerate(keys):
        put(store, key, b"x" * number)
    assert sorted(store.list()) == sorted(ObjectInfo(key, number) for number, key in enumerate(keys))
    assert sorted(info.key for info in store.list("train/")) == sorted(keys[:3])
    store.delete(["train/a.npz", "never/was", "val/a.npz"])
    store.delete([])
    assert sorted(info.key for info in store.list()) == ["top", "train/b.npz", "train/deep/er/c.npz"]
    store.delete([info.key for info in store.list()])
    assert list(store.list()) == []
    put(store, "again", b"x")  # the bucket or folder above is still there
    assert store.exists("again")


def test_odd_keys(store: Store) -> None:
    keys = ["sp ace.bin", "ünï.bin", "plus+and%20per cent.bin", "a[1]*?.bin", "q&a=#1.bin", "'quote\".bin", "-dash", "tilde~.bin"]
    for key in keys:
        put(store, key, key.encode())
    assert sorted(info.key for info in store.list()) == sorted(keys)
    found = store.read([Extent(key, 0, len(key.encode())) for key in keys])
    assert [bytes(view).decode() for view in found] == keys
    assert [bytes(store.read([Extent(key, 1, 2)])[0]) for key in keys] == [key.encode()[1:3] for key in keys]
    store.delete(keys)
    assert list(store.list()) == []


def test_many_threads(store: Store) -> None:
    data = {f"k{number}": pattern(20_000 + number, number)[: 20_000 + number] for number in range(12)}
    for key, value in data.items():
        put(store, key, value)
    before = store.counters()

    def work(number: int) -> int:
        extents = [Extent(key, offset, 100) for key in data for offset in (0, number)]
        for extent, view in zip(extents, store.read(extents), strict=True):
            assert bytes(view) == data[extent.key][extent.offset : extent.offset + 100]
        return sum(extent.length or 0 for extent in extents)

    with ThreadPoolExecutor(6) as pool:
        total = sum(pool.map(work, range(12)))
    assert total <= (store.counters() - before).num_bytes <= total + 100


def test_two_stores_see_one_place(opener: Opener) -> None:
    first = opener()
    put(first, "x", b"abc")
    assert bytes(opener().read_all("x", 10)) == b"abc"


def test_close_leaves_no_thread(opener: Opener) -> None:
    before = set(threading.enumerate())
    store = opener()
    put(store, "x", b"abc" * 1000)
    store.read([Extent("x", 0, 3000)] * 3 + [Extent("x", 5, 10)] * 3)
    store.close()
    ours = [thread for thread in set(threading.enumerate()) - before if "storagebench" in thread.name]
    assert ours == []


# What S3 alone has.


@pytest.fixture(params=["obstore", "s3fs"])
def s3_options(request: pytest.FixtureRequest, s3_environment: dict[str, str]) -> dict[str, str]:
    return {**s3_environment, "client": str(request.param)}


@pytest.mark.s3
def test_large_object_is_multipart_with_bounded_memory(s3_options: dict[str, str]) -> None:
    from storagebench.storage.s3_control import PART_BYTES

    store = open_store(f"s3://bench/multi-{s3_options['client']}", s3_options)
    chunk = pattern(1 << 20)[: 1 << 20]
    count = 2 * PART_BYTES // len(chunk) + 3
    with store.create("big") as sink:
        for _ in range(count):
            sink.write(chunk)
        assert not store.exists("big")
        assert len(sink._buffer) <= PART_BYTES  # type: ignore[attr-defined]
    views = store.read([Extent("big", 0, count << 20), Extent("big", (count - 1) << 20, 1 << 20)])
    assert bytes(views[0]) == chunk * count and bytes(views[1]) == chunk
    with pytest.raises(RuntimeError), store.create("broken") as sink:
        for _ in range(count):
            sink.write(chunk)
        raise RuntimeError
    assert [info.key for info in store.list()] == ["big"]
    store.delete(["big"])
    store.close()


@pytest.mark.s3
def test_range_probe_travels_with_the_spec(s3_options: dict[str, str]) -> None:
    url = f"s3://bench/probe-{s3_options['client']}"
    with_nothing = open_store(url, s3_options)
    assert "native_ranges" not in with_nothing.spec.options and not with_nothing.native_ranges
    put(with_nothing, "manifest.json", b"{}" * 100)
    parent = open_store(url, s3_options)
    assert parent.native_ranges is False and parent.spec.options["native_ranges"] == "false"
    worker = open_spec(parent.spec)
    assert worker.counters().requests == 0  # told, so it does not ask
    assert bytes(worker.read([Extent("manifest.json", 1, 3)])[0]) == b"}{}"
    for store in (with_nothing, parent, worker):
        store.close()
    native = open_store(url, {**s3_options, "ranges": "native", "native_ranges": "true", "retries": "0"})
    if s3_options["client"] == "obstore":
        with pytest.raises(StorageError, match="instead of 206"):
            native.read([Extent("manifest.json", 1, 3)])
    else:  # rclone's 200 has the right Content-Range, which s3fs shows and we check
        assert bytes(native.read([Extent("manifest.json", 1, 3)])[0]) == b"}{}"
    native.close()
    arrow = open_store(url, {**s3_options, "ranges": "arrow"})
    assert bytes(arrow.read([Extent("manifest.json", 1, 3)])[0]) == b"}{}"
    arrow.close()


@pytest.mark.s3
def test_missing_bucket(s3_options: dict[str, str]) -> None:
    with pytest.raises(StorageError, match="nobucket does not exist") as caught:
        open_store("s3://nobucket/x", s3_options)
    assert caught.value.hint
    store = open_store("s3://nobucket/x", {**s3_options, "native_ranges": "false"})
    for read in (
        lambda: store.read([Extent("k", 0, 5)]),
        lambda: store.read([Extent("k", 7, 5)]),
        lambda: store.exists("k"),
        lambda: list(store.list()),
        lambda: store.delete(["k"]),
        lambda: put(store, "k", b"x"),
    ):
        with pytest.raises(StorageError, match="nobucket does not exist"):
            read()
    store.close()


@pytest.mark.s3
def test_wrong_credentials(s3_options: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-SECRET-canary-SECRET-0123456789")
    with pytest.raises(StorageError, match="refused") as caught:
        open_store("s3://bench/x", s3_options)
    assert "AWS_SECRET_ACCESS_KEY" in caught.value.hint and s3_options["endpoint_url"] in caught.value.message
    assert "canary" not in repr(caught.value) + caught.value.hint
    store = open_store("s3://bench/x", {**s3_options, "native_ranges": "false"})
    assert "canary" not in repr(store.spec) + repr(vars(store))
    for read in (lambda: store.read([Extent("k", 7, 5)]), lambda: list(store.list()), lambda: put(store, "k", b"x")):
        with pytest.raises(StorageError, match="refused") as caught:
            read()
        assert "canary" not in repr(caught.value)
    store.close()


@pytest.mark.s3
def test_no_credentials(s3_options: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageError, match="no AWS credentials") as caught:
        open_store("s3://bench/x", s3_options)
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint
    monkeypatch.setenv("AWS_PROFILE", "not-there")
    with pytest.raises(StorageError, match="ProfileNotFound"):
        open_store("s3://bench/x", s3_options)


@pytest.mark.s3
@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("s3://bench/x", {"endpoint-url": "http://x"}, "endpoint-url"),
        ("s3://bench/x", {"client": "boto"}, "client"),
        ("s3://bench/x", {"concurrency": "0"}, "concurrency"),
        ("s3://bench/x", {"ranges": "no"}, "ranges"),
        ("s3://bench/x", {"secret_access_key": "canary"}, "secret_access_key"),
        ("s3://bench/x", {"endpoint_url": "127.0.0.1:9000"}, "endpoint_url"),
        ("s3://bench/x", {"endpoint_url": "http://user:canary@127.0.0.1:9000"}, "carries credentials"),
        ("s3://bench/a/../b", {}, "dot part"),
    ],
)
def test_bad_options(s3_environment: dict[str, str], url: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_store(url, {**s3_environment, **options})
    assert caught.value.hint and "canary" not in caught.value.message


@pytest.mark.s3
def test_arrow_filesystem(s3_environment: dict[str, str]) -> None:
    from storagebench.storage import fsspec_store, s3

    store = open_store("s3://bench/arrow", s3_environment)
    put(store, "t.bin", b"0123456789")
    filesystem, root = s3.arrow_filesystem(store.spec)
    with filesystem.open_input_file(f"{root}/t.bin") as file:
        assert file.read_at(3, 4) == b"456"
    store.close()
    memory = open_spec(StoreSpec("fsspec", "memory://arrow-test/x"))
    put(memory, "t.bin", b"0123456789")
    filesystem, root = fsspec_store.arrow_filesystem(memory.spec)
    with filesystem.open_input_file(f"{root}/t.bin") as file:
        assert file.read_at(3, 4) == b"456"


def test_fsspec_refuses() -> None:
    def attempt(url: str, **options: str) -> Any:
        return open_spec(StoreSpec("fsspec", url, options))

    with pytest.raises(UsageError, match="nosuch") as caught:
        attempt("nosuch://x/y")
    assert caught.value.hint
    with pytest.raises(UsageError, match="password") as caught:
        attempt("ftp://me:canary@127.0.0.1/x")
    assert "canary" not in caught.value.message and "FSSPEC_FTP_" in caught.value.hint
    with pytest.raises(UsageError, match="secret"):
        attempt("memory://x", token="canary")


@pytest.mark.s3
def test_spec_is_plain_data(s3_environment: dict[str, str]) -> None:
    store = open_store("s3://bench/plain", s3_environment)
    plain = json.loads(json.dumps(asdict(store.spec)))
    assert StoreSpec(**plain) == store.spec
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in repr(store.spec) + repr(vars(store))
    store.close()
