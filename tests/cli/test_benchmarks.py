"""Each benchmark starts and stands in the table of benchmarks, and its smoke form works from end to end. What it measures is its own affair."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.benchmark

FOLDER = Path(__file__).parents[2] / "benchmarks"
SHARED = {"common.py"}
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.name not in SHARED)


def smoke(name: str, *options: str) -> str:
    """The stdout of the smoke form; it must end with 0."""
    result = subprocess.run(
        [sys.executable, str(FOLDER / name), "--smoke", *options], capture_output=True, text=True, timeout=300, check=False, start_new_session=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def need(program: str) -> None:
    if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        pytest.skip(f"{program} is not installed")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_starts_and_is_described(script: Path) -> None:
    result = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "usage:" in result.stdout, result.stderr
    assert f"`python benchmarks/{script.name} " in (FOLDER / "README.md").read_text()


def test_probe_vs_fio(tmp_path: Path) -> None:
    need("fio")
    lines = smoke("probe_vs_fio.py", "--folder", str(tmp_path)).splitlines()
    assert [line.split(",")[0] for line in lines if not line.startswith(" ")] == ["1024 KiB", "128 KiB"]
    assert sum("ours/reference" in line for line in lines) == sum("reference/reference" in line for line in lines) == 2
    assert list(tmp_path.iterdir()) == []


def test_direct_vs_fio(tmp_path: Path) -> None:
    need("fio")
    out = smoke("direct_vs_fio.py", "--folder", str(tmp_path))
    assert [line for line in out.splitlines() if not line.startswith(" ")] == ["1 MB npz", "115 KB npy", "115 KB in tar"]
    assert out.count("ours/reference") == out.count("--decode none") == out.count("--decode touch") == 3
    assert list(tmp_path.iterdir()) == []


def test_direct_vs_obstore(tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    pytest.importorskip("s3fs")
    need("haproxy")
    out = smoke("direct_vs_obstore.py", "--folder", str(tmp_path))
    assert [line for line in out.splitlines() if not line.startswith(" ")] == [
        "115 KB objects", "20 MB objects", "115 KB ranges", "115 KB objects, loaders", "115 KB objects, bare obstore as ours",
        "115 KB objects, loaders", "115 KB objects, bare obstore as ours",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_catalogue() -> None:
    lines = smoke("catalogue.py").splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["quick"] * 2 + ["train-ncf"] * 2 + ["train-gnmt"] * 2
    assert all(line.endswith(" ok") for line in lines[1:-1]) and lines[-1].endswith(", 0 of their runs wrong")


def test_train_loaders(tmp_path: Path) -> None:
    out = smoke("train_loaders.py", "--folder", str(tmp_path))
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["direct", "files"]
    assert out.endswith("each training reached its target in time, and equal orders of the samples gave equal accuracies\n")


def test_what_train_loaders_judges() -> None:
    sys.path.insert(0, str(FOLDER))
    try:
        from train_loaders import Trained, compared, problems
    finally:
        sys.path.remove(str(FOLDER))

    def run(loader: str, seed: int, *accuracies: float, reached: bool = True, wall_s: float = 60.0) -> Trained:
        return Trained(loader, seed, accuracies, reached, 1.0, 0.1, wall_s)

    good = [run(loader, seed, 0.9 + 0.01 * seed, 0.97) for seed in (1, 2, 3) for loader in ("files", "direct")]
    good += [run(loader, seed, 0.9 + 0.01 * seed + more, 0.97) for seed in (1, 2, 3) for loader, more in (("parquet", 0.003), ("webdataset", -0.004))]
    assert problems(good, compared(good)[1]) == []
    wrong = [run(each.loader, each.seed, 0.1, 0.1, reached=False) if each.loader == "parquet" else each for each in good]
    assert sum("was not reached" in text for text in problems(wrong, compared(wrong)[1])) == 3
    assert "differ by more than their seeds' spread" in problems(wrong, compared(wrong)[1])[-1]
    unequal = [*good[:-1], run("s3", 3, 0.93, 0.971), run("s3", 1, 0.91, 0.97)]
    assert [text[:17] for text in problems(unequal, None)] == ["seed 3: s3 came to"[:17]]
    assert problems([run("direct", 1, 0.97, wall_s=181.0)], None) == ["direct, seed 1: 181 s, over 180 s"]


def test_train_cuda() -> None:
    (row,) = json.loads(smoke("train_cuda.py"))
    assert (row["exit_code"], row["training"]["model"], row["training"]["epochs_run"]) == (0, "linear", 2)


# What DLIO 2.0.0 writes and where, without its 2.5 GB of libraries: the real one is asked by hand. It reads the files that it is told to.
_DLIO = """\
#!{python}
import json, os, sys
from datetime import datetime
from pathlib import Path
import dlio_benchmark.reader.reader_handler as handler

