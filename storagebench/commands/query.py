"""`query WORKLOAD`: reads as MLPerf Inference's LoadGen would ask for them, and its verdict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from storagebench.commands.options import QUERY_OPTIONS, configured, data_dir_option, parse_storage_options, storage_options, workload_options


@click.command("query")
@click.argument("workload")
@data_dir_option
@workload_options(QUERY_OPTIONS)
@storage_options
@click.option("--find-max-qps", is_flag=True, help="Look for the largest rate of scenario server that is VALID, by bisection from --target-qps.")
@click.option("--results-dir", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where run folders are written.")
@click.option("--run-id", metavar="NAME", help="Name of the run folder; made of workload, scenario and time otherwise.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_obj
def command(
    obj: dict[str, Any],
    /,
    workload: str,
    data_dir: str,
    settings: tuple[str, ...],
    storage_option: tuple[str, ...],
    find_max_qps: bool,
    results_dir: Path,
    run_id: str | None,
    as_json: bool,
    **values: Any,
) -> int:
    """Single samples read by query, in LoadGen's scenarios: latency from the scheduled time, early stopping, the largest rate. WORKLOAD is a shipped
    one or a YAML file; its dataset's samples are the query sample library.

    LoadGen's INVALID is a result (exit code 0); exit code 6 is for numbers that are false."""
    import json

    from storagebench.clock import SystemClock
    from storagebench.commands.progress import following_queries, say
    from storagebench.launch import handling_signals
    from storagebench.querysession import execute_queries, prepare_queries
    from storagebench.report.queries import one_query_run
    from storagebench.request import Request, default_run_id

    more = ("query.find_max_qps=true",) if find_max_qps else ()
    chosen = configured(workload, values, (*settings, *more))
    stamp = default_run_id(chosen.workload, SystemClock()).removeprefix(f"{chosen.workload.name}-{chosen.workload.loader.name}-")
    request = Request(
        configured=chosen,
        data_dir=data_dir,
        storage_options=parse_storage_options(storage_option),
        results_dir=results_dir,
        run_id=run_id or f"{chosen.workload.name}-{chosen.workload.query.scenario}-{stamp}",
        command=["storagebench", *sys.argv[1:]],
        command_start_ns=obj["start_ns"],
        debug=obj["debug"],
    )
    with handling_signals():
        run_dir = prepare_queries(request)
        say(f"run {request.run_id}: {chosen.workload.query.scenario} queries into {run_dir}")
        with following_queries(run_dir, chosen.workload.query.scenario):
            summary = execute_queries(run_dir)
    click.echo(json.dumps(summary, indent=1) + "\n" if as_json else one_query_run(summary), nl=False)
    for finding in summary["findings"]:
        if finding["severity"] == "error":
            click.echo(f"error: {finding['message']}\nhint: {finding['hint']}", err=True)
    return int(summary["exit_code"])
