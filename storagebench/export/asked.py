"""The run that is exported: what a saved run or a request says, as the words of a command line that gives the same run elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from storagebench.configfile import Configured, known_workloads, load_workload, parse_scalar
from storagebench.errors import UsageError
from storagebench.workload import Workload, option_fields

# What `session` found on its own host and wrote into the run's configuration; elsewhere it is to be found again.
PROBED = "a short probe of the dataset"
_FILE_LINE = re.compile(r"\.ya?ml(:\d+)?$")
_ACCELERATORS = "run.num_accelerators"


@dataclass(frozen=True)
class Asked:
    """A run to be started elsewhere. `shipped` names a workload that comes with storagebench; where there is none, `workload_yaml` is the file.

    `options` are words of `storagebench run`, without the workload, the place of the data, the results and the number of accelerators.
    `data_roots` are the places that have to be there: that of the manifest, and where a dataset in place has another one, that of its shards.
    `exists`: a saved run has read the dataset, so nobody needs to generate it. `accelerators` are those of each host that took part, or is to.
    """

    workload: Workload
    shipped: str
    workload_yaml: str
    options: tuple[str, ...]
    data_dir: str
    storage_options: Mapping[str, str]
    data_roots: tuple[str, ...]
    exists: bool
    accelerators: tuple[int, ...]

    def run_words(self, workload_path: str, num_accelerators: int) -> list[str]:
        """`storagebench run ...` up to where the results go. `workload_path` is where `workload_yaml` will lie."""
        words = ["storagebench", "run", self.shipped or workload_path, "--data-dir", self.data_dir, "--num-accelerators", str(num_accelerators)]
        return [*words, *self.options, *self.storage_words()]

    def storage_words(self) -> list[str]:
        return [word for key, value in sorted(self.storage_options.items()) for word in ("--storage-option", f"{key}={value}")]


def asked_by_options(name: str, configured: Configured, flags: Collection[str], data_dir: str, storage_options: Mapping[str, str]) -> Asked:
    """A request as `storagebench run` takes it. `flags` are those options of the workload model that `run` has."""
    shipped = name if name in known_workloads() else ""
    accelerators = (configured.workload.run.num_accelerators,)
    return _asked(configured, shipped, flags, data_dir, storage_options, (data_dir,), exists=False, accelerators=accelerators)


def asked_by_run(run: Mapping[str, Any], flags: Collection[str], data_dir: str | None, storage_options: Mapping[str, str]) -> Asked:
    """A saved run (its `run.json`); the place of the data and options of the storage may be given anew. Raises UsageError for a run that has no place."""
    configured = Configured(Workload.model_validate(run["config"]), run["provenance"])
    store = run.get("manifest_store") or run["store"]
    url, options = _place_of(store, run["config"]["run"]["cache"])
    roots = (data_dir,) if data_dir else tuple(dict.fromkeys((url, run["store"]["root"])))
    shipped = _same_as_shipped(configured)
    hosts: dict[str, int] = {}
    for member in run.get("members") or [{"host": "", "ranks": configured.workload.run.num_accelerators}]:
        hosts[member["host"]] = hosts.get(member["host"], 0) + member["ranks"]
    return _asked(configured, shipped, flags, data_dir or url, {**options, **storage_options}, roots, exists=True, accelerators=tuple(hosts.values()))


def _asked(
    configured: Configured,
    shipped: str,
    flags: Collection[str],
    data_dir: str,
    storage_options: Mapping[str, str],
    roots: tuple[str, ...],
    exists: bool,
    accelerators: tuple[int, ...],
) -> Asked:
    workload = configured.workload
    if "://" in data_dir and "@" in data_dir.split("://", 1)[1].split("/", 1)[0]:
        raise UsageError("--data-dir carries credentials", "put them into a Secret (--s3-secret) or into the environment")
    workload.compute_time_of_step_s()  # refuses here what would be refused there
    return Asked(
        workload=workload,
        shipped=shipped,
        workload_yaml="" if shipped else _as_yaml(configured),
        options=tuple(_said(configured, flags)) if shipped else (),
        data_dir=data_dir,
        storage_options=dict(storage_options),
        data_roots=roots,
        exists=exists,
        accelerators=accelerators,
    )


def _place_of(store: Mapping[str, Any], cache: str) -> tuple[str, dict[str, str]]:
    """URL and options of a saved store, without what is found or derived anew by the next run."""
    options = dict(store["options"])
    if store["kind"] == "memory" or str(store["root"]).startswith("memory://"):
        raise UsageError(
            f"the run read {store['root']}, which ended with its process", "give --data-dir with a path or URL that other hosts can read"
        )
    options.pop("native_ranges", None)
    options.pop("clock_id", None)
    if options.get("io") == "direct" and cache in ("cold", "direct"):
        del options["io"]
    return ("shaped+" if store["kind"] == "shaped" else "") + store["root"], options


def _same_as_shipped(configured: Configured) -> str:
    """The name of the shipped workload that gives this configuration with what was said on top; "" where there is none."""
    workload, provenance = configured.workload, configured.provenance
    if workload.name not in known_workloads():
        return ""
    values = workload.model_dump()
    overrides = [(key, _at(values, key), origin) for key, origin in provenance.items() if not _of_file(origin) and origin != PROBED]
    try:
        again = load_workload(workload.name, overrides).workload.model_dump()
    except UsageError:
        return ""
    for key in (key for key, origin in provenance.items() if origin == PROBED):
        _set(values, key, _at(again, key))
    return workload.name if again == values else ""


def _said(configured: Configured, flags: Collection[str]) -> list[str]:
    """The options that were given on top of the workload's file."""
    names = {f"{section}.{field}": flag for flag, (section, field, _) in option_fields().items() if flag in flags}
    values = configured.workload.model_dump()
    words: list[str] = []
    for key, origin in sorted(configured.provenance.items()):
        if key == _ACCELERATORS or _of_file(origin) or origin == PROBED:
            continue
        value = _at(values, key)
        if key in names and not isinstance(value, dict | list):
            words += [names[key], _text(value)]
        else:
            words += ["--set", f"{key}={_scalar(value)}"]
    return words


def _as_yaml(configured: Configured) -> str:
    """The whole configuration as a workload file, without what was probed; read again, it gives the same workload."""
    values = configured.workload.model_dump()
    for key, origin in configured.provenance.items():
        section, _, field = key.partition(".")
        if origin == PROBED:
            del values[section][field]
    return yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False, allow_unicode=True)


def _of_file(origin: str) -> bool:
    return _FILE_LINE.search(origin) is not None and not origin.startswith("--")


def _text(value: Any) -> str:
    """A value as an option says it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _scalar(value: Any) -> str:
    """A value as --set says it: text that YAML would read as something else is quoted."""
    text = _text(value)
    return text if parse_scalar(text) == value else json.dumps(value)


def _at(values: Mapping[str, Any], key: str) -> Any:
    found: Any = values
    for part in key.split("."):
        found = found[part]
    return found


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *parts, last = key.split(".")
    for part in parts:
        values = values[part]
    values[last] = value
