"""The event simulation: every accelerator, read and line on SimPy's clock. Exact for the description (`system`), and good for some hundreds of
accelerators.

An accelerator computes when the step before has ended and its batch is ready (`start_k = max(end_{k-1}, ready_k)`), and asks for one more batch
when it takes one; `readers` of its own take reads in order. A line that serves first come, first served is known by when it is free next, so a read
costs one event and not one a line."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

from storagebench.errors import UsageError
from storagebench.model.draws import Draws, Read
from storagebench.model.system import LINES, Job, System
from storagebench.model.tally import Span, Tally


def _simpy() -> Any:
    try:
        import simpy
    except ImportError:
        raise UsageError("the simulation needs the library simpy, which is not installed", "pip install 'storagebench[capacity]'") from None
    return simpy


class _Line:
    """Serves `rate` units a second, one after another."""

    def __init__(self, rate: float, span: Span) -> None:
        self._rate, self._span = rate, span
        self._free_s = 0.0
        self.busy_s = 0.0

    def reserve(self, now_s: float, units: float) -> tuple[float, float]:
        """(when it is done with these, how long it works on them)."""
        lasts_s = units / self._rate
        begin_s = max(now_s, self._free_s)
        self._free_s = begin_s + lasts_s
        self.busy_s += self._span.part_s(begin_s, self._free_s)
        return self._free_s, lasts_s


class _Path:
    """The lines between one host and the store."""

    def __init__(self, bandwidth: _Line, requests: _Line, uplink: _Line, link: _Line, cores: _Line) -> None:
        self._bandwidth, self._requests, self._uplink, self._link, self._cores = bandwidth, requests, uplink, link, cores

    def done_s(self, now_s: float, read: Read, cpu_s: float) -> float:
        """When a read is done that is asked for now."""
        link_bytes, store_bytes, store_requests, latencies_s = read
        ends = []
        if link_bytes:
            ends += [self._link.reserve(now_s, link_bytes), self._uplink.reserve(now_s, link_bytes)]
        if store_requests:
            ends += [self._bandwidth.reserve(now_s, store_bytes), self._requests.reserve(now_s, store_requests)]
        done_s, count = now_s, len(latencies_s)
        for group, latency_s in enumerate(latencies_s, 1):  # those first in line are through before the last
            through_s = max((end_s - lasts_s * (1 - group / count) for end_s, lasts_s in ends), default=now_s)
            done_s = max(done_s, through_s + latency_s)
        if cpu_s:
            end_s, lasts_s = self._cores.reserve(now_s, cpu_s)
            done_s = max(done_s, end_s - lasts_s) + cpu_s  # decoded by one core, once it is there
        return done_s


class _Team:
    """Ranks in step: all go on when the last one's compute is over, and at that moment in the order of their numbers."""

    def __init__(self, env: Any, job: Job) -> None:
        self._env, self._job = env, job
        self._ends: dict[int, Any] = {}

    def arrive(self, rank: int) -> Any:
        """Called by each when its compute starts; the event of the step's end."""
        end = self._ends[rank] = self._env.event()
        if len(self._ends) == self._job.accelerators:
            ends, self._ends = sorted(self._ends.items()), {}
            over = self._env.timeout(self._job.compute_s)
            over.callbacks.append(lambda _: [each.succeed() for _, each in ends])
        return end


class _Batch:
    """One that was asked for: reads that are not done, and who waits for them."""

    __slots__ = ("event", "left")

    def __init__(self, reads: int) -> None:
        self.left = reads
        self.event: Any = None


