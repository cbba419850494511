"""What one step's record costs the rank that writes it: making the line, and getting it to the kernel by one write() before the next step.

In short rounds, in turns, on the same file system: `TraceWriter.step` of a full record; the same bytes by bare os.write, which is the kernel's part; and
what was there before, json.dumps of an object with the same fields and os.write. Prints medians with quartiles; exit code 1 where the median of
`TraceWriter.step` is over 3 microseconds.

    python benchmarks/trace_record.py --folder /data/bench
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import quantiles

from storagebench.records import STEP_COLUMNS, StepRecord, TraceWriter, step_line

AT_MOST_US = 3.0
_BEGIN_NS = 1_234_567_890_123_456
_COMPUTE_NS = 10_000_000


def make(number: int) -> StepRecord:
    """A step as a loader with all spans gives it, with stamps of two weeks of uptime."""
    asked = _BEGIN_NS + number * (_COMPUTE_NS + 81_234)
    due = asked + 4_321 + _COMPUTE_NS
    return StepRecord(
        kind="step",
        epoch=1,
        step=number,
        asked_ns=asked,
        ready_ns=asked + 3_210,
        got_ns=asked + 4_321,
        start_ns=asked + 4_321,
        due_ns=due,
        compute_end_ns=due + 51_234,
        release_ns=due + 7_654,
        sync_end_ns=due + 58_888,
        host_delay_ns=0,
        queue_level=3,
        samples=16,
        record_bytes=1_834_560 + number,
        handover_bytes=1_834_560,
        verified=16,
        spans_s={"fetch": 0.004312345, "checksum": 0.000212345, "parse": 0.000912345},
        prep_cpu_s=0.001112345,
        run_delay_s=0.000012345,
        ids_hash=(number * 2_654_435_761) % 2**32,
        checksum=(number * 2_246_822_519) % 2**32,
    )


def as_object(record: StepRecord) -> bytes:
    return json.dumps({name: getattr(record, name) for name in STEP_COLUMNS}, separators=(",", ":")).encode() + b"\n"


def microseconds(work: Callable[[StepRecord], object], records: Sequence[StepRecord]) -> float:
    begin = time.perf_counter_ns()
    for record in records:
        work(record)
    return (time.perf_counter_ns() - begin) / len(records) / 1e3


def one_round(folder: Path, records: Sequence[StepRecord], lines: dict[int, bytes]) -> dict[str, float]:
    """Microseconds of each way for these records, each into a file of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        writer = TraceWriter(Path(place) / "ours")
        writer.step(records[0])
        fds = [os.open(Path(place) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) for name in ("bare", "object")]
        write = os.write
        found = {
            "step": microseconds(writer.step, records),
            "write": microseconds(lambda record: write(fds[0], lines[record.step]), records),
            "object": microseconds(lambda record: write(fds[1], as_object(record)), records),
        }
        writer.close()
        for fd in fds:
            os.close(fd)
        return found


def spread(values: Sequence[float]) -> str:
    low, middle, high = quantiles(values, n=4)
    return f"{middle:6.2f}  ({low:.2f} to {high:.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the files are written; an existing folder")
    parser.add_argument("--rounds", type=int, default=301)
    parser.add_argument("--records", type=int, default=400, help="records of a round and way")
    parser.add_argument("--smoke", action="store_true", help="a second: 11 rounds, and no bound")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds = 11
    records = [make(number) for number in range(arguments.records)]
    lines = {record.step: step_line(record) for record in records}
    rounds = [one_round(arguments.folder, records, lines) for _ in range(arguments.rounds)]
    found = {name: [one[name] for one in rounds] for name in rounds[0]}
    middle = quantiles(found["step"], n=4)[1]
    size, before = len(lines[0]), len(as_object(records[0]))
    print(f"microseconds a record, median (quartiles) of {arguments.rounds} rounds of {arguments.records} records")
    print(f"line and write()                  {spread(found['step'])}  {size} bytes; at most {AT_MOST_US:g}")
    print(f"  of that, the bare write()       {spread(found['write'])}")
    print(f"a JSON object and write()         {spread(found['object'])}  {before} bytes; {quantiles(found['object'], n=4)[1] / middle:.1f} x ours")
    return 0 if arguments.smoke or middle <= AT_MOST_US else 1


if __name__ == "__main__":
    sys.exit(main())
