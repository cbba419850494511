"""`list`: what is there, what is installed, what each accelerator demands. Imports no adapter."""

from __future__ import annotations

import json
from typing import Any

import click

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

    click.echo(listing_text(rows), nl=False)


def _workloads() -> list[dict[str, Any]]:
    from storagebench.configfile import known_workloads, load_workload

    rows = []
    for name in known_workloads():
        workload = load_workload(name).workload
        data = workload.dataset
        rows.append(
            {
                "name": name,
                "format": data.format,
                "num_samples": data.num_samples,
                "record_length_bytes": data.record_length_bytes,
                "batch_size": workload.train.batch_size,
                "source": workload.source,
                "about": workload.description,
            }
        )
    return rows


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
            "installed": _installed(info.needs),
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
            "options": ["endpoint_url=URL", "region=NAME", "client=s3fs|obstore", "ranges=auto|native|arrow", "anonymous=true"],
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
    from storagebench.configfile import known_workloads, load_workload

    rows = []
    for name in known_workloads():
        workload = load_workload(name).workload
        for accelerator, seconds in workload.train.compute_time_s.items():
            per_s = workload.train.batch_size / seconds if seconds else None
            rows.append(
                {
                    "name": accelerator,
                    "workload": name,
                    "compute_time_s": seconds,
                    "samples_per_s": per_s,
                    "demand_mb_per_s": None if per_s is None else per_s * workload.dataset.record_length_bytes / 1e6,
                    "profile": workload.train.profile,
                }
            )
    return rows


_ROWS = {"workloads": _workloads, "loaders": _loaders, "formats": _formats, "storage": _storage, "accelerators": _accelerators}
