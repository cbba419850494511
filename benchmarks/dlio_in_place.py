"""DLIO's own data sets, measured in place: samples and bytes against what DLIO wrote, and AU beside DLIO's on the same npz files.

The release 2.0.0 of DLIO generates npz, tfrecord, hdf5 and jpeg data sets (rows of these names). What they hold is counted by the libraries that they are
for (numpy, TensorFlow, h5py and Pillow, in DLIO's environment), then they are imported with `import --in-place` and read by the loaders `files` and `direct`,
every checksum compared (tfrecord by the loader of that name, too). Their folders are compared before and after: nothing in them may change.

The rows `busy` and `starved` run DLIO and ours in turn on the npz of one more data set: the same batch, compute time, readers (2) and epochs of 100 steps
and more, warm. AU is DLIO's of 2.0.0 on both sides: (steps - 1) x the configured compute time over the time from the end of an epoch's first step to the end of its
last, mean over epochs; DLIO's from its summary, ours from the trace's stamps. In `busy` both are bound by the compute, and AU must agree within 0.02. In
`starved` the compute is shorter than a batch takes: nothing is asked of the difference, which is of what either does with a sample (DLIO loads it with
numpy and hands over a constant of record_length_resize bytes; ours, the loader `files`, parses, checksums and hands over every byte) and of a step's own
cost (DLIO sleeps, logs and meets a barrier one after another; ours hides the hand-over behind the compute). Where a step's time goes beside the compute is
printed for both, by DLIO's stamps and by the trace's.

    python benchmarks/dlio_in_place.py --folder /data --dlio /data/dlio

--dlio is an environment that benchmarks/dlio_env.sh made; it is made there where it does not exist (2 minutes, 2.5 GB). Single rows: --only npz.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from common import CLI, arguments, finish, run_ours, say, scratch, warm

from storagebench.errors import StorageError
from storagebench.records import rank_traces
from storagebench.traces import read_trace

READERS = 2
LOADERS = ("files", "direct")
_PATIENCE_S = 600
_WORKLOAD = """\
model: peer
framework: {framework}
workflow: {{generate_data: {generate}, train: {train}}}
dataset: {{data_folder: {folder}, format: {form}, num_files_train: {files}, num_samples_per_file: {per_file}, record_length: {length}, record_length_resize: {resize},
  generation_buffer_size: 33554432}}
reader: {{data_loader: {framework}, batch_size: {batch}, read_threads: {readers}, file_shuffle: seed, sample_shuffle: seed}}
train: {{epochs: {epochs}, computation_time: {compute}}}
"""
# tfrecord2idx belongs to DALI, which the release names as a dependency and which its environment is made without: a line `offset length` for each frame.
_TFRECORD2IDX = """\
#!/usr/bin/env python3
import struct, sys
with open(sys.argv[1], "rb") as data, open(sys.argv[2], "w") as index:
    while head := data.read(12):
        length = struct.unpack("<Q", head[:8])[0] + 16
        index.write(f"{data.tell() - 12} {length}\\n")
        data.seek(length - 12, 1)
"""
# What the files hold, by the libraries that they are for: samples and their bytes. Runs in DLIO's environment.
_COUNT = """\
import os, sys
form, folder = sys.argv[1:]
names = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
samples = bytes_ = 0
for name in names:
    if form == "npz":
        import numpy
        with numpy.load(name) as archive:
            samples, bytes_ = samples + archive["x"].shape[-1], bytes_ + archive["x"].nbytes
    elif form == "hdf5":
        import h5py
        with h5py.File(name, "r") as file:
            samples, bytes_ = samples + file["records"].shape[0], bytes_ + file["records"][:].nbytes
    elif form == "tfrecord":
        import tensorflow
        for frame in tensorflow.data.TFRecordDataset(name):
            image, = tensorflow.train.Example.FromString(frame.numpy()).features.feature["image"].bytes_list.value
            samples, bytes_ = samples + 1, bytes_ + len(image)
    else:
        from PIL import Image
        Image.open(name).load()
        samples, bytes_ = samples + 1, bytes_ + os.path.getsize(name)
