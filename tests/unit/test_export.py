"""Exported manifests and scripts: the command that they start, what no pod may lack, what is refused. Their validators are in tests/kubeflow."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from storagebench.commands.options import RUN_OPTIONS
from storagebench.configfile import Configured, changed, known_workloads, load_workload
from storagebench.errors import UsageError
from storagebench.export.asked import PROBED, Asked, asked_by_options, asked_by_run
from storagebench.export.files import MARK, as_yaml, write_files
from storagebench.export.kueue import times
from storagebench.export.place import Place, checked, default_name, shm_size
from storagebench.export.slurm import sbatch
from storagebench.export.targets import MANIFESTS, TARGETS, export

SAID = [("run.accelerator", "h100", "--accelerator"), ("loader.name", "files", "--loader"), ("train.batch_size", 7, "--batch-size")]
CLUSTER = [target for target in MANIFESTS if target != "katib"]


def ask(*more: tuple[str, Any, str], name: str = "unet3d", data_dir: str = "/data/unet3d", **storage: str) -> Asked:
    return asked_by_options(name, load_workload("unet3d", [*SAID, *more]), RUN_OPTIONS, data_dir, storage)


def put(**said: Any) -> Place:
    return checked(Place(**{"name": "bench", "image": "registry.example.org/storagebench:0.1.0", "pvc": "train-data", **said}))


def documents(target: str, asked: Asked | None = None, **said: Any) -> list[dict[str, Any]]:
    (text,) = export(target, asked or ask(), put(**said), None).files.values()
    return list(yaml.safe_load_all(text))


def pods(part: Any) -> Iterator[dict[str, Any]]:
    """The specs of pods anywhere in a document."""
    if isinstance(part, dict):
        if "containers" in part:
            yield part
        for item in part.values():
            yield from pods(item)
    elif isinstance(part, list):
        for item in part:
            yield from pods(item)


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container["env"]}


def saved(configured: Configured, store: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A run.json as far as export reads it."""
    return {"config": configured.workload.model_dump(), "provenance": dict(configured.provenance), "store": store, **more}


# The command.


def test_the_words_give_the_same_workload_again() -> None:
    """What was said is said again, as options where `run` has them and with --set elsewhere; the accelerators are those of each host."""
    more = (
        ("run.duration_s", "90s", "--duration"),
        ("dataset.seed", 7, "--set"),
        ("loader.shuffle", False, "--shuffle"),
        ("run.num_accelerators", 2, "x"),
    )
    words = ask(*more).run_words("", 4)
    assert words[:7] == ["storagebench", "run", "unet3d", "--data-dir", "/data/unet3d", "--num-accelerators", "4"]
    said = dict(zip(words[7::2], words[8::2], strict=True))
    assert said == {
        "--set": "dataset.seed=7",
        "--accelerator": "h100",
        "--loader": "files",
        "--batch-size": "7",
        "--duration": "90.0",
        "--shuffle": "false",
    }


def parsed(words: list[str]) -> dict[str, Any]:
    """The workload that `storagebench run` makes of the words, by its own parser."""
    from storagebench.commands.options import configured
    from storagebench.commands.run import command

    values = command.make_context("run", words[2:]).params
    return configured(values["workload"], values, values["settings"]).workload.model_dump()


@pytest.mark.parametrize("name", known_workloads())
def test_run_understands_the_words_of_every_shipped_workload(name: str) -> None:
    texts = [
        ("run.duration_s", 0.1, "--duration"),
        ("source", "12", "--set"),
        ("description", "a: b # c", "--set"),
        ("query.qsl_samples", 5, "--set"),
    ]
    configured = load_workload(name, [*texts, ("run.compute_time_s", 0.0035, "--compute-time"), ("loader.shuffle", False, "--shuffle")])
    asked = asked_by_options(name, configured, RUN_OPTIONS, "/data/x", {})
    assert asked.shipped == name
    assert parsed(asked.run_words("", 1)) == configured.workload.model_dump()


def test_a_saved_run_is_the_same_run() -> None:
    configured = load_workload("unet3d", SAID)
    asked = asked_by_run(saved(configured, {"kind": "posix", "root": "/data/unet3d", "options": {}}), RUN_OPTIONS, None, {})
    assert asked.run_words("", 1) == ask().run_words("", 1)
    assert asked.exists and not ask().exists


def test_what_was_probed_here_is_probed_again_there() -> None:
    configured = changed(load_workload("unet3d", SAID), {"loader.io_depth": 16, "loader.num_workers": 6}, PROBED)
    asked = asked_by_run(saved(configured, {"kind": "posix", "root": "/data/unet3d", "options": {"io": "direct"}}), RUN_OPTIONS, None, {})
    assert asked.shipped == "unet3d"
    assert asked.run_words("", 1) == ask().run_words("", 1)


