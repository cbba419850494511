"""The loader `direct` over S3 on loopback, in pairs: against a bare obstore program that fetches the same bytes, and against the loaders `s3` and s3fs.

`rclone serve s3` serves the data sets, from memory. The bare program fetches whole objects of 115 KB and of 20 MB (threads with the sync API, and
asyncio, each at several concurrencies; the best one is chosen in passes of its own and then fixed), or one range a record of 115 KB in tar shards.
rclone answers a range with the status 200, which obstore refuses: ranges go through HAProxy, which makes it 206 (left out where it is not installed).
The loaders `s3` (best of a few settings) and `files` with s3fs (one worker, one object a read) are compared by the rate that their summaries give.

    python benchmarks/direct_vs_obstore.py --folder /data   (data sets npz115, npz20, wds115 there, made where they are not; apt-get install haproxy)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import FINALISTS, DataSet, Pass, Reader, Result, arguments, choose, compare, data_set, finish, run_ours, say, scratch, warm

from storagebench import s3server
from storagebench.errors import StorageError
from storagebench.manifest import load_dataset
from storagebench.storage import open_store

START_LIMIT_S = 15.0
ROWS = ("small", "large", "ranges", "s3", "s3fs", "bare-s3", "bare-s3fs")
_FRONT = """\
global
    maxconn 2048
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend front
    bind 127.0.0.1:{port}
    http-response set-status 206 if {{ res.hdr(content-range) -m found }}
    default_backend rclone
backend rclone
    server rclone {server}
"""


@dataclass(frozen=True)
class Endpoint:
    url: str
    environment: Mapping[str, str]

    def prepare(self, data: DataSet) -> None:
        """Before each pass: the pages in the cache, and a first request, after which the server knows its folders again (for 5 s)."""
        warm(data.paths)
        store = open_store(f"s3://{data.folder.name}", {"endpoint_url": self.url})
        try:
            store.read_all(str(Path(data.paths[0]).relative_to(data.folder)), 2**30)
        finally:
            store.close()


@dataclass(frozen=True)
class Sizes:
    """What is fetched: samples of each data set, and how many the slow loaders read (steps of `batch`)."""

    small: int
    large: int
    large_bytes: int
    steps: int
    batch: int


FULL, SMOKE = Sizes(10_000, 100, 20_000_000, 100, 50), Sizes(16, 3, 1_000_000, 2, 4)


# The bare program: this file with --bare, and what it fetches on its standard input


def bare(task: Mapping[str, Any]) -> dict[str, float]:
    """Fetch whole objects (`[key]`) or ranges (`[key, first, length]`) with `many` at a time; seconds and CPU seconds of the fetching, and its bytes."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        task["bucket"], endpoint=task["endpoint"], region="us-east-1", virtual_hosted_style_request=False, client_options={"allow_http": True}
    )
    items, many = task["items"], task["many"]

    def one(item: list[Any]) -> int:
        if len(item) == 1:
            return len(obstore.get(store, item[0]).bytes())
        return len(obstore.get_range(store, item[0], start=item[1], length=item[2]))

    async def fetch(item: list[Any]) -> int:
        if len(item) == 1:
            return len(await (await obstore.get_async(store, item[0])).bytes_async())
        return len(await obstore.get_range_async(store, item[0], start=item[1], length=item[2]))

    async def all_of_them() -> int:
        left = iter(items)

        async def worker() -> int:
            return sum([await fetch(item) for item in left])

        return sum(await asyncio.gather(*(worker() for _ in range(many))))

    began, cpu = time.monotonic(), sum(os.times()[:2])
    if task["api"] == "asyncio":
        num_bytes = asyncio.run(all_of_them())
    else:
        with ThreadPoolExecutor(many) as threads:
            num_bytes = sum(threads.map(one, items))
    return {"seconds": time.monotonic() - began, "cpu_s": sum(os.times()[:2]) - cpu, "bytes": num_bytes}