print(samples, bytes_)
"""


@dataclass(frozen=True)
class Cell:
    """One data set of DLIO; `batch`, `epochs` and `compute_s` where it is also run."""

    name: str
    form: str
    files: int
    per_file: int
    length: int
    batch: int = 1
    epochs: int = 1
    compute_s: float = 0.0


# The resize is DLIO's constant: what it hands to the trainer in place of each sample.
RESIZE_BYTES = 150_528
COUNTED = (Cell("npz", "npz", 32, 1, 2_000_000), Cell("tfrecord", "tfrecord", 8, 100, 114_660), Cell("hdf5", "hdf5", 8, 100, 114_660),
           Cell("jpeg", "jpeg", 400, 1, 114_660))  # fmt: skip
BUSY = Cell("busy", "npz", 208, 1, 1_000_000, batch=2, epochs=2, compute_s=0.323)  # of unet3d on an H100
STARVED = Cell("starved", "npz", 240, 1, 1_000_000, batch=2, epochs=3, compute_s=0.001)
SMOKE_COUNTED = (
    Cell("npz", "npz", 4, 1, 40_000),
    Cell("tfrecord", "tfrecord", 2, 5, 10_000),
    Cell("hdf5", "hdf5", 2, 5, 10_000),
    Cell("jpeg", "jpeg", 4, 1, 10_000),
)
SMOKE_BUSY = Cell("busy", "npz", 20, 1, 40_000, batch=2, epochs=2, compute_s=0.01)
SMOKE_STARVED = Cell("starved", "npz", 20, 1, 40_000, batch=2, epochs=2, compute_s=0.0005)


@dataclass(frozen=True)
class Counted:
    """What a data set holds, and what was found of it: (samples, bytes) by the manifest and by each loader."""

    name: str
    written: tuple[int, int]
    found: dict[str, tuple[int, int]]
    untouched: bool

    @property
    def reached(self) -> bool:
        return self.untouched and all(found == self.written for found in self.found.values())

    def show(self) -> str:
        lines = [self.name, f"  {'DLIO wrote':<24} {self.written[0]:>8} samples  {self.written[1]:>12} bytes"]
        for what, (samples, num_bytes) in self.found.items():
            lines.append(f"  {what:<24} {samples:>8} samples  {num_bytes:>12} bytes{'' if (samples, num_bytes) == self.written else '  DIFFERS'}")
        return "\n".join([*lines, f"  its folder is {'as it was' if self.untouched else 'CHANGED'}"])


@dataclass(frozen=True)
class Utilisation:
    """AU in DLIO's window, a value a pass (mean over epochs); `bound` on the difference of the medians, or None."""

    name: str
    theirs: tuple[float, ...]
    ours: tuple[float, ...]
    bound: float | None
    their_step: dict[str, float]  # milliseconds of a step beside the configured compute: means over the steps of all passes
    our_step: dict[str, float]

    @property
    def difference(self) -> float:
        return median(self.ours) - median(self.theirs)

    @property
    def reached(self) -> bool:
        return self.bound is None or abs(self.difference) <= self.bound

    def show(self) -> str:
        bound = "" if self.bound is None else f"  {'within' if self.reached else 'NOT WITHIN'} {self.bound}"
        sides = [
            f"  {side:<12} AU {median(values):.4f}  ({', '.join(f'{value:.4f}' for value in values)})"
            for side, values in (("DLIO", self.theirs), ("ours", self.ours))
        ]
        for side, parts in (("DLIO", self.their_step), ("ours", self.our_step)):
            sides.append(f"  {side:<12} ms of a step beside the compute: {', '.join(f'{what} {value:.2f}' for what, value in parts.items())}")
        return "\n".join([self.name, *sides, f"  {'difference':<12}    {self.difference:+.4f}{bound}"])


