"""What runs in the process of one run of a sweep or a tuning: prepare it, say so, wait for the word, and execute it.

A process for each run: no library's leftovers reach the next one, its death ends nothing else, and several can begin together. The request comes as one
line of JSON on stdin (specs cross processes, live clients never do), answers go as lines of JSON to stdout.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from storagebench.clock import SystemClock
from storagebench.configfile import load_workload
from storagebench.errors import EXIT_RANK, StorageBenchError
from storagebench.gate import VARIABLE
from storagebench.launch import handling_signals
from storagebench.preparation import prepare
from storagebench.process import die_with_parent
from storagebench.request import Request
from storagebench.session import execute


def main() -> None:
    """Exits with the run's own code. Answers: {"ready": run folder}, then {"ended": code}; or {"message", "hint", "exit_code"} of what kept or ended it."""
    start_ns = SystemClock().now_ns()
    die_with_parent()
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    sys.exit(_run(_read_line(), answers, start_ns))


def _run(asked: dict[str, Any], answers: int, start_ns: int) -> int:
    try:
        with handling_signals():
            run_dir = prepare(_request(asked, start_ns))
            _answer(answers, {"ready": str(run_dir)})
            if not os.read(0, 1):
                return EXIT_RANK  # the parent is gone, or wants it no more
            if asked["gate"]:
                os.environ[VARIABLE] = asked["gate"]
            code = int(execute(run_dir, asked["debug"])["exit_code"])
            _answer(answers, {"ended": code})
            return code
    except StorageBenchError as error:
        _answer(answers, {"message": error.message, "hint": error.hint, "exit_code": error.exit_code})
        return error.exit_code


def _request(asked: dict[str, Any], start_ns: int) -> Request:
    return Request(
        configured=load_workload(asked["workload"], [(key, value, origin) for key, value, origin in asked["overrides"]]),
        data_dir=asked["data_dir"],
        storage_options=asked["storage_options"],
        results_dir=Path(asked["results_dir"]),
        run_id=asked["run_id"],
        command=asked["command"],
        command_start_ns=start_ns,
        debug=asked["debug"],
        ceiling=asked["ceiling"],
    )


def _read_line() -> dict[str, Any]:
    """Byte by byte, so that the word to go stays in the pipe."""
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    asked: dict[str, Any] = json.loads(line)
    return asked


def _answer(answers: int, value: dict[str, Any]) -> None:
    os.write(answers, json.dumps(value).encode() + b"\n")
