"""Runs in processes of their own, as a parent sees them: started, ready, let go together, and awaited. What happens in one is `storagebench.jobmain`."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from storagebench import errors
from storagebench.errors import EXIT_RANK, RankError, StorageBenchError
from storagebench.experiments.sweep import Ended, Refused
from storagebench.experiments.units_of_suite import Override
from storagebench.gate import await_waiting, open_gate, remove_gate
from storagebench.process import child_environment
from storagebench.workload import option_fields

LOG_DIR: Final = "logs"
_CODE: Final = "from storagebench.jobmain import main; main()"
_GATE: Final = ".gate"
Following = Callable[[Path], AbstractContextManager[None]]


@dataclass(frozen=True)
class Asked:
    """One run to make. `command` is the command line that makes the same run by hand."""

    workload: str
    overrides: Sequence[Override]
    data_dir: str
    storage_options: Mapping[str, str]
    results_dir: Path
    run_id: str
    ceiling: bool = False
    debug: bool = False
    gate: Path | None = None

    def as_json(self) -> bytes:
        plain = {**self.__dict__, "results_dir": str(self.results_dir), "storage_options": dict(self.storage_options)}
        plain["gate"] = "" if self.gate is None else str(self.gate.absolute())
        where = ["--results-dir", str(self.results_dir), "--run-id", self.run_id]
        plain["command"] = [*run_command(self.workload, self.overrides, self.data_dir, self.storage_options, self.ceiling), *where]
        return json.dumps(plain).encode() + b"\n"


def run_command(workload: str, overrides: Sequence[Override], data_dir: str, storage_options: Mapping[str, str], ceiling: bool = False) -> list[str]:
    """The words of `storagebench run ...` that ask for the same; a later override of a key replaces an earlier one."""
    flags = {f"{section}.{name}": flag for flag, (section, name, _) in option_fields().items()}
    words = ["storagebench", "run", workload, "--data-dir", data_dir]
    for key, value in {key: value for key, value, _ in overrides}.items():
        # Of the dataset's own form `run` takes no option, and what JSON writes is YAML too.
        text = value if isinstance(value, str) else json.dumps(value)
        words += [flags[key], text] if key in flags and not key.startswith("dataset.") and value is not None else ["--set", f"{key}={text}"]
    for name, text in storage_options.items():
        words += ["--storage-option", f"{name}={text}"]
    return [*words, "--ceiling"] if ceiling else words


def copyable(words: Sequence[str]) -> str:
    """A command line to copy into a shell."""
    return shlex.join(words)


class JobProcess:
    """One run in a process of its own, which dies with this one."""

    def __init__(self, asked: Asked) -> None:
        self.run_id = asked.run_id
        self._log = asked.results_dir / LOG_DIR / f"{asked.run_id}.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0, env=child_environment()
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        with suppress(BrokenPipeError):  # it died already, which `await_ready` tells
            self._stdin.write(asked.as_json())

    def await_ready(self) -> Path:
        """Its run folder, when everything that can be checked before was. Raises what refused it; RankError where it died."""
        answer = self._answer()
        if "ready" in answer:
            return Path(answer["ready"])
        raise _error_of(answer) if answer else RankError(f"the process of run {self.run_id} {self._death()} before it was ready", self._see_log())

    def go(self) -> None:
        with suppress(BrokenPipeError):  # it died meanwhile, which `wait` tells
            self._stdin.write(b"\n")

    def is_alive(self) -> bool:
        """It has not ended, and has said nothing since it was let go."""
        return self._process.poll() is None and not select.select([self._stdout], [], [], 0)[0]

    def wait(self) -> Ended:
        """How it ended. A process that died without a word is a failed run."""
        answer = self._answer()
        code = self._process.wait()
        self._close()
        if "ended" in answer:
            return Ended(self.run_id, int(answer["ended"]))
        if answer:
            return Ended(self.run_id, int(answer["exit_code"]), str(answer["message"]))
        return Ended(self.run_id, code if code > 0 else EXIT_RANK, f"the process of the run {self._death()}; {self._see_log()}")

    def end(self) -> None:
        """Let it end without a run, or kill it; it is reaped."""
        with suppress(BrokenPipeError):
            self._stdin.close()
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        for pipe in (self._stdin, self._stdout):
            with suppress(BrokenPipeError):
                pipe.close()
        if self._log.exists() and not self._log.stat().st_size:
            self._log.unlink()
            with suppress(OSError):  # others have something in it
                self._log.parent.rmdir()

    def _answer(self) -> dict[str, Any]:
        """The next line; nothing at the end of the process."""
        line = bytearray()
        while (byte := self._stdout.read(1)) and byte != b"\n":
            line += byte
        answer: dict[str, Any] = json.loads(line) if byte else {}
        return answer

    def _death(self) -> str:
        code = self._process.wait()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def _see_log(self) -> str:
        return f"see {self._log}" if self._log.exists() and os.stat(self._log).st_size else "look for the kernel's OOM killer (dmesg)"


def _error_of(answer: Mapping[str, Any]) -> StorageBenchError:
    error = StorageBenchError(str(answer["message"]), str(answer["hint"]))
    error.exit_code = int(answer["exit_code"])
    return error


def run_at_once(
    asked: Sequence[Asked], following: Following | None = None, beside: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Refused | list[Ended]:
    """Make these runs at the same time: all are prepared, then all opened, then all let go. `beside` is a block around the measuring (writers).

    Where one is refused none is run. Raises what `beside` raises, and an interrupt; no process is left then.
    """
    jobs: list[JobProcess] = []
    if len(asked) > 1:
        asked = [replace(one, gate=one.results_dir / one.run_id / _GATE) for one in asked]
    gates = [one.gate for one in asked if one.gate is not None]
    try:
        for one in asked:
            jobs.append(JobProcess(one))
        try:
            run_dirs = [job.await_ready() for job in jobs]
        except errors.InterruptedRunError:
            raise
        except StorageBenchError as error:
            return Refused(error.message, error.hint, error.exit_code)
        for job in jobs:
            job.go()
        for job, gate in zip(jobs, gates, strict=False):
            await_waiting(gate, job.is_alive)
        with beside(), following(run_dirs[0]) if following is not None and len(jobs) == 1 else nullcontext():
            for gate in gates:
                open_gate(gate)
            ended = [job.wait() for job in jobs]
        jobs = []
        return ended
    finally:
        for job in jobs:
            job.end()
        for gate in gates:
            remove_gate(gate)
