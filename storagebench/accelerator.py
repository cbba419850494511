"""The consumer: what computes on a batch, paced by deadlines so that stalled time is never caught up and late wake-ups are never counted as work.

`start_k = max(end_{k-1}, ready_k)`, `end_k = start_k + c`. The schedule, not the wake-up, carries the time: the oversleep of one step does not
lengthen the next (reference/measurement.md section 1). A wake-up later than min(c, 5 ms) is a stall of the host: the schedule is set to it, and the
difference is the step's host delay. Here is the emulated one; a CUDA device (`storagebench.device`) and a real training
step (`storagebench.training`, a `Trainer`) keep the same protocol.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from storagebench.clock import Clock
from storagebench.protocols import Batch

HOST_STALL_NS = 5_000_000
LEAST_HANDOFF_NS = 50_000


class Begun(NamedTuple):
    """A compute in the schedule: when it starts and when it is due, and seconds that the batch took onto a device (0 where there is none)."""

    start_ns: int
    due_ns: int
    copy_s: float = 0.0


class Wake(NamedTuple):
    """How a step ended: real time; the scheduled end, later than the release only after a host stall; the host's delay; and when the compute was over,
    in real time."""

    woke_ns: int
    end_ns: int
    host_delay_ns: int
    compute_end_ns: int


class Accelerator(Protocol):
    """Computes on one batch after the other. `handoff_ns`: how long `next()` takes when the batch is ready, measured by the engine."""

    compute_ns: int
    handoff_ns: int

    def begin(self, batch: Batch, batch_size: int, previous_end_ns: int, asked_ns: int, got_ns: int) -> Begun:
        """Take the batch and start computing; c for a full one, c * n / B for a short one."""

    def wait(self, begun: Begun, release_ns: int) -> Wake:
        """Return when the compute is over and the release has passed. A step without a batch has `begun` at the end of the step before."""

    def close(self) -> None:
        """Release what it holds; may be called twice."""


class Trainer(Accelerator, Protocol):
    """An accelerator that trains: its compute is measured, and it says when the training is over. `begin` only takes the batch; once all ranks have theirs
    (the engine's sync) `compute` makes the step, and `wait` ends it. `compute_ns` is 0."""

    def compute(self, begun: Begun) -> Begun:
        """Forward, backward and the optimizer's step, in real time; over when it returns."""

    def end_epoch(self, epoch: int) -> bool:
        """After the last step of a whole epoch: evaluate, and write down what came of it. Collective. Whether all ranks are to stop."""


def tolerated_lateness_ns(compute_ns: int) -> int:
    """How late a wake-up may be before it counts as a stall of the host."""
    return min(compute_ns, HOST_STALL_NS)


def step_compute_ns(compute_ns: int, num_samples: int, batch_size: int) -> int:
    """Compute of a batch: c for a full one, c * n / B for a short one."""
    return compute_ns if num_samples == batch_size else compute_ns * num_samples // batch_size


def woken(compute_ns: int, woke_ns: int, release_ns: int, compute_end_ns: int) -> Wake:
    """The end of a step whose release was seen at `woke_ns`."""
    if compute_ns == 0:  # nothing is emulated, so the schedule is the real clock
        return Wake(woke_ns, woke_ns, 0, compute_end_ns)
    late_ns = woke_ns - release_ns
    if late_ns > tolerated_lateness_ns(compute_ns):
        return Wake(woke_ns, woke_ns, late_ns, compute_end_ns)
    return Wake(woke_ns, release_ns, 0, compute_end_ns)


class EmulatedAccelerator:
    """Sleeps where an accelerator would compute."""

    def __init__(self, clock: Clock, compute_ns: int, handoff_ns: int = LEAST_HANDOFF_NS) -> None:
        self._clock = clock
        self.compute_ns = compute_ns
        self.handoff_ns = handoff_ns

    def begin(self, batch: Batch, batch_size: int, previous_end_ns: int, asked_ns: int, got_ns: int) -> Begun:
        start_ns = self.start_ns(previous_end_ns, asked_ns, got_ns, batch.ready_ns)
        return Begun(start_ns, start_ns + step_compute_ns(self.compute_ns, len(batch.sample_ids), batch_size))

    def start_ns(self, previous_end_ns: int, asked_ns: int, got_ns: int, ready_ns: int | None) -> int:
        """When the compute of a batch starts in the schedule. Where the loader cannot tell when the batch was ready (None): at the end of the
        step before if `next()` took no longer than a hand-off of a ready batch does, else when the batch was got."""
        if ready_ns is None:
            ready_ns = previous_end_ns if got_ns - asked_ns <= self.handoff_ns else got_ns
        return max(previous_end_ns, min(ready_ns, got_ns))

    def wait(self, begun: Begun, release_ns: int) -> Wake:
        woke_ns = self._clock.sleep_until_ns(release_ns)
        return woken(self.compute_ns, woke_ns, release_ns, max(begun.start_ns, woke_ns - (release_ns - begun.due_ns)))

    def close(self) -> None:
        """Holds nothing."""