options = dict(argument.split("=", 1) for argument in sys.argv[1:])
text = Path(options["--config-dir"], "workload", options["workload"] + ".yaml").read_text()
def asked(name):
    return text.split(name + ": ", 1)[1].split(",")[0].split("}}")[0].strip()
def stamp():
    return datetime.now().isoformat()
files, batch, epochs = int(asked("num_files_train")), int(asked("batch_size")), int(asked("epochs"))
names = sorted(os.listdir(Path(asked("data_folder"), "train")))
assert len(names) == files and os.listdir(Path(asked("data_folder"), "valid")) == []
stats = {{}}
for epoch in range(1, epochs + 1):
    print(f"[INFO] {{stamp()}} Starting epoch {{epoch}}: {{files // batch}} steps expected", file=sys.stderr)
    block = {{"start": stamp()}}
    for number, name in enumerate(names, 1):
        handler.read_index(Path(asked("data_folder"), "train", name))
        if number % batch == 0:
            print(f"[INFO] {{stamp()}} Rank 0 step {{number // batch}} processed {{batch}} samples in 0 s", file=sys.stderr)
    stats[epoch] = {{"block1": {{**block, "end": stamp()}}}}
    print(f"[INFO] {{stamp()}} Ending epoch {{epoch}} - {{files // batch}} steps completed in 0 s", file=sys.stderr)
place = Path(options["++hydra.run.dir"])
place.mkdir()
(place / "per_epoch_stats.json").write_text(json.dumps(stats))
with open(os.environ["STAND_IN_LOG"], "a") as log:
    log.write(f"{{handler.DEBUGGED}} {{epochs}} {{files}}\\n")
"""
_HANDLER = """\
import logging
DEBUGGED = 0
class Map:
    def __repr__(self):
        global DEBUGGED
        DEBUGGED += 1
        return ""
class Reader:
    global_index_map = Map()
    def read_index(self, path):
        logging.debug(f"{self.global_index_map}")
        return path.read_bytes()
read_index = Reader().read_index
"""


def test_direct_vs_dlio_with_a_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, venv, log = tmp_path / "folder", tmp_path / "venv", tmp_path / "log"
    package = venv / "lib" / "python3.11" / "site-packages" / "dlio_benchmark"
    (package / "reader").mkdir(parents=True)
    (venv / "bin").mkdir()
    for part in (package, package / "reader"):
        (part / "__init__.py").write_text("")
    (package / "reader" / "reader_handler.py").write_text(_HANDLER)
    program = venv / "bin" / "dlio_benchmark"
    start = f"import sys; sys.path.append({str(package.parent)!r})\n"  # behind PYTHONPATH, as a venv's packages are
    head, _, rest = _DLIO.format(python=sys.executable).partition("\n")
    program.write_text(f"{head}\n{start}{rest}")
    program.chmod(0o755)
    monkeypatch.setenv("STAND_IN_LOG", str(log))
    lines = smoke("direct_vs_dlio.py", "--folder", str(folder), "--dlio", str(venv)).splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        *("1 MB npz, direct at --decode touch", "115 KB npz, direct at --decode touch", "115 KB npz, direct at --decode touch"),
        "1 MB npz, files at --decode full",
    ]
    # The line was there for the release and gone in its copy: printed once a sample, or never.
    assert log.read_text().splitlines() == ["8 2 4", "0 1 20", "20 1 20", "8 2 4"]
    assert list(folder.iterdir()) == []


def test_direct_vs_dlio_wants_its_environment(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "direct_vs_dlio.py"), "--smoke", "--folder", str(tmp_path), "--dlio", str(tmp_path / "none")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "dlio_env.sh" in result.stderr
    assert list(tmp_path.iterdir()) == []


_STAND_IN = """\
import json, sys, yaml
from pathlib import Path
sys.path.append({writers!r})
import dlio_writers
options = dict(argument.split("=", 1) for argument in sys.argv[1:])
asked = yaml.safe_load(Path(options["--config-dir"], "workload", options["workload"] + ".yaml").read_text())
data, train = asked["dataset"], asked["train"]
if asked["workflow"]["generate_data"]:
    dlio_writers.FILES = data["num_files_train"]
    dlio_writers.write(Path(data["data_folder"]), data["format"], data["num_samples_per_file"])