def test_a_pipeline_generates_the_held_out_split_where_the_run_looks_for_it() -> None:
    from types import SimpleNamespace

    from storagebench.export.kfpcompile import defaults

    said = [("run.held_out_dir", "/rest", "--held-out-dir"), ("run.compute_time_s", 0.01, "--compute-time"), ("dataset.num_samples", 100, "--set")]
    asked = asked_by_options("digits", load_workload("digits", said), RUN_OPTIONS, "/data", {})
    found = defaults(asked, SimpleNamespace(accelerators_per_host=1))  # type: ignore[arg-type]
    assert found["generate_options"] == ["--set", "dataset.num_samples=100", "--held-out-dir", "/rest"]
    assert "--held-out-dir" in found["run_options"]


def test_a_workload_of_the_users_own_travels_as_a_file_that_reads_the_same(tmp_path: Path) -> None:
    configured = changed(load_workload("unet3d", [*SAID, ("name", "ours", "ours.yaml:1")]), {"loader.io_depth": 16}, PROBED)
    asked = asked_by_run(saved(configured, {"kind": "posix", "root": "/data/x", "options": {}}), RUN_OPTIONS, None, {})
    assert asked.shipped == "" and asked.options == ()
    (tmp_path / "workload.yaml").write_text(asked.workload_yaml)
    again = load_workload(str(tmp_path / "workload.yaml"))
    assert again.workload == load_workload("unet3d", [*SAID, ("name", "ours", "x")]).workload
    assert asked.run_words("/etc/storagebench/workload.yaml", 1)[2] == "/etc/storagebench/workload.yaml"


def test_a_shipped_name_with_other_contents_is_not_the_shipped_workload() -> None:
    configured = load_workload("unet3d", [*SAID, ("dataset.num_samples", 1000, "unet3d.yaml:9")])
    asked = asked_by_run(saved(configured, {"kind": "posix", "root": "/data/x", "options": {}}), RUN_OPTIONS, None, {})
    assert asked.shipped == "" and "num_samples: 1000" in asked.workload_yaml


def test_options_of_a_saved_store_without_what_the_next_run_finds_itself() -> None:
    options = {"endpoint_url": "https://s3.example.org", "client": "s3fs", "native_ranges": "true"}
    asked = asked_by_run(
        saved(load_workload("unet3d", SAID), {"kind": "s3", "root": "s3://b/x", "options": options}), RUN_OPTIONS, None, {"client": "obstore"}
    )
    assert asked.storage_words() == ["--storage-option", "client=obstore", "--storage-option", "endpoint_url=https://s3.example.org"]


def test_a_dataset_in_place_needs_both_of_its_places() -> None:
    run = saved(
        load_workload("unet3d", SAID),
        {"kind": "posix", "root": "/other/dlio", "options": {}},
        manifest_store={"kind": "posix", "root": "/data/manifest", "options": {}},
    )
    asked = asked_by_run(run, RUN_OPTIONS, None, {})
    assert asked.data_dir == "/data/manifest"
    with pytest.raises(UsageError, match="/other/dlio is not below --mount-path /data"):
        export("job", asked, put(), None)


def test_a_run_over_hosts_keeps_its_hosts() -> None:
    """Two members of one host are one host with the accelerators of both."""
    members = [{"host": "a", "ranks": 1}, {"host": "b", "ranks": 2}, {"host": "a", "ranks": 1}]
    run = saved(load_workload("unet3d", SAID), {"kind": "posix", "root": "/data/x", "options": {}}, members=members)
    assert asked_by_run(run, RUN_OPTIONS, None, {}).accelerators == (2, 2)
    assert ask(("run.num_accelerators", 3, "--num-accelerators")).accelerators == (3,)
    from storagebench.commands.export import _same_everywhere

    assert _same_everywhere((2, 2)) == 2
    with pytest.raises(UsageError, match=re.escape("2 + 1 accelerators")):
        _same_everywhere((2, 1))


# The pod.


