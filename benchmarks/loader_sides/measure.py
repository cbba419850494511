"""How each side of a pair is measured, in a process of its own: epoch 0 starts the workers, the others count. One JSON line to stdout."""

import json
import time

import psutil


def tree_cpu_s():
    """User + system seconds of this process and its descendants so far."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def measure(epoch, epochs):
    """`epoch(number)` takes all batches and returns (samples, bytes handed over)."""
    epoch(0)
    cpu_s, begin = tree_cpu_s(), time.monotonic()
    done = [epoch(number) for number in range(1, epochs + 1)]
    seconds, cpu_s = time.monotonic() - begin, tree_cpu_s() - cpu_s
    samples, num_bytes = (sum(column) for column in zip(*done, strict=True))
    print(json.dumps({"samples": samples, "bytes": num_bytes, "seconds": seconds, "cpu_s": cpu_s}), flush=True)
