"""`simulate(system, steps, seed)`: AU by the event simulation where it is small enough, else by the recurrence on arrays. Both answer the same
question."""

from __future__ import annotations

from typing import Final

from storagebench.model.bound import bound
from storagebench.model.system import Engine, Prediction, System
from storagebench.model.tally import Span, prediction_of

# More reads than these in all (an event or two each, some 15 us) go through the recurrence.
MOST_EVENTS: Final = 60_000
MOST_ACCELERATORS: Final = 512


def simulate(system: System, steps: int = 200, seed: int = 1, engine: Engine | None = None) -> Prediction:
    """AU of each job in a steady state, after a warm-up of three times what is prefetched: over as long as the slowest job takes for so many
    `steps` at its closed form, an upper bound. The same for the same arguments. `engine`: events or steps, where it is not to choose for itself.
    Raises UsageError where SimPy is wanted and missing."""
    span = span_of(system, steps)
    if engine is None:
        reads = sum(job.accelerators * job.reads_per_batch * span.close_s / job.compute_s for job in system.jobs)
        engine = "events" if reads <= MOST_EVENTS and system.accelerators <= MOST_ACCELERATORS else "steps"
    if engine == "events":
        from storagebench.model.eventsim import run_events

        return prediction_of(system, span, run_events(system, span, seed), engine)
    from storagebench.model.fleet import run_fleet

    return prediction_of(system, span, run_fleet(system, span, seed), engine)


def span_of(system: System, steps: int) -> Span:
    """Warm-up and window in simulated seconds."""
    au = bound(system).au
    step_s = max(job.compute_s / au[job.name] for job in system.jobs)
    warmup = 5 + 3 * max(job.prefetch_batches for job in system.jobs)
    return Span(warmup * step_s, (warmup + steps) * step_s)
