"""`verify`: is the dataset whole."""

from __future__ import annotations

import json
from contextlib import closing, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from storagebench.commands.options import data_dir_option, parse_storage_options, storage_options
from storagebench.errors import EXIT_DATASET, EXIT_OK

if TYPE_CHECKING:
    from storagebench.manifest import Dataset
    from storagebench.verifycrew import Found, Verified

_SHOWN = 20
_HINT = "remove the dataset's folder yourself (storagebench deletes no dataset), then generate or import it again"
_HINT_IN_PLACE = "the files are not storagebench's: have their maker write them again; if they are meant to be so, import them in place anew"


@click.command("verify")
@data_dir_option
@storage_options
@click.option("--num-threads", type=click.IntRange(0, 1024), default=0, show_default=True, help="Readers; 0 chooses.")
@click.option(
    "--placement",
    type=click.Choice(["shared", "replicated", "partitioned"]),
    help="Of several hosts: one storage, or a whole copy on each. A partitioned dataset says so itself.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all findings as JSON.")
def command(data_dir: str, storage_option: tuple[str, ...], num_threads: int, placement: str | None, as_json: bool) -> int:
    """Read every shard: its size, its checksum, and the checksum of each sample. Exit code 3 where something is wrong.

    Of a dataset that is partitioned over hosts, the part is read that lies here. Started by torchrun, srun or mpirun, all its processes share the work, on
    all hosts.
    """
    from storagebench.commands.progress import counting
    from storagebench.commands.together import together
    from storagebench.storage import open_store
    from storagebench.verifycrew import verify_here, verify_together

    hint = "see what happened to that host, then verify again"
    with together("verify", hint) as crew, closing(open_store(data_dir, parse_storage_options(storage_option))) as store:
        with counting("verify") if crew.member == 0 else nullcontext() as progress:
            if crew.num_members == 1:
                verified = verify_here(store, placement, num_threads, progress)
            else:
                verified = verify_together(crew, store, placement, num_threads, progress)
        if crew.member == 0:
            _say(verified, data_dir, as_json)
        crew.exchange(None)  # a launcher ends all others when the first one has ended with an error
    return EXIT_DATASET if _errors(verified) else EXIT_OK


def _errors(verified: Verified) -> list[Found]:
    return [found for found in verified.found if found.problem.severity == "error"]


def _say(verified: Verified, data_dir: str, as_json: bool) -> None:
    from storagebench.commands.dataset_text import facts, made

    dataset, errors = verified.dataset, _errors(verified)
    if as_json:
        problems = [{**asdict(found.problem), **({"host": found.host} if found.host else {})} for found in verified.found]
        parts = {"read": {host: list(span) for host, span in verified.spans.items()}} if dataset.partition else {}
        click.echo(json.dumps({**facts(dataset, data_dir), **parts, "whole": not errors, "problems": problems}, indent=1))
    elif not errors:
        click.echo(f"whole: {made(dataset, data_dir, False)}", nl=False)
        if dataset.partition:
            click.echo(
                "".join(f"read {f'on host {host}' if host else 'here'}: {_shards(dataset, span)}\n" for host, span in verified.spans.items()),
                nl=False,
            )
    for found in verified.found[:_SHOWN]:
        where = f"host {found.host}: " if found.host else ""
        click.echo(f"{found.problem.severity}: {where}{found.problem.shard}: {found.problem.message}", err=True)
    if len(verified.found) > _SHOWN:
        click.echo(f"note: {len(verified.found) - _SHOWN} more; see them with --json", err=True)
    if errors:
        click.echo(f"hint: {_HINT_IN_PLACE if dataset.data_root else _HINT}", err=True)


def _shards(dataset: Dataset, span: tuple[int, int]) -> str:
    part = dataset.partition.index(span) + 1
    return f"part {part} of {len(dataset.partition)}, the {span[1] - span[0]} shards {dataset.names[span[0]]} to {dataset.names[span[1] - 1]}"
