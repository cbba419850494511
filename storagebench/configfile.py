"""YAML plus overrides into a `Workload`, with the provenance of every value. Unknown, repeated and mistyped keys are errors, all told at once.

A file may hold, beside the workload's own keys, what is different with one profile or accelerator: `profiles: {NAME: {...}}` and `accelerators: {NAME: {...}}`
(also within a profile), each with keys of the workload. The chosen ones are laid over the rest in this order, and options over all of them.

Only PyYAML's safe loader is used, on at most 1 MiB, without aliases, merge keys or repeated keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from storagebench.errors import UsageError, did_you_mean
from storagebench.workload import SECTIONS, TrainSpec, Workload

MAX_CONFIG_BYTES = 2**20
_MAX_DEPTH = 50
# What synthetic records are made of: those of a task are what they are.
_OF_SYNTHETIC_RECORDS = ("record_length_bytes", "record_length_bytes_stdev", "compressibility")
CONFIG_DIR = Path(__file__).parent / "configs"
_PROFILES, _ACCELERATORS = "profiles", "accelerators"
Path_ = tuple[str, ...]


@dataclass(frozen=True)
class Configured:
    """A workload, and for each set field ("run.cache") where its value came from; a field that is not in it has its default."""

    workload: Workload
    provenance: Mapping[str, str]


def known_workloads() -> list[str]:
    """Names of the workloads that come with storagebench."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.yaml"))


def load_workload(name: str, overrides: Sequence[tuple[str, Any, str]] = ()) -> Configured:
    """The workload `name` (a shipped one, or the path of a YAML file) with overrides (key path, value, where it was said) on top.

    Raises UsageError that lists every unknown or bad key at once, with file and line.
    """
    path = _find(name)
    document, lines = read_yaml(path, _unknown_key_in_layer)
    values, provenance = _layered(document, lines, path.name, overrides)
    problems: list[str] = []
    for key, value, origin in overrides:
        parts = tuple(key.split("."))
        problem = unknown_key(parts)
        if problem:
            problems.append(f"{origin}: {problem}")
            continue
        _put(values, parts, value)
        provenance[key] = origin
    workload: Workload | None = None
    try:
        workload = Workload.model_validate(values)
    except ValidationError as error:
        problems += [_sentence(item, provenance, path.name) for item in error.errors()]
    problems += _beside_task(workload, overrides) if workload is not None else []
    if problems or workload is None:
        raise UsageError("; ".join(problems), "see `storagebench plan --help` for the options, or mend the file")
    return Configured(workload, provenance)


def _beside_task(workload: Workload, overrides: Sequence[tuple[str, Any, str]]) -> Iterator[str]:
    """What was asked of the records of a task that only synthetic records can have."""
    task = workload.dataset.task
    for key, value, origin in overrides if task else ():
        if key.removeprefix("dataset.") in _OF_SYNTHETIC_RECORDS:
            yield f"{origin}: {key} is {value}, and the records of task {task} are real images of their own length"


def variants(name: str) -> list[Workload]:
    """The workload with each of its profiles and accelerators, the file's own profile first; where it names no accelerator, once."""
    path = _find(name)
    found = []
    for profile in profiles_of(read_yaml(path, _unknown_key_in_layer)[0]):
        asked = [("train.profile", profile, "variants")]
        for accelerator in load_workload(name, asked).workload.train.compute_time_s or [""]:
            found.append(load_workload(name, [*asked, ("run.accelerator", accelerator, "variants")]).workload)
    return found


def profiles_of(document: Mapping[str, Any]) -> list[str]:
    """Names of a file's profiles, its own first."""
    default = TrainSpec.model_fields["profile"].default
    train = document.get("train")
    own = str(train.get("profile", default) if isinstance(train, dict) else default)
    return [own, *(name for name in _mapping(document, _PROFILES) if name != own)]


