"""The simulation against the closed forms (within 0.01 AU), the recurrence on arrays against the events (within 0.005), and what must be monotone."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from storagebench.errors import UsageError
from storagebench.model import closed_forms
from storagebench.model.bound import bound
from storagebench.model.closed_forms import Stream
from storagebench.model.recurrence import pace
from storagebench.model.simulate import simulate
from storagebench.model.system import Hosts, Job, Latency, Store, System

pytest.importorskip("simpy")

BATCH_BYTES = 8e6


def one(ranks: int = 1, compute_s: float = 0.1, **fields: object) -> Job:
    return Job(**{"name": "job", "accelerators": ranks, "compute_s": compute_s, "batch_size": 8, "record_bytes": BATCH_BYTES / 8, **fields})  # type: ignore[arg-type]


NO_LATENCY = Latency()


def on(job: Job, demand: float = 0.0, latency: Latency = NO_LATENCY, **fields: object) -> System:
    """The job on a store whose bandwidth it would take `demand` times; 0 for no limit."""
    bandwidth = job.accelerators * job.batch_bytes / job.compute_s / demand if demand else math.inf
    return System((job,), Store(bandwidth, latency=latency), **fields)  # type: ignore[arg-type]


def au(system: System, steps: int = 200, engine: str = "events", seed: int = 1) -> float:
    return simulate(system, steps, seed, engine).least_au  # type: ignore[arg-type]


# -- closed forms ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("compute_s", "ranks"), list(product((0.02, 0.1), (1, 2, 4))))
def test_reads_and_computes_in_turn(compute_s: float, ranks: int) -> None:
    """A1: 36 settings."""
    for demand, latency in product((0.25, 1.0, 3.0), (0.0, 0.01)):
        system = on(one(ranks, compute_s, prefetch_batches=0), demand, Latency(latency))
        expected = closed_forms.no_prefetch(compute_s, BATCH_BYTES, system.store.bytes_per_s, latency, ranks)
        assert au(system) == pytest.approx(expected, abs=0.01)
        assert bound(system).least_au == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("ranks", "in_step"), list(product((1, 2, 8), (True, False))))
def test_pipelines_are_bound_by_bandwidth(ranks: int, in_step: bool) -> None:
    """A2: 72 settings, prefetch of 2, 4 and 8 batches."""
    for demand, depth, compute_s in product((0.5, 0.9, 1.5, 4.0), (2, 4, 8), (0.05,)):
        system = on(one(ranks, compute_s, prefetch_batches=depth, readers=depth, in_step=in_step), demand)
        expected = closed_forms.pipelined(compute_s, BATCH_BYTES, system.store.bytes_per_s, 0.0, ranks, depth)
        assert au(system) == pytest.approx(expected, abs=0.01), (demand, depth)
        assert bound(system).least_au == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("readers", [1, 2, 4])
def test_pipelines_are_bound_by_latency(readers: int) -> None:
    """A2: 27 settings."""
    for share, ranks, reads in product((0.5, 2.0, 5.0), (1, 2, 4), (1, 2, 4)):
        job = one(ranks, prefetch_batches=8, readers=readers, reads_per_batch=reads)
        found = au(on(job, latency=Latency(share * job.compute_s)))
        assert found == pytest.approx(min(1.0, readers / reads / share), abs=0.01), (share, ranks, reads)


@pytest.mark.parametrize("ranks", [1, 3, 8])
def test_stores_are_bound_by_requests(ranks: int) -> None:
    for rate, requests in product((100.0, 300.0, 2000.0), (1, 8, 40)):
        job = one(ranks, requests_per_read=requests, prefetch_batches=4, readers=4)
        system = System((job,), Store(requests_per_s=rate))
        expected = closed_forms.requests_bound(job.compute_s, requests, rate, ranks)
        assert au(system) == pytest.approx(expected, abs=0.01), (rate, requests)
        assert bound(system).least_au == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("ranks", [2, 5])
def test_one_batch_ahead_in_step(ranks: int) -> None:
    """Where all ask at the beginning of a step, the last has its batch N b / B + L later: `c / max(c, L + N b / B)`. It is so while nobody waits;
    else those that have their batch before the last ask before it, and AU lies between that and A2."""
    for demand, latency in product((0.4, 0.9, 1.8), (0.0, 0.03, 0.08)):
        system = on(one(ranks, prefetch_batches=1), demand, Latency(latency))
        least, most = min(1.0, 0.1 / (latency + demand * 0.1)), closed_forms.pipelined(0.1, BATCH_BYTES, system.store.bytes_per_s, latency, ranks, 1)
        assert least - 0.01 <= au(system) <= most + 0.01
        if least == 1.0:
            assert au(system) == pytest.approx(1.0, abs=0.001)


@pytest.mark.parametrize("share", [0.4, 0.8, 1.6])
def test_random_reads(share: float) -> None:
    """A3, and A4 as the lower bound of ranks in step (`closed_forms`)."""
    latency = Latency(exponential_s=0.1 * share)
    expected = closed_forms.exponential(0.1, 0.1 * share)
    assert au(on(one(8, prefetch_batches=1, in_step=False), latency=latency), 3000) == pytest.approx(expected, abs=0.01)
    together = au(on(one(8, prefetch_batches=1), latency=latency), 1000)
    assert closed_forms.exponential_in_step(0.1, 0.1 * share, 8) < together < expected


def test_ranks_in_step_are_the_recurrence() -> None:
    reads = np.random.default_rng(5).exponential(0.09, (6, 20_000))
    for depth in (1, 3):
        found = au(on(one(6, prefetch_batches=depth), latency=Latency(exponential_s=0.09)), 4000)
        assert found == pytest.approx(pace(reads, 0.1, depth).au(), abs=0.01)


def test_several_workloads_on_one_wire() -> None:
    """First come, first served: who has more in flight gets more. A fair wire is another answer, and is said to be."""
    greedy = one(3, prefetch_batches=6, readers=6, in_step=False)
    modest = replace(one(3, prefetch_batches=2, readers=2, in_step=False), name="modest")
    bandwidth = 6 * BATCH_BYTES / 0.1 / 2
    streams = [Stream(3, 0.1, BATCH_BYTES, 6), Stream(3, 0.1, BATCH_BYTES, 2)]
    system = System((greedy, modest), Store(bandwidth))
    expected = closed_forms.shared_fifo(streams, bandwidth)
    assert expected == (pytest.approx(0.75), pytest.approx(0.25))
    assert closed_forms.shared_fairly(streams, bandwidth) == (0.5, 0.5)
    for answer in (simulate(system, 300, engine="events"), simulate(system, 300, engine="steps"), bound(system)):
        assert list(answer.au.values()) == [pytest.approx(value, abs=0.01) for value in expected]
        assert answer.limited_by == "store bandwidth"


def test_one_that_wants_little_beside_one_that_wants_much() -> None:
    """A fair wire serves the one and leaves the rest to the other. On one that serves in turn both wait for the other's bytes: (2 x 4 x 1 + 4 x 20)
    / 110 = 0.8 s for 4 batches."""
    streams = [Stream(2, 0.1, 1e6, 4), Stream(1, 0.1, 20e6, 4)]
    assert closed_forms.shared_fairly(streams, 110e6) == (1.0, pytest.approx(0.45))
    assert closed_forms.shared_fifo(streams, 1e9) == (1.0, 1.0)
    assert closed_forms.shared_fifo(streams, 110e6) == (pytest.approx(0.5), pytest.approx(0.5))


def test_caches() -> None:
    assert closed_forms.no_evict_hits(25, 100) == 0.25
    assert closed_forms.no_evict_hits(200, 100) == closed_forms.lru_hits(200, 100) == 1.0
    assert closed_forms.lru_hits(50, 100) == pytest.approx(0.5 + 0.5 * math.log(0.5))
    job = one(4, prefetch_batches=4, readers=4, requests_per_read=8, dataset_bytes=1e12)
    for share in (0.25, 0.5, 0.85):
        cached = on(job, 4.0, shared_cache_bytes=share * 1e12)
        assert au(cached, 400) == pytest.approx(min(1.0, 0.25 / (1 - share)), abs=0.01)
        assert bound(cached).least_au == pytest.approx(min(1.0, 0.25 / (1 - share)))
        assert bound(replace(cached, warm=False)).least_au == pytest.approx(0.25)
        assert bound(replace(cached, cache_rule="lru")).least_au < bound(cached).least_au


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_the_hits_of_lru_by_simulating_it(share: float) -> None:
    """An epoch after the first, each in a new order."""
    count, random = 3000, np.random.default_rng(7)
    cache: dict[int, None] = {}
    hits = 0
    for epoch in range(6):
        for sample in random.permutation(count).tolist():
            if sample in cache:
                hits += epoch > 0
                del cache[sample]
            elif len(cache) >= share * count:
                del cache[next(iter(cache))]
            cache[sample] = None
    assert hits / (5 * count) == pytest.approx(closed_forms.lru_hits(share, 1.0), abs=0.01)


def test_links_uplinks_and_cores() -> None:
    """Each line alone at half of what is asked of it."""
    job = one(8, prefetch_batches=4, readers=4, cpu_s_per_batch=0.04)
    demand = BATCH_BYTES / 0.1
    for hosts, line in (
        (Hosts(4, link_bytes_per_s=2 * demand), "host link"),
        (Hosts(4, cores=4 * 0.4 / 2), "client CPU"),
        (Hosts(2, per_uplink=2, uplink_bytes_per_s=2 * demand), "uplink"),
        (Hosts(2, uplink_bytes_per_s=4 * demand), "uplink"),
    ):
        system = System((job,), hosts=hosts)
        for answer in (simulate(system, engine="events"), simulate(system, engine="steps"), bound(system)):
            assert (answer.least_au, answer.limited_by) == (pytest.approx(0.5, abs=0.01), line)


# -- both engines ----------------------------------------------------------------------------------------------------------------------------------

JITTER = Latency(0.02, exponential_s=0.05)
SHAPES = {
    "plain": {},
    "pieces": {"reads_per_batch": 4, "readers": 4},
    "bursts": {"requests_per_read": 8, "readers": 2},
    "no prefetch": {"prefetch_batches": 0},
}
STORES = {
    "uncontended": (0.0, math.inf, Latency(0.01), {}),
    "bandwidth": (1.6, math.inf, Latency(), {}),
    "nearly full": (0.95, math.inf, Latency(0.01), {}),
    "requests": (0.0, 0.7, Latency(), {}),
    "jitter": (0.0, math.inf, JITTER, {}),
    "bandwidth and jitter": (1.2, math.inf, JITTER, {}),
    "cached": (3.0, math.inf, JITTER, {"shared_cache_bytes": 5e11}),
    "hosts": (1.1, math.inf, JITTER, {"hosts": Hosts(4, link_bytes_per_s=5 * BATCH_BYTES / 0.1)}),
}


def both(store: str, shape: str, in_step: bool, ranks: int, steps: int) -> tuple[float, float]:
    demand, requests_share, latency, fields = STORES[store]
    job = one(ranks, in_step=in_step, dataset_bytes=1e12, record_bytes_stdev=2e5, **SHAPES[shape])
    system = on(job, demand, latency, **fields)
    if requests_share < math.inf:
        system = replace(system, store=replace(system.store, requests_per_s=requests_share * ranks * job.requests_per_batch / job.compute_s))
    return au(system, steps), au(system, steps, "steps")


@pytest.mark.parametrize(("store", "in_step"), list(product(STORES, (True, False))))
def test_the_recurrence_agrees_with_the_events(store: str, in_step: bool) -> None:
    events, steps = both(store, "plain", in_step, 12, 250)
    assert steps == pytest.approx(events, abs=0.005)


@pytest.mark.nightly
@pytest.mark.parametrize(("store", "shape", "in_step"), list(product(STORES, SHAPES, (True, False))))
def test_the_recurrence_agrees_with_the_events_everywhere(store: str, shape: str, in_step: bool) -> None:
    events, steps = both(store, shape, in_step, 48, 600)
    assert steps == pytest.approx(events, abs=0.005)


def test_two_workloads_agree_too() -> None:
    jobs = (one(12, prefetch_batches=4), replace(one(20, 0.04, prefetch_batches=2, record_bytes=2e5), name="other"))
    system = System(jobs, Store(1e9, 400, latency=Latency(0.005, exponential_s=0.01)))
    events, steps = (simulate(system, 150, engine=engine) for engine in ("events", "steps"))  # type: ignore[arg-type]
    for name in events.au:
        assert steps.au[name] == pytest.approx(events.au[name], abs=0.005)
    assert steps.limited_by == events.limited_by
    assert steps.store_bytes_per_s == pytest.approx(events.store_bytes_per_s, rel=0.01)


# -- properties ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["events", "steps"])
def test_more_of_anything_is_never_worse(engine: str) -> None:
    job = one(6, prefetch_batches=2, readers=2, requests_per_read=4, dataset_bytes=1e12)
    system = System((job,), Store(300e6, 250, Latency(0.02)), Hosts(3, link_bytes_per_s=4e8), shared_cache_bytes=1e11)
    base = au(system, engine=engine)
    for more in (
        replace(system, store=replace(system.store, bytes_per_s=600e6)),
        replace(system, store=replace(system.store, requests_per_s=500)),
        replace(system, store=replace(system.store, latency=Latency(0.01))),
        replace(system, shared_cache_bytes=3e11),
        replace(system, hosts=replace(system.hosts, link_bytes_per_s=8e8)),
        replace(system, jobs=(replace(job, prefetch_batches=4),)),
        replace(system, jobs=(replace(job, accelerators=3),)),
    ):
        assert au(more, engine=engine) >= base - 0.005


def test_the_same_seed_gives_the_same() -> None:
    system = on(one(4), 1.1, JITTER)
    for engine in ("events", "steps"):
        assert au(system, 100, engine, seed=3) == au(system, 100, engine, seed=3) != au(system, 100, engine, seed=4)


def test_it_chooses_its_engine() -> None:
    assert simulate(on(one(4)), 50).engine == "events"
    assert simulate(on(one(1000)), 50).engine == "steps"


def test_a_measured_sample_is_drawn_with_equal_chances() -> None:
    latency = Latency(sample_s=(0.3, 0.1, 0.2), of_read=True)
    assert latency.mean_of_largest_s(5) == pytest.approx(0.2, abs=1e-3)
    assert replace(latency, of_read=False).mean_of_largest_s(2) == pytest.approx((0.1 * 1 + 0.2 * 3 + 0.3 * 5) / 9, abs=1e-3)
    assert Latency(exponential_s=0.1).mean_of_largest_s(3) == pytest.approx(0.1 * (1 + 1 / 2 + 1 / 3), rel=0.01)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: one(compute_s=0.0), "compute_s of job is 0.0"),
        (lambda: one(0), "accelerators of job is 0"),
        (lambda: System((one(),), Store(bytes_per_s=0.0)), "bandwidth of the store is 0"),
        (lambda: System((one(),), Store(requests_per_s=-1.0)), "requests per second of the store is -1"),
        (lambda: System(()), "there is no job"),
    ],
)
def test_what_cannot_be_simulated_is_refused(make: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make()  # type: ignore[operator]
