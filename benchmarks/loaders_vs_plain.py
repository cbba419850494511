"""Our adapters of torch DataLoader, webdataset, pyarrow and s3fs against plain programs over the same library: what does storagebench add?

The plain programs lie in benchmarks/loader_sides and import nothing of storagebench. Both sides read the same files with the same number of workers and
the same batches in flight, hand over the same bytes, and compute nothing. Each pass is a process of its own: its first epoch starts the workers, the
others count. The page cache is filled right before each pass. Passes come in ABBA order (plain ours ours plain), the first round is dropped. Ours hands
over at --decode none, or at the least level that its library allows; the levels above it (checksum, parsing) are measured once a round beside it.

    python benchmarks/loaders_vs_plain.py --folder /data --rounds 5
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from common import say, spread

from storagebench import s3server
from storagebench.build import generate
from storagebench.errors import StorageBenchError, StorageError
from storagebench.launch import handling_signals
from storagebench.storage import open_spec, parse_url
from storagebench.workload import DatasetSpec, Workload

TARGET = 0.9  # of `files`
SIDES = Path(__file__).parent / "loader_sides"
CROP_BYTES = 2 * 2**20
RECORD_BYTES, LARGE_RECORD_BYTES = 115_000, 20_000_000
PASS_LIMIT_S = 600


@dataclass(frozen=True)
class Data:
    """A dataset below --folder, made when it is not there."""

    name: str
    format: str
    num_samples: int
    record_bytes: int


NPZ20 = Data("npz20", "npz", 100, LARGE_RECORD_BYTES)
NPZ115 = Data("npz115", "npz", 10_000, RECORD_BYTES)
NPY115 = Data("npy115", "npy", 10_000, RECORD_BYTES)
WDS115 = Data("wds115", "webdataset", 10_000, RECORD_BYTES)
PARQUET115 = Data("parquet115", "parquet", 10_000, RECORD_BYTES)
OBJECTS115 = Data("objects115", "npz", 2_000, RECORD_BYTES)


@dataclass(frozen=True)
class Case:
    """A pair: our loader at a decode level, and a plain program with its first arguments. `levels`: measured beside it. `epochs` count."""

    name: str
    data: Data
    batch_size: int
    epochs: int
    decode: str
    plain: tuple[str, ...]
    levels: tuple[str, ...] = ()
    crop_bytes: int = 0

    @property
    def loader(self) -> str:
        return self.name.partition(" ")[0]


CASES = (
    Case("files npz20 / numpy.load", NPZ20, 2, 3, "none", ("torch_files.py", "numpy"), ("touch", "parse")),
    Case("files npz20 / numpy.fromfile", NPZ20, 2, 3, "none", ("torch_files.py", "raw")),
    Case("files npz20 cropped / numpy.load cropped", NPZ20, 2, 3, "full", ("torch_files.py", "crop"), (), CROP_BYTES),
    Case("files npz115 / numpy.load", NPZ115, 8, 2, "none", ("torch_files.py", "numpy"), ("touch", "parse")),
    Case("files npy115 / numpy.load", NPY115, 8, 2, "none", ("torch_files.py", "numpy"), ("touch", "parse")),
    Case("files npz115 / numpy.fromfile", NPZ115, 8, 2, "none", ("torch_files.py", "raw")),
    Case("files npz115 of 50 / numpy.load", NPZ115, 50, 2, "none", ("torch_files.py", "numpy")),
    Case("webdataset wds115 / webdataset", WDS115, 50, 2, "parse", ("webdataset_tar.py",)),
    Case("parquet parquet115 / pyarrow", PARQUET115, 50, 2, "parse", ("parquet_groups.py",)),
    Case("s3 objects115 / s3fs cat", OBJECTS115, 50, 1, "none", ("s3_objects.py", "batched")),
    Case("s3 objects115 / s3fs one by one", OBJECTS115, 50, 1, "none", ("s3_objects.py", "one")),
)


@dataclass(frozen=True)
class Pass:
    """What one process measured; of the epochs that count."""

    samples: int
    bytes: int
    seconds: float
    cpu_s: float

    @property
    def samples_per_s(self) -> float:
        return self.samples / self.seconds

    def __str__(self) -> str:
        return f"{self.samples_per_s:.1f} samples/s, {self.bytes / self.seconds / 1e6:.1f} MB/s, {self.cpu_s / self.bytes * 1e9:.3f} CPU s/GB"


@dataclass
class Result:
    """One case. Ratios are ours/plain, one a round; `levels` has the passes at higher decode levels."""

    name: str
    ours: list[Pass] = field(default_factory=list)
    plain: list[Pass] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    cpu_ratios: list[float] = field(default_factory=list)
    levels: dict[str, list[Pass]] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        return not self.name.startswith("files ") or median(self.ratios) >= TARGET


class Bench:
    """Runs passes: the datasets' folder, the S3 server's environment, and the budget that both sides get."""

    def __init__(self, folder: Path, workers: int, prefetch: int, scale: float) -> None:
        self._folder, self._workers, self._prefetch, self._scale = folder, workers, prefetch, scale
        self._environment = dict(os.environ)

    def make(self, data: Data) -> None:
        """Generate the dataset where it is not there."""
        samples = max(2 * self._workers, round(data.num_samples * self._scale))
        spec = DatasetSpec(format=data.format, num_samples=samples, record_length_bytes=data.record_bytes)
        if (self._folder / data.name / "manifest.json").exists():
            return
        say(f"making {self._folder / data.name}: {samples} samples")
        store = open_spec(parse_url(str(self._folder / data.name), {}))
        generate(Workload(name=data.name, dataset=spec), store)
        store.close()

    def serve(self, stack: ExitStack) -> None:
        """Start `rclone serve s3` over the folder; its sub-folders are the buckets."""
        server = stack.enter_context(s3server.start(self._folder))
        self._environment |= server.environment() | {"AWS_ENDPOINT_URL_S3": server.endpoint_url}

    def ours(self, case: Case, decode: str) -> Pass:
        where = f"s3://{case.data.name}" if case.loader == "s3" else str(self._folder / case.data.name)
        budget = [case.batch_size, self._workers, self._prefetch * max(self._workers, 1), case.epochs, case.crop_bytes]
        return self._pass(case, ["ours.py", case.loader, decode, where, *budget, *(["client=s3fs"] if case.loader == "s3" else [])])

    def plain(self, case: Case) -> Pass:
        """The plain program. torch's prefetch_factor is of a worker, ours and pyarrow's read-ahead of all of them."""
        where = case.data.name if case.loader == "s3" else self._folder / case.data.name
        ahead = self._prefetch * (self._workers if case.loader == "parquet" else 1)
        buffer = [1000] if case.loader in ("webdataset", "parquet") else []
        return self._pass(case, [*case.plain, where, case.batch_size, self._workers, ahead, case.epochs, *buffer])

    def _pass(self, case: Case, arguments: Sequence[object]) -> Pass:
        for path in (self._folder / case.data.name / "shards").rglob("*"):
            if path.is_file():
                path.read_bytes()
        command = [sys.executable, *map(str, [SIDES / str(arguments[0]), *arguments[1:]])]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=PASS_LIMIT_S, check=False)
        if done.returncode:
            raise StorageError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-400:]}", "run that command alone")
        return Pass(**json.loads(done.stdout))


def compare(bench: Bench, case: Case, rounds: int, dropped: int, quick: bool) -> Result:
    """Rounds in ABBA order; with `quick` one pass a side."""
    result = Result(case.name)
    say(case.name)
    for turn in range(1 - dropped, rounds + 1):
        a, b = bench.plain(case), bench.ours(case, case.decode)
        c, d = (b, a) if quick else (bench.ours(case, case.decode), bench.plain(case))
        _same_work(case, a, b)
        levels = {} if quick else {level: bench.ours(case, level) for level in case.levels}
        if turn <= 0:
            continue
        result.plain += [a, d]
        result.ours += [b, c]
        result.ratios.append(((b.samples_per_s * c.samples_per_s) / (a.samples_per_s * d.samples_per_s)) ** 0.5)
        result.cpu_ratios.append((b.cpu_s + c.cpu_s) / max(a.cpu_s + d.cpu_s, 1e-9))
        for level, found in levels.items():
            result.levels.setdefault(level, []).append(found)
        say(f"  round {turn}: ours/plain {result.ratios[-1]:.3f}")
    return result


def _same_work(case: Case, plain: Pass, ours: Pass) -> None:
    """As many samples, and as many bytes but for a container's header where the plain program leaves it on."""
    if plain.samples != ours.samples or abs(plain.bytes - ours.bytes) > 0.01 * ours.bytes:
        raise StorageError(
            f"{case.name}: the plain program handed over {plain.samples} samples and {plain.bytes} bytes, and ours {ours.samples} and {ours.bytes}",
            "the comparison would be of unequal work: report it",
        )