@pytest.mark.parametrize("target", MANIFESTS)
def test_every_pod_runs_once_without_privileges_and_with_shared_memory(target: str) -> None:
    found = list(pods(documents(target, cpu="8", memory="64GiB", results_pvc="results", node_selector={"disk": "nvme"})))
    assert found
    for pod in found:
        (container,) = pod["containers"]
        assert pod["restartPolicy"] == "Never"
        assert pod["securityContext"]["runAsNonRoot"] is True and container["securityContext"]["allowPrivilegeEscalation"] is False
        assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
        assert container["resources"]["requests"] == container["resources"]["limits"] == {"cpu": "8", "memory": "64Gi"}
        assert pod["nodeSelector"] == {"disk": "nvme"}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume.pop("name"): volume for volume in pod["volumes"]}
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert volumes[mounts["/data"]]["persistentVolumeClaim"] == {"claimName": "train-data", "readOnly": True}
        assert volumes[mounts["/results"]]["persistentVolumeClaim"] == {"claimName": "results"}


def test_shared_memory_follows_the_plan() -> None:
    """unet3d, loader files (processes): 4 accelerators x (prefetch + 1) batches of about 7 x 147 MB, and half as much again; never the 64 MiB of Kubernetes."""
    mib = int(shm_size(ask(), put(accelerators_per_host=4)).removesuffix("Mi"))
    assert mib * 2**20 > 4 * 3 * 7 * 146_600_628
    assert shm_size(ask(("loader.name", "direct", "--loader")), put()) == "1024Mi"
    assert shm_size(ask(), put(shm_size="2GiB")) == "2Gi"


@pytest.mark.parametrize("target", [*MANIFESTS])
def test_no_secret_is_written_and_its_keys_are_named(target: str) -> None:
    asked = ask(data_dir="s3://bench/unet3d", endpoint_url="https://s3.example.org")
    for pod in pods(documents(target, asked, pvc="", s3_secret="store")):
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            assert environment(pod["containers"][0])[key] == {"secretKeyRef": {"name": "store", "key": key}}


def test_writers_get_a_volume_that_can_be_written() -> None:
    (pod,) = pods(documents("job", ask(("run.writers", 2, "--writers"))))
    assert pod["volumes"][-1]["persistentVolumeClaim"] == {"claimName": "train-data"} and pod["securityContext"]["fsGroup"] == 1000


def test_kubernetes_leaves_the_users_words_alone() -> None:
    """It would expand $(NAME) in a command; $$ is how a $ is written."""
    asked = ask(("description", "$(HOME)", "--set"))
    (pod,) = pods(documents("job", asked))
    assert "description=$$(HOME)" in pod["containers"][0]["command"]


# How the members find each other.


def test_one_host_is_a_plain_job() -> None:
    (job,) = documents("job")
    assert job["spec"]["backoffLimit"] == 0 and "completionMode" not in job["spec"]
    (pod,) = pods(job)
    assert not {"WORLD_SIZE", "MASTER_ADDR", "RANK"} & set(environment(pod["containers"][0])) and "subdomain" not in pod


@pytest.mark.parametrize("target", ["job", "kueue"])
def test_an_indexed_job_meets_at_the_name_that_its_service_gives_to_pod_0(target: str) -> None:
    found = {document["kind"]: document for document in documents(target, num_hosts=3, accelerators_per_host=2)}
    job, service = found["Job"]["spec"], found["Service"]
    (pod,) = pods(job)
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 3, 3)
    assert service["spec"]["clusterIP"] == "None" and service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"].items() <= job["template"]["metadata"]["labels"].items()
    name = found["Job"]["metadata"]["name"]
    variables = environment(pod["containers"][0])
    assert variables["MASTER_ADDR"] == f"{name}-0.{pod['subdomain']}" and variables["WORLD_SIZE"] == "3"
    words = pod["containers"][0]["command"]
    assert words[words.index("--num-accelerators") + 1] == "2"
    spread = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
    assert spread["topologyKey"] == "kubernetes.io/hostname"


def test_a_jobset_meets_at_the_name_that_its_controller_gives() -> None:
    (jobset,) = documents("jobset", num_hosts=2)
    (pod,) = pods(jobset)
    job = jobset["spec"]["replicatedJobs"][0]
    host = f"{jobset['metadata']['name']}-{job['name']}-0-0.{jobset['spec']['network']['subdomain']}"
    assert environment(pod["containers"][0])["MASTER_ADDR"] == host
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 0


