"""What `export` writes is what really runs: the container's command, the batch script, a trial of Katib, each started here as its launcher would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

SHORT = ("--accelerator", "h100", "--batch-size", "4", "--max-steps", "8", "--null-duration", "0.05", "--headroom-duration", "0.1s")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_dataset: Any) -> Path:
    path, _ = make_dataset(format="jpeg", num_samples=48, record_length_bytes=20000)
    return Path(path)


@pytest.fixture(scope="module")
def saved(data: Path, tmp_path_factory: pytest.TempPathFactory, cli: Any) -> Path:
    """A run of this machine, as users have one."""
    results = tmp_path_factory.mktemp("saved")
    done = cli("run", "quick", "--data-dir", str(data), "--loader", "direct", *SHORT, "--results-dir", str(results), "--run-id", "first", cwd=results)
    assert done.returncode == 0, done.stderr
    return results / "first"


def start(words: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command line whose `storagebench` is this one."""
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        words, cwd=folder, env={**os.environ, "PATH": path, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


def container(document: dict[str, Any]) -> dict[str, Any]:
    (found,) = document["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_the_job_of_a_saved_run_runs_it_again(saved: Path, data: Path, tmp_path: Path, cli_here: Any) -> None:
    result = cli_here("export", str(saved), "--target", "job", "--image", "x", "--pvc", "data", "--mount-path", str(data.parent), "--name", "again")
    assert result.returncode == 0, result.stderr
    (job,) = yaml.safe_load_all(result.stdout)
    words = [word.replace("/results", str(tmp_path)).replace("$(POD_NAME)", "again-abc12") for word in container(job)["command"]]
    done = start(words, tmp_path)
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "again-abc12" / "again" / "run.json").read_text())
    first = json.loads((saved / "run.json").read_text())
    assert again["config"] == first["config"] and again["store"] == first["store"]


def test_the_batch_script_runs_under_a_launcher_that_speaks_as_srun_does(saved: Path, tmp_path: Path, cli_here: Any) -> None:
    """Slurm itself runs it in the cluster's tests; here a stand-in starts the task, to see the quoting and where the results go."""
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nSLURM_PROCID=0 exec "$@"\n')
    srun.chmod(0o755)
    result = cli_here("export", str(saved), "--target", "slurm", "--name", "again", "--cpu", "2", "--out", str(tmp_path))
    script = tmp_path / "again.sbatch"
    assert (result.returncode, result.stdout) == (0, f"{script}\n"), result.stderr
    done = start(["bash", str(script)], tmp_path, SLURM_JOB_ID="17", SLURM_CPUS_PER_TASK="2")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "results" / "again-17" / "summary.json").read_text())
    assert summary["status"] == "complete" and summary["run_id"] == "again-17"


def test_a_trial_of_katib_prints_lines_that_its_collector_reads(saved: Path, data: Path, tmp_path: Path, cli_here: Any) -> None:
    """The command as the collector starts it: words joined by spaces, within `sh -c`, stdout and stderr in one file."""
    result = cli_here("export", str(saved), "--target", "katib", "--image", "x", "--pvc", "data", "--mount-path", str(data.parent))
    (experiment,) = yaml.safe_load_all(result.stdout)
    template = experiment["spec"]["trialTemplate"]
    line = " ".join(container(template["trialSpec"])["command"])
    for parameter in template["trialParameters"]:
        line = line.replace("${trialParameters." + parameter["name"] + "}", "trial-1" if parameter["name"] == "trialName" else "2")
    log = tmp_path / "metrics.log"
    done = start(["sh", "-c", f"{line.replace(' /results ', f' {tmp_path} ')} 1>{log} 2>&1"], tmp_path)
    assert done.returncode == 0, log.read_text()
    lines = log.read_text().splitlines()
    wanted = {experiment["spec"]["objective"]["objectiveMetricName"], *experiment["spec"]["objective"]["additionalMetricNames"]}
    found = dict(line.split("=") for line in lines if line.split("=")[0] in wanted)
    summary = json.loads((tmp_path / "trial-1" / "summary.json").read_text())
    assert set(found) == wanted and float(found["au"]) == pytest.approx(summary["au_nominal"], abs=1e-9)
    config = json.loads((tmp_path / "trial-1" / "run.json").read_text())["config"]["loader"]
    assert (config["num_workers"], config["prefetch_batches"], config["io_depth"]) == (2, 2, 2)


