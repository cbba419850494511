"""`tune` on planted landscapes with known optima: what it finds within its trials, what it says of the defaults, and that it goes on where it stopped."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from storagebench.errors import UsageError
from storagebench.experiments.space import Dimension, Point, asked_dimension, default_point, key_of, neighbours, num_points, space_of
from storagebench.experiments.tune import CONFIRM, FINAL, LEAST_PAIRS, SEARCH, Asked, Measured, Trial, Tuned, Tuning, least_trials
from storagebench.registry import loader_info
from storagebench.report.tune import tune_text
from storagebench.tunebench import BUSY, objective_of
from storagebench.workload import LoaderSpec, RunSpec, Workload

COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
WORKERS, PREFETCH, DEPTH = "loader.num_workers", "loader.prefetch_batches", "loader.io_depth"
SPACE = [Dimension(WORKERS, (0, *COUNTS), 4), Dimension(PREFETCH, COUNTS, 2), Dimension(DEPTH, (0, 1, 2, 4, 8, 16, 32, 64), 0)]
TRIAL_S, TEN_MINUTES_S = 6.5, 600.0
Landscape = Callable[[Point], float]


def smooth(point: Point) -> float:
    """A hill on the logarithms with an interaction: more workers make up for less depth. Its top is 12 workers, 16 batches, depth 16."""
    a, b, c = (math.log2(1 + point[key]) - math.log2(1 + top) for key, top in ((WORKERS, 12), (PREFETCH, 16), (DEPTH, 16)))
    return 0.95 * math.exp(-(0.06 * a * a + 0.05 * b * b + 0.06 * c * c - 0.08 * a * c))


def cliff(point: Point) -> float:
    """What is in flight raises the rate up to a plateau from 96 on, and breaks the server beyond 128; prefetch counts up to 8; over 16 workers thrash."""
    in_flight = max(point[WORKERS], 1) * max(point[DEPTH], 1)
    value = 0.9 * min(1.0, 0.1 + 0.9 * in_flight / 96) * min(1.0, 0.55 + 0.45 * point[PREFETCH] / 8)
    return value * (0.35 if in_flight > 128 else 1.0) * (0.8 if point[WORKERS] > 16 else 1.0)


def flat(point: Point) -> float:
    return 0.7


def every_point() -> Iterator[dict[str, Any]]:
    for values in itertools.product(*(one.values for one in SPACE)):
        yield {one.key: value for one, value in zip(SPACE, values, strict=True)}


class Bench:
    """Measures a landscape with noise (a share of the value), each trial in its own seconds; what is over `limit` workers is refused."""

    def __init__(self, landscape: Landscape, noise: float, seed: int, limit: int = 10**6) -> None:
        self.landscape, self.noise, self.draw, self.limit = landscape, noise, random.Random(seed), limit
        self.asked: list[Point] = []

    def measure(self, number: int, phase: str, point: Point) -> Measured:
        self.asked.append(point)
        return Measured(self.landscape(point) * (1 + self.draw.gauss(0, self.noise)), TRIAL_S, f"{number:03d}-{phase}")

    def refuses(self, point: Point) -> str:
        return "too many" if point[WORKERS] > self.limit else ""


class Drawing:
    """A proposer that draws at random: the engine's own part without Optuna."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def ask(self) -> Point:
        return {one.key: self.draw.choice(one.values) for one in SPACE}

    def tell(self, point: Point, value: float | None) -> None:
        pass


def tune(bench: Bench, proposer: Any, seconds: float = TEN_MINUTES_S, seed: int = 1, past: Any = (), note: Any = lambda trial: None) -> Tuned:
    return Tuning(Asked(SPACE, seconds, seed), proposer, bench.measure, bench.refuses, past, note).run()