def test_a_trainjob_of_several_hosts_starts_under_torchrun_with_one_process_for_each() -> None:
    runtime, train = documents("trainjob", num_hosts=3)
    assert runtime["spec"]["mlPolicy"] == {"numNodes": 3, "torch": {}}
    assert train["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    assert train["spec"]["trainer"]["numProcPerNode"] == 1
    assert train["spec"]["trainer"]["command"][:5] == ["torchrun", "--no-python", "storagebench", "run", "unet3d"]
    runtime, train = documents("trainjob")
    assert runtime["spec"]["mlPolicy"] == {"numNodes": 1} and train["spec"]["trainer"]["command"][0] == "storagebench"


def test_a_pytorchjob_has_one_master_and_the_rest_as_workers() -> None:
    (job,) = documents("pytorchjob", num_hosts=3)
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert {kind: spec["replicas"] for kind, spec in replicas.items()} == {"Master": 1, "Worker": 2}
    assert all(pod["containers"][0]["name"] == "pytorch" for pod in pods(job))  # the operator looks for that name
    (job,) = documents("pytorchjob")
    assert list(job["spec"]["pytorchReplicaSpecs"]) == ["Master"]


def test_the_queue_has_room_for_one_run_of_the_size() -> None:
    found = {document["kind"]: document for document in documents("kueue", num_hosts=2, cpu="500m", memory="16Gi")}
    assert found["Job"]["spec"]["suspend"] is True
    assert found["Job"]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == found["LocalQueue"]["metadata"]["name"]
    (group,) = found["ClusterQueue"]["spec"]["resourceGroups"]
    quota = {item["name"]: item["nominalQuota"] for item in group["flavors"][0]["resources"]}
    assert quota == {"pods": "2", "cpu": "1000m", "memory": "32Gi"} and group["coveredResources"] == list(quota)
    assert times("0.5", 3) == "1.5"


# Katib.


def test_a_trial_tunes_what_the_experiment_searches_and_nothing_is_said_twice() -> None:
    asked = ask(("loader.name", "direct", "--loader"), ("loader.num_workers", 3, "--num-workers"))
    (experiment,) = documents("katib", asked)
    (pod,) = pods(experiment)
    words = pod["containers"][0]["command"]
    assert words.count("--num-workers") == 1 and words[words.index("--num-workers") + 1] == "${trialParameters.numWorkers}"
    assert {parameter["name"] for parameter in experiment["spec"]["parameters"]} == {"num-workers", "prefetch-batches", "io-depth"}
    assert "--metric-lines" in words and experiment["spec"]["objective"]["objectiveMetricName"] == "au"
    assert experiment["spec"]["parallelTrialCount"] == 1


def test_katib_gets_no_word_that_a_shell_would_read() -> None:
    with pytest.raises(UsageError, match="without quotes"):
        documents("katib", ask(("description", "two words", "--set")))
    with pytest.raises(UsageError, match="--num-hosts is 2"):
        documents("katib", num_hosts=2)


# Slurm.


def test_the_batch_script_is_bash_and_keeps_words_whole(tmp_path: Path) -> None:
    text = sbatch(ask(("description", "it's $HOME", "--set")), put(image="", pvc="", num_hosts=2, cpu="8", memory="1G", accelerators_per_host=4), "")
    script = tmp_path / "run.sbatch"
    script.write_text(text)
    subprocess.run(["bash", "-n", str(script)], check=True)
    head = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=1", "#SBATCH --cpus-per-task=8", "#SBATCH --mem=954M"} <= set(head)
    assert "'description=it'\"'\"'s $HOME'" in text
    assert text.splitlines()[0] == "#!/bin/bash" and text.splitlines()[1] == MARK


def test_the_batch_script_finds_a_workload_of_the_users_own_beside_it(tmp_path: Path) -> None:
    asked = ask(name="./ours.yaml")
    exported = export("slurm", asked, put(image="", pvc=""), tmp_path)
    assert list(exported.files) == ["bench.sbatch", "bench-workload.yaml"]
    assert f"run {tmp_path}/bench-workload.yaml --data-dir" in exported.files["bench.sbatch"]
    write_files(tmp_path, exported.files, force=False)
    assert load_workload(str(tmp_path / "bench-workload.yaml")).workload == asked.workload
    with pytest.raises(UsageError, match="needs its file beside it"):
        export("slurm", asked, put(image="", pvc=""), None)


@pytest.mark.parametrize(
    "said", [{"image": "x"}, {"pvc": "x"}, {"s3_secret": "x"}, {"namespace": "x"}, {"shm_size": "1Gi"}, {"node_selector": {"a": "b"}}]
)
def test_slurm_refuses_what_is_of_pods(said: dict[str, Any]) -> None:
    (option,) = said
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} is of pods"):
        export("slurm", ask(), checked(Place(name="bench", **said)), None)


