"""64 emulated accelerators in one process: is their AU right, and how much memory do they need?

Two cells over one shaped store that all of them share, each on verified real bytes: demand of 0.5 of its bandwidth (expected AU 1, at least 0.99) and of
1.5 of it (expected 0.667), both within 0.01. Prints AU, the difference, and the largest memory of all processes of the command; exit code 1 where a bound
is missed. With `--dlio VENV` (a virtual environment with dlio-benchmark 2.0.0, and mpirun) the memory of DLIO is measured for a few processes on the same
files, and extrapolated to as many.

    python benchmarks/many_accelerators.py --folder /data/many --dlio /tmp/peer/dlio
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

CLI = (sys.executable, "-P", "-m", "storagebench")
COMPUTE_S = 0.224
RECORD_BYTES = 115_000
WARMUP_STEPS = 6
AU_WITHIN = 0.01
MOST_BYTES = 4 * 2**30
SAMPLE_PERIOD_S = 0.25
DLIO_WORKLOAD = """\
model: {{name: many}}
framework: pytorch
workflow: {{generate_data: False, train: True, checkpoint: False}}
dataset: {{data_folder: {folder}, format: npy, num_files_train: {files}, num_samples_per_file: 1, record_length: {length}}}
reader: {{data_loader: pytorch, batch_size: {batch}, read_threads: 1, file_shuffle: seed, sample_shuffle: seed}}
train: {{epochs: 1, computation_time: {compute_s}}}
"""


@dataclass(frozen=True)
class Size:
    """How large it is made."""

    accelerators: int
    steps: int
    batch: int
    repeats: int


def main() -> int:
    asked = _parser().parse_args()
    size = Size(8, 12, 1, 1) if asked.smoke else Size(asked.accelerators, asked.steps, asked.batch_size, asked.repeats)
    asked.folder.mkdir(parents=True, exist_ok=True)
    data = asked.folder / f"npy-{size.accelerators}-{size.steps}-{size.batch}"
    _generate(data, size)
    rows = [_cell(data, demand, size) for _ in range(size.repeats) for demand in (0.5, 1.5)]
    missed = 0
    for row in rows:
        within = abs(row["au"] - row["expected"]) <= AU_WITHIN and row["pss_bytes"] <= MOST_BYTES
        missed += not within
        print(
            f"demand {row['demand']} of the bandwidth: AU {row['au']:.4f}, expected {row['expected']:.4f} ({row['au'] - row['expected']:+.4f}), "
            f"au_null {row['au_null']:.4f}, {row['verified']} of {row['samples']} samples verified, {row['cpu_s']:.1f} CPU s; "
            f"memory of all processes {row['pss_bytes'] / 2**20:.0f} MiB (RSS {row['rss_bytes'] / 2**20:.0f} MiB)  {'ok' if within else 'MISSED'}"
        )
    if asked.dlio is not None:
        _dlio(asked.dlio, data, size, [2] if asked.smoke else asked.dlio_processes)
    return 1 if missed and not asked.smoke else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the dataset (3.3 GB) is made, and kept for the next time")
    parser.add_argument("--accelerators", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100, help="measured steps of a cell")
    parser.add_argument("--batch-size", type=int, default=4, help="samples of 115 KB in a batch")
    parser.add_argument("--repeats", type=int, default=1, help="both cells so many times")
    parser.add_argument("--dlio", type=Path, metavar="VENV", help="measure the memory of DLIO, too")
    parser.add_argument("--dlio-processes", type=int, nargs="+", default=[2, 4, 8], metavar="N")
    parser.add_argument("--smoke", action="store_true", help="8 accelerators and few steps: does it run; no bound is judged")
    return parser


def _generate(data: Path, size: Size) -> None:
    """One epoch is the whole run, so that no epoch start is in the answer."""
    if (data / "manifest.json").exists():
        return
    count = size.accelerators * size.batch * (size.steps + WARMUP_STEPS)
    options = ["--format", "npy", "--num-samples", str(count), "--record-length", str(RECORD_BYTES), "--record-length-stdev", "0"]
    subprocess.run([*CLI, "generate", "resnet50", "--data-dir", str(data), *options], check=True, stdout=subprocess.DEVNULL)


def _cell(data: Path, demand: float, size: Size) -> Mapping[str, Any]:
    bandwidth = round(size.accelerators * size.batch * RECORD_BYTES / COMPUTE_S / demand)
    command = [
        *CLI, "run", "resnet50", "--data-dir", f"shaped+{data}", "--storage-option", f"bandwidth={bandwidth}", "--loader", "direct", "--json",
        "--num-accelerators", str(size.accelerators), "--accelerators-per-process", str(size.accelerators), "--batch-size", str(size.batch),
        "--compute-time", f"{COMPUTE_S}s", "--epochs", "1", "--warmup-steps", str(WARMUP_STEPS), "--verify", "full", "--num-workers", "1",
        "--cache", "warm", "--headroom-duration", "0",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="storagebench-many-") as results:
        process = subprocess.Popen([*command, "--results-dir", results], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with Memory(process.pid) as memory:
            out, err = process.communicate()
    if process.returncode:
        raise SystemExit(f"the run failed with exit code {process.returncode}:\n{err}")
    summary = json.loads(out)
    return {
        "demand": demand,
        "expected": min(1.0, 1.0 / demand),
        "au": summary["au_nominal"],
        "au_null": summary["au_null"],
        "samples": summary["samples"],
        "verified": summary["verified_samples"],
        "cpu_s": summary["cpu_s"],
        "pss_bytes": memory.pss_bytes,
        "rss_bytes": memory.rss_bytes,
    }


class Memory:
    """The largest memory of a process and its descendants while the block lasts: proportional (a shared page counts once in all) and resident."""

    def __init__(self, pid: int) -> None:
        self.pss_bytes = self.rss_bytes = self.processes = 0
        self._root = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_PERIOD_S):
            pss = rss = count = 0
            with suppress(psutil.Error):
                for process in [self._root, *self._root.children(recursive=True)]:
                    with suppress(psutil.Error, OSError):
                        rows = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:])
                        pss += int(rows["Pss"].split()[0]) * 1024
                        rss += int(rows["Rss"].split()[0]) * 1024
                        count += 1
            if pss > self.pss_bytes:
                self.pss_bytes, self.rss_bytes, self.processes = pss, rss, count


def _dlio(venv: Path, data: Path, size: Size, counts: Sequence[int]) -> None:
    """DLIO's memory for these numbers of processes, and a straight line through them."""
    program = venv.absolute() / "bin" / "dlio_benchmark"
    if not program.exists():
        raise SystemExit(f"error: {program} is missing\nhint: python -m venv VENV, then as reference/dlio-measured.md says")
    found = []
    with tempfile.TemporaryDirectory(prefix="storagebench-dlio-") as place:
        for count in counts:
            memory = _dlio_memory(program, data, Path(place), count, size)
            found.append((count, memory.pss_bytes))
            print(
                f"DLIO with {count} processes: {memory.pss_bytes / 2**20:.0f} MiB (RSS {memory.rss_bytes / 2**20:.0f} MiB, {memory.processes} processes in all)"
            )
    if len(found) > 1:
        (few, low), (many, high) = found[0], found[-1]
        each = (high - low) / (many - few)
        print(
            f"DLIO extrapolated to {size.accelerators}: {(low + each * (size.accelerators - few)) / 2**20:.0f} MiB ({each / 2**20:.0f} MiB an accelerator)"
        )