@pytest.mark.parametrize(("landscape", "noise"), [(smooth, 0.0), (smooth, 0.01), (cliff, 0.02)])
@pytest.mark.parametrize("seed", range(1, 6))
def test_the_best_of_a_planted_landscape_is_found(landscape: Landscape, noise: float, seed: int) -> None:
    """Within 3 % of the best of 880 settings, in ten minutes of trials of 6.5 s."""
    pytest.importorskip("optuna")
    from storagebench.experiments.proposer import OptunaProposer

    best = max(map(landscape, every_point()))
    found = tune(Bench(landscape, noise, seed), OptunaProposer(SPACE, seed), seed=seed)
    assert found.best is not None and landscape(found.best) >= 0.97 * best, found.best
    assert found.better and found.ratio is not None
    truth = landscape(found.best) / landscape(found.default)
    assert noise == 0 or 0.95 * truth < found.ratio.value < 1.05 * truth
    assert sum(trial.seconds for trial in found.trials) <= TEN_MINUTES_S + 2 * TRIAL_S


@pytest.mark.parametrize("seed", range(8))
def test_where_nothing_helps_it_says_so(seed: int) -> None:
    found = tune(Bench(flat, 0.02, seed), Drawing(seed))
    assert found.ratio is not None and found.ratio.low is not None and 0.97 < found.ratio.value < 1.03
    assert not found.better or found.ratio.low < 1.01  # one in forty is called better at 95 %


def test_a_defect_that_the_search_flattered_does_not_win() -> None:
    """The defaults are the best there is; noise makes others look better once, and the fresh runs see through it."""
    found = tune(Bench(lambda point: 1.0 if dict(point) == default_point(SPACE) else 0.9, 0.1, 3), Drawing(3))
    assert not found.better and found.ratio is not None and found.ratio.value < 1
    flattered = max(trial.value or 0.0 for trial in found.trials if trial.phase == SEARCH and dict(trial.point) != default_point(SPACE))
    assert flattered > 1.05


def test_phases_defaults_first_fresh_pairs_last() -> None:
    bench = Bench(smooth, 0.0, 1)
    found = tune(bench, Drawing(1))
    phases = [trial.phase for trial in found.trials]
    assert dict(bench.asked[0]) == default_point(SPACE) == dict(found.default)
    assert phases == sorted(phases, key=[SEARCH, FINAL, CONFIRM].index) and [trial.number for trial in found.trials] == list(range(len(phases)))
    searched = [key_of(trial.point) for trial in found.trials if trial.phase == SEARCH]
    assert len(set(searched)) == len(searched)
    confirm = [key_of(trial.point) for trial in found.trials if trial.phase == CONFIRM]
    assert found.best is not None and len(confirm) >= 2 * LEAST_PAIRS
    for pair in range(0, len(confirm), 2):
        assert {confirm[pair], confirm[pair + 1]} == {key_of(found.default), key_of(found.best)}
    assert len({confirm[pair] for pair in range(0, len(confirm), 2)}) == 2  # neither is always first


def test_too_short_a_time_still_makes_the_least() -> None:
    found = tune(Bench(smooth, 0.0, 1), Drawing(1), seconds=10.0)
    assert (len(found.trials), found.better) == (least_trials(), True)


def test_what_does_not_fit_is_never_run_and_failures_are_no_values() -> None:
    bench = Bench(smooth, 0.0, 1, limit=6)
    measure = bench.measure
    bench.measure = lambda *args: measure(*args) if args[2][PREFETCH] != 3 else Measured(None, 1.0, "x", "out of memory")  # type: ignore[method-assign]
    found = tune(bench, Drawing(1))
    assert max(point[WORKERS] for point in bench.asked) <= 6
    assert found.best is not None and found.best[PREFETCH] != 3
    assert {trial.why for trial in found.trials if trial.value is None} <= {"out of memory"}


def test_a_best_that_fails_in_a_fresh_run_is_not_recommended() -> None:
    bench, default = Bench(smooth, 0.0, 1), default_point(SPACE)
    measure, fails = bench.measure, list[str]()

    def fails_once(number: int, phase: str, point: Point) -> Measured:
        found = measure(number, phase, point)
        failed = phase == CONFIRM and dict(point) != default and not fails
        fails.extend(["once"] if failed else [])
        return found._replace(value=None, why="died") if failed else found

    bench.measure = fails_once  # type: ignore[method-assign]
    found = tune(bench, Drawing(1))
    assert (found.verdict, found.better) == ("unreliable", False)
    text = tune_text(found, "au_nominal", "why", SPACE, ["best"], ["the", "defaults"])
    assert text.splitlines()[-2:] == [
        "Could not beat the defaults: the best found failed in some of its fresh runs (see above). The defaults are:",
        "the defaults",
    ]


