"""Writers beside the readers: processes of this host that store shards like the dataset's while the ranks read, as MiniGo's self-play does.

The first rank of a host starts them before its first epoch and ends them after its last, so that they are of the command's own processes: their CPU is
not others', and they die with it. What a writer does is in `storagebench.writermain`; each writes a row for every shard into a trace of its own, and what
those rows list is all that is ever deleted here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from storagebench import errors
from storagebench.errors import RankError, StorageBenchError, StorageError, UsageError
from storagebench.manifest import Dataset
from storagebench.process import child_environment
from storagebench.protocols import StoreSpec
from storagebench.records import writer_traces
from storagebench.registry import open_format
from storagebench.storage import open_spec
from storagebench.traces import read_trace
from storagebench.workload import Workload
from storagebench.writermain import READY


def refuse_unfit(workload: Workload, dataset: Dataset, run_id: str) -> None:
    """Raises UsageError where writers were asked for that cannot be."""
    asked = workload.run
    if not asked.writers:
        return
    if "/" in run_id or run_id in ("", ".", "..") or not run_id.isprintable():
        raise UsageError(f"run id {run_id!r} names no folder for what --writers write", "choose a --run-id without slashes")
    if open_format(dataset.format).one_sample_per_shard and asked.write_shard_samples > 1:
        raise UsageError(
            f"--write-shard-samples is {asked.write_shard_samples}, and format {dataset.format} holds one sample in a shard",
            "leave --write-shard-samples out",
        )


class Writers:
    """The writers of one host: a block in which they write. Raises what kept one from starting."""

    def __init__(self, run_dir: Path, count: int, host_number: int) -> None:
        self._commands = [[str(run_dir), str(host_number * count + index)] for index in range(count)]
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> None:
        try:
            for command in self._commands:
                self._processes.append(_start(command))
            for process, command in zip(self._processes, self._commands, strict=True):
                _await_ready(process, command[1])
            for process in self._processes:
                assert process.stdin is not None
                with suppress(BrokenPipeError):  # it died meanwhile, and its trace says so
                    process.stdin.write(b"\n")
        except BaseException:
            self._end(at_once=True)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end(at_once=kind is not None)

    def _end(self, at_once: bool) -> None:
        """Let each finish its shard, or not. They are reaped here and not before: the kernel then adds what they read to this process's counters."""
        for process in self._processes:
            assert process.stdin is not None and process.stdout is not None
            if at_once:
                process.kill()
            process.stdin.close()
            process.stdout.close()
        for process in self._processes:
            process.wait()


def _start(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", "from storagebench.writermain import main; main()", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=child_environment(),
    )


def _await_ready(process: subprocess.Popen[bytes], number: str) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    if line == READY:
        return
    if not line.endswith(b"\n"):
        raise RankError(f"writer {number} ended before it could write", "run it with --debug and report it")
    said = json.loads(line)
    raise getattr(errors, said["error"], StorageError)(said["message"], said["hint"])


def remove_written(run_dir: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """Delete exactly what the writers' rows list, with what a killed one left of its last shard; how many keys, and the error where it was refused.
    Only while no writer is alive."""
    keys: list[str] = []
    try:
        traces = [read_trace(path) for path in writer_traces(run_dir)]
        keys = [key for trace in traces for row in trace.of_kind("writing") for key in row["keys"]]
        begun = [trace.of_kind("writing")[-1]["keys"] for trace in traces if trace.of_kind("writing") and not trace.of_kind("end")]
        store: Any = open_spec(StoreSpec(**run["store"]))
        try:
            temporaries, remove_empty = (getattr(store, name, None) for name in ("temporaries", "remove_empty_folders"))
            left = list(temporaries([key for each in begun for key in each])) if begun and temporaries else []
            store.delete([*keys, *left])
            if remove_empty:
                remove_empty(keys)
        finally:
            store.close()
    except StorageBenchError as error:
        return {"keys": len(keys), "error": error.message}
    return {"keys": len(keys), "error": None}