def test_files_are_written_once(saved: Path, tmp_path: Path, cli_here: Any) -> None:
    words = ("export", str(saved), "--target", "slurm", "--name", "again", "--out", str(tmp_path / "new"))
    assert cli_here(*words).returncode == 0
    again = cli_here(*words)
    assert again.returncode == 2 and "again.sbatch exists" in again.stderr and "--force" in again.stderr
    assert cli_here(*words, "--force").returncode == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("{run}", "--target", "job", "--batch-size", "3"), "--batch-size changes the run"),
        (("{run}", "--target", "job", "--set", "run.seed=3"), "--set changes the run"),
        (("{run}/trace", "--target", "job"), "is a folder without run.json"),
        (("unet3d", "--target", "job", "--accelerator", "h100"), "needs --data-dir"),
        (("unet3d", "--target", "job", "--data-dir", "/data/x"), "needs an accelerator"),
        (("nonesuch", "--target", "job", "--data-dir", "/data/x"), "unknown workload"),
        (("unet3d", "--target", "pod", "--data-dir", "/data/x"), "'pod' is not one of"),
        (("{run}", "--target", "job", "--node-selector", "a"), "has no '='"),
        (("{run}", "--target", "job", "--storage-option", "secret_key=x"), "looks like a credential"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_in_a_sentence(words: tuple[str, ...], why: str, saved: Path, cli_here: Any) -> None:
    result = cli_here("export", *(word.format(run=saved) for word in words), "--image", "x")
    assert result.returncode == 2 and result.stdout == ""
    assert why in result.stderr and "hint: " in result.stderr


def test_a_run_of_queries_is_refused(saved: Path, tmp_path: Path, cli_here: Any) -> None:
    run = json.loads((saved / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**run, "kind": "query"}))
    result = cli_here("export", str(tmp_path), "--target", "job", "--image", "x")
    assert result.returncode == 2 and "is no folder of `storagebench run`" in result.stderr


def test_without_kfp_the_extra_is_named(saved: Path, data: Path, cli_here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kfp", None)
    result = cli_here("export", str(saved), "--target", "kfp", "--image", "x", "--pvc", "data", "--mount-path", str(data.parent))
    assert result.returncode == 2
    assert "pip install 'storagebench[kubeflow]'" in result.stderr


@pytest.mark.parametrize(("options", "code", "why"), [("[]", 3, "no dataset"), ("--loader direct", 2, "is no JSON list of words")])
def test_the_program_of_the_component_fails_as_its_command_does(options: str, code: int, why: str, tmp_path: Path) -> None:
    outputs = [word for name in ("run-folder", "html", "au", "metrics") for word in (f"--{name}", str(tmp_path / "out" / name))]
    words = ["--workload", "quick", "--data-dir", str(tmp_path / "none"), "--options", options, *outputs]
    done = start([sys.executable, "-P", "-m", "storagebench.export.kfpsteps", *words], tmp_path)
    assert done.returncode == code and why in done.stderr and "hint: " in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


def test_metric_lines_are_an_output_of_their_own(data: Path, cli_here: Any) -> None:
    for other in (("--json",), ("--repeat", "2")):
        result = cli_here("run", "quick", "--data-dir", str(data), *SHORT, "--metric-lines", *other)
        assert result.returncode == 2 and other[0] in result.stderr


POD = """
set -e
mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"
mount -t tmpfs -o "size=$2" tmpfs /dev/shm
shift 2
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


@pytest.mark.root
@pytest.mark.catalogue
@pytest.mark.parametrize("loader", ["files", "direct"])
def test_the_command_runs_with_what_a_pod_has(loader: str, data: Path, tmp_path: Path, cli_here: Any) -> None:
    """A volume that is read-only, a /dev/shm of the manifest's size, no capabilities: the conditions of the manifest, without its container."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount in a namespace of its own")
    words = ("export", "quick", "--target", "job", "--image", "x", "--pvc", "data", "--data-dir", str(data), "--mount-path", str(data.parent))
    result = cli_here(*words, "--accelerators-per-host", "2", "--loader", loader, *SHORT)
    assert result.returncode == 0, result.stderr
    (job,) = yaml.safe_load_all(result.stdout)
    (shm,) = (volume["emptyDir"]["sizeLimit"] for volume in job["spec"]["template"]["spec"]["volumes"] if volume["name"] == "shm")
    command = [word.replace("/results", str(tmp_path)).replace("$(POD_NAME)", "pod") for word in container(job)["command"]]
    namespace = ["unshare", "--mount", "--propagation", "private", "bash", "-c", POD, "pod", str(data), shm.removesuffix("i")]
    done = start([*namespace, *command], tmp_path)
    assert done.returncode == 0, done.stderr
    (summary,) = (json.loads(path.read_text()) for path in tmp_path.glob("pod/*/summary.json"))
    assert summary["valid"] is True and summary["cached_fraction_before"] in (None, 0.0)
    assert "CACHE_UNPROVEN" not in {finding["code"] for finding in summary["findings"]}
