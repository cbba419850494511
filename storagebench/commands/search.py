"""`search WORKLOAD`: the largest number of accelerators that still meets the AU threshold."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from storagebench.commands.options import RUN_OPTIONS, configured, data_dir_option, parse_storage_options, storage_options, workload_options
from storagebench.errors import EXIT_OK

if TYPE_CHECKING:
    from storagebench.cluster.crew import Crew
    from storagebench.experiments.searchresult import Found
    from storagebench.request import Request
    from storagebench.searchbench import Limits

MAX_ACCELERATORS = 1024


@click.command("search")
@click.argument("workload")
@data_dir_option
@workload_options(RUN_OPTIONS)
@storage_options
@click.option(
    "--max-accelerators", type=click.IntRange(1, 100_000), default=MAX_ACCELERATORS, show_default=True, metavar="N", help="Try no more than so many."
)
@click.option(
    "--confirmations", type=click.IntRange(1, 100), default=12, show_default=True, metavar="K", help="Runs that may confirm a number, at most."
)
@click.option(
    "--confidence", type=float, default=0.95, show_default=True, metavar="C", help="Of each of the two statements: N is met, N + 1 is missed."
)
@click.option("--max-runs", type=click.IntRange(1, 10_000), default=80, show_default=True, metavar="N", help="Runs in all, at most.")
@click.option("--ceiling", is_flag=True, help="Probe the raw ceiling of the storage before and after each run.")
@click.option("--results-dir", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where the search's folder is.")
@click.option("--search-id", metavar="NAME", help="Name of that folder; the same name goes on with a search that was interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Write one self-contained page.")
@click.pass_obj
def command(
    obj: dict[str, Any],
    /,
    workload: str,
    data_dir: str,
    settings: tuple[str, ...],
    storage_option: tuple[str, ...],
    max_accelerators: int,
    confirmations: int,
    confidence: float,
    max_runs: int,
    ceiling: bool,
    results_dir: Path,
    search_id: str | None,
    as_json: bool,
    html_file: Path | None,
    **values: Any,
) -> int:
    """The largest number of accelerators that are kept busy (AU at or above --au-threshold): found by a raw read and some runs, then confirmed by new runs
    at that number and at the next one, in turns. --num-accelerators says where to begin. Each run is a run folder below the search's own; killed at any
    time, the same command goes on. Exit code 7: the runs did not agree."""
    from storagebench.clock import SystemClock
    from storagebench.cluster.crew import from_first
    from storagebench.cluster.join import join
    from storagebench.launch import handling_signals
    from storagebench.launchers import launched
    from storagebench.report.search import search_text
    from storagebench.request import Request, default_run_id
    from storagebench.searchbench import Limits

    chosen = configured(workload, values, settings)
    with handling_signals(), closing(join(launched(os.environ))) as crew:
        name = from_first(crew, lambda: search_id or "search-" + default_run_id(chosen.workload, SystemClock()))
        request = Request(
            configured=chosen,
            data_dir=data_dir,
            storage_options=parse_storage_options(storage_option),
            results_dir=results_dir / name,
            run_id=name,
            command=["storagebench", *sys.argv[1:]],
            command_start_ns=obj["start_ns"],
            debug=obj["debug"],
            ceiling=ceiling,
        )
        found = _search(request, Limits(max_accelerators, confirmations, confidence, max_runs), crew)
    if found is None:
        return EXIT_OK  # member 0 says it
    click.echo(json.dumps(found.as_dict(), indent=1) + "\n" if as_json else search_text(found), nl=False)
    if html_file is not None:
        _write_page(html_file, request.results_dir)
    return found.exit_code


def _search(request: Request, limits: Limits, crew: Crew) -> Found | None:
    """Begin or go on, until there is an answer; the result is read from the folder, at member 0 (the others follow, and have none)."""
    from storagebench.cluster.crew import from_first
    from storagebench.commands.progress import say
    from storagebench.experiments.searching import search
    from storagebench.experiments.searchresult import found_in
    from storagebench.experiments.searchstate import open_log, rules_of
    from storagebench.searchbench import Runs, begun

    folder = request.results_dir
    asked, again = from_first(crew, lambda: begun(request, limits, say))
    runs = Runs(request, asked["depth"], _following, say, crew)
    if crew.member:
        runs.follow()
        return None
    rules = rules_of(asked)
    with open_log(folder, rules) as log:
        if again:
            say(f"search {request.run_id} goes on: {len(log.history)} numbers were tried before")
            log.resume()
        else:
            say(f"search {request.run_id} into {folder}; if it is interrupted, the same command with --search-id {request.run_id} goes on")
        search(rules, log, runs.run, say)
    runs.end()
    return found_in(folder)


def _following(run_dir: Path, plan: Mapping[str, Any]) -> AbstractContextManager[None]:
    from storagebench.commands.progress import following

    return following(run_dir, plan)


def _write_page(file: Path, folder: Path) -> None:
    from storagebench.commands.progress import say
    from storagebench.records import write_whole
    from storagebench.report.html import as_html
    from storagebench.report.load import load_searches

    write_whole(file, as_html([], searches=load_searches([folder])).encode())
    say(f"wrote {file.absolute()}")