else:
    output, steps, seconds = Path(options["++hydra.run.dir"]), data["num_files_train"] // asked["reader"]["batch_size"], train["computation_time"]
    output.mkdir()
    stamps = {{"load": {{"block1": [0.0] * steps}}, "proc": {{"block1": [seconds] * steps}}, "compute": {{"block1": [seconds] * steps}}}}
    (output / "summary.json").write_text(json.dumps({{"metric": {{"train_au_percentage": [100.0] * train["epochs"]}}}}))
    (output / "0_output.json").write_text(json.dumps({{str(epoch + 1): stamps for epoch in range(train["epochs"])}}))
"""


def _dlio_environment(place: Path) -> tuple[Path, list[str]]:
    """DLIO's environment where STORAGEBENCH_DLIO names it, else a stand-in that writes the same files; and the rows that can be run with it."""
    rows = ["npz", "hdf5", "jpeg", "busy"]
    if "STORAGEBENCH_DLIO" in os.environ:
        return Path(os.environ["STORAGEBENCH_DLIO"]), ["tfrecord", *rows]
    (place / "bin").mkdir(parents=True)
    code = place / "stand_in.py"
    code.write_text(_STAND_IN.format(writers=str(Path(__file__).parents[1] / "unit" / "data")))
    for name, arguments in (("python", ""), ("dlio_benchmark", str(code))):
        (place / "bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (place / "bin" / name).chmod(0o755)
    return place, rows


def test_dlio_in_place(tmp_path: Path) -> None:
    venv, rows = _dlio_environment(tmp_path / "venv")
    only = [word for row in rows for word in ("--only", row)]
    lines = smoke("dlio_in_place.py", "--folder", str(tmp_path / "folder"), "--dlio", str(venv), *only).splitlines()
    counts = [tuple(line.split()[-4:]) for line in lines if line.endswith(" bytes")]
    assert len(counts) == 4 * (len(rows) - 1) + ("tfrecord" in rows)
    assert not any("DIFFERS" in line or "CHANGED" in line for line in lines), lines
    assert lines.count("  its folder is as it was") == len(rows) - 1
    assert sum(line.lstrip().startswith(("DLIO  ", "ours  ")) and " AU " in line for line in lines) == 2
    assert list((tmp_path / "folder").iterdir()) == []


def test_dlio_in_place_makes_its_environment(tmp_path: Path) -> None:
    """Where there is none, dlio_env.sh is run; here without a python3 to make it with."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    command = [sys.executable, str(FOLDER / "dlio_in_place.py"), "--small", "--folder", str(tmp_path / "f"), "--dlio", str(tmp_path / "none")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": str(tmp_path / "bin")})
    assert result.returncode == 4 and "dlio_env.sh ended with" in result.stderr, result.stderr


def test_read_ways(tmp_path: Path) -> None:
    lines = smoke("read_ways.py", "--folder", str(tmp_path)).splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["npz1x8 cold, O_DIRECT", "npz1x8 warm, checksummed"]
    assert sum("MB/s" in line and "CPU s/GB" in line for line in lines) >= 5
    assert list(tmp_path.iterdir()) == []


def test_harness(tmp_path: Path) -> None:
    out = smoke("harness.py", "--folder", str(tmp_path))
    for what in ("au_null at 10 ms", "au_null at 1 ms", "--help", "list", "first measured step"):
        assert what in out


def test_cuda_device_without_a_device(tmp_path: Path) -> None:
    out = smoke("cuda_device.py", "--folder", str(tmp_path))
    assert "emulated: AU" in out and "60 of 60 samples verified" in out


def test_many_accelerators(tmp_path: Path) -> None:
    lines = smoke("many_accelerators.py", "--folder", str(tmp_path)).splitlines()
    assert [line.split(":")[0] for line in lines] == [f"demand {demand} of the bandwidth" for demand in (0.5, 1.5)]
    for line in lines:
        verified, samples = re.search(r"(\d+) of (\d+) samples verified", line).groups()  # type: ignore[union-attr]
        assert verified == samples != "0"


def test_search_disk(tmp_path: Path) -> None:
    lines = smoke("search_disk.py", "--folder", str(tmp_path)).splitlines()
    modes = [line.split(":")[0] for line in lines if not line.startswith(" ")]
    assert modes in (["free", "throttled"], ["free"])  # the throttle needs root, and a kernel that has it
    assert len(lines) == 3 * len(modes) and all("; search: " in line for line in lines[::3])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["npy-256", "results"]


def test_query_vs_loadgen(tmp_path: Path) -> None:
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed (pip install 'storagebench[dev]')")
    lines = smoke("query_vs_loadgen.py", "--folder", str(tmp_path)).splitlines()
    assert [line.split(":")[0] for line in lines] == ["single-stream", "server at 300 queries/s, 1 workers"]
    assert all("LoadGen " in line and "ours " in line for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.s3
def test_loaders_vs_plain_compares_each_loader_with_its_library(tmp_path: Path) -> None:
    """The plain programs and our adapters hand over the same samples and bytes, or the benchmark ends with an error."""
    written = tmp_path / "results.json"
    command = [sys.executable, str(FOLDER / "loaders_vs_plain.py"), "--smoke", "--folder", str(tmp_path), "--json", str(written)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(written.read_text())
    assert {case["name"].split()[0] for case in found} == {"files", "webdataset", "parquet", "s3"}
    for case in found:
        assert len(case["ratios"]) == 1
        assert case["ours"][0]["samples"] == case["plain"][0]["samples"] > 0


def test_generation_in_small(tmp_path: Path) -> None:
    need("fio")
    command = [sys.executable, str(FOLDER / "generation.py"), "--folder", str(tmp_path / "disk"), "--json", str(tmp_path / "all.json"), "--smoke"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = {row["name"]: row for row in json.loads((tmp_path / "all.json").read_text())}
    for name in ("npz of 20 MB", "webdataset of 115 KB, 500 a shard"):
        phase, whole = found[f"{name}, generation phase"], found[f"{name}, whole command"]
        assert phase["ours"][0]["rate"] > whole["ours"][0]["rate"] > 0 and phase["theirs"] == whole["theirs"]
    assert list((tmp_path / "disk").iterdir()) == [], "what was written is removed"


def test_tune_disk(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    lines = smoke("tune_disk.py", "--folder", str(tmp_path)).splitlines()
    assert lines[0].startswith("direct, ") and lines[2].startswith("  tune says ") and lines[3].endswith(", n 1)")
    assert lines[-1].startswith("  storagebench run quick --data-dir ")
    assert list(tmp_path.iterdir()) == []


def test_simulate_fleet() -> None:
    pytest.importorskip("simpy")
    lines = smoke("simulate_fleet.py").splitlines()
    assert sum("accelerators: 0." in line and "by arrays" in line for line in lines) == 3
    assert lines[-1].startswith("peak memory ")


def test_simulate_real(tmp_path: Path) -> None:
    """Eight accelerators on a bandwidth that feeds fewer: how busy the host is matters little there. The whole short setting: tests/truth/test_simulation_real.py."""
    pytest.importorskip("simpy")
    lines = smoke("simulate_real.py", "--folder", str(tmp_path), "--accelerators", "8").splitlines()
    assert lines[-2].startswith("mixed, 8: AU 0.4") and lines[-2].endswith("store bandwidth  ok")
    assert lines[-1].endswith(" AU over 1 runs, 0 of them off by more than 0.03")


def test_train_throttled() -> None:
    pytest.importorskip("sklearn")
    lines = smoke("train_throttled.py").splitlines()
    assert re.fullmatch(r"took / foretold: \d\.\d{4} in the middle, .*", lines[-1])
    assert lines[-2].split()[0] == "1" and lines[-2].endswith("  the same")


def test_reference_tta() -> None:
    result = subprocess.run([sys.executable, str(FOLDER / "reference_tta.py")], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    verdicts = re.findall(r"  (within|shown|not projected|MISSED)$", result.stdout, re.MULTILINE)
    assert {"within", "shown"} <= set(verdicts) and "MISSED" not in verdicts
