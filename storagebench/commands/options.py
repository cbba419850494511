"""Options that several verbs share, made out of the workload model: one field, one option, one help text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

import click

from storagebench.configfile import Configured, load_workload, parse_scalar
from storagebench.errors import UsageError
from storagebench.workload import PAYLOAD_OF_FORMAT, PAYLOAD_OF_TASK, option_fields

_Function = TypeVar("_Function", bound=Callable[..., Any])

DATASET_OPTIONS = (
    "--format", "--task", "--payload", "--num-samples", "--samples-per-shard", "--record-length", "--record-length-stdev", "--compressibility",
    "--row-group-size", "--num-subfolders", "--data-seed",
)  # fmt: skip
RUN_OPTIONS = (
    "--loader", "--accelerator", "--profile", "--num-accelerators", "--accelerators-per-process", "--placement", "--held-out-dir", "--batch-size", "--epochs", "--max-steps", "--duration", "--compute-time", "--num-workers",
    "--prefetch-batches", "--io-depth", "--shuffle", "--shuffle-buffer", "--decode", "--cache", "--sync", "--remainder", "--listing", "--seed", "--verify", "--warmup-steps",
    "--null-duration", "--headroom-duration", "--au-threshold", "--memory-limit", "--writers", "--write-rate", "--write-shard-samples", "--write-keep-shards", "--record-length-resize",
    "--target-quality", "--edition", "--learning-rate",
)  # fmt: skip
# Which host makes how much follows from its accelerators.
GENERATE_OPTIONS = (*DATASET_OPTIONS, "--placement", "--held-out-dir", "--num-accelerators")
QUERY_OPTIONS = (
    "--scenario", "--target-qps", "--latency-limit", "--percentile", "--min-duration", "--min-queries", "--num-workers", "--decode", "--cache", "--verify",
    "--record-length-resize",
)  # fmt: skip


def _name(flag: str) -> str:
    return "opt_" + flag.removeprefix("--").replace("-", "_")


def _choices(annotation: Any) -> list[str]:
    return [str(value) for value in get_args(annotation)] if get_origin(annotation) is Literal else []


def workload_options(flags: tuple[str, ...]) -> Callable[[_Function], _Function]:
    """Adds these options of the workload model, and --set, --scale; the values arrive as `opt_...` and go to `configured`."""
    fields = option_fields()

    def decorate(function: _Function) -> _Function:
        function = click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set any field, such as loader.shuffle=false.")(
            function
        )
        for flag in reversed(flags):
            _, _, info = fields[flag]
            choices = _choices(info.annotation)
            text = f"{info.description}{'' if not choices else ' [' + '|'.join(choices) + ']'}"
            function = click.option(flag, _name(flag), default=None, help=text[0].upper() + text[1:] + ".")(function)
        return function

    return decorate


def with_payload(values: dict[str, Any]) -> dict[str, Any]:
    """`--format jpeg` alone means JPEG payload: there is no other. So it is with the other formats of one kind of record, and with tasks."""
    needed = PAYLOAD_OF_TASK.get(values.get("opt_task") or "") or PAYLOAD_OF_FORMAT.get(values.get("opt_format") or "")
    return {**values, "opt_payload": needed} if needed and values.get("opt_payload") is None else values


def configured(workload: str, values: Mapping[str, Any], settings: tuple[str, ...], scale: str | None = None) -> Configured:
    """The workload with what was said on the command line on top, every value with its origin."""
    fields = option_fields()
    overrides: list[tuple[str, Any, str]] = []
    for flag, (section, field, _) in fields.items():
        value = values.get(_name(flag))
        if value is not None:
            overrides.append((f"{section}.{field}", value, flag))
    seen: set[str] = set()
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise UsageError(f"--set {setting!r} has no '='", "write it as --set section.field=value")
        if key in seen:
            raise UsageError(f"--set {key} stands twice", "say it once")
        seen.add(key)
        overrides.append((key, parse_scalar(text), "--set"))
    if scale is not None:
        overrides.append(_scaled(workload, overrides, scale))
    return load_workload(workload, overrides)


def _scaled(workload: str, overrides: list[tuple[str, Any, str]], scale: str) -> tuple[str, Any, str]:
    if any(key == "dataset.num_samples" for key, _, _ in overrides):
        raise UsageError("--scale and --num-samples both choose the number of samples", "give one of them")
    try:
        factor = float(scale)
    except ValueError:
        factor = -1.0
    if not 0 < factor < float("inf"):
        raise UsageError(f"--scale is {scale!r}, and must be a number above 0", "such as 0.01")
    num_samples = load_workload(workload, overrides).workload.dataset.num_samples
    return ("dataset.num_samples", max(1, round(num_samples * factor)), f"--scale {scale}")


def data_dir_option(function: _Function) -> _Function:
    return click.option("--data-dir", required=True, metavar="URL", help="Path, file://, s3://bucket/prefix or any fsspec URL of the dataset.")(
        function
    )


def storage_options(function: _Function) -> _Function:
    text = "Option of the storage, such as endpoint_url=http://127.0.0.1:9000 (credentials come from the AWS chain)."
    return click.option("--storage-option", "storage_option", multiple=True, metavar="KEY=VALUE", help=text)(function)


_SECRETS = ("key", "secret", "token", "password")


def parse_storage_options(pairs: tuple[str, ...]) -> dict[str, str]:
    """`k=v` pairs. Raises UsageError for a pair without '=', said twice, or that looks like a credential."""
    options: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise UsageError(f"--storage-option {key!r} has no '='", "write it as --storage-option key=value")
        if key in options:
            raise UsageError(f"--storage-option {key} stands twice", "say it once")
        if any(word in key.lower() for word in _SECRETS):
            raise UsageError(
                f"--storage-option {key} looks like a credential", "put it into the environment (AWS_ACCESS_KEY_ID ...) or an AWS profile"
            )
        options[key] = value
    return options
