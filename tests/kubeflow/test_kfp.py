"""Kubeflow Pipelines: its own parser takes what is exported, and the pipeline runs to its end in its local runner, on real data."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from storagebench.errors import UsageError
from storagebench.export.kfpsteps import executor_output
from storagebench.export.targets import export

kfp = pytest.importorskip("kfp")
pytest.importorskip("kfp.kubernetes")

ROOT = Path(__file__).parents[2]
COMPONENT = (ROOT / "deploy" / "kfp" / "component.yaml").read_text()
SMALL = ["--accelerator", "h100", "--batch-size", "4", "--max-steps", "8", "--null-duration", "0.05", "--headroom-duration", "0.1"]
STEPS = ["check-step", "gate-step", "generate-step", "report-step", "run-step", "verify-step"]


@pytest.fixture(scope="module")
def exported(asked: Any, place: Any) -> Callable[..., dict[str, str]]:
    """The files of `export --target kfp`, with changes of the place."""

    def files(shipped: bool = True, **changes: Any) -> dict[str, str]:
        return export("kfp", asked(shipped), replace(place(1), results_pvc="", **changes), None).files

    return files


@pytest.fixture(scope="module")
def files(exported: Any) -> dict[str, str]:
    found: dict[str, str] = exported()
    return found


def spec_of(text: str) -> Any:
    """The first document through kfp's own schema. Raises ParseError for a field that it does not know."""
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    return json_format.ParseDict(next(yaml.safe_load_all(text)), pipeline_spec_pb2.PipelineSpec())


def test_kfp_parses_the_pipeline_and_no_step_is_cached(files: dict[str, str]) -> None:
    spec = spec_of(files["bench-unet3d-kfp.yaml"])
    assert sorted(spec.root.dag.tasks) == STEPS
    assert not any(task.caching_options.enable_cache for task in spec.root.dag.tasks.values())
    after = {name: set(task.dependent_tasks) for name, task in spec.root.dag.tasks.items()}
    assert after["verify-step"] == {"generate-step"} and after["run-step"] == {"verify-step"} and after["check-step"] == {"run-step"}
    assert after["report-step"] == {"run-step", "check-step"} and after["gate-step"] == {"report-step", "check-step"}
    defaults = spec.root.input_definitions.parameters
    assert defaults["workload"].default_value.string_value == "unet3d"
    assert list(defaults["run_options"].default_value.list_value) == ["--num-accelerators", "4", "--loader", "direct", "--accelerator", "h100"]


def test_the_parser_refuses_a_field_that_it_does_not_know(files: dict[str, str]) -> None:
    from google.protobuf.json_format import ParseError

    with pytest.raises(ParseError):
        spec_of(files["bench-unet3d-kfp.yaml"].replace("schemaVersion: 2.1.0", "schemaVersion: 2.1.0\nstorage: fast"))


