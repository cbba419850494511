"""The consumer: an emulated accelerator, paced by deadlines so that stalled time is never caught up and late wake-ups are never counted as work.

`start_k = max(end_{k-1}, ready_k)`, `end_k = start_k + c`. The schedule, not the wake-up, carries the time: the oversleep of one step does not
lengthen the next (reference/measurement.md section 1). A wake-up later than min(c, 5 ms) is a stall of the host: the schedule is set to it, and the
difference is the step's host delay.
"""

from __future__ import annotations

from typing import NamedTuple

from storagebench.clock import Clock

HOST_STALL_NS = 5_000_000


class Wake(NamedTuple):
    """How a wait for a deadline ended: real time, scheduled end (later than the deadline only after a host stall), and the host's delay."""

    woke_ns: int
    end_ns: int
    host_delay_ns: int


def tolerated_lateness_ns(compute_ns: int) -> int:
    """How late a wake-up may be before it counts as a stall of the host."""
    return min(compute_ns, HOST_STALL_NS)


class EmulatedAccelerator:
    """Sleeps where an accelerator would compute. `handoff_ns`: how long `next()` takes when the batch is ready, measured by the null run."""

    def __init__(self, clock: Clock, compute_ns: int, handoff_ns: int = 0) -> None:
        self._clock = clock
        self.compute_ns = compute_ns
        self.handoff_ns = handoff_ns

    def start_ns(self, previous_end_ns: int, asked_ns: int, got_ns: int, ready_ns: int | None) -> int:
        """When the compute of a batch starts in the schedule. Where the loader cannot tell when the batch was ready (None): at the end of the
        step before if `next()` took no longer than a hand-off of a ready batch does, else when the batch was got."""
        if ready_ns is None:
            ready_ns = previous_end_ns if got_ns - asked_ns <= self.handoff_ns else got_ns
        return max(previous_end_ns, min(ready_ns, got_ns))

    def step_compute_ns(self, num_samples: int, batch_size: int) -> int:
        """Compute of a batch: c for a full one, c * n / B for a short one."""
        return self.compute_ns if num_samples == batch_size else self.compute_ns * num_samples // batch_size

    def wait(self, deadline_ns: int) -> Wake:
        """Compute until the deadline."""
        woke_ns = self._clock.sleep_until_ns(deadline_ns)
        if self.compute_ns == 0:  # nothing is emulated, so the schedule is the real clock
            return Wake(woke_ns, woke_ns, 0)
        late_ns = woke_ns - deadline_ns
        if late_ns > tolerated_lateness_ns(self.compute_ns):
            return Wake(woke_ns, woke_ns, late_ns)
        return Wake(woke_ns, deadline_ns, 0)
