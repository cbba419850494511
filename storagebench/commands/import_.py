"""`import SOURCE`: a benchmark dataset out of real data."""

from __future__ import annotations

import click

from storagebench.commands.options import data_dir_option, parse_storage_options, storage_options


@click.command("import")
@click.argument("source", type=click.Path())
@data_dir_option
@storage_options
@click.option("--format", "format_name", default="raw", show_default=True, help="Format to write (see `storagebench list formats`).")
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
    format_name: str,
    column: str | None,
    samples_per_shard: int,
    row_group_size: str,
    num_subfolders: int,
    num_threads: int,
    as_json: bool,
) -> None:
    """Make a dataset out of SOURCE: a folder of files, an ImageFolder tree (labels from folder names), or Parquet. Bytes stay as they are."""
    from storagebench.build import import_dataset
    from storagebench.commands.dataset_text import made
    from storagebench.commands.progress import counting
    from storagebench.registry import format_info
    from storagebench.storage import open_store
    from storagebench.units import parse_size

    format_info(format_name)
    row_group_bytes = parse_size(row_group_size)
    store = open_store(data_dir, parse_storage_options(storage_option))
    try:
        with counting("import") as progress:
            dataset = import_dataset(
                source,
                store,
                format=format_name,
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
