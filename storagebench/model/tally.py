"""What an engine counts, and what it makes of it: the part of the time in which accelerators compute and lines work, within a span of simulated
time."""

from __future__ import annotations

from dataclasses import dataclass, field

from storagebench.model.system import Engine, Prediction, System, limited_by


@dataclass(frozen=True)
class Span:
    """Simulated seconds: what is before `open_s` is warm-up, and at `close_s` the simulation ends."""

    open_s: float
    close_s: float

    @property
    def length_s(self) -> float:
        return self.close_s - self.open_s

    def part_s(self, begin_s: float, end_s: float) -> float:
        """Seconds of this interval within the span."""
        return max(0.0, min(end_s, self.close_s) - max(begin_s, self.open_s))


@dataclass
class Tally:
    """Of the span: accelerator seconds of compute by job, seconds of the busiest line of each kind, and what the store was asked for."""

    compute_s: list[float]
    lines_s: dict[str, float] = field(default_factory=dict)
    store_bytes: float = 0.0
    store_requests: float = 0.0


def prediction_of(system: System, span: Span, tally: Tally, engine: Engine) -> Prediction:
    """AU is the share of the span in which an accelerator computes; in a steady state as many batches lie ready at its end as at its start, so
    there is no prefetch credit to take out (`window`)."""
    shares = [float(computed_s) / (job.accelerators * span.length_s) for job, computed_s in zip(system.jobs, tally.compute_s, strict=True)]
    au = {job.name: min(1.0, share) for job, share in zip(system.jobs, shares, strict=True)}
    busy = {name: min(1.0, seconds / span.length_s) for name, seconds in tally.lines_s.items()}
    return Prediction(
        au=au,
        samples_per_s={job.name: job.accelerators * job.batch_size * au[job.name] / job.compute_s for job in system.jobs},
        store_bytes_per_s=tally.store_bytes / span.length_s,
        store_requests_per_s=tally.store_requests / span.length_s,
        busy=busy,
        limited_by=limited_by(au, busy),
        engine=engine,
    )
