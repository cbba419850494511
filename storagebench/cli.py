"""The console script: a static table of verbs with lazy bodies, and the one place where errors become messages and exit codes.

`storagebench --help` imports click and this file only; a verb's module is imported when it is called.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from typing import Any

import click

from storagebench import __version__
from storagebench.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, StorageBenchError

# verb -> (module in storagebench.commands, what question it answers)
VERBS: dict[str, tuple[str, str]] = {
    "list": ("list_", "What is there: workloads, loaders, formats, storage, accelerators."),
    "plan": ("plan", "What would a run do and need; touches no storage."),
    "generate": ("generate", "Make a synthetic dataset: parallel, resumable, the same for the same seed."),
    "import": ("import_", "Make a benchmark dataset out of real data."),
    "import-config": ("import_config", "A workload file of DLIO or mlpstorage as one of ours, and what it could not carry over."),
    "verify": ("verify", "Is every shard whole, every sample's checksum right."),
    "run": ("run", "Measure: AU, throughput, stalls, for one loader; writes a run folder."),
    "rerun": ("rerun", "A saved run once more, from its folder alone."),
    "search": ("search", "The largest number of accelerators that still meets the AU threshold."),
    "query": ("query", "Reads in MLPerf Inference's four scenarios: latency, and the rate that holds."),
    "probe": ("probe", "The raw ceiling of a storage as this client sees it."),
    "diagnose": ("diagnose", "Where the time goes, and the next knob to turn."),
    "sweep": ("sweep", "A matrix of runs, or several jobs at once, from one YAML file; resumable."),
    "tune": ("tune", "The best loader settings within a time, ending in a command line to copy."),
    "report": ("report", "Text, JSON, CSV or HTML out of saved runs."),
    "check": ("check", "Is a saved run valid; does it meet a rule set."),
    "compare": ("compare", "Better, worse, or not distinguishable; the exit code is for CI."),
    "export": ("export", "A run as what starts it elsewhere: Kubernetes, Kubeflow, Slurm."),
    "selfcheck": ("selfcheck", "Does this machine measure known answers right."),
    "serve-s3": ("serve_s3", "A real S3 endpoint on loopback, for trying things out."),
    "demo": ("demo", "All of it at a small size, ending in a table and an HTML page."),
}

# Measuring or making, by one command: started several times by a launcher, each would do it all, at the same time and in each other's way.
ALONE = frozenset({"import", "query", "diagnose", "selfcheck", "sweep", "tune", "demo"})

START_NS = time.monotonic_ns()


class Verbs(click.Group):
    """Click group over the static table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"storagebench.commands.{VERBS[cmd_name][0]}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, question) for name, (_, question) in VERBS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        from storagebench.errors import UsageError, did_you_mean

        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise UsageError(f"unknown verb {args[0]!r}", did_you_mean(args[0], list(VERBS)))
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="storagebench")
@click.option("--debug", is_flag=True, help="Show tracebacks and the launcher's log.")
@click.pass_context
def program(ctx: click.Context, debug: bool) -> None:
    """Does this storage, through this loader, keep N accelerators busy, and if not, what is in the way?"""
    if ctx.invoked_subcommand in ALONE:
        _refuse_several(str(ctx.invoked_subcommand))
    ctx.obj = {"debug": debug or os.environ.get("STORAGEBENCH_DEBUG") == "1", "start_ns": START_NS}


def _refuse_several(verb: str) -> None:
    from storagebench.errors import UsageError
    from storagebench.launchers import launched

    several = launched(os.environ)
    if several is not None:
        who = "somebody (RANK, WORLD_SIZE)" if several.launcher == "environment" else several.launcher
        raise UsageError(
            f"`storagebench {verb}` is one command, and {who} started {several.num_members} of it",
            "start it once, on one host; run, search, rerun, generate, verify and probe can be started on several",
        )


def complain(message: str, hint: str) -> None:
    """One `error:` sentence and one `hint:` on stderr."""
    sys.stdout.flush()
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)


def run_program(arguments: list[str]) -> int:
    """The exit code of a command line. Only --debug lets a traceback through."""
    debug = "--debug" in arguments or os.environ.get("STORAGEBENCH_DEBUG") == "1"
    arguments = [word for word in arguments if word != "--debug"]
    try:
        result: Any = program.main(args=(["--debug"] if debug else []) + arguments, prog_name="storagebench", standalone_mode=False)
    except StorageBenchError as error:
        if debug:
            raise
        complain(error.message, error.hint)
        return error.exit_code
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.Abort:
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        complain("interrupted", "")
        return EXIT_INTERRUPTED
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "storagebench"
        complain(" ".join(error.format_message().split()).rstrip("."), f"see `{where} --help`")
        return EXIT_USAGE
    except click.ClickException as error:
        complain(error.format_message(), "")
        return EXIT_USAGE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except Exception as error:
        if debug:
            raise
        complain(f"unexpected {type(error).__name__}: {error}", "run it again with --debug and report it: this is a defect of storagebench")
        return 1
    return result if isinstance(result, int) else EXIT_OK


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run_program(sys.argv[1:]))