# What is refused, and the files.


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"name": "Bench"}, "--name 'Bench'"),
        ({"name": "b" * 41}, "at most 40"),
        ({"namespace": "a b"}, "--namespace"),
        ({"pvc": "../x"}, "--pvc"),
        ({"s3_secret": "A"}, "--s3-secret"),
        ({"cpu": "many"}, "--cpu"),
        ({"memory": "lots"}, "--memory"),
        ({"shm_size": "-1Gi"}, "--shm-size"),
        ({"mount_path": "data"}, "--mount-path"),
        ({"mount_path": "/"}, "--mount-path"),
        ({"image": "a b"}, "--image"),
        ({"node_selector": {"bad key": "x"}}, "--node-selector"),
    ],
)
def test_what_the_api_server_would_refuse_is_refused_here(said: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=re.escape(why)) as caught:
        put(**said)
    assert caught.value.hint


@pytest.mark.parametrize("target", CLUSTER)
def test_a_pod_that_could_not_read_the_data_is_refused(target: str) -> None:
    for asked, said, why in (
        (ask(), {"image": ""}, "no --image"),
        (ask(), {"pvc": ""}, "has no volume"),
        (ask(data_dir="/elsewhere/x"), {}, "not below --mount-path /data"),
        (ask(data_dir="s3://b/x", endpoint_url="http://127.0.0.1:9000"), {}, "is the pod itself"),
    ):
        with pytest.raises(UsageError, match=why):
            documents(target, asked, **said)


def test_credentials_in_a_url_are_refused() -> None:
    with pytest.raises(UsageError, match="carries credentials"):
        ask(data_dir="s3://key:secret@bucket/x")


def test_nothing_is_overwritten_but_what_export_wrote(tmp_path: Path) -> None:
    files = {"a.yaml": as_yaml([{"a": 1}]), "b.sbatch": f"#!/bin/bash\n{MARK}\n"}
    write_files(tmp_path, files, force=False)
    with pytest.raises(UsageError, match=r"a\.yaml exists") as caught:
        write_files(tmp_path, files, force=False)
    assert "--force" in caught.value.hint
    write_files(tmp_path, {**files, "a.yaml": as_yaml([{"a": 2}])}, force=True)
    assert yaml.safe_load((tmp_path / "a.yaml").read_text()) == {"a": 2}
    (tmp_path / "b.sbatch").write_text("#!/bin/bash\necho mine\n")
    with pytest.raises(UsageError, match="was not written by"):
        write_files(tmp_path, {**files, "a.yaml": as_yaml([{"a": 3}])}, force=True)
    assert yaml.safe_load((tmp_path / "a.yaml").read_text()) == {"a": 2}, "all or nothing"


def test_yaml_is_read_back_as_it_was() -> None:
    shared = {"x": "1"}
    document = {
        "on": "off",
        "number": "0123",
        "octal": "0o7",
        "text": "a\nb: c\n",
        "again": shared,
        "twice": shared,
        "null": "~",
        "list": [None, True],
    }
    text = as_yaml([document])
    assert list(yaml.safe_load_all(text)) == [document] and "&id" not in text


def test_names_and_the_table() -> None:
    assert default_name("train-resnet50") == "storagebench-train-resnet50"
    assert len(default_name("x" * 100)) <= 40
    for name in ("quick", "dlrm_columns", "9-lives"):
        assert checked(Place(name=default_name(name)))
    from storagebench.commands.export import command

    (choice,) = (option.type for option in command.params if option.name == "target")
    assert set(choice.choices) == set(TARGETS)


def test_the_pipeline_generates_the_dataset_that_the_run_was_asked_for() -> None:
    from storagebench.export.kfpcompile import defaults

    asked = ask(("dataset.num_samples", 64, "--set"), ("dataset.seed", 7, "--set"), client="s3fs", data_dir="s3://b/x")
    found = defaults(asked, put(accelerators_per_host=2))
    assert found["generate_options"] == ["--set", "dataset.num_samples=64", "--set", "dataset.seed=7", "--storage-option", "client=s3fs"]
    assert found["run_options"][:2] == ["--num-accelerators", "2"] and "--data-dir" not in found["run_options"]
    assert (found["workload"], found["data_dir"], found["exists"]) == ("unet3d", "s3://b/x", False)
    assert json.dumps(found)


def test_a_workload_file_goes_to_the_pod_as_a_config_map() -> None:
    config, job = documents("job", ask(name="./ours.yaml"))
    (pod,) = pods(job)
    mount = next(mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "workload")
    volume = next(volume for volume in pod["volumes"] if volume["name"] == "workload")
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    (file,) = config["data"]
    assert pod["containers"][0]["command"][2] == f"{mount['mountPath']}/{file}"
    assert replace(ask(), workload_yaml="").run_words("", 1)[2] == "unet3d"
