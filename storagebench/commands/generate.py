"""`generate WORKLOAD`: a synthetic dataset, or both splits of a small real task."""

from __future__ import annotations

from contextlib import ExitStack, closing, nullcontext
from typing import TYPE_CHECKING, Any

import click

from storagebench.commands.options import (
    GENERATE_OPTIONS,
    configured,
    data_dir_option,
    parse_storage_options,
    storage_options,
    with_payload,
    workload_options,
)

if TYPE_CHECKING:
    from storagebench.manifest import Dataset


@click.command("generate")
@click.argument("workload")
@data_dir_option
@workload_options(GENERATE_OPTIONS)
@storage_options
@click.option("--scale", metavar="FACTOR", help="So many times the workload's samples, such as 0.01.")
@click.option(
    "--num-threads",
    type=click.IntRange(0, 1024),
    default=0,
    show_default=True,
    help="Writers: threads, or processes where making the records is the work; 0 chooses.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def command(
    workload: str,
    data_dir: str,
    settings: tuple[str, ...],
    storage_option: tuple[str, ...],
    scale: str | None,
    num_threads: int,
    as_json: bool,
    **values: Any,
) -> None:
    """Make a synthetic dataset in a format. Interrupted, the same command goes on where it was; the same seed gives the same bytes.

    Of a small real task (digits, photographs) it makes the training split, and the held-out one beside it.

    Started by torchrun, srun or mpirun, all its processes share the work, and --placement says what each host gets.
    """
    from storagebench.build import generate, generate_together
    from storagebench.commands.dataset_text import made_splits
    from storagebench.commands.progress import counting
    from storagebench.commands.together import together
    from storagebench.heldout import splits
    from storagebench.storage import open_store, options_beside

    chosen = configured(workload, with_payload(values), settings, scale).workload
    hint = "give the same command again: it goes on where it was"
    options = parse_storage_options(storage_option)
    urls = splits(chosen.dataset.task, data_dir, chosen.run.held_out_dir)
    with together("generate", hint) as crew, ExitStack() as opened:
        stores = {split: opened.enter_context(closing(open_store(url, options_beside(data_dir, url, options)))) for split, url in urls.items()}
        datasets: dict[str, Dataset | None] = {}
        for split, store in stores.items():
            with counting("generate") if crew.member == 0 else nullcontext() as progress:
                if crew.num_members == 1 and chosen.run.placement != "partitioned":
                    datasets[split] = generate(chosen, store, num_threads=num_threads, progress=progress, split=split)
                else:
                    datasets[split] = generate_together(chosen, store, crew, num_threads=num_threads, progress=progress, split=split)
        made = {urls[split]: dataset for split, dataset in datasets.items() if dataset is not None}
        if crew.member == 0 and made:
            click.echo(made_splits(made, as_json), nl=False)
