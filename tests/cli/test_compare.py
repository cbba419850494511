"""`compare` on made run folders: what each exit code means, what must match, what is only shown."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from storagebench.checks.comparison import METRICS
from storagebench.commands.compare import METRIC_NAMES, parse_margin
from storagebench.errors import UsageError

# 20 ms of compute and a stall of 5 ms on average; with 7.8 ms a step takes 11 % longer, which is 10 % fewer samples a second.
SAME_MS, A_TENTH_SLOWER_MS, MARGIN_SLOWER_MS = 5.0, 7.8, 6.3


def _made_runs() -> Any:
    """The makers of run folders of the unit tests, which pytest hands to that folder only."""
    path = Path(__file__).parents[1] / "unit" / "conftest.py"
    spec = importlib.util.spec_from_file_location("storagebench_made_runs", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


made = _made_runs()


def make(results: Path, name: str, num_runs: int, stall_ms: float = SAME_MS, **fields: Any) -> Path:
    """`num_runs` folders NAME-1 ...; the path that stands for all of them."""
    defaults = {"stalled": 1.0, "world_size": 1, "steps": 200, "epochs": 2}
    for number in range(1, num_runs + 1):
        made.write_run(results, made.make_run(made.Scenario(run_id=f"{name}-{number}", stall_ms=stall_ms, **{**defaults, **fields})))
    return results / name


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("compare"), "base", 5)


def last_line(text: str) -> str:
    return text.rstrip().splitlines()[-1]


def test_a_regression_is_excluded(base: Path, cli: Any, tmp_path: Path) -> None:
    result = cli("compare", str(base), str(make(tmp_path, "new", 5, loader="files")))
    assert (result.returncode, result.stderr) == (0, "")
    assert "differs           loader: direct -> files" in result.stdout
    assert "interval by       exact ranks (Mann and Whitney) of the runs" in result.stdout
    assert last_line(result.stdout).startswith("not distinguishable: samples_per_s of NEW is ")
    assert last_line(result.stdout).endswith("a regression beyond 5% is excluded.")


@pytest.mark.parametrize("metric", ["samples_per_s", "delivered_bytes_per_s", "au_nominal"])
def test_a_slow_down_of_a_tenth_is_found(metric: str, base: Path, cli_here: Any, tmp_path: Path) -> None:
    result = cli_here("compare", str(base), str(make(tmp_path, "new", 5, A_TENTH_SLOWER_MS)), "--metric", metric, "--json")
    comparison = json.loads(result.stdout)
    assert (result.returncode, comparison["exit_code"], comparison["verdict"], comparison["regression"]) == (6, 6, "worse", "shown")
    assert comparison["ratio"]["low"] < 0.9 < comparison["ratio"]["high"] + 0.01 < 0.95
    assert (len(comparison["base"]["runs"]), comparison["base"]["runs"][0], comparison["ratio"]["weak"]) == (5, "base-1", False)


def test_a_gain_is_better_and_the_margin_decides(base: Path, cli_here: Any, tmp_path: Path) -> None:
    slower = make(tmp_path, "new", 5, A_TENTH_SLOWER_MS)
    gain = cli_here("compare", str(slower), str(base))
    assert (gain.returncode, last_line(gain.stdout).split(":")[0]) == (0, "better")
    wide = cli_here("compare", str(base), str(slower), "--margin", "0.2")
    assert wide.returncode == 0
    assert last_line(wide.stdout).startswith("worse: ") and last_line(wide.stdout).endswith("a regression beyond 20% is excluded.")


def test_an_interval_that_holds_both_is_inconclusive(base: Path, cli_here: Any, tmp_path: Path) -> None:
    result = cli_here("compare", str(base), str(make(tmp_path, "new", 3, MARGIN_SLOWER_MS)))
    assert result.returncode == 7
    assert "neither shown nor excluded: repeat both sides more often" in last_line(result.stdout)


def test_single_runs_decide_nothing_unless_allowed(base: Path, cli_here: Any, tmp_path: Path) -> None:
    single = f"{make(tmp_path, 'new', 1, 12.0)}-1"
    result = cli_here("compare", f"{base}-1", single)
    assert result.returncode == 7
    assert "interval by       overlapping blocks of steps of one run on each side" in result.stdout
    assert last_line(result.stdout).startswith("not distinguishable (weak): ") and "--allow-single" in last_line(result.stdout)
    assert cli_here("compare", str(base), single).returncode == 7
    allowed = cli_here("compare", f"{base}-1", single, "--allow-single")
    assert allowed.returncode == 6
    assert last_line(allowed.stdout).startswith("worse (weak): ")
    timed = cli_here("compare", f"{base}-1", single, "--allow-single", "--metric", "cpu_s_per_gb")
    assert timed.returncode == 7
    assert "no interval can be given" in timed.stdout


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decode": "full", "decode_asked": "full"}, "decode level parse against full"),
        ({"cache": "warm", "served": 1.0}, "cache state cold against warm"),
        ({"compute_ms": 25.0}, "compute time 20 ms against 25 ms"),
        ({"batch_size": 32, "steps": 100}, "batch size 16 against 32"),
        ({"world_size": 2, "steps": 100}, "world size 1 against 2"),
        ({"steps": 201}, "dataset 3200 samples"),
    ],
)
def test_what_must_match(fields: dict[str, Any], message: str, base: Path, cli_here: Any, tmp_path: Path) -> None:
    result = cli_here("compare", str(base), str(make(tmp_path, "new", 2, **fields)))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: these runs cannot be compared: ")
    assert message in result.stderr and "hint: measure NEW again with BASE's settings" in result.stderr


def test_all_clashes_are_named_at_once(base: Path, cli_here: Any, tmp_path: Path) -> None:
    result = cli_here("compare", str(base), str(make(tmp_path, "new", 1, cache="as-is", compute_ms=30.0)))
    assert "compute time 20 ms against 30 ms; cache state cold against as-is" in result.stderr


def test_runs_of_one_side_must_be_repeats(base: Path, cli_here: Any, tmp_path: Path) -> None:
    make(tmp_path, "a", 1)
    make(tmp_path, "b", 1, loader="files")
    result = cli_here("compare", str(base), str(tmp_path))
    assert result.returncode == 2
    assert "NEW has loader direct and files" in result.stderr


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"missing": 2}, "(invalid: "), ({"complete": False}, "(incomplete: ")],
)
def test_false_numbers_are_refused(fields: dict[str, Any], message: str, base: Path, cli_here: Any, tmp_path: Path) -> None:
    make(tmp_path, "new", 2)
    make(tmp_path, "newer", 1, **fields)
    result = cli_here("compare", str(base), str(tmp_path))
    assert (result.returncode, result.stdout) == (6, "")
    assert f"1 of 8 runs cannot be compared: newer-1 {message}" in result.stderr


def test_a_run_is_not_compared_with_itself_nor_with_nothing(base: Path, cli_here: Any, tmp_path: Path) -> None:
    itself = cli_here("compare", str(base), f"{base}-2")
    assert (itself.returncode, itself.stderr.splitlines()[0]) == (2, "error: base-2 stands on both sides of the comparison")
    nothing = cli_here("compare", str(base), str(tmp_path / "none"))
    assert nothing.returncode == 2
    assert "does not exist" in nothing.stderr
    without = cli_here("compare", str(make(tmp_path, "x", 1, compute_ms=0.0)), str(make(tmp_path, "y", 1, compute_ms=0.0)), "--metric", "au_nominal")
    assert (without.returncode, without.stderr.splitlines()[0]) == (2, "error: run x-1 has no au_nominal, and a ratio needs a value above 0")


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), ("0.05", 0.05), ("0", 0.0), ("12.5%", 0.125)])
def test_margins(text: str, value: float) -> None:
    assert parse_margin(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["5", "-1%", "100%", "nan", "five", ""])
def test_margins_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--margin is"):
        parse_margin(text)


def test_the_option_knows_every_metric() -> None:
    assert tuple(METRICS) == METRIC_NAMES


def test_runs_on_other_hosts_are_compared_and_the_layout_is_shown(cli: Any, tmp_path: Path) -> None:
    one = make(tmp_path / "one", "a", 3, world_size=2, steps=60)
    two = make(tmp_path / "two", "b", 3, world_size=2, steps=60, hosts=("node-1", "node-2"))
    result = cli("compare", str(one), str(two))
    assert result.stderr == ""
    for line in ("host: node-1 -> node-1, node-2", "hosts: 1 -> 2", "accelerators on each host: 2 -> 1 + 1"):
        assert line in result.stdout
