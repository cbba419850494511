"""`import SOURCE`: a benchmark dataset out of real data."""

from __future__ import annotations

import click

from storagebench.commands.options import data_dir_option, parse_storage_options, storage_options


@click.command("import")
@click.argument("source", type=click.Path())
@data_dir_option
@storage_options
@click.option(
    "--in-place", is_flag=True, help="Copy nothing: a manifest of SOURCE's files as they lie, such as DLIO's; nothing is written beside them."
)
@click.option(
    "--format",
    "format_name",
    help="Format to write (raw where not given: see `storagebench list formats`); with --in-place, the format that is there (by the names of the files).",
)
@click.option("--column", metavar="NAME", help="Binary or image column of a Parquet source, where there are several.")
@click.option("--samples-per-shard", type=click.IntRange(1), default=1000, show_default=True, help="Samples in one shard, at most.")
@click.option("--row-group-size", default="8MiB", show_default=True, help="Record bytes in one Parquet row group.")
@click.option("--num-subfolders", type=click.IntRange(0), default=0, show_default=True, help="Spread the shards over so many folders.")
@click.option("--num-threads", type=click.IntRange(0, 1024), default=0, show_default=True, help="Writers; 0 chooses.")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def command(
    source: str,
    data_dir: str,
    storage_option: tuple[str, ...],
    in_place: bool,
    format_name: str | None,
    column: str | None,
    samples_per_shard: int,
    row_group_size: str,
    num_subfolders: int,
    num_threads: int,
    as_json: bool,
) -> None:
    """Make a dataset out of SOURCE: a folder of files, an ImageFolder tree (labels from folder names), or Parquet. Bytes stay as they are.

    With --in-place the files themselves are measured, where they lie: npz, npy, tfrecord, hdf5, jpeg, png, csv and indexed_binary as DLIO makes them, or
    raw for any others. --data-dir then is a folder of your own for the manifest, and SOURCE may be a URL of the same kind of storage.
    """
    from storagebench.build import import_dataset
    from storagebench.commands.dataset_text import made
    from storagebench.commands.progress import counting
    from storagebench.registry import format_info
    from storagebench.storage import open_store
    from storagebench.units import parse_size

    if format_name is not None:
        format_info(format_name)
    if in_place:
        click.echo(_in_place(source, data_dir, storage_option, format_name, num_threads, as_json), nl=False)
        return
    row_group_bytes = parse_size(row_group_size)
    store = open_store(data_dir, parse_storage_options(storage_option))
    try:
        with counting("import") as progress:
            dataset = import_dataset(
                source,
                store,
                format=format_name or "raw",
                column=column,
                samples_per_shard=samples_per_shard,
                row_group_bytes=row_group_bytes,
                num_subfolders=num_subfolders,
                num_threads=num_threads,
                progress=progress,
            )
    finally:
        store.close()
    click.echo(made(dataset, data_dir, as_json), nl=False)


_OF_COPIES = ("column", "samples_per_shard", "row_group_size", "num_subfolders")


def _in_place(source: str, data_dir: str, storage_option: tuple[str, ...], format_name: str | None, num_threads: int, as_json: bool) -> str:
    from storagebench.commands.dataset_text import made
    from storagebench.commands.progress import counting, say
    from storagebench.datasets.foreign import SUFFIXES
    from storagebench.errors import UsageError
    from storagebench.inplace import import_in_place
    from storagebench.storage import open_store

    context = click.get_current_context()
    given = [name for name in _OF_COPIES if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
    if given:
        raise UsageError(f"--{given[0].replace('_', '-')} is for a copy, and --in-place makes none", "leave it out")
    if format_name is not None and format_name not in SUFFIXES:
        raise UsageError(
            f"files of format {format_name} cannot be measured in place", f"these can: {', '.join(SUFFIXES)}; leave --in-place out to copy"
        )
    store = open_store(data_dir, parse_storage_options(storage_option))
    try:
        with counting("import") as progress:
            found = import_in_place(source, store, format=format_name, num_threads=num_threads, progress=progress)
    finally:
        store.close()
    for note in found.notes:
        say(f"note: {note}")
    return made(found.dataset, data_dir, as_json)
