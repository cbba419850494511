"""What the kernel counts of a thread: its own, in a forked process too, and nothing stays open behind it."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from storagebench.usage import Watch, read_host_usage, run_delay_s


def spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_a_thread_that_waits_for_its_only_core_counts_it() -> None:
    found: dict[str, float] = {}
    cores = os.sched_getaffinity(0)

    def other() -> None:
        os.sched_setaffinity(0, {min(cores)})
        watch = Watch()
        begin, used = time.perf_counter(), time.thread_time()
        spin(0.2)
        found["waited"], found["delay"] = time.perf_counter() - begin - (time.thread_time() - used), watch.delay_s()

    pid = os.fork()
    if pid == 0:  # takes the core from it
        os.sched_setaffinity(0, {min(cores)})
        while True:
            pass
    try:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert found["waited"] > 0.05
    assert abs(found["delay"] - found["waited"]) < 0.5 * found["waited"]


def test_nothing_of_a_thread_stays_open() -> None:
    run_delay_s()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(8):
        thread = threading.Thread(target=run_delay_s)
        thread.start()
        thread.join()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_forked_process_counts_its_own() -> None:
    before = run_delay_s()
    spin(0.02)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, f"{run_delay_s()} {Path('/proc/thread-self/schedstat').read_text().split()[1]}".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    seen, itself = os.read(reader, 100).decode().split()
    os.close(reader)
    os.close(writer)
    assert before is not None
    assert 0 <= int(itself) / 1e9 - float(seen) < 0.05


def test_commands_on_one_host_count_together_and_no_process_twice() -> None:
    child = os.fork()
    if child == 0:
        spin(0.3)
        signal.pause()
    try:
        time.sleep(0.5)
        mine, its, both = (read_host_usage(pids).command_s for pids in ((os.getpid(),), (child,), (os.getpid(), child)))
        assert mine is not None and its is not None and both is not None
        assert its >= 0.25
        assert abs(both - mine) < 0.1  # the child is below this process, and counted already
        assert read_host_usage((os.getpid(), 2**22 + 1)).command_s is None
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