def middle(passes: Sequence[Pass]) -> Pass:
    """The pass with the median rate."""
    return sorted(passes, key=lambda found: found.samples_per_s)[len(passes) // 2]


def show(result: Result) -> str:
    mark = (f"  {'at least' if result.reached else 'UNDER'} {TARGET}") if result.name.startswith("files ") else ""
    lines = [result.name, f"  plain  {middle(result.plain)}", f"  ours   {middle(result.ours)}"]
    lines += [f"    {level:<6}{middle(passes)}" for level, passes in result.levels.items()]
    lines += [f"  ours/plain      {spread(result.ratios)}{mark}", f"  CPU ours/plain  {spread(result.cpu_ratios)}"]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the datasets lie or are made, and stay (7 GB); default: a new temporary folder")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of four passes, after one that is dropped")
    parser.add_argument("--num-workers", type=int, default=2, help="workers of each side")
    parser.add_argument("--prefetch-factor", type=int, default=2, help="batches in flight for each worker")
    parser.add_argument("--only", action="append", default=[], help="only cases whose name has this text; may be given again")
    parser.add_argument("--json", type=Path, help="write all passes and ratios into this file")
    parser.add_argument("--smoke", action="store_true", help="one case a loader on a tiny dataset, to see that it works: the ratios mean nothing")
    asked = parser.parse_args()
    rounds, dropped, scale = (1, 0, 0.006) if asked.smoke else (asked.rounds, 1, 1.0)
    cases = [case for case in CASES if not asked.only or any(text in case.name for text in asked.only)]
    if asked.smoke:
        cases = list({case.loader: case for case in reversed(cases) if case.data is not NPZ20}.values())
    try:
        with handling_signals(), tempfile.TemporaryDirectory(prefix="loaders-vs-plain-") as temporary, ExitStack() as stack:
            bench = Bench(asked.folder or Path(temporary), asked.num_workers, asked.prefetch_factor, scale)
            for data in dict.fromkeys(case.data for case in cases):
                bench.make(data)
            if any(case.loader == "s3" for case in cases):
                bench.serve(stack)
            results = [compare(bench, case, rounds, dropped, asked.smoke) for case in cases]
    except StorageBenchError as error:
        say(f"error: {error.message}\nhint: {error.hint}")
        return error.exit_code
    print("".join(show(result) for result in results), end="")
    if asked.json:
        asked.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    return 0 if asked.smoke or all(result.reached for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