class _Accelerator:
    """One rank with its loader."""

    def __init__(self, env: Any, rank: int, job: Job, path: _Path, draws: Iterator[Read], team: _Team | None, span: Span) -> None:
        self._rank, self._env, self._job, self._path, self._draws, self._team, self._span = rank, env, job, path, draws, team, span
        self._batches: deque[_Batch] = deque()
        self._to_read: deque[_Batch] = deque()
        self._free = job.readers
        self._cpu_s = job.cpu_s_per_batch / job.reads_per_batch
        self.compute_s = self.store_bytes = self.store_requests = 0.0

    def run(self) -> Generator[Any, None, None]:
        job, env = self._job, self._env
        for _ in range(job.prefetch_batches):
            self._ask()
        while True:
            if not job.prefetch_batches:
                self._ask()
            batch = self._batches.popleft()
            if batch.left:
                batch.event = env.event()
                yield batch.event
            self.compute_s += self._span.part_s(env.now, env.now + job.compute_s)
            if job.prefetch_batches:
                self._ask()
            yield self._team.arrive(self._rank) if self._team is not None else env.timeout(job.compute_s)

    def _ask(self) -> None:
        batch = _Batch(self._job.reads_per_batch)
        self._batches.append(batch)
        self._to_read.extend([batch] * batch.left)
        self._read()

    def _read(self) -> None:
        """Give work to the readers that have none."""
        while self._free and self._to_read:
            self._free -= 1
            batch, read, now_s = self._to_read.popleft(), next(self._draws), self._env.now
            if now_s >= self._span.open_s:
                self.store_bytes += read[1]
                self.store_requests += read[2]
            done = self._env.timeout(self._path.done_s(now_s, read, self._cpu_s) - now_s)
            done.callbacks.append(lambda _, batch=batch: self._done(batch))

    def _done(self, batch: _Batch) -> None:
        self._free += 1
        batch.left -= 1
        if not batch.left and batch.event is not None:
            batch.event.succeed()
        self._read()


class _Lines:
    """All lines of a system, by kind."""

    def __init__(self, system: System, span: Span) -> None:
        self._hosts, self._span = system.hosts, span
        self.of: dict[str, list[_Line]] = {name: [] for name in LINES}
        self._bandwidth = self._more("store bandwidth", system.store.bytes_per_s)
        self._requests = self._more("store requests", system.store.requests_per_s)

    def _more(self, kind: str, rate: float) -> _Line:
        self.of[kind].append(_Line(rate, self._span))
        return self.of[kind][-1]

    def to_next_host(self) -> _Path:
        """Of one host more, with an uplink more where the last one has its hosts."""
        hosts, number = self._hosts, len(self.of["host link"])
        if number % (hosts.per_uplink or number + 1) == 0:
            self._more("uplink", hosts.uplink_bytes_per_s)
        link, cores = self._more("host link", hosts.link_bytes_per_s), self._more("client CPU", hosts.cores)
        return _Path(self._bandwidth, self._requests, self.of["uplink"][-1], link, cores)


def run_events(system: System, span: Span, seed: int) -> Tally:
    """Simulate until the span closes. Raises UsageError where SimPy is not installed."""
    env, lines = _simpy().Environment(), _Lines(system, span)
    jobs: list[list[_Accelerator]] = []
    for index, job in enumerate(system.jobs):
        team = _Team(env, job) if job.in_step and job.accelerators > 1 else None
        draws, of_host, ranks = Draws(job, system, (seed, index)), system.hosts.accelerators or job.accelerators, []
        for rank in range(job.accelerators):
            if rank % of_host == 0:
                path = lines.to_next_host()
            ranks.append(_Accelerator(env, rank, job, path, draws.of_rank(rank), team, span))
        jobs.append(ranks)
    everyone = [each for ranks in jobs for each in ranks]
    for each in everyone:
        env.process(each.run())
    env.run(until=span.close_s)
    return Tally(
        compute_s=[sum(each.compute_s for each in ranks) for ranks in jobs],
        lines_s={name: max(line.busy_s for line in some) for name, some in lines.of.items()},
        store_bytes=sum(each.store_bytes for each in everyone),
        store_requests=sum(each.store_requests for each in everyone),
    )