def test_the_steps_that_read_have_the_volume_the_nodes_and_shared_memory(files: dict[str, str]) -> None:
    from google.protobuf import json_format
    from kfp.kubernetes import kubernetes_executor_config_pb2

    _, platform = yaml.safe_load_all(files["bench-unet3d-kfp.yaml"])
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert sorted(executors) == ["exec-generate-step", "exec-run-step", "exec-verify-step"]
    for name, executor in executors.items():
        config = json_format.ParseDict(executor, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
        assert [mount.mount_path for mount in config.pvc_mount] == ["/data"]
        assert dict(config.node_selector.labels) == {"node.kubernetes.io/instance-type": "m5.metal"}
        assert [mount.size_limit for mount in config.empty_dir_mounts] == ([] if name == "exec-generate-step" else ["8Gi"])


def test_a_secret_stands_there_by_name_only(exported: Any) -> None:
    text = exported(s3_secret="store")["bench-unet3d-kfp.yaml"]
    _, platform = yaml.safe_load_all(text)
    secrets = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-run-step"]["secretAsEnv"]
    keys = {key["envVar"]: (secret["secretName"], secret["optional"]) for secret in secrets for key in secret["keyToEnv"]}
    assert keys == {"AWS_ACCESS_KEY_ID": ("store", False), "AWS_SECRET_ACCESS_KEY": ("store", False), "AWS_SESSION_TOKEN": ("store", True)}


def test_a_workload_of_the_users_own_comes_as_a_config_map(exported: Any) -> None:
    found = exported(shipped=False)
    config = yaml.safe_load(found["bench-unet3d-kfp-workload.yaml"])
    assert config["kind"] == "ConfigMap" and yaml.safe_load(config["data"]["workload.yaml"])["name"] == "unet3d"
    assert spec_of(found["bench-unet3d-kfp.yaml"]).root.input_definitions.parameters["workload"].default_value.string_value == (
        "/etc/storagebench/workload.yaml"
    )


def test_several_hosts_are_no_step_of_a_pipeline(exported: Any) -> None:
    with pytest.raises(UsageError, match="--num-hosts is 3"):
        exported(num_hosts=3)


def test_the_container_component_has_typed_figures_and_a_page(files: dict[str, str]) -> None:
    text = files["bench-unet3d-kfp-component.yaml"]
    outputs = spec_of(text).components["comp-storagebench-run"].output_definitions
    types = {name: artifact.artifact_type.schema_title for name, artifact in outputs.artifacts.items()}
    assert types == {"run_folder": "system.Artifact", "metrics": "system.Metrics", "page": "system.HTML"}
    assert list(outputs.parameters) == ["au"]
    component = kfp.components.load_component_from_text(text)
    assert component.name == "storagebench-run"
    assert "enableCache: true" not in text


def test_figures_reach_the_page_of_the_run_by_the_file_that_kfp_reads() -> None:
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    text = executor_output({"au": 0.93, "valid": 1.0}, "metrics")
    output = json_format.ParseDict(json.loads(text), pipeline_spec_pb2.ExecutorOutput())
    (artifact,) = output.artifacts["metrics"].artifacts
    assert artifact.name == "metrics" and dict(artifact.metadata) == {"au": 0.93, "valid": 1.0}


def test_component_yaml_loads_and_compiles(tmp_path: Path) -> None:
    component = kfp.components.load_component_from_text(COMPONENT)
    compiled = tmp_path / "compiled.yaml"
    kfp.compiler.Compiler().compile(component, str(compiled))
    (outputs,) = (each.output_definitions for each in spec_of(compiled.read_text()).components.values())
    assert outputs.artifacts["page"].artifact_type.schema_title == "system.HTML"
    assert sorted(outputs.parameters) == ["au"]


def test_help_instead_of_description_does_not_load() -> None:
    """The form that stands in the project's founding document: kfp has no `help:`."""
    assert 'description: "Path' in COMPONENT
    with pytest.raises(TypeError, match="help"):
        kfp.components.load_component_from_text(COMPONENT.replace('description: "Path', 'help: "Path'))


def test_component_yaml_measures(tmp_path: Path, make_dataset: Any) -> None:
    """The component's command, with its placeholders filled as a pod's are, on a real dataset."""
    path, _ = make_dataset(format="jpeg", num_samples=48, record_length_bytes=20000)
    given = {"workload": "quick", "data_dir": path, "options": json.dumps(SMALL)}
    words: list[str] = []
    for word in yaml.safe_load(COMPONENT)["implementation"]["container"]["command"]:
        words.append(
            word if isinstance(word, str) else given[word["inputValue"]] if "inputValue" in word else str(tmp_path / "out" / word["outputPath"])
        )
    assert words[0] == "python3"
    done = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out" / "figures").read_text())
    assert float((tmp_path / "out" / "au").read_text()) == figures["au"]
    assert 0 < figures["au"] <= 1 and figures["valid"] == 1
    assert (tmp_path / "out" / "page").read_text().startswith("<!doctype html>")
    assert (tmp_path / "out" / "run_folder" / "run" / "summary.json").exists()


LOCAL = """
import json, sys
from kfp import local
from storagebench.export import kfppipeline
local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[1], raise_on_error=True)
pipeline = kfppipeline.pipeline("bench", "python:local", json.loads(sys.argv[2]))
pipeline()
"""


def run_locally(root: Path, **changes: Any) -> subprocess.CompletedProcess[str]:
    defaults = {
        "workload": "quick",
        "data_dir": str(root / "data"),
        "generate_options": ["--num-samples", "48"],
        "storage_options": [],
        "run_options": SMALL,
        "exists": False,
        "rules": "",
    }
    words = [sys.executable, "-P", "-W", "ignore", "-c", LOCAL, str(root / "runs"), json.dumps({**defaults, **changes})]
    return subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=150, check=False)


def outputs_of(root: Path, step: str) -> Any:
    (found,) = root.glob(f"runs/*/{step}/executor_output.json")
    return json.loads(found.read_text())


def test_the_pipeline_runs_to_its_end(tmp_path: Path) -> None:
    """generate -> verify -> run -> check -> report -> gate, each in a process of its own, on data that the first step made."""
    done = run_locally(tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert sorted(path.parent.name for path in tmp_path.glob("runs/*/*/executor_output.json")) == STEPS
    assert outputs_of(tmp_path, "check-step")["parameterValues"] == {"Output": True}
    (run,) = tmp_path.glob("runs/*/run-step/run_folder/run/summary.json")
    summary = json.loads(run.read_text())
    metrics = outputs_of(tmp_path, "report-step")["artifacts"]["metrics"]["artifacts"][0]["metadata"]
    assert metrics["au"] == summary["au_nominal"] and metrics["samples_per_s"] == summary["samples_per_s"] and metrics["passed"] == 1
    (page,) = tmp_path.glob("runs/*/report-step/page")
    assert page.read_text().startswith("<!doctype html>")
    (verified,) = tmp_path.glob("runs/*/verify-step/verified")
    assert json.loads(verified.read_text())["whole"] is True


def test_a_run_that_does_not_meet_the_rules_is_reported_and_ends_the_pipeline_as_failed(tmp_path: Path) -> None:
    done = run_locally(tmp_path, rules="mlperf-storage-v2.0-closed")
    assert done.returncode != 0
    assert outputs_of(tmp_path, "check-step")["parameterValues"] == {"Output": False}
    assert outputs_of(tmp_path, "report-step")["artifacts"]["metrics"]["artifacts"][0]["metadata"]["passed"] == 0
    assert not list(tmp_path.glob("runs/*/gate-step/executor_output.json"))


def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    """docs/kubernetes.md: the blocks that need kfp."""
    blocks = re.findall(r"^```bash kubeflow\n(.*?)^```$", (ROOT / "docs" / "kubernetes.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    # The command of this environment, which has no script of its own for it.
    command = tmp_path / "storagebench"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m storagebench "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = "\n".join(blocks).replace("/mnt/", f"{tmp_path}/mnt/")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert sorted(path.name for path in (tmp_path / "pipelines").iterdir()) == [
        "storagebench-quick-kfp-component.yaml",
        "storagebench-quick-kfp.yaml",
    ]
    assert list(tmp_path.glob("local-runs/*/gate-step/executor_output.json"))