def _mapping(values: Any, key: str) -> dict[str, Any]:
    """The mapping under that key, empty where it is missing. Raises UsageError where it is something else."""
    found = values.get(key, {}) if isinstance(values, dict) else {}
    if not isinstance(found, dict):
        raise UsageError(f"key {key!r} holds {str(found)[:80]!r}, and a mapping belongs there", "mend the file")
    return found


def _layered(
    document: dict[str, Any], lines: dict[Path_, int], file: str, overrides: Sequence[tuple[str, Any, str]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The workload's own keys with the chosen layers on top, and where each value stands. Raises UsageError for a profile that the file does not have."""
    asked = {key: value for key, value, _ in overrides}
    known = profiles_of(document)
    profile = asked.get("train.profile", known[0])
    if profile not in known:
        raise UsageError(f"workload {file} has no profile {profile!r}", f"it has {', '.join(known)}")
    run = document.get("run")
    own_accelerator = run.get("accelerator", "") if isinstance(run, dict) else ""
    accelerator = str(asked.get("run.accelerator", own_accelerator)).partition(":")[0]
    values: dict[str, Any] = {}
    provenance: dict[str, str] = {}
    own = (_PROFILES, profile)
    for prefix in ((), (_ACCELERATORS, accelerator), own, (*own, _ACCELERATORS, accelerator)):
        layer = document
        for part in prefix:
            layer = _mapping(layer, part)
        for key, value in _leaves(layer):
            _put(values, key, value)
            line = lines.get((*prefix, *key))
            if line is not None:
                provenance[".".join(key)] = f"{file}:{line}"
    if profile != known[0]:
        _put(values, ("train", "profile"), profile)
    return values, provenance


def _leaves(layer: Mapping[str, Any]) -> Iterator[tuple[Path_, Any]]:
    """(key path, value) of a layer, without the layers in it. Below a section's field all is one value."""
    for key, value in layer.items():
        if key in SECTIONS and isinstance(value, dict):
            yield from (((key, name), item) for name, item in value.items())
        elif key not in (_PROFILES, _ACCELERATORS):
            yield (key,), value


def changed(configured: Configured, settings: Mapping[str, Any], origin: str) -> Configured:
    """The same request with these fields (key path -> value) set anew. Raises UsageError for a value that does not fit."""
    values = configured.workload.model_dump()
    for key, value in settings.items():
        _put(values, tuple(key.split(".")), value)
    provenance = {**configured.provenance, **dict.fromkeys(settings, origin)}
    try:
        return Configured(Workload.model_validate(values), provenance)
    except ValidationError as error:
        raise UsageError("; ".join(_sentence(item, provenance, origin) for item in error.errors()), "choose other settings") from None


def _find(name: str) -> Path:
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"workload file {name!r} does not exist", "give a shipped workload's name or the path of a YAML file")
        return path
    path = CONFIG_DIR / f"{name}.yaml"
    if name not in known_workloads():
        raise UsageError(f"unknown workload {name!r}", did_you_mean(name, known_workloads()))
    return path


def parse_scalar(text: str) -> Any:
    """A `--set` value: a YAML scalar or list (`true`, `5`, `[a, b]`); a size or duration stays text for the model to read."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def read_yaml(path: Path, unknown_key: Callable[[Path_], str]) -> tuple[dict[str, Any], dict[Path_, int]]:
    """A file's mapping, and the line of each key that has no keys below it; keys inside a list stand below the part "-".

    `unknown_key` says why a key path is not known, or gives an empty string. Raises UsageError that tells all unknown and repeated keys at once.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "give the path of a YAML file") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise UsageError(f"{path.name} has {len(data)} bytes, over the limit of {MAX_CONFIG_BYTES}", "a workload is a page of YAML")
    try:
        for event in yaml.parse(data, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise UsageError(f"{path.name}:{line} uses a YAML alias", "write the value out")
        node = yaml.compose(data, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError) as error:
        raise UsageError(f"{path.name} is not YAML: {' '.join(str(error).split())[:300]}", "mend the file") from None
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{path.name} holds no mapping", "start from one of the shipped workloads")
    lines: dict[Path_, int] = {}
    problems: list[str] = []
    values = _Reader(lines, problems, path.name, unknown_key).construct(node, ())
    if problems:
        raise UsageError("; ".join(problems), "mend the file")
    return values, lines


@dataclass(frozen=True)
class _Reader:
    """Plain values out of YAML nodes; what it finds of lines and problems it adds to the two collections it was given."""

    lines: dict[Path_, int]
    problems: list[str]
    file: str
    unknown_key: Callable[[Path_], str]

    def construct(self, node: Any, prefix: Path_) -> Any:
        if len(prefix) > _MAX_DEPTH:
            raise UsageError(f"{self.file} nests deeper than {_MAX_DEPTH}", "mend the file")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, prefix)
        if isinstance(node, yaml.SequenceNode):
            return [self.construct(item, (*prefix, "-")) for item in node.value]
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError) as error:
            self.problems.append(f"{self.file}:{node.start_mark.line + 1}: {' '.join(str(error).split())[:200]}")
            return None
        finally:
            loader.dispose()

    def _mapping(self, node: Any, prefix: Path_) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
            where, path = f"{self.file}:{key_node.start_mark.line + 1}", (*prefix, key)
            if key in result:
                self.problems.append(f"{where}: key {'.'.join(path)} stands twice")
            if key == "<<":
                self.problems.append(f"{where}: merge keys are not read")
            problem = self.unknown_key(path)
            if problem:
                self.problems.append(f"{where}: {problem}")
            result[key] = self.construct(value_node, path)
            if not isinstance(value_node, yaml.MappingNode) or not value_node.value:
                self.lines[path] = key_node.start_mark.line + 1
        return result