PAGE = """\
objective  AU: the defaults reach AU 0.200
turned     loader.prefetch_batches: 1, 2 (default 1)
trials     2 settings searched, 10 runs in 65 s
best       loader.prefetch_batches=2
defaults   loader.prefetch_batches=1

confirmed AU  runs  median    min    max  spread
defaults         4   0.200  0.200  0.200    0.0%
best             4   0.400  0.400  0.400    0.0%

The best beats the defaults: +100.0% AU (+100.0% to +100.0% at 95%, exact ranks (Mann and Whitney) of the runs). To use it:
storagebench run 'a b'
"""


def test_the_page() -> None:
    small = [Dimension(PREFETCH, (1, 2), 1)]
    bench = Bench(lambda point: point[PREFETCH] / 5, 0.0, 1)

    class Second(Drawing):
        def ask(self) -> Point:
            return {PREFETCH: 2}

    found = Tuning(Asked(small, 10.0, 1), Second(1), bench.measure, lambda point: "").run()
    assert tune_text(found, "au_nominal", "the defaults reach AU 0.200", small, ["storagebench", "run", "a b"], ["x"]) == PAGE


def test_it_goes_on_where_it_stopped() -> None:
    noted: list[Trial] = []
    whole = tune(Bench(smooth, 0.0, 1), Drawing(1), note=noted.append)
    for cut in (0, 3, len([trial for trial in noted if trial.phase == SEARCH]) + 2, len(noted) - 3, len(noted)):
        bench = Bench(smooth, 0.0, 1)
        again = tune(bench, Drawing(1), past=noted[:cut])
        assert again.trials[:cut] == tuple(noted[:cut])
        assert len(bench.asked) == len(again.trials) - cut
        assert abs(len(again.trials) - len(noted)) <= 1
        assert again.better
    assert whole.better and again.best == whole.best


def test_a_small_space_ends_the_search() -> None:
    small = [Dimension(PREFETCH, (1, 2), 1)]
    bench = Bench(lambda point: float(point[PREFETCH]), 0.0, 1)

    class Fixed(Drawing):
        def ask(self) -> Point:
            return {PREFETCH: 1}

    found = Tuning(Asked(small, 600.0, 1), Fixed(1), bench.measure, lambda point: "", ()).run()
    assert ([trial.phase for trial in found.trials].count(SEARCH), found.best, found.better) == (2, {PREFETCH: 2}, True)


def test_spaces_of_loaders() -> None:
    workload = Workload(name="w", loader=LoaderSpec(num_workers=5), run=RunSpec(num_accelerators=4))
    found = {one.key: one for one in space_of(workload, loader_info("direct"), "posix", 24, ["/a", "/b"])}
    assert list(found) == [WORKERS, PREFETCH, DEPTH, "run.accelerators_per_process", "data_dir"]
    assert (found[WORKERS].values, found[WORKERS].default) == ((0, 1, 2, 3, 4, 5, 6), 5)
    assert found["run.accelerators_per_process"].values == (1, 2, 4) and found["data_dir"].ordered is False
    assert [one.key for one in space_of(workload, loader_info("files"), "posix", 24)] == [WORKERS, PREFETCH]
    with pytest.raises(UsageError, match="4 accelerators with 5 workers each are 20 workers, over --max-workers 8"):
        space_of(workload, loader_info("files"), "posix", 8)
    assert asked_dimension("loader.shuffle_buffer", [10, 1000], 100).values == (10, 100, 1000)
    assert asked_dimension("loader.shuffle", [True, False], True).ordered is False
    near = list(neighbours(SPACE, default_point(SPACE)))
    assert len(near) == 5 + (2 * 2 + 2 * 1 + 2 * 1) and num_points(SPACE) == 880


def test_the_objective_is_au_where_it_can_grow() -> None:
    assert objective_of(0.01, 0.8)[:2] == ("au_nominal", False)
    assert objective_of(0.01, BUSY)[:2] == ("samples_per_s", True)
    assert objective_of(0.0, None)[:2] == ("samples_per_s", True)
