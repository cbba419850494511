"""The trace on disk: what is written comes back, a killed writer loses nothing, and what is damaged is told with its line."""

from __future__ import annotations

import io
import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storagebench import traces
from storagebench.errors import DatasetError
from storagebench.records import STEP_COLUMNS, StepRecord, TraceWriter, step_line
from storagebench.traces import STEP, UNKNOWN, Steps, read_trace

NS = 10**15


def step(number: int, kind: str = "step", **fields: Any) -> StepRecord:
    stamps = (NS + number, None if number % 2 else NS - number, *(NS + 10 * number + index for index in range(6)), number)
    return StepRecord(kind, number // 4, number, *stamps, None if number % 3 else number, 16, 1600 + number, 1600, **fields)


def written(path: Path, records: list[StepRecord]) -> Path:
    writer = TraceWriter(path)
    writer.write({"kind": "header", "rank": 3})
    for record in records:
        writer.step(record)
    writer.write({"kind": "footer", "steps": len(records)})
    writer.close()
    return path


def various() -> list[StepRecord]:
    return [
        step(0, "null"),
        step(1, "warmup", spans_s={"fetch": 0.25}, prep_cpu_s=0.125),
        step(2, spans_s={"parse": 0.5, "fetch": 1e-9}, storage_bytes=2**62, ids_hash=2**32 - 1, checksum=0, verified=4),
        step(3, errors=2, bad_samples=((7, "shards/a é.npz"), (9, "b"))),
        step(4, "idle"),
    ]


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path / "t.jsonl", various()))
    assert list(trace.steps) == various()
    assert (trace.header, trace.others, trace.truncated) == ({"kind": "header", "rank": 3}, ({"kind": "footer", "steps": 5},), False)
    assert trace.steps.ready_ns.tolist() == [NS, UNKNOWN, NS - 2, UNKNOWN, NS - 4]
    assert trace.steps[-1] == various()[-1] and list(trace.steps[1:3]) == various()[1:3]
    assert list(trace.steps.pick(trace.steps.kind == STEP)) == various()[2:4]


def test_the_file_says_what_its_columns_are_and_has_a_line_for_each_record(tmp_path: Path) -> None:
    lines = written(tmp_path / "t.jsonl", various()).read_text().splitlines()
    assert [json.loads(line)["kind"] for line in (*lines[:2], lines[-1])] == ["header", "columns", "footer"]
    assert json.loads(lines[1])["columns"] == list(STEP_COLUMNS)
    first = dict(zip(STEP_COLUMNS, json.loads(lines[2]), strict=True))
    assert (first["kind"], first["asked_ns"], first["ready_ns"], first["spans_s"]) == ("null", NS, NS, {})
    assert len(lines) == 3 + 5


def test_a_host_trace_names_no_columns(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "host.jsonl")
    writer.write({"kind": "header", "host": "h"})
    writer.close()
    assert len((tmp_path / "host.jsonl").read_bytes().splitlines()) == 1
    assert len(read_trace(tmp_path / "host.jsonl").steps) == 0


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    given = step(1, spans_s={"fetch": np.float64(0.5)}, run_delay_s=np.float64(0.25), verified=np.int64(3))
    trace = read_trace(written(tmp_path / "t.jsonl", [given]))
    assert list(trace.steps) == [step(1, spans_s={"fetch": 0.5}, run_delay_s=0.25, verified=3)]


def test_an_error_may_have_any_text(tmp_path: Path) -> None:
    """A path that is no UTF-8 reaches Python as lone surrogates."""
    text = b"/data/\xff\n".decode(errors="surrogateescape")
    writer = TraceWriter(tmp_path / "t.jsonl")
    writer.write({"kind": "error", "message": text})
    writer.close()
    assert read_trace(tmp_path / "t.jsonl").others == ({"kind": "error", "message": text},)


