"""`selfcheck`: its cells exactly on the fake clock, through the real engine, trace and metrics; within 0.05 in real time; and broken metrics fail it."""

from __future__ import annotations

import heapq
import importlib.util
import json
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from storagebench import window
from storagebench.accelerator import EmulatedAccelerator, Wake
from storagebench.build import generate
from storagebench.clock import FakeClock
from storagebench.consumers import ConsumerGroup
from storagebench.experiments import rankcells
from storagebench.experiments.cells import SEED, Cell, Check, dataset_spec, full_checks, quick_checks
from storagebench.experiments.rankcells import run_cell
from storagebench.experiments.selfcheck import Row, judge, measure, run_checks, timer_row
from storagebench.launch import handling_signals
from storagebench.loaders.null import NullLoader
from storagebench.manifest import Dataset
from storagebench.model.closed_forms import pipelined
from storagebench.protocols import Batch, LoaderCounters
from storagebench.records import rank_traces
from storagebench.sampling import EpochPlan, plan_by_sample
from storagebench.storage import open_store
from storagebench.storage.shaped import jitter_ns
from storagebench.traces import read_trace
from storagebench.workload import Workload
from storagebench.world import Seats, SingleWorld, World

_spec = importlib.util.spec_from_file_location("fake_worlds", Path(__file__).parents[1] / "unit" / "test_known_answers_fake_clock.py")
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["fake_worlds"] = _module  # dataclasses look their own module up
_spec.loader.exec_module(_module)
FakeWorlds: Any = _module.FakeWorlds


