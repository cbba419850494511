"""`probe URL`: the raw ceiling of a storage as this client sees it, with fio beside it where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from storagebench.commands.options import parse_storage_options, storage_options

if TYPE_CHECKING:
    from storagebench.probe.fio import FioCeiling
    from storagebench.probe.plan import Group
    from storagebench.probe.probe import Asked, Opened, Probed
    from storagebench.protocols import Store, StoreSpec

_MODES_HELP = "Default for a local path: direct; both may be given."


@click.command("probe")
@click.argument("url")
@click.option("--size", metavar="SIZE", help="Bytes of scratch data where URL holds no dataset, and for --write; 2 GiB, or 256 MiB of objects.")
@click.option("--request-size", "request_sizes", multiple=True, metavar="SIZE", help="Bytes of one request; repeat it. Default 1MiB and 128KiB.")
@click.option("--workload", metavar="NAME", help="Take the request size from this workload's record length.")
@click.option(
    "--seconds", metavar="TIME", default="2", show_default=True, help="Time of one cell, after a ramp of a quarter of it (half a second at most)."
)
@click.option("--write", is_flag=True, help="Measure writes too, on scratch data, fsync included.")
@click.option("--direct", is_flag=True, help=f"O_DIRECT, around the page cache. {_MODES_HELP}")
@click.option("--buffered", is_flag=True, help="Through the page cache, dropped before each pass of reads, and proved.")
@click.option("--fio/--no-fio", "with_fio", default=None, help="fio beside our own prober [default: where it is installed]")
@click.option("--json", "as_json", is_flag=True, help="Print every run as JSON.")
@storage_options
def command(
    url: str,
    size: str | None,
    request_sizes: tuple[str, ...],
    workload: str | None,
    seconds: str,
    write: bool,
    direct: bool,
    buffered: bool,
    with_fio: bool | None,
    as_json: bool,
    storage_option: tuple[str, ...],
) -> None:
    """The raw ceiling of a storage as this client sees it: threads x depth, at these request sizes.

    URL holds a dataset, whose shards are only read; or is a folder or prefix, in which scratch data is made and removed. Started by torchrun, srun or
    mpirun, one process of each host probes, all at the same time, and their rates add up.
    """
    from storagebench.commands.probe_of_all import probe_of_all, refuse_fio
    from storagebench.commands.together import together
    from storagebench.probe.probe import Asked
    from storagebench.storage import parse_url
    from storagebench.units import parse_duration, parse_size

    spec = parse_url(url, parse_storage_options(storage_option))
    asked = Asked(
        size_bytes=None if size is None else parse_size(size),
        request_bytes=_request_bytes(request_sizes, workload),
        seconds=parse_duration(seconds),
        write=write,
        direct=direct,
        buffered=buffered,
        served=_served(spec),
    )
    with together("the probe", "its scratch data is removed on the hosts that are left") as crew:
        if crew.num_members == 1:
            fio = _fio(with_fio, spec.kind, direct or not buffered)
            click.echo(_ended_in_order(spec, asked, fio, url, as_json), nl=False)
            return
        refuse_fio(with_fio)
        text = probe_of_all(crew, _with_connections(spec), asked, url, as_json)
        if crew.member == 0:
            click.echo(text, nl=False)


def _ended_in_order(spec: StoreSpec, asked: Asked, fio: str | None, url: str, as_json: bool) -> str:
    """The probe's text; a signal ends it with its scratch data removed and its store closed."""
    from storagebench.errors import InterruptedRunError
    from storagebench.launch import Interrupted, handling_signals
    from storagebench.storage import open_spec

    store = open_spec(_with_connections(spec))
    try:
        with handling_signals():
            return _probe(store, asked, fio, url, as_json)
    except Interrupted as error:
        ended = InterruptedRunError(error.message.replace("the run", "the probe"), "its scratch data is removed")
        ended.exit_code = error.exit_code
        raise ended from None
    finally:
        store.close()


def _request_bytes(request_sizes: tuple[str, ...], workload: str | None) -> tuple[int, ...]:
    from storagebench.configfile import load_workload
    from storagebench.errors import UsageError
    from storagebench.probe.plan import align
    from storagebench.units import parse_size

    if workload is None:
        return tuple(parse_size(text) for text in request_sizes)
    if request_sizes:
        raise UsageError("--workload and --request-size both choose the request size", "give one of them")
    return (align(load_workload(workload, []).workload.dataset.record_length_bytes),)


def _served(spec: StoreSpec) -> Path | None:
    """The folder behind the URL where our own `serve-s3` on this host serves it."""
    from storagebench.s3server import find_server
    from storagebench.storage.s3_config import endpoint_of_environment

    server = find_server(spec.options.get("endpoint_url") or endpoint_of_environment() or "") if spec.kind == "s3" else None
    return None if server is None else Path(server.directory) / spec.root.removeprefix("s3://")


def _with_connections(spec: StoreSpec) -> StoreSpec:
    """An S3 store that keeps as many connections as the largest cell has threads."""
    from dataclasses import replace

    return replace(spec, options={"concurrency": "64", **spec.options}) if spec.kind == "s3" else spec


def _fio(asked: bool | None, kind: str, direct: bool) -> str | None:
    from storagebench.errors import UsageError
    from storagebench.probe.fio import find_fio, require_fio

    fits = kind == "posix" and direct
    if asked and not fits:
        raise UsageError("--fio reads local files with O_DIRECT only", "probe a local path with --direct, or leave --fio out")
    if not fits or asked is False:
        return None
    return require_fio() if asked else find_fio()


def _probe(store: Store, asked: Asked, fio: str | None, url: str, as_json: bool) -> str:
    from storagebench.commands import probe_text
    from storagebench.commands.probe_of_all import proof_of, shown, warn_of
    from storagebench.commands.progress import Line
    from storagebench.placement import held_here
    from storagebench.probe.probe import opened, probe
    from storagebench.units import format_bytes

    line = Line()
    try:
        with opened(store, asked, held_here) as place:
            warn_of(store, place)
            probed = probe(place, asked.seconds, shown(line))
            beside = _beside(place, probed, fio, asked.seconds, line)
            num_bytes = sum(place.reads.sizes)
            proof = proof_of(place)
    finally:
        line.clear()
    if as_json:
        return probe_text.as_json(url, place.source, num_bytes, probed, beside, proof) + "\n"
    what = "shards of a dataset, only read" if place.source == "dataset" else "scratch files, now removed"
    title = f"{url}: {format_bytes(num_bytes)} in {len(place.reads.sizes)} {what}"
    return probe_text.as_text(title, probed, beside, proof)


def _beside(place: Opened, probed: Probed, fio: str | None, seconds: float, line: Any) -> Mapping[Group, FioCeiling]:
    """fio's ceilings for the groups that it can read: direct, in pieces."""
    from storagebench.probe.fio import fio_ceiling
    from storagebench.probe.places import FilesPlace

    found: dict[Group, FioCeiling] = {}
    if fio is None or not isinstance(place.reads, FilesPlace):
        return found
    for ceiling in probed.ceilings:
        group = ceiling.group
        if group.direction == "read" and group.mode == "direct" and group.pattern != "objects":
            one = fio_ceiling(
                fio, group, place.reads.paths, place.reads.sizes, seconds, lambda setting, rate: line.show(f"fio: {setting}: {rate / 1e6:.0f} MB/s")
            )
            if one is not None:
                found[group] = one
    return found