def _without_layers(parts: Path_) -> Path_:
    """The key path within the layer that it stands in; empty for the name of a layer, or of a group of them."""
    for group in (_PROFILES, _ACCELERATORS):
        if parts and parts[0] == group:
            parts = parts[2:]
    return parts


def _unknown_key_in_layer(parts: Path_) -> str:
    inner = _without_layers(parts)
    return unknown_key(inner) if inner else ""


def unknown_key(parts: Path_) -> str:
    """Why a key path does not exist in the model, or an empty string."""
    top = list(Workload.model_fields)
    if parts[0] not in top:
        flat = {name: section for section, model in SECTIONS.items() for name in model.model_fields}
        if parts[0] in flat:
            return f"key {parts[0]!r} stands in section {flat[parts[0]]!r}: write {flat[parts[0]]}.{parts[0]}"
        return f"unknown key {parts[0]!r}: {did_you_mean(parts[0], top)}"
    if len(parts) == 1 or parts[0] not in SECTIONS:
        return "" if len(parts) == 1 else f"key {'.'.join(parts)!r} goes below {parts[0]!r}, which is a single value"
    fields = SECTIONS[parts[0]].model_fields
    if parts[1] not in fields:
        return f"unknown key {'.'.join(parts)!r}: {did_you_mean(parts[1], list(fields))}"
    return ""


def _put(values: dict[str, Any], parts: Path_, value: Any) -> None:
    for part in parts[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            return
    values[parts[-1]] = value


def _sentence(item: Any, provenance: Mapping[str, str], file: str) -> str:
    key = ".".join(str(part) for part in item["loc"])
    origin = provenance.get(key, file)
    if item["type"] == "extra_forbidden":
        return f"{origin}: unknown key {key!r}"
    message = str(item["msg"]).removeprefix("Value error, ")
    given = "" if isinstance(item["input"], dict) else f" (given: {str(item['input'])[:80]!r})"
    return f"{origin}: {key or 'workload'}: {message}{given}"


def place_of(path: Path_, file: str, lines: Mapping[Path_, int]) -> str:
    """`FILE:LINE` of a key, or of the nearest one above it that has a line; `lines` as `read_yaml` gives them."""
    while path:
        below = [line for key, line in lines.items() if key[: len(path)] == path]
        if below:
            return f"{file}:{min(below)}"
        path = path[:-1]
    return file
