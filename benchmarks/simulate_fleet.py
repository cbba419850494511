"""How long the simulation takes for 10,000 accelerators over 1,000 steps, and whether the recurrence on arrays agrees there with the events where
these can still follow.

Each case is timed at full size, with its peak memory, and then run by both engines at `--few` accelerators, the store made smaller by as much. Exit
code 1 where a case takes longer than 2 minutes, or where the two differ by more than 0.005 AU.

    python benchmarks/simulate_fleet.py [--accelerators 10000] [--steps 1000]
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from dataclasses import replace

from storagebench.model.bound import bound
from storagebench.model.simulate import simulate
from storagebench.model.system import Hosts, Job, Latency, Store, System

MOST_S, MOST_DIFFERENCE = 120.0, 0.005
# unet3d on h100 (storagebench/configs/unet3d.yaml): 7 samples of 147 MB each 323 ms; 8 accelerators a host.
UNET3D = Job("unet3d@h100", 1, 0.323, 7, 146_600_628, 68_341_808, prefetch_batches=4, readers=4, dataset_bytes=1e15)
DEMAND = UNET3D.batch_bytes / UNET3D.compute_s
JITTER = Latency(0.02, exponential_s=0.05)


def cases(accelerators: int) -> dict[str, System]:
    """Name -> system; all of what is shared grows with the accelerators."""
    synced, free = replace(UNET3D, accelerators=accelerators), replace(UNET3D, accelerators=accelerators, in_step=False)
    pieces = replace(free, reads_per_batch=4)
    hosts = Hosts(8, link_bytes_per_s=8 * DEMAND * 1.05)
    return {
        "in step, bandwidth 0.8 of the demand": System((synced,), Store(0.8 * accelerators * DEMAND, latency=JITTER)),
        "each on its own, bandwidth 0.8, links of hosts": System((free,), Store(0.8 * accelerators * DEMAND, latency=JITTER), hosts),
        "4 reads a batch, requests 0.7, half cached": System(
            (pieces,), Store(requests_per_s=0.35 * accelerators * 4 / UNET3D.compute_s, latency=JITTER), hosts, shared_cache_bytes=5e14
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accelerators", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--few", type=int, default=256, help="as many as the event simulation follows")
    parser.add_argument("--smoke", action="store_true", help="small and short: does it run; no bound is judged")
    asked = parser.parse_args()
    many, steps, few = (500, 50, 32) if asked.smoke else (asked.accelerators, asked.steps, asked.few)
    missed = 0
    for (name, system), small in zip(cases(many).items(), cases(few).values(), strict=True):
        begin = time.monotonic()
        found = simulate(system, steps, engine="steps")
        took_s = time.monotonic() - begin
        events, arrays = (simulate(small, steps, engine=engine).least_au for engine in ("events", "steps"))
        within = took_s <= MOST_S and abs(events - arrays) <= MOST_DIFFERENCE
        missed += not within
        print(
            f"{name}: {many} x {steps} in {took_s:.1f} s, AU {found.least_au:.4f} (closed form {bound(system).least_au:.4f}), {found.limited_by}; "
            f"{few} accelerators: {events:.4f} by events, {arrays:.4f} by arrays ({arrays - events:+.4f})  {'ok' if within else 'MISSED'}",
            flush=True,
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    return 1 if missed and not asked.smoke else 0


if __name__ == "__main__":
    sys.exit(main())
