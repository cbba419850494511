"""The closed form of a whole system: A1 and A2 over all its lines, jobs that share them by first come, first served. What AU can be at most in a
steady state.

It knows no jitter beyond its mean, and no ranks in step that ask at the same moment: the simulation, which knows both, lies at or below it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from storagebench.model.system import Job, Prediction, System, limited_by


@dataclass(frozen=True)
class _Use:
    """A job's steps: what one asks of each line, in that line's unit, and seconds of a read where nobody else is."""

    job: Job
    of_shared: dict[str, float]
    of_host: dict[str, float]
    per_host: int
    read_s: float

    def steps_per_s(self, waited_s: float, lines: dict[str, float]) -> float:
        """Of one accelerator whose reads wait so long for the shared lines."""
        job = self.job
        own = min((lines[name] / (self.per_host * use) for name, use in self.of_host.items() if use), default=math.inf)
        read_s = self.read_s + waited_s
        if job.prefetch_batches:
            fetched = job.reads_in_flight / (job.reads_per_batch * read_s) if read_s else math.inf
            return min(1.0 / job.compute_s, own, fetched)
        together_s = 0.0
        if job.in_step:  # all of them ask at once and wait for the last
            together_s = (job.accelerators - 1) * max((use / lines[name] for name, use in self.of_shared.items()), default=0.0)
        return min(own, 1.0 / (job.compute_s + -(-job.reads_per_batch // job.readers) * read_s + together_s))


def bound(system: System) -> Prediction:
    """AU of each job at most, and which line is full then."""
    lines = _rates(system)
    uses = [_use(system, job, lines) for job in system.jobs]

    def load(name: str, waited_s: float) -> float:
        return sum(use.job.accelerators * use.of_shared[name] * use.steps_per_s(waited_s, lines) for use in uses) / lines[name]

    shared = list(uses[0].of_shared)
    waited_s = _least_wait_s(lambda seconds: max(load(name, seconds) for name in shared))
    rates = [use.steps_per_s(waited_s, lines) for use in uses]
    au = {use.job.name: min(1.0, use.job.compute_s * rate) for use, rate in zip(uses, rates, strict=True)}
    busy = {name: min(1.0, load(name, waited_s)) for name in shared}
    for name in uses[0].of_host:
        busy[name] = max(min(1.0, use.per_host * use.of_host[name] * rate / lines[name]) for use, rate in zip(uses, rates, strict=True))
    return Prediction(
        au=au,
        samples_per_s={use.job.name: use.job.accelerators * use.job.batch_size * rate for use, rate in zip(uses, rates, strict=True)},
        store_bytes_per_s=sum(use.job.accelerators * use.of_shared["store bandwidth"] * rate for use, rate in zip(uses, rates, strict=True)),
        store_requests_per_s=sum(use.job.accelerators * use.of_shared["store requests"] * rate for use, rate in zip(uses, rates, strict=True)),
        busy=busy,
        limited_by=limited_by(au, busy),
        engine="closed form",
    )


def _rates(system: System) -> dict[str, float]:
    store, hosts = system.store, system.hosts
    return {
        "store bandwidth": store.bytes_per_s, "store requests": store.requests_per_s, "uplink": hosts.uplink_bytes_per_s,
        "host link": hosts.link_bytes_per_s, "client CPU": hosts.cores,
    }  # fmt: skip


def _use(system: System, job: Job, lines: dict[str, float]) -> _Use:
    linked, stored = system.reaching()
    per_host = min(system.hosts.accelerators or job.accelerators, job.accelerators)
    of_store = {"store bandwidth": job.batch_bytes * stored, "store requests": job.requests_per_batch * stored}
    of_link = {"host link": job.batch_bytes * linked, "client CPU": job.cpu_s_per_batch}
    uplink = job.batch_bytes * linked
    if system.hosts.per_uplink:  # an uplink of some hosts only, as if it were shared out to them
        of_link["uplink"] = uplink * min(system.hosts.per_uplink, system.hosts_of(job))
    else:
        of_store["uplink"] = uplink
    through_s = max(use / lines[name] for name, use in {**of_store, "host link": of_link["host link"]}.items()) / job.reads_per_batch
    asks = 1.0 - (1.0 - stored) ** job.requests_per_read  # that a read reaches the store at all
    latency_s = asks * system.store.latency.mean_of_largest_s(max(1, round(job.requests_per_read * stored)))
    return _Use(job, of_store, of_link, per_host, through_s + latency_s + job.cpu_s_per_batch / job.reads_per_batch)


def _least_wait_s(fullest: Callable[[float], float]) -> float:
    """The least time that reads have to wait so that no shared line has more to do than it can."""
    if fullest(0.0) <= 1.0:
        return 0.0
    low, high = 0.0, 1e-6
    while fullest(high) > 1.0:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if fullest(middle) > 1.0 else (low, middle)
    return high
