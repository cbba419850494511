"""`verify`: is the dataset whole."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from storagebench.commands.options import data_dir_option, parse_storage_options, storage_options
from storagebench.errors import EXIT_DATASET, EXIT_OK

_SHOWN = 20
_HINT = "remove the dataset's folder yourself (storagebench deletes no dataset), then generate or import it again"
_HINT_IN_PLACE = "the files are not storagebench's: have their maker write them again; if they are meant to be so, import them in place anew"


@click.command("verify")
@data_dir_option
@storage_options
@click.option("--num-threads", type=click.IntRange(0, 1024), default=0, show_default=True, help="Readers; 0 chooses.")
@click.option("--json", "as_json", is_flag=True, help="Print all findings as JSON.")
def command(data_dir: str, storage_option: tuple[str, ...], num_threads: int, as_json: bool) -> int:
    """Read every shard: its size, its checksum, and the checksum of each sample. Exit code 3 where something is wrong."""
    from storagebench.build import verify
    from storagebench.commands.dataset_text import facts, made
    from storagebench.commands.progress import counting
    from storagebench.manifest import load_dataset
    from storagebench.storage import open_store

    store = open_store(data_dir, parse_storage_options(storage_option))
    try:
        dataset = load_dataset(store)
        with counting("verify") as progress:
            problems = verify(store, dataset, num_threads=num_threads, progress=progress)
    finally:
        store.close()
    errors = [problem for problem in problems if problem.severity == "error"]
    if as_json:
        click.echo(json.dumps({**facts(dataset, data_dir), "whole": not errors, "problems": [asdict(problem) for problem in problems]}, indent=1))
    elif not errors:
        click.echo(f"whole: {made(dataset, data_dir, False)}", nl=False)
    for problem in problems[:_SHOWN]:
        click.echo(f"{problem.severity}: {problem.shard}: {problem.message}", err=True)
    if len(problems) > _SHOWN:
        click.echo(f"note: {len(problems) - _SHOWN} more; see them with --json", err=True)
    if errors:
        click.echo(f"hint: {_HINT_IN_PLACE if dataset.data_root else _HINT}", err=True)
    return EXIT_DATASET if errors else EXIT_OK