def test_long_traces_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    names = ("fetch", "parse", "checksum")
    records = [step(number, spans_s={name: rng.random() for name in names if rng.random() < 0.3}) for number in range(200)]
    path = written(tmp_path / "t.jsonl", records)
    monkeypatch.setattr(traces, "_CHUNK_BYTES", 2000)
    assert list(read_trace(path).steps) == records


def test_a_killed_writer_loses_no_record(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]);"
        "from test_traces import step; from storagebench.records import TraceWriter; writer = TraceWriter(Path(sys.argv[1]))\n"
        "for number in range(300): writer.step(step(number))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "t.jsonl"
    result = subprocess.run([sys.executable, "-c", code, str(path), str(Path(__file__).parent)], capture_output=True, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr
    trace = read_trace(path)
    assert list(trace.steps) == [step(number) for number in range(300)] and not trace.truncated


def test_a_line_that_is_completed_while_it_is_read_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives from another host ends anywhere in a line, and goes on at any time."""
    path = tmp_path / "rank-00000.jsonl"
    path.write_bytes(b'{"kind": "header", "rank": 0}\n{"kind": "epo')

    class Growing(io.BufferedReader):
        def readlines(self, hint: int = -1, /) -> list[bytes]:
            lines = super().readlines(hint)
            with path.open("ab") as more:
                more.write(b'ch_start"}\n{"kind": "end"}\n')
            return lines

    monkeypatch.setattr(traces, "open", lambda name, mode: Growing(io.FileIO(name)), raising=False)
    trace = read_trace(path)
    assert (trace.header["rank"], trace.others, trace.truncated) == (0, (), True)
    monkeypatch.undo()
    assert [record["kind"] for record in read_trace(path).others] == ["epoch_start", "end"]


@pytest.mark.parametrize("keep", [1, 40, -2, -1])
def test_a_cut_last_line_is_dropped_and_said(keep: int, tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", various())
    lines = path.read_bytes().splitlines(keepends=True)[:-1]
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:keep])
    trace = read_trace(path)
    assert list(trace.steps) == various()[:-1] and trace.truncated


@pytest.mark.parametrize("line", [b"{broken\n", b'["step",0,1\n', b"\n", b"\xff\n", b"7\n", b'{"rank":1}\n'])
@pytest.mark.parametrize("at", [0, 1, 3, 7])
def test_any_other_broken_line_is_an_error_with_its_number(line: bytes, at: int, tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", various())
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:at], line, *lines[at:]]))
    with pytest.raises(DatasetError, match=f"damaged in line {at + 1}") as caught:
        read_trace(path)
    assert str(path) in caught.value.message and caught.value.hint


def changed(**fields: Any) -> bytes:
    values = dict(zip(STEP_COLUMNS, json.loads(step_line(step(9))), strict=True))
    return json.dumps(list({**values, **fields}.values())).encode()


@pytest.mark.parametrize(
    "line",
    [
        changed(extra=1),
        json.dumps(json.loads(step_line(step(9)))[:-1]).encode(),
        changed(start_ns=1.5),
        changed(start_ns="soon"),
        changed(start_ns=None),
        changed(start_ns=2**64),
        changed(kind="stroll"),
        changed(spans_s={"fetch": None}),
        changed(bad_samples=[[1]]),
        b"[]",
        b'{"kind":"step","epoch":0}',
        b'{"kind":"columns","columns":["kind"]}',
    ],
    ids=lambda line: line.decode()[:20],
)
def test_a_step_of_another_shape_is_an_error(line: bytes, tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", various())
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], line + b"\n", *lines[4:]]))
    with pytest.raises(DatasetError, match="has a step record of another shape"):
        read_trace(path)


def test_steps_without_named_columns_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"kind":"header"}\n' + step_line(step(0)))
    with pytest.raises(DatasetError, match=r"another shape in line 2 \(no record named its columns\)"):
        read_trace(path)


@pytest.mark.parametrize("make", [lambda: Steps.of(()), lambda: Steps.joined([Steps.of(())] * 2)])
def test_no_steps(make: Callable[[], Steps]) -> None:
    assert len(make()) == 0 and list(make()) == [] and make().spans_s == {}
