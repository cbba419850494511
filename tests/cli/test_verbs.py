"""Golden text and exit codes of the verbs; stdout carries the result and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from storagebench.cli import ALONE
from storagebench.commands.options import DATASET_OPTIONS, QUERY_OPTIONS, RUN_OPTIONS
from storagebench.workload import option_fields

HELP = """\
Usage: storagebench [OPTIONS] COMMAND [ARGS]...

  Does this storage, through this loader, keep N accelerators busy, and if
  not, what is in the way?

Options:
  --version   Show the version and exit.
  --debug     Show tracebacks and the launcher's log.
  -h, --help  Show this message and exit.

Verbs:
  list           What is there: workloads, loaders, formats, storage,
                 accelerators.
  plan           What would a run do and need; touches no storage.
  generate       Make a synthetic dataset: parallel, resumable, the same for
                 the same seed.
  import         Make a benchmark dataset out of real data.
  import-config  A workload file of DLIO or mlpstorage as one of ours, and
                 what it could not carry over.
  verify         Is every shard whole, every sample's checksum right.
  run            Measure: AU, throughput, stalls, for one loader; writes a run
                 folder.
  rerun          A saved run once more, from its folder alone.
  search         The largest number of accelerators that still meets the AU
                 threshold.
  query          Reads in MLPerf Inference's four scenarios: latency, and the
                 rate that holds.
  probe          The raw ceiling of a storage as this client sees it.
  diagnose       Where the time goes, and the next knob to turn.
  sweep          A matrix of runs, or several jobs at once, from one YAML
                 file; resumable.
  tune           The best loader settings within a time, ending in a command
                 line to copy.
  report         Text, JSON, CSV or HTML out of saved runs.
  check          Is a saved run valid; does it meet a rule set.
  compare        Better, worse, or not distinguishable; the exit code is for
                 CI.
  export         A run as what starts it elsewhere: Kubernetes, Kubeflow,
                 Slurm.
  selfcheck      Does this machine measure known answers right.
  serve-s3       A real S3 endpoint on loopback, for trying things out.
  demo           All of it at a small size, ending in a table and an HTML
                 page.
"""

ACCELERATORS = """\
accelerators:
  name   workload                 batch_size  compute_time_s  samples_per_s  demand_mb_per_s  profile
  v100   bert                     48          0.968           49.59          0.124            mlperf-storage
  a100   cosmoflow                1           0.00551         181.5          513.3            mlperf-storage
  h100   cosmoflow                1           0.0035          285.7          808.1            mlperf-storage
  b200   dlrm                     16384       0.000375        43690666.7     33248.6          mlperf-storage
  mi355  dlrm                     16384       0.0005625       29127111.1     22165.7          mlperf-storage
  b200   dlrm-columns             16384       0.000375        43690666.7     6990.5           mlperf-storage
  mi355  dlrm-columns             16384       0.0005625       29127111.1     4660.3           mlperf-storage
  b200   flux                     48          1.35            35.56          76.97            mlperf-storage
  mi355  flux                     72          2.025           35.56          76.97            mlperf-storage
  t4     inference-gnmt           -           -               354.4          0.07087          mlperf-inference
  t4     inference-mobilenet      -           -               17725.9        2391.2           mlperf-inference
  t4     inference-resnet50       -           -               5622.2         758.4            mlperf-inference
  t4     inference-ssd-mobilenet  -           -               7609.0         1241.2           mlperf-inference
  t4     inference-ssd-resnet34   -           -               136.9          22.33            mlperf-inference
  a100   quick                    16          0.04            400            26.21            storagebench
  h100   quick                    16          0.02            800            52.43            storagebench
  b200   quick                    16          0.01            1600.0         104.9            storagebench
  a100   resnet50                 400         0.435           919.5          105.4            mlperf-storage
  h100   resnet50                 400         0.224           1785.7         204.8            mlperf-storage
  a100   resnet50                 408         0.1449          2815.9         322.9            mlperf-training
  h100   resnet50                 400         0.05707         7008.9         803.6            mlperf-training
  b200   retinanet                24          0.04755         504.7          163              mlperf-storage
  mi355  retinanet                32          0.0634          504.7          163              mlperf-storage
  h100   retinanet                24          0.08664         277            89.46            mlperf-training
  v100   train-gnmt               256         0.1422          1800.0         0.495            mlperf-training
  a100   train-gnmt               384         0.0892          4305.0         1.184            mlperf-training
  v100   train-mask-rcnn          6           0.2371          25.3           4.136            mlperf-training
  a100   train-mask-rcnn          8           0.1594          50.2           8.207            mlperf-training
  h100   train-mask-rcnn          12          0.06427         186.7          30.52            mlperf-training
  v100   train-ncf                1           0.01111         90.03          18.88            mlperf-training
  v100   train-resnet50           208         0.1489          1397.0         161.3            mlperf-training
  a100   train-resnet50           408         0.1449          2815.9         325.1            mlperf-training
  h100   train-resnet50           400         0.05707         7008.9         809.1            mlperf-training
  v100   train-ssd-resnet34       120         0.1997          601            98.25            mlperf-training
  a100   train-ssd-resnet34       114         0.09283         1228.0         200.7            mlperf-training
  v100   train-transformer        128         0.07814         1638.0         0.2572           mlperf-training
  a100   train-transformer        128         0.03352         3818.0         0.5994           mlperf-training
  v100   unet3d                   4           1.36            2.94           431.1            mlperf-storage
  a100   unet3d                   7           0.636           11.01          1613.5           mlperf-storage
  h100   unet3d                   7           0.323           21.67          3177.1           mlperf-storage
  b200   unet3d                   7           0.162           43.21          6334.6           mlperf-storage
  h100   unet3d                   7           0.1             70             10262.0          mlperf-training