class SimulatedWire:
    """The shared bandwidth on fake clocks. `first`: which rank's n-th read goes before the others' n-th, by n; None: who comes first."""

    def __init__(self, world_size: int, first: Callable[[int], int] | None = None) -> None:
        self._free_ns = self._served = 0
        self._size, self._first = world_size, first
        self._turn = threading.Condition()

    def reserve_ns(self, rank: int, begin_ns: int, duration_ns: int) -> int:
        with self._turn:
            first = self._first
            if first is not None:
                assert self._turn.wait_for(lambda: (first(self._served // self._size) + self._served) % self._size == rank, 10)
            self._served += 1
            self._free_ns = max(begin_ns, self._free_ns) + duration_ns
            self._turn.notify_all()
            return self._free_ns


class SimulatedLoader:
    """What the direct loader over the shaped store does, on a fake clock: readers that take batches in order, and a queue of `prefetch` batches."""

    def __init__(self, cell: Cell, dataset: Dataset, rank: int, clock: FakeClock, wire: SimulatedWire) -> None:
        self.cell, self.dataset, self.rank, self.clock, self.wire = cell, dataset, rank, clock, wire
        self._plan, self._ids = plan_by_sample(SEED, 0, cell.num_samples, rank, cell.world_size, cell.batch_size, True, False)
        self._queue: deque[int] = deque()
        self._readers = [0] * max(1, cell.workers)
        self._asked = self._taken = 0

    def plan(self, epoch: int) -> EpochPlan:
        return self._plan

    def start(self, epoch: int) -> None:
        for _ in range(self.cell.prefetch):
            self._ask()

    def _ask(self) -> None:
        if self._asked == len(self._plan.sizes):
            return
        begin_ns = max(self.clock.now_ns(), heapq.heappop(self._readers))
        if self.cell.read_s:
            begin_ns = self.wire.reserve_ns(self.rank, begin_ns, round(self.cell.read_s * 1e9))
        extent = self.dataset.extent(int(self._ids[self._asked * self.cell.batch_size]), False)
        ready_ns = begin_ns + round(self.cell.latency_s * 1e9) + jitter_ns(SEED, extent.key, extent.offset, round(self.cell.jitter_s * 1e9))
        heapq.heappush(self._readers, ready_ns)
        self._queue.append(ready_ns)
        self._asked += 1

    def next(self) -> Batch | None:
        if not self.cell.prefetch:
            self._ask()
        ready_ns = self._queue.popleft()
        self.clock.advance_ns(max(0, ready_ns - self.clock.now_ns()))
        if self.cell.prefetch:
            self._ask()
        ids = self._ids[self._taken * self.cell.batch_size :][: self.cell.batch_size]
        self._taken += 1
        level = sum(ready <= self.clock.now_ns() for ready in self._queue)
        return Batch(ids, record_bytes=1, handover_bytes=1, ready_ns=ready_ns, queue_level=level)

    def drain(self) -> None: ...

    def counters(self) -> LoaderCounters:
        return LoaderCounters()

    def effective(self) -> Mapping[str, Any]:
        return {"decode": "none"}

    def close(self) -> None: ...


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return generate(Workload(name="selfcheck", dataset=dataset_spec(4300)), open_store(str(tmp_path_factory.mktemp("selfcheck"))))


def on_fake_clocks(check: Check, dataset: Dataset, folder: Path, overshoot_ns: int = 0, first: Callable[[int], int] | None = None) -> Row:
    for cell in check.cells:
        fakes, wire = FakeWorlds(cell.world_size), SimulatedWire(cell.world_size, first)
        worlds: list[World] = [fakes.rank(rank) for rank in range(cell.world_size)]
        if cell.per_process > 1:  # the ranks of a process meet as they do in a run
            worlds = list(ConsumerGroup(SingleWorld(), Seats((("h", cell.world_size),), cell.per_process).process(0, 0)[1]).worlds)

        def rank_main(world: World, cell: Cell = cell, wire: SimulatedWire = wire) -> None:
            clock = FakeClock(start_ns=7_000, overshoot_ns=overshoot_ns)
            job = cell.job(cell.store("/nowhere"), dataset, world.place)
            loader = NullLoader().open(job) if cell.loader == "null" else SimulatedLoader(cell, dataset, world.place.rank, clock, wire)
            run_cell(cell, dataset, loader, NullLoader().open_endless(job), world, clock, folder)

        threads = [threading.Thread(target=rank_main, args=(world,)) for world in worlds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return judge(check, [measure(cell, folder) for cell in check.cells], dataset)


def identify(check: Check) -> str:
    return check.cells[-1].name


@pytest.mark.parametrize("check", full_checks(2), ids=identify)
def test_every_cell_is_exact_on_the_fake_clock(check: Check, dataset: Dataset, tmp_path: Path) -> None:
    row = on_fake_clocks(check, dataset, tmp_path)
    assert row.passed
    assert row.measured == pytest.approx(row.expected, abs=1e-9)


def test_full_has_the_cells_that_were_promised() -> None:
    """At least 24: 2 compute times x 3 bandwidths x 1, 2, 4 ranks, with and without prefetch; the expectations lie where AU says something."""
    grid = [check.cells[0] for check in full_checks(2) if check.cells[0].name.startswith(("a1x", "a2x")) and check.cells[0].name.count("-") == 2]
    assert len({(cell.world_size, cell.compute_s, cell.read_s, cell.prefetch > 0) for cell in grid}) == 36
    assert {len({getattr(cell, name) for cell in grid}) for name in ("compute_s", "prefetch")} == {2}
    assert len({cell.bandwidth for cell in grid}) == 3 == len({cell.world_size for cell in grid})
    assert all(cell.compute_s >= 0.1 for cell in grid if cell.world_size > 1 and not cell.prefetch)
    assert len(quick_checks(2)) + 1 == 9


def by_name(name: str) -> Check:
    return next(check for check in full_checks(2) if identify(check) == name)


def keep_measured_for_nominal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(window.RankWindow, "au_nominal", window.RankWindow.au_measured)


def pace_by_a_fixed_clock(patch: pytest.MonkeyPatch) -> None:
    """Deadlines t0 + k * c: what was lost to a stall is caught up."""
    patch.setattr(EmulatedAccelerator, "start_ns", lambda self, previous_end_ns, asked_ns, got_ns, ready_ns: previous_end_ns)
    patch.setattr(
        EmulatedAccelerator, "wait", lambda self, begun, release_ns: Wake(self._clock.sleep_until_ns(release_ns), release_ns, 0, release_ns)
    )


def drop_the_prefetch_correction(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(window, "_queue_fall", lambda *arguments: (0.0, 0.0))


BREAKERS = [keep_measured_for_nominal, pace_by_a_fixed_clock, drop_the_prefetch_correction]


@pytest.mark.parametrize("break_it", BREAKERS, ids=lambda function: function.__name__)
def test_a_broken_metric_fails(break_it: Callable[[pytest.MonkeyPatch], None], dataset: Dataset, tmp_path: Path, monkeypatch: Any) -> None:
    """With wake-ups 2 ms late, which the real metric takes: of the quick cells with a queue at least one fails, and none does unbroken."""
    checks = [by_name(name) for name in ("a2", "t4")]
    assert all(on_fake_clocks(check, dataset, tmp_path / "sound", overshoot_ns=2_000_000).passed for check in checks)
    break_it(monkeypatch)
    assert not all(on_fake_clocks(check, dataset, tmp_path / "broken", overshoot_ns=2_000_000).passed for check in checks)


@pytest.mark.parametrize("first", [lambda read: read % 2, lambda read: 0, lambda read: int(read < 11), lambda read: int(read >= 11)], ids="abcd")
def test_ranks_in_step_share_their_credit(first: Callable[[int], int], dataset: Dataset, tmp_path: Path) -> None:
    """Storage-bound ranks of which one is ahead, always or by turns: one has its batch before the window opens and another at its end, and one that is
    always ahead never waits. That is nobody's prefetch."""
    check = Check("pipeline", "", (Cell("turns", 0.1, 12, 2, read_s=0.07, prefetch=2, workers=2, warmup=10),))
    row = on_fake_clocks(check, dataset, tmp_path, first=first)
    levels = []
    for path in rank_traces(tmp_path / "turns"):
        steps = [step for step in read_trace(path).steps if step.kind != "null"]
        opened, made = steps[9].sync_end_ns, max(step.ready_ns or 0 for step in steps)
        levels.append((sum((step.ready_ns or 0) < opened for step in steps[10:]), sum(step.asked_ns > made for step in steps[10:])))
    assert sum(start for start, _ in levels) == sum(end for _, end in levels)
    assert row.measured == pytest.approx(1 / 1.4, abs=1e-9)


def summary(au_nominal: float, au_null: float = 1.0) -> dict[str, float]:
    return {"au_nominal": au_nominal, "au_null": au_null, "au_uncorrected": au_nominal, "au_measured": au_nominal}


@pytest.mark.parametrize(
    ("name", "measured", "passed"),
    [
        ("a2", [summary(0.509)], True),
        ("a2", [summary(0.511)], False),
        ("a2", [summary(0.489)], False),
        ("a2x1-0.1-0.07", [summary(0.97, 0.975)], True),  # expected 1: the harness may be the limit
        ("a2x1-0.1-0.07", [summary(1.0, 0.975)], True),  # only the null run was disturbed
        ("a2x1-0.1-0.07", [summary(0.97, 0.99)], False),
        ("hogs", [summary(0.5), summary(0.4)], True),
        ("hogs", [summary(0.5), summary(0.506)], False),
        ("hogs", [summary(0.48), summary(0.5)], True),  # the quiet one was disturbed, and the truth is 0.5
        ("50 ms", [summary(0.951), summary(0.991), summary(0.999)], True),
        ("50 ms", [summary(0.951), summary(0.989), summary(0.999)], False),
        ("50 ms", [summary(0.949), summary(0.999), summary(0.999)], False),
    ],
)
def test_verdicts(name: str, measured: Sequence[dict[str, float]], passed: bool, dataset: Dataset) -> None:
    assert judge(by_name(name), measured, dataset).passed is passed


class LateClock(FakeClock):
    """Every tenth wake-up is 6 ms late, or all are a microsecond early."""

    def __init__(self, early: bool) -> None:
        super().__init__()
        self._early, self._count = early, 0

    def sleep_until_ns(self, deadline_ns: int) -> int:
        self._count += 1
        self._now_ns = max(self._now_ns, deadline_ns + (-1000 if self._early else 6_000_000 if self._count % 10 == 0 else 0))
        return self._now_ns


def test_the_timer_row() -> None:
    assert timer_row(FakeClock(overshoot_ns=100_000)).passed
    late, early = timer_row(LateClock(early=False)), timer_row(LateClock(early=True))
    assert (late.passed, early.passed, early.measured) == (False, False, 0.0)
    assert late.measured == pytest.approx(0.9, abs=0.01)


@pytest.fixture
def short_null_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a single rank, which runs in this process, and cells whose verdict does not ask for the null run."""
    monkeypatch.setattr(rankcells, "_NULL_DURATION_S", 0.05)


def in_real_time(*checks: Check) -> list[Row]:
    """Once, and once more what failed: other work on the machine disturbs a run now and then."""
    with handling_signals():
        rows = run_checks(checks, tolerance=0.05)
        again = [check for check, row in zip(checks, rows, strict=True) if not row.passed]
        return [row for row in rows if row.passed] + (run_checks(again, tolerance=0.05) if again else [])


def test_cells_in_real_time(short_null_run: None) -> None:
    pipeline = {"read_s": 0.04, "prefetch": 4, "workers": 2}
    checks = [
        Check("A1", "", (Cell("a1", 0.05, 12, read_s=0.04, latency_s=0.01),)),
        Check("A2", "", (Cell("a2", 0.02, 25, **pipeline),)),  # type: ignore[arg-type]
        Check("T4", "", (Cell("t4", 0.02, 25, 1, queue_first=True, warmup=2, **pipeline),)),  # type: ignore[arg-type]
        Check("A3", "", (Cell("a3", 0.04, 25, batch_size=1, prefetch=1, workers=1, jitter_s=0.04),)),
    ]
    rows = in_real_time(*checks)
    assert [row for row in rows if not row.passed] == []


@pytest.mark.catalogue
def test_two_ranks_in_real_time() -> None:
    two = Cell("a1x2", 0.1, 12, 2, read_s=0.05)
    ahead = Cell("a2x2", 0.04, 30, 2, read_s=0.04, prefetch=2, workers=2, warmup=6)
    rows = in_real_time(Check("A1", "", (two,)), Check("A2", "", (ahead,)))
    assert [row for row in rows if not row.passed] == []
    assert [row.expected for row in rows] == [0.5, 0.5]


@pytest.mark.parametrize("break_it", [pace_by_a_fixed_clock, drop_the_prefetch_correction], ids=lambda function: function.__name__)
def test_a_broken_metric_fails_in_real_time(break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: Any, short_null_run: None) -> None:
    break_it(monkeypatch)
    cell = Cell("t4", 0.02, 30, read_s=0.04, prefetch=8, workers=2, warmup=2, queue_first=True)
    with handling_signals():
        (row,) = run_checks([Check("T4", "", (cell,))], tolerance=0.05)
    assert not row.passed
    assert row.measured > pipelined(0.02, 1, 25) + 0.05


@pytest.mark.parametrize(("passes", "code"), [(True, 0), (False, 6)])
def test_the_verb(passes: bool, code: int, monkeypatch: Any, capsys: Any) -> None:
    from storagebench.cli import run_program

    rows = [Row("steady pipeline", "A2", 0.5, 0.5 if passes else 0.6, 0.01, passes, "null 1.000")]
    monkeypatch.setattr("storagebench.experiments.selfcheck.selfcheck", lambda *arguments, **options: rows)
    assert run_program(["selfcheck"]) == code
    shown = capsys.readouterr()
    verdict = "0.5000    0.5000    +0.0000     pass  null 1.000" if passes else "0.5000    0.6000    +0.1000     FAIL  null 1.000"
    assert shown.out.splitlines()[1] == f"steady pipeline  A2    {verdict}"
    assert ("error: 1 of 1 cells are off: steady pipeline" in shown.err) is not passes
    assert run_program(["selfcheck", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["passed"] is passes