class Dlio:
    """The release, run in an environment of its own."""

    def __init__(self, venv: Path, place: Path) -> None:
        self._venv, self._place, self._numbers = venv.absolute(), place, 0
        if not (self._venv / "bin" / "dlio_benchmark").exists():
            say(f"making DLIO's environment in {self._venv}")
            made = subprocess.run(["sh", str(Path(__file__).parent / "dlio_env.sh"), str(self._venv)], capture_output=True, text=True, check=False)
            if made.returncode:
                raise StorageError(
                    f"dlio_env.sh ended with {made.returncode}: {made.stderr.strip()[-400:]}", "run it by hand: sh benchmarks/dlio_env.sh DIR"
                )
        tools = place / "tools"
        tools.mkdir()
        (tools / "tfrecord2idx").write_text(_TFRECORD2IDX)
        (tools / "tfrecord2idx").chmod(0o755)
        self._environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},  # ours is not DLIO's
            "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}",
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        }

    def generate(self, cell: Cell, folder: Path) -> Path:
        """The cell's data set in `folder`, of which the part for training is returned."""
        self._run(cell, folder, generate=True)
        return folder / "train"

    def count(self, cell: Cell, folder: Path) -> tuple[int, int]:
        """Samples and their bytes, as the format's own library finds them."""
        command = [str(self._venv / "bin" / "python"), "-c", _COUNT, cell.form, str(folder)]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StorageError(f"{cell.form} cannot be counted: {done.stderr.strip()[-400:]}", "run it by hand")
        samples, num_bytes = (int(word) for word in done.stdout.split()[-2:])
        return samples, num_bytes

    def au(self, cell: Cell, folder: Path) -> tuple[float, dict[str, float]]:
        """Mean AU of a run over the cell's data set, as DLIO prints it, 0 to 1; and where the rest of a step goes, by its own stamps, in milliseconds."""
        output = self._run(cell, folder, generate=False)
        percentages = json.loads((output / "summary.json").read_text())["metric"]["train_au_percentage"]
        if len(percentages) != cell.epochs:
            raise StorageError(f"DLIO ran {len(percentages)} of {cell.epochs} epochs", "run it by hand")
        parts = {"waiting for the batch": 0.0, "sleeping longer than asked": 0.0, "log, barrier and loop": 0.0}
        epochs = json.loads((output / "0_output.json").read_text())
        for number, percentage in enumerate(percentages, 1):
            load, proc, compute = (epochs[str(number)][name]["block1"][1:] for name in ("load", "proc", "compute"))
            whole = sum(compute) / (percentage / 100)  # AU = sum of compute / window
            shares = (sum(load), sum(proc) - sum(load) - sum(compute), whole - sum(proc))
            for what, seconds in zip(parts, shares, strict=True):
                parts[what] += seconds * 1e3 / len(load) / len(percentages)
        return sum(percentages) / len(percentages) / 100, parts

    def _run(self, cell: Cell, folder: Path, generate: bool) -> Path:
        self._numbers += 1
        output, workload = self._place / f"out-{self._numbers}", self._place / "conf" / "workload" / f"{cell.name}-{generate}.yaml"
        workload.parent.mkdir(parents=True, exist_ok=True)
        names = {"form": cell.form, "files": cell.files, "per_file": cell.per_file, "length": cell.length, "batch": cell.batch, "epochs": cell.epochs}
        framework = "tensorflow" if cell.form == "tfrecord" else "pytorch"
        workload.write_text(
            _WORKLOAD.format(
                **names,
                folder=folder,
                framework=framework,
                generate=generate,
                train=not generate,
                resize=RESIZE_BYTES,
                readers=READERS,
                compute=cell.compute_s,
            )
        )
        command = [
            str(self._venv / "bin" / "dlio_benchmark"), f"--config-dir={self._place / 'conf'}", f"workload={workload.stem}", f"++hydra.run.dir={output}",
        ]  # fmt: skip
        process = subprocess.Popen(
            command, env=self._environment, cwd=self._place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            _, told = process.communicate(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            told = f"it took over {_PATIENCE_S} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its workers, too
            process.wait()
        if process.returncode:
            raise StorageError(f"DLIO ended with {process.returncode}: {' '.join(told.split())[-600:]}", f"run it by hand: {' '.join(command)}")
        return output


def in_place(train: Path, manifest: Path) -> dict[str, Any]:
    """What `import --in-place` says of these files."""
    command = [*CLI, "import", str(train), "--in-place", "--data-dir", str(manifest), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StorageError(f"import --in-place ended with {done.returncode}: {done.stderr.strip()[-400:]}", f"run it by hand: {' '.join(command)}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def state(folder: Path) -> list[tuple[str, int, int, int]]:
    """Names, sizes and times of everything below a folder."""
    return [(str(path), info.st_size, info.st_mtime_ns, info.st_ctime_ns) for path in sorted(folder.rglob("*")) if (info := path.stat())]


def counted(cell: Cell, dlio: Dlio, place: Path) -> Counted:
    """Generate, count, import in place and read with each loader."""
    say(f"{cell.name}: DLIO generates {cell.files} files of {cell.per_file} samples")
    folder, manifest = place / cell.name, place / f"{cell.name}-manifest"
    train = dlio.generate(cell, folder)
    written, before = dlio.count(cell, train), state(folder)
    made = in_place(train, manifest)
    found = {"manifest": (made["num_samples"], made["record_bytes"])}
    for name in (*LOADERS, *(("tfrecord",) if cell.form == "tfrecord" else ())):
        summary = run_ours(
            str(manifest), ["--loader", name, "--decode", "parse", "--verify", "full", "--batch-size", "4", "--num-workers", str(READERS)]
        ).summary
        if summary["checksum_errors"] or summary["verified_samples"] != summary["samples"]:
            raise StorageError(
                f"{summary['checksum_errors']} checksum errors, {summary['verified_samples']} of {summary['samples']} verified", "report it"
            )
        found[f"loader {name}"] = (summary["samples"], summary["delivered_bytes"])
    return Counted(f"{cell.name}: {cell.files} files of {cell.per_file}", written, found, state(folder) == before)


def utilisation(cell: Cell, dlio: Dlio, place: Path, rounds: int, bound: float | None) -> Utilisation:
    """DLIO and ours in turn over one data set of DLIO's."""
    folder, manifest = place / cell.name, place / f"{cell.name}-manifest"
    train = dlio.generate(cell, folder)
    in_place(train, manifest)
    paths = [str(path) for path in sorted(train.iterdir())]
    theirs: list[tuple[float, dict[str, float]]] = []
    ours: list[tuple[float, dict[str, float]]] = []
    for turn in range(rounds):
        for side in ("DLIO", "ours") if turn % 2 == 0 else ("ours", "DLIO"):
            warm(paths)
            if side == "DLIO":
                theirs.append(dlio.au(cell, folder))
            else:
                ours.append(our_au(cell, manifest))
        say(f"  {cell.name} round {turn + 1}: DLIO {theirs[-1][0]:.4f}, ours {ours[-1][0]:.4f}")
    steps = cell.files // cell.batch
    what = (
        f"{cell.name}: {steps} steps of {cell.batch} x {cell.length / 1e6:g} MB npz, {cell.compute_s * 1e3:g} ms of compute, {READERS} readers, warm"
    )
    means = [{name: sum(parts[name] for _, parts in side) / rounds for name in side[0][1]} for side in (theirs, ours)]
    return Utilisation(what, tuple(au for au, _ in theirs), tuple(au for au, _ in ours), bound, *means)


def our_au(cell: Cell, manifest: Path) -> tuple[float, dict[str, float]]:
    """Mean over epochs of AU in DLIO's window, from the stamps of the trace; and the rest of a step: what its batch was late, and the rest."""
    with tempfile.TemporaryDirectory(prefix="storagebench-benchmark-") as results:
        command = [
            *CLI, "run", "quick", "--data-dir", str(manifest), "--loader", "files", "--num-workers", str(READERS), "--prefetch-batches", str(READERS),
            "--batch-size", str(cell.batch), "--epochs", str(cell.epochs), "--compute-time", f"{cell.compute_s}", "--decode", "parse", "--cache", "as-is",
            "--null-duration", "0", "--headroom-duration", "0", "--verify", "off", "--results-dir", results, "--run-id", "run",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StorageError(f"our run ended with {done.returncode}: {done.stderr.strip()[-400:]}", f"run it by hand: {' '.join(command)}")
        (path,) = rank_traces(Path(results, "run"))
        steps = read_trace(path).steps
    values, late, rest = [], 0.0, 0.0
    for epoch in range(cell.epochs):
        ends = steps.compute_end_ns[steps.epoch == epoch]
        if len(ends) != cell.files // cell.batch:
            raise StorageError(f"epoch {epoch} of ours has {len(ends)} steps, not {cell.files // cell.batch}", "report it")
        window_ns, compute_ns = float(ends[-1] - ends[0]), (len(ends) - 1) * cell.compute_s * 1e9
        values.append(compute_ns / window_ns)
        of_epoch = steps.epoch == epoch
        late_ns = float(
            (steps.start_ns[of_epoch][1:] - steps.due_ns[of_epoch][:-1]).sum()
        )  # the schedule: from one compute's end to the next one's start
        late += late_ns / (len(ends) - 1) / cell.epochs / 1e6
        rest += (window_ns - compute_ns - late_ns) / (len(ends) - 1) / cell.epochs / 1e6
    return sum(values) / len(values), {"waiting for the batch": late, "the rest": rest}


def results(asked: argparse.Namespace, place: Path) -> Iterator[tuple[Any, str]]:
    dlio = Dlio(asked.dlio or asked.folder / "dlio-env", place)
    cells: Sequence[Cell] = SMOKE_COUNTED if asked.smoke else COUNTED
    busy, starved = (SMOKE_BUSY, SMOKE_STARVED) if asked.smoke else (BUSY, STARVED)
    for cell in cells:
        if not asked.only or cell.name in asked.only:
            yield counted(cell, dlio, place), ""
    for cell, bound in ((busy, 0.02), (starved, None)):
        if not asked.only or cell.name in asked.only:
            yield utilisation(cell, dlio, place, 1 if asked.smoke else asked.rounds, bound), ""


def main() -> int:
    parser = arguments(__doc__, "folder on a local disk, for the data sets (removed at the end)", rounds=2)
    parser.add_argument("--dlio", type=Path, help="DLIO's environment, made by dlio_env.sh where it is not there; FOLDER/dlio-env if not given")
    parser.add_argument("--small", action="store_true", dest="smoke", help="the same as --smoke")
    names = [cell.name for cell in (*COUNTED, BUSY, STARVED)]
    parser.add_argument("--only", action="append", choices=names, help="this row; may be given again")
    asked = parser.parse_args()
    with scratch(asked.folder.absolute()) as place:
        return finish(results(asked, place), asked)


if __name__ == "__main__":
    sys.exit(main())
