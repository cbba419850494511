"""Where bytes live: one file per store. Stores know nothing of formats; every one counts its bytes and checks what it got.

`open_store` is the only way in: a URL and options become a `StoreSpec` (plain data, crosses processes), and a spec becomes a live store in the
process that uses it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from storagebench.errors import DatasetError, UsageError
from storagebench.manifest import Dataset
from storagebench.protocols import Store, StoreSpec
from storagebench.registry import store_class
from storagebench.storage.s3_config import endpoint_of_environment

_SHAPED = "shaped+"


def parse_url(url: str, options: Mapping[str, str] | None = None) -> StoreSpec:
    """A path, `file://`, `s3://bucket/prefix`, `memory://name` or any fsspec URL, each also with `shaped+` before it (bandwidth and latency as the
    options say). Raises UsageError for one that names no place."""
    options = dict(options or {})
    if url.startswith(_SHAPED):
        return _shaped_spec(url.removeprefix(_SHAPED), options)
    if not url or "\0" in url:
        raise UsageError(f"data dir {url!r} is empty or has a NUL in it", "give a path or a URL such as s3://bucket/prefix")
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise UsageError(f"the URL of {parts.hostname} carries credentials", "put them into the environment (AWS_ACCESS_KEY_ID ...) instead")
    if "://" not in url or parts.scheme == "file":
        path = Path(parts.path if parts.scheme == "file" else url).expanduser()
        return StoreSpec("posix", str(path.absolute()), options)
    if parts.scheme == "s3":
        if not parts.netloc:
            raise UsageError(f"data dir {url!r} names no bucket", "write it as s3://bucket/prefix")
        return StoreSpec("s3", f"s3://{parts.netloc}/{parts.path.strip('/')}".rstrip("/"), options)
    return StoreSpec("memory" if parts.scheme == "memory" else "fsspec", url.rstrip("/"), options)


def options_beside(data_dir: str, url: str, options: Mapping[str, str]) -> Mapping[str, str]:
    """Which of the data dir's options also hold at another place: all at one of the same kind of store, none at another; those of the shaping only where that is
    shaped too.

    >>> options_beside("shaped+/fast/digits", "/fast/rest", {"bandwidth": "1MB"}), options_beside("s3://a/x", "s3://b/y", {"endpoint_url": "http://h:1"})
    ({}, {'endpoint_url': 'http://h:1'})
    """
    from storagebench.storage.shaped import OPTIONS

    of_data, of_place = parse_url(data_dir), parse_url(url)
    shaped = of_place.kind == "shaped"
    same = _inner_kind(of_data) == _inner_kind(of_place)
    return {name: value for name, value in options.items() if (shaped if name in OPTIONS and of_data.kind == "shaped" else same)}


def _inner_kind(spec: StoreSpec) -> str:
    return parse_url(spec.root).kind if spec.kind == "shaped" else spec.kind


def _shaped_spec(inner_url: str, options: dict[str, str]) -> StoreSpec:
    """The spec names its wire, so that all processes that get it share the bandwidth."""
    inner = parse_url(inner_url)
    if inner.kind == "shaped":
        raise UsageError(f"data dir shaped+{inner_url} is shaped twice", "write shaped+ once")
    return StoreSpec("shaped", inner.root, {**options, "clock_id": options.get("clock_id") or secrets.token_hex(8)})


def open_spec(spec: StoreSpec) -> Store:
    """A live store. Raises StorageError where it cannot be reached and UsageError for options that it does not have."""
    if spec.kind == "s3" and _has_several_endpoints(spec):
        from storagebench.storage.s3_spread import SpreadStore

        return SpreadStore(spec)
    store: Store = store_class(spec.kind)(spec)
    return store


def _has_several_endpoints(spec: StoreSpec) -> bool:
    return "," in (spec.options.get("endpoint_url") or endpoint_of_environment() or "")


def spec_of_reader(spec: StoreSpec, number: int) -> StoreSpec:
    """The spec for the reader of that number (a rank, and a worker of its on top): of several S3 endpoints each begins with another one."""
    if spec.kind != "s3" or not _has_several_endpoints(spec):
        return spec
    return replace(spec, options={**spec.options, "endpoint_index": str(int(spec.options.get("endpoint_index", "0")) + number)})


def open_store(url: str, options: Mapping[str, str] | None = None) -> Store:
    """`parse_url` and `open_spec` in one."""
    return open_spec(parse_url(url, options))


def data_spec(spec: StoreSpec, dataset: Dataset) -> StoreSpec:
    """The store of the dataset's shards: that of its manifest (`spec`), or, measured in place, another root of the same kind, with the same options.

    Raises DatasetError for a root of another kind, which no import writes.
    """
    if not dataset.data_root:
        return spec
    kind = _inner_kind(spec)
    found = parse_url(dataset.data_root)
    if found.kind != kind or found.root != dataset.data_root:
        raise DatasetError(
            f"the manifest at {spec.url} says that the shards lie at {dataset.data_root!r}, which is no root on {kind} storage",
            "import the data in place again",
        )
    return replace(spec, root=dataset.data_root)


@contextmanager
def data_store(store: Store, dataset: Dataset) -> Iterator[Store]:
    """The live store of the dataset's shards, where `store` is that of its manifest; for reading only."""
    if not dataset.data_root:
        yield store
        return
    opened = open_spec(data_spec(store.spec, dataset))
    try:
        yield opened
    finally:
        opened.close()