def bare_reader(data: DataSet, endpoint: Endpoint, items: Sequence[Sequence[Any]], expected: int, api: str, many: int) -> Reader:
    task = json.dumps({"bucket": data.folder.name, "endpoint": endpoint.url, "items": items, "api": api, "many": many})

    def read() -> Pass:
        endpoint.prepare(data)
        done = subprocess.run(
            [sys.executable, __file__, "--bare"],
            input=task,
            env={**os.environ, **endpoint.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StorageError(f"the bare program ended with {done.returncode}: {done.stderr.strip()[-300:]}", "report it")
        found = json.loads(done.stdout)
        if found["bytes"] != expected:
            raise StorageError(f"the bare program fetched {found['bytes']:.0f} of {expected} bytes", "the comparison would be of unequal work")
        return Pass(expected / found["seconds"], found["cpu_s"] / (expected / 1e9))

    return read


# The servers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def front(server: s3server.Server, place: Path) -> Iterator[Endpoint | None]:
    """HAProxy before the server; None where it is not installed. It ends with the block, and where there is setpriv with this process."""
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        yield None
        return
    port, settings = free_port(), place / "haproxy.cfg"
    settings.write_text(_FRONT.format(port=port, server=server.endpoint_url.removeprefix("http://")))
    with_parent = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    with (place / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([*with_parent, program, "-db", "-f", str(settings)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                words = (place / "haproxy.log").read_text(errors="replace").strip()[-300:]
                raise StorageError(f"haproxy does not answer on port {port}: {words or 'it said nothing'}", "run it by hand")
            time.sleep(0.05)
        yield Endpoint(f"http://127.0.0.1:{port}", server.environment())
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


# Our side


def run_reader(data: DataSet, endpoint: Endpoint, options: Sequence[str], own_rate: bool) -> Reader:
    """A pass of ours: bytes per second of the whole epoch, or (`own_rate`) as the summary has it, behind the start of the loader's workers."""
    url = f"s3://{data.folder.name}"

    def read() -> Pass:
        endpoint.prepare(data)
        run = run_ours(
            url, ("--cache", "as-is", "--storage-option", f"endpoint_url={endpoint.url}", "--decode", "none", *options), endpoint.environment
        )
        if "--max-steps" not in options and run.summary["samples"] != data.num_samples:
            raise StorageError(f"our pass took {run.summary['samples']} of {data.num_samples} samples", "the comparison would be of unequal work")
        whole = run.as_pass()
        return Pass(run.summary["delivered_bytes_per_s"], whole.cpu_s_per_gb, whole.tree_cpu_s_per_gb) if own_rate else whole

    return read


# The comparisons


def against_bare(
    what: str, data: DataSet, endpoint: Endpoint, items: list[list[Any]], expected: int, ours: Reader, asked: argparse.Namespace, many: Sequence[int]
) -> Result:
    random.Random(0).shuffle(items)
    apis = ["asyncio"] if asked.smoke else ["threads", "asyncio"]
    readers = {f"obstore {api} x {number}": bare_reader(data, endpoint, items, expected, api, number) for api in apis for number in many}
    say(f"{what}: bare obstore's settings")
    best = choose(readers, 3, FINALISTS)
    return compare(what, best, readers[best], ours, *_rounds(asked), bound=0.9, null=not asked.smoke)


def _rounds(asked: argparse.Namespace) -> tuple[int, int]:
    return (1, 0) if asked.smoke else (asked.rounds, 1)


def ranges_of(data: DataSet) -> list[list[Any]]:
    """[key, first byte, length] of every record."""
    dataset = load_dataset(open_store(str(data.folder)))
    rows = zip(*(dataset.index[name].tolist() for name in ("shard", "offset", "record_bytes")), strict=True)
    return [[dataset.names[shard], offset, length] for shard, offset, length in rows]


def results(asked: argparse.Namespace, place: Path) -> Iterator[tuple[Result, str]]:
    sizes, wanted = SMOKE if asked.smoke else FULL, asked.only or ROWS
    folder = (place if asked.smoke else asked.folder).absolute()
    small = data_set(folder / "npz115", ("--format", "npz", "--num-samples", str(sizes.small), "--record-length", "115000"))
    large = data_set(folder / "npz20", ("--format", "npz", "--num-samples", str(sizes.large), "--record-length", str(sizes.large_bytes)))
    packed = data_set(
        folder / "wds115",
        ("--format", "webdataset", "--num-samples", str(sizes.small), "--record-length", "115000", "--samples-per-shard", "500"),
    )
    batch, more = ("--batch-size", str(sizes.batch)), asked.run_option.split()
    direct = ("--loader", "direct", *batch, *more)
    with s3server.start(folder) as server:
        plain = Endpoint(server.endpoint_url, server.environment())
        os.environ.update(plain.environment)
        whole: dict[str, tuple[str, DataSet, tuple[str, ...], tuple[int, ...]]] = {
            "small": ("115 KB objects", small, direct, (8, 16, 32, 64)),
            "large": ("20 MB objects", large, ("--loader", "direct", "--batch-size", "2", *more), (2, 4, 8, 16)),
        }
        for what, data, options, many in (row for name, row in whole.items() if name in wanted):
            items: list[list[Any]] = [[str(Path(path).relative_to(data.folder))] for path in data.paths]
            ours = run_reader(data, plain, options, own_rate=False)
            yield against_bare(what, data, plain, items, sum(data.sizes), ours, asked, many[:1] if asked.smoke else many), "MB/s"
        with front(server, place) as through:
            if "ranges" not in wanted:
                pass
            elif through is None:
                say("115 KB ranges: left out, as haproxy is not installed (apt-get install haproxy)")
            else:
                items = ranges_of(packed)
                ours = run_reader(packed, through, direct, own_rate=False)
                many = whole["small"][-1][: 1 if asked.smoke else None]
                yield against_bare("115 KB ranges", packed, through, items, sum(item[2] for item in items), ours, asked, many), "MB/s"
        yield from against_loaders(small, plain, sizes, direct, asked, wanted)


def against_loaders(
    data: DataSet, endpoint: Endpoint, sizes: Sizes, direct: tuple[str, ...], asked: argparse.Namespace, wanted: Sequence[str]
) -> Iterator[tuple[Result, str]]:
    """`s3` at the best of a few settings, and `files` with s3fs in one worker, which reads one object at a time. Ours reads as many objects."""
    steps = ("--max-steps", str(sizes.steps))
    ours = run_reader(data, endpoint, (*direct, *steps), own_rate=True)
    tries = ((1, 4, sizes.batch),) if asked.smoke else ((2, 4, 50), (2, 8, 50), (4, 8, 50), (2, 4, 100))
    settings = {
        f"s3, {workers} workers, prefetch {depth}, batches of {batch}": (
            "--loader", "s3", "--num-workers", str(workers), "--prefetch-batches", str(depth), "--batch-size", str(batch),
            "--max-steps", str(sizes.steps * sizes.batch // batch),
        )
        for workers, depth, batch in tries
    }  # fmt: skip
    items = [[str(Path(path).relative_to(data.folder))] for path in data.paths]
    bare = bare_reader(data, endpoint, items, sum(data.sizes), "threads", 16)  # what these two bounds ask of obstore itself
    if "s3" in wanted or "bare-s3" in wanted:
        readers = {name: run_reader(data, endpoint, options, own_rate=True) for name, options in settings.items()}
        say("loader s3: its settings")
        best = choose(readers, 2, FINALISTS)
        if "s3" in wanted:
            yield compare("115 KB objects, loaders", best, readers[best], ours, *_rounds(asked), bound=2.5, null=not asked.smoke), "MB/s"
        if "bare-s3" in wanted:
            yield compare("115 KB objects, bare obstore as ours", best, readers[best], bare, *_rounds(asked), bound=None, null=False), "MB/s"
    one = ("--loader", "files", "--storage-option", "client=s3fs", "--batch-size", str(sizes.batch), "--num-workers", "1", *steps)
    reader = run_reader(data, endpoint, one, own_rate=True)
    name = "files with s3fs, one object a read"
    if "s3fs" in wanted:
        yield compare("115 KB objects, loaders", name, reader, ours, *_rounds(asked), bound=5.0, null=False), "MB/s"
    if "bare-s3fs" in wanted:
        yield compare("115 KB objects, bare obstore as ours", name, reader, bare, *_rounds(asked), bound=None, null=False), "MB/s"


def main() -> int:
    if sys.argv[1:] == ["--bare"]:
        print(json.dumps(bare(json.load(sys.stdin))), flush=True)
        os._exit(0)  # obstore's runtime sometimes aborts (SIGABRT) while the interpreter ends after get_async
    parser = arguments(__doc__, "folder on a local disk that is served: the data sets are in it, or made in it and kept")
    parser.add_argument("--run-option", default="", help="more options of `direct`, in one string, such as '--num-workers 4'")
    parser.add_argument("--only", action="append", choices=ROWS, help="this comparison; may be given again")
    asked = parser.parse_args()
    with scratch(asked.folder) as place:
        return finish(results(asked, place), asked)


if __name__ == "__main__":
    sys.exit(main())