"""

PLAN_HEAD = """\
accelerators   2, 323 ms of compute a step
steps          60 on each rank (12 an epoch of global batch 14)
samples        168 an epoch, 0 dropped at its end
dataset        24.6 GB of records, 147 MB each on average
demand         6354.2 MB/s, 43.3 samples/s at AU 1
compute alone  19.4 s on each rank
"""


def test_help(cli: Any) -> None:
    result = cli("--help")
    assert (result.returncode, result.stdout, result.stderr) == (0, HELP, "")


@pytest.mark.parametrize(
    "verb",
    [
        "list",
        "plan",
        "generate",
        "import",
        "import-config",
        "verify",
        "run",
        "rerun",
        "search",
        "query",
        "probe",
        "diagnose",
        "sweep",
        "tune",
        "report",
        "check",
        "compare",
        "export",
        "selfcheck",
        "serve-s3",
        "demo",
    ],
)
def test_each_verb_has_help(verb: str, cli_here: Any) -> None:
    result = cli_here(verb, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: storagebench {verb} ")


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from storagebench.cli import run_program; run_program(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("torch", "pyarrow", "numpy", "pydantic", "rich", "plotly", "fsspec", "obstore", "psutil", "yaml"):
        assert f"'{heavy}'" not in result.stderr, heavy


@pytest.mark.parametrize("topic", ["workloads", "loaders", "formats", "storage", "accelerators"])
def test_list_imports_no_adapter(topic: str) -> None:
    code = f"import sys; from storagebench.cli import run_program; run_program(['list', '{topic}']); print(sorted(sys.modules), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("torch", "pyarrow", "webdataset", "s3fs", "obstore", "PIL"):
        assert f"'{heavy}'" not in result.stderr, heavy


def test_list_accelerators(cli: Any) -> None:
    result = cli("list", "accelerators")
    assert (result.returncode, result.stdout, result.stderr) == (0, ACCELERATORS, "")


def test_list_storage_says_what_each_store_is_for(cli_here: Any) -> None:
    rows = {row["name"]: row for row in json.loads(cli_here("list", "storage", "--json").stdout)["storage"]}
    assert list(rows) == ["posix", "s3", "memory", "fsspec", "shaped"]
    assert all(row["about"] for row in rows.values())
    assert rows["shaped"]["url"] == "shaped+URL"
    assert rows["shaped"]["options"][:4] == ["bandwidth=RATE", "latency=TIME", "jitter=TIME", "seed=NUMBER"]
    assert "for tests whose answer is known" in rows["shaped"]["about"]


def test_list_as_json_has_all_topics(cli_here: Any) -> None:
    topics = json.loads(cli_here("list", "--json").stdout)
    assert list(topics) == ["workloads", "loaders", "formats", "storage", "accelerators"]
    assert {row["name"] for row in topics["loaders"]} >= {"null", "files", "parquet", "webdataset", "s3", "direct"}


def test_plan(cli: Any) -> None:
    result = cli("plan", "unet3d", "--accelerator", "h100", "--num-accelerators", "2")
    assert result.returncode == 0
    assert result.stdout.startswith(PLAN_HEAD)
    rows = {" ".join(line.split()) for line in result.stdout.splitlines()}
    assert "train.batch_size 7 (unet3d.yaml:19)" in rows
    assert "run.num_accelerators 2 (--num-accelerators)" in rows
    assert "run.cache cold (default)" in rows


def test_plan_scales_without_editing_the_workload(cli_here: Any) -> None:
    plan = json.loads(cli_here("plan", "cosmoflow", "--accelerator", "a100", "--scale", "0.001", "--json").stdout)
    assert plan["config"]["dataset"]["num_samples"] == 524
    assert plan["provenance"]["dataset.num_samples"] == "--scale 0.001"
    assert cli_here("plan", "cosmoflow", "--accelerator", "a100", "--scale", "0.1", "--num-samples", "5").returncode == 2


def test_generate_run_report_through_the_command_line(cli: Any, tmp_path: Path) -> None:
    data, results = str(tmp_path / "data"), str(tmp_path / "results")
    made = cli(
        "generate", "quick", "--format", "npy", "--payload", "bytes", "--num-samples", "96", "--num-subfolders", "4", "--data-dir", data, "--json"
    )
    facts = json.loads(made.stdout)
    assert (made.returncode, facts["num_samples"], facts["num_shards"], facts["format"]) == (0, 96, 96, "npy")
    assert sorted(path.name for path in (tmp_path / "data" / "shards").iterdir()) == ["0000", "0001", "0002", "0003"]
    again = cli(
        "generate", "quick", "--format", "npy", "--payload", "bytes", "--num-samples", "96", "--num-subfolders", "4", "--data-dir", data, "--json"
    )
    assert json.loads(again.stdout)["digest"] == facts["digest"]
    run = cli("run", "quick", "--data-dir", data, "--results-dir", results, "--run-id", "a", "--compute-time", "5ms", "--batch-size", "8", "--json",
              "--null-duration", "0.1", "--remainder", "keep", "--verify", "full", "--listing", "list")  # fmt: skip
    assert run.returncode == 0, run.stderr
    summary = json.loads(run.stdout)
    assert summary["delivered_bytes"] == 2 * facts["record_bytes"]
    assert summary["verified_samples"] == summary["samples"] == 192
    assert (summary["missing_samples"], summary["duplicate_samples"], summary["dropped_samples"], summary["checksum_errors"]) == (0, 0, 0, 0)
    assert summary["valid"] is True
    assert summary["listing"]["listed"] == 96
    saved = (tmp_path / "results" / "a" / "summary.json").read_bytes()
    (tmp_path / "results" / "a" / "summary.json").unlink()
    report = cli("report", str(tmp_path / "results" / "a"), "--html", str(tmp_path / "page.html"))
    assert report.returncode == 0, report.stderr
    assert (tmp_path / "results" / "a" / "summary.json").read_bytes() == saved
    assert "AU" in report.stdout
    assert (tmp_path / "page.html").stat().st_size > 1_000_000  # plotly is inside
    assert cli("report", results, "--csv").stdout.count("\n") == 2


DESIGN_KEYS = [
    "schema_version",
    "run_id",
    "status",
    "valid",
    "exit_code",
    "workload",
    "accelerator",
    "loader",
    "format",
    "storage",
    "cache",
    "decode",
    "decode_asked",
    "world_size",
    "num_hosts",
    "batch_size",
    "epochs",
    "measured_steps",
    "warmup_steps",
    "au_nominal",
    "au_uncorrected",
    "au_uncertainty",
    "au_measured",
    "au_null",
    "samples_per_s",
    "delivered_bytes_per_s",
    "samples",
    "delivered_bytes",
    "handover_bytes",
    "storage_bytes",
    "device_read_bytes",
    "cached_fraction_before",
    "cached_fraction_served",
    "read_amplification",
    "wall_s",
    "harness_s",
    "startup_s",
    "time_to_first_batch_s",
    "compute_s",
    "fetch_s",
    "sync_wait_s",
    "sync_cost_s",
    "host_delay_s",
    "fetch_quantiles_s",
    "step_quantiles_s",
    "cpu_s",
    "cpu_s_per_gb",
    "peak_rss_bytes",
    "copy_s",
    "devices",
    "training",
    "ceiling_bytes_per_s",
    "fraction_of_ceiling",
    "bottleneck",
    "verified_samples",
    "checksum_errors",
    "duplicate_samples",
    "missing_samples",
    "dropped_samples",
    "per_epoch",
    "per_rank",
    "per_host",
    "findings",
]


@pytest.mark.parametrize(("ranks", "compute_ms"), [(1, (1, 10)), (2, (1,))])
def test_the_null_loader_shows_the_harness_and_the_summary_has_every_key(
    ranks: int, compute_ms: tuple[int, ...], cli: Any, make_dataset: Any, tmp_path: Path
) -> None:
    path, _ = make_dataset()
    for milliseconds in compute_ms:
        result = cli("run", "quick", "--data-dir", path, "--loader", "null", "--compute-time", f"{milliseconds}ms", "--num-accelerators", str(ranks),
                     "--results-dir", str(tmp_path), "--run-id", f"n{milliseconds}", "--batch-size", "4", "--null-duration", "0.2")  # fmt: skip
        assert result.returncode == 0, result.stderr
        summary = json.loads((tmp_path / f"n{milliseconds}" / "summary.json").read_text())
        assert [key for key in DESIGN_KEYS if key not in summary] == []
        assert 0.2 < summary["au_null"] <= 1.0
        assert "of the null loader" in result.stdout
        assert summary["storage_bytes"] == 0
        assert summary["training"] is None


def test_import_of_a_folder(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "source" / "cats").mkdir(parents=True)
    (tmp_path / "source" / "dogs").mkdir()
    for index in range(6):
        (tmp_path / "source" / ("cats" if index % 2 else "dogs") / f"{index}.bin").write_bytes(bytes([index]) * (100 + index))
    result = cli("import", str(tmp_path / "source"), "--data-dir", str(tmp_path / "data"), "--format", "webdataset", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["record_bytes"] == sum(100 + index for index in range(6))
    assert cli("verify", "--data-dir", str(tmp_path / "data")).returncode == 0


@pytest.mark.parametrize("verb", sorted(ALONE))
def test_a_verb_of_one_command_is_refused_where_a_launcher_started_several(verb: str, cli_here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    done = cli_here(verb)
    assert done.returncode == 2 and f"`storagebench {verb}` is one command" in done.stderr


def test_debug_shows_the_traceback(cli: Any, tmp_path: Path) -> None:
    result = cli("--debug", "verify", "--data-dir", str(tmp_path))
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_every_option_of_the_workload_model_can_be_given(cli_here: Any) -> None:
    offered = {*DATASET_OPTIONS, *RUN_OPTIONS, *QUERY_OPTIONS}
    assert offered == set(option_fields())
    result = cli_here("plan", "quick", "--compute-time", "1ms", "--io-depth", "3", "--shuffle", "false", "--json")
    assert result.returncode == 0, result.stderr
    loader = json.loads(result.stdout)["config"]["loader"]
    assert (loader["io_depth"], loader["shuffle"]) == (3, False)
