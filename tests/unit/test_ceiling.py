"""A run beside the raw ceiling: what is probed for it, the figures, and the findings, each with a run that trips just this one."""

from __future__ import annotations

from typing import Any

import pytest

from storagebench.ceiling import ceiling_figures, headroom_bytes_per_s, probe_before_s
from storagebench.checks.case import Case
from storagebench.checks.ceiling_rules import ceiling_unstable, faster_than_ceiling
from storagebench.errors import UsageError
from storagebench.metrics import summarise
from storagebench.probe.ceiling import ceiling_group
from storagebench.protocols import StoreSpec
from storagebench.traces import Steps, Trace

SECOND_NS = 10**9
WHOLE = {"config": {"run": {"max_steps": None, "duration_s": None}}, "members": [{"member": 0, "host": "node-1"}]}

POSIX = StoreSpec("posix", "/data")


def host(*rates: float, label: str = "node-1", member: int = 0) -> Trace:
    """A host's trace with the ceilings (bytes per second) before and after the run."""
    records = [
        {"kind": "ceiling", "when": when, "begin_ns": 0, "monotonic_ns": 3 * SECOND_NS, "bytes_per_s": rate}
        for when, rate in zip(("before", "after"), rates, strict=False)
    ]
    return Trace({"kind": "header", "host": label, "member": member}, Steps.of(()), tuple(records), False)


def figures(*rates: float, delivered: float | None = 80.0, storage: int | None = 200) -> tuple[Any, Any, Any]:
    found = ceiling_figures(WHOLE, [host(*rates)], delivered, {"storage_bytes": storage, "delivered_bytes": 100})
    return found["ceiling_bytes_per_s"], found["ceiling_range_bytes_per_s"], found["fraction_of_ceiling"]


def test_figures() -> None:
    assert figures() == (None, None, None)
    assert figures(200.0, 208.0) == (204.0, [200.0, 208.0], pytest.approx(160 / 204))  # 80 delivered a second, 2 stored for each
    assert figures(210.0, 200.0) == (205.0, [200.0, 210.0], pytest.approx(160 / 205))  # just 5 %
    assert figures(200.0, 211.0) == (200.0, [200.0, 211.0], pytest.approx(0.8))
    assert figures(200.0) == (200.0, None, pytest.approx(0.8))  # the run was ended before the second
    assert figures(200.0, 200.0, delivered=None) == figures(200.0, 200.0, storage=None) == (200.0, [200.0, 200.0], None)
    assert (probe_before_s([host(1.0, 1.0)]), probe_before_s([host()])) == (3.0, 0.0)


def test_hosts_that_are_probed_together_add_up() -> None:
    """A second member of a host writes none; a host without a figure makes the sum unknown, before and after each for itself."""
    members = [{"member": number, "host": label} for number, label in enumerate(("a", "b", "a"))]
    run, totals = {**WHOLE, "members": members}, {"storage_bytes": 200, "delivered_bytes": 100}
    last = host(label="a", member=2)

    def found(*hosts: Trace) -> list[Any]:
        return list(ceiling_figures(run, hosts, 80.0, totals).values())

    a, b = host(100.0, 110.0, label="a"), host(300.0, 294.0, label="b", member=1)
    assert found(last, b, a) == [402.0, [400.0, 404.0], pytest.approx(160 / 402)]
    assert found(a, host(300.0, label="b", member=1), last) == [400.0, None, pytest.approx(0.4)]
    assert found(a, last) == found(a, host(label="b", member=1), last) == [None, None, None]

    def asked(*rates: float | None, label: str, member: int) -> Trace:
        return host(label=label, member=member)._replace(others=tuple({"kind": "headroom", "bytes_per_s": rate} for rate in rates))

    assert headroom_bytes_per_s(run, [asked(5.0, label="a", member=0), asked(7.0, label="b", member=1)]) == 12.0
    assert headroom_bytes_per_s(run, [asked(5.0, label="a", member=0), asked(None, label="b", member=1)]) is None


@pytest.mark.parametrize(
    ("over", "rates", "codes"),
    [
        (1.0, (), []),
        (1.0, (1.0, 1.0), []),
        (1.0, (1.1, 1.11), []),
        (1.029, (1.0, 1.0), []),
        (1.031, (1.0, 1.0), ["FASTER_THAN_CEILING"]),
        (1.0, (1.0, 1.051), ["CEILING_UNSTABLE"]),
        (1.07, (1.0, 1.05), []),  # within 3 % of the range's upper end
        (1.09, (1.0, 1.05), ["FASTER_THAN_CEILING"]),
        (1.2, (1.0, 1.1), ["FASTER_THAN_CEILING", "CEILING_UNSTABLE"]),
    ],
)
def test_findings(over: float, rates: tuple[float, ...], codes: list[str], report_make: Any) -> None:
    """`rates` are multiples of the made-up run's own rate, `over` of which it reads."""
    loaded = report_make()
    plain = summarise(loaded.run, loaded.ranks, loaded.hosts)
    own = plain["delivered_bytes_per_s"] * plain["storage_bytes"] / plain["delivered_bytes"]
    hosts = [loaded.hosts[0]._replace(others=(*host(*(rate * own / over for rate in rates)).others, *loaded.hosts[0].others))]
    summary = summarise(loaded.run, loaded.ranks, hosts)
    rules = {"FASTER_THAN_CEILING": faster_than_ceiling, "CEILING_UNSTABLE": ceiling_unstable}
    found = [(code, each) for code, rule in rules.items() for each in rule(Case(loaded.run, summary, loaded.ranks, hosts))]
    assert [code for code, _ in found] == codes
    assert all("MB/s" in each.message and each.hint for _, each in found)
    assert summary["startup_s"] == pytest.approx(plain["startup_s"] - (3.0 if rates else 0.0))


@pytest.mark.parametrize(
    ("fields", "unit", "cache", "store", "expected"),
    [
        ({"format": "npz"}, "sample", "cold", POSIX, ("read", "objects", None, "cold")),
        ({"format": "npz"}, "sample", "cold", StoreSpec("posix", "/data", {"io": "direct"}), ("read", "objects", None, "direct")),
        ({"format": "npz"}, "sample", "direct", StoreSpec("s3", "s3://b/p"), ("read", "objects", None, "client")),
        ({"format": "webdataset", "num_samples": 256, "samples_per_shard": 4}, "sample", "direct", POSIX, ("read", "random", 8192, "direct")),
        ({"format": "webdataset", "num_samples": 256, "samples_per_shard": 4}, "shard", "warm", POSIX, ("read", "sequential", 2**20, "warm")),
    ],
)
def test_what_is_probed_for_a_run(
    fields: dict[str, Any], unit: str, cache: str, store: StoreSpec, expected: tuple[Any, ...], make_dataset: Any
) -> None:
    _, dataset = make_dataset(**fields)
    group = ceiling_group(dataset, unit, True, cache, store)
    assert (group.direction, group.pattern, group.mode) == (expected[0], expected[1], expected[3])
    assert group.request_bytes == (expected[2] or round(dataset.stored_bytes / dataset.num_samples))


def test_a_sequence_of_samples_is_probed_in_sequence_and_as_is_is_refused(make_dataset: Any) -> None:
    _, dataset = make_dataset(format="webdataset", num_samples=256, samples_per_shard=4)
    assert ceiling_group(dataset, "sample", False, "cold", POSIX).pattern == "sequential"
    with pytest.raises(UsageError, match="as-is"):
        ceiling_group(dataset, "sample", True, "as-is", POSIX)
