"""`list`: what is there, what is installed, what each accelerator demands. Imports no adapter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from storagebench.workload import Workload

TOPICS = ("workloads", "loaders", "formats", "storage", "accelerators")


@click.command("list")
@click.argument("topic", required=False, type=click.Choice(TOPICS))
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def command(topic: str | None, as_json: bool) -> None:
    """What is there: workloads, loaders, formats, storage, accelerators (all without a TOPIC)."""
    rows = {name: _ROWS[name]() for name in ([topic] if topic else TOPICS)}
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    from storagebench.report.listing import listing_text

    if "workloads" in rows:
        rows["workloads"] = [_in_short(row) for row in rows["workloads"]]

    click.echo(listing_text(rows), nl=False)


def _workloads() -> list[dict[str, Any]]:
    from storagebench.configfile import known_workloads, variants

    rows = []
    for name in known_workloads():
        each = variants(name)
        workload, data = each[0], each[0].dataset
        rows.append(
            {
                "name": name,
                "status": "here",
                "format": data.format,
                "num_samples": data.num_samples,
                "record_length_bytes": data.record_length_bytes,
                "dataset_gb": data.num_samples * data.record_length_bytes / 1e9,
                "measures": workload.measures,
                "targets": [{"edition": edition, **target.model_dump()} for edition, target in workload.train.targets.items()],
                "accelerators": _demands(each),
                "source": workload.source,
                "about": workload.description,
            }
        )
    return rows + _not_yet()


def _not_yet() -> list[dict[str, Any]]:
    """What MLPerf Storage has and this version does not run."""
    from storagebench.checks.not_yet import NOT_YET

    return [{"name": row.name, "status": "not yet", "source": f"MLPerf Storage {', '.join(row.editions)}", "about": row.about} for row in NOT_YET]


def _in_short(row: dict[str, Any]) -> dict[str, Any]:
    """A workload's row as a terminal has room for it."""
    known = row.get("accelerators", [])
    demand = [f"{one['name']} {_rounded(one['demand_mb_per_s'])}" for one in known if one["profile"] == known[0]["profile"]]
    kept = {name: row.get(name) for name in ("name", "status", "format", "dataset_gb", "measures")}
    return {**kept, "demand_mb_per_s": demand, "about": row["about"]}


def _rounded(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _installed(needs: tuple[str, ...], extra: str = "") -> str:
    """`yes`, or what is missing; for a loader of an extra the one command that installs it."""
    from storagebench.registry import missing_modules

    missing = missing_modules(needs)
    if missing and extra:
        return f"pip install 'storagebench[{extra}]'"
    return f"needs {', '.join(missing)}" if missing else "yes"


def _loaders() -> list[dict[str, Any]]:
    from storagebench.registry import installed_version, loaders, plugins

    rows = [
        {
            "name": name,
            "installed": _installed(info.needs, info.extra),
            "version": installed_version(info.distribution),
            "formats": list(info.formats),
            "storage": list(info.stores),
            "workers": info.workers,
            "least_decode": info.least_decode,
            "not_yet_run": info.not_yet_run,
            "breaks_contract": [f"{what} ({case})" for what, case in info.breaks],
            "about": info.about,
        }
        for name, info in loaders().items()
    ]
    return rows + [{"name": name, "installed": f"broken: {why}"} for name, why in plugins("loaders")[1].items()]


def _formats() -> list[dict[str, Any]]:
    from storagebench.registry import formats, loaders, plugins

    rows = [
        {
            "name": name,
            "installed": _installed(info.needs, info.extra),
            "loaders": [loader for loader, row in loaders().items() if name in row.formats and loader != "null"],
            "about": info.about,
        }
        for name, info in formats().items()
    ]
    return rows + [{"name": name, "installed": f"broken: {why}"} for name, why in plugins("formats")[1].items()]


def _storage() -> list[dict[str, Any]]:
    return [
        {
            "name": "posix",
            "url": "PATH or file://PATH",
            "installed": "yes",
            "options": ["io=buffered|direct|dontcache"],
            "about": "local and mounted file systems",
        },
        {
            "name": "s3",
            "url": "s3://BUCKET/PREFIX",
            "installed": _installed(("obstore", "s3fs", "pyarrow")),
            "options": [
                "endpoint_url=URL[,URL...]",
                "region=NAME",
                "client=s3fs|obstore",
                "ranges=auto|native|arrow",
                "anonymous=true",
                "concurrency=NUMBER",
                "retries=NUMBER",
                "retry_budget=SHARE%|NUMBER",
                "timeout=TIME",
            ],
            "about": "objects of any S3 server",
        },
        {"name": "memory", "url": "memory://NAME", "installed": "yes", "options": [], "about": "this process's own memory"},
        {"name": "fsspec", "url": "any other fsspec URL", "installed": _installed(("fsspec",)), "options": [], "about": "whatever else fsspec reads"},
        {
            "name": "shaped",
            "url": "shaped+URL",
            "installed": "yes",
            "options": ["bandwidth=RATE", "latency=TIME", "jitter=TIME", "seed=NUMBER", "those of the store at URL"],
            "about": "any of the above with a known bandwidth and latency, for tests whose answer is known",
        },
    ]


def _accelerators() -> list[dict[str, Any]]:
    from storagebench.configfile import known_workloads, variants

    return [row for name in known_workloads() for row in _demands(variants(name))]


def _demands(each: list[Workload]) -> list[dict[str, Any]]:
    """What one accelerator of each of a workload's variants asks of the storage; of a workload of queries, at its published rate of scenario offline."""
    rows = [_demand(workload) for workload in each if workload.run.accelerator]
    for name, per_s in each[0].query.offline_samples_per_s.items():
        demand = per_s * each[0].dataset.record_length_bytes / 1e6
        rows.append({"name": name, "workload": each[0].name, "samples_per_s": per_s, "demand_mb_per_s": demand, "profile": "mlperf-inference"})
    return rows


def _demand(workload: Workload) -> dict[str, Any]:
    """What one accelerator asks of the storage at an AU of 1."""
    train, accelerator = workload.train, workload.run.accelerator
    seconds = train.compute_time_s.get(accelerator, 0.0)
    per_s = train.batch_size / seconds if seconds else None
    return {
        "name": accelerator,
        "workload": workload.name,
        "batch_size": train.batch_size,
        "compute_time_s": seconds,
        "samples_per_s": per_s,
        "demand_mb_per_s": None if per_s is None else per_s * workload.dataset.record_length_bytes / 1e6,
        "profile": train.profile,
    }


_ROWS = {"workloads": _workloads, "loaders": _loaders, "formats": _formats, "storage": _storage, "accelerators": _accelerators}