def _dlio_memory(program: Path, data: Path, place: Path, count: int, size: Size) -> Memory:
    folder = place / "data"
    if not folder.exists():
        (folder / "valid").mkdir(parents=True)
        (folder / "train").symlink_to(data.absolute() / "shards")
    files = min(len(list((data / "shards").iterdir())), count * size.batch * 60)
    config = place / "conf" / "workload" / "many.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(DLIO_WORKLOAD.format(folder=folder, files=files, length=RECORD_BYTES, batch=size.batch, compute_s=COMPUTE_S))
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment.pop("PYTHONPATH", None)
    command = ["mpirun", "-n", str(count), "--oversubscribe", "--bind-to", "none", str(program), f"--config-dir={place / 'conf'}", "workload=many"]
    with open(place / "log", "wb") as log:
        process = subprocess.Popen(
            [*command, f"++hydra.run.dir={place / 'out'}"], env=environment, stdout=log, stderr=log, start_new_session=True, cwd=place
        )
        try:
            with Memory(process.pid) as memory:
                begin = time.monotonic()
                process.wait(timeout=600)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode or memory.pss_bytes == 0:
        raise SystemExit(
            f"DLIO failed with exit code {process.returncode} after {time.monotonic() - begin:.0f} s:\n{(place / 'log').read_text()[-2000:]}"
        )
    return memory


if __name__ == "__main__":
    sys.exit(main())
