"""AU on storage of known bandwidth that we did not write, one short case a rig. The whole table is `python benchmarks/known_rates.py`."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_spec = importlib.util.spec_from_file_location("known_rates", Path(__file__).parents[2] / "benchmarks" / "known_rates.py")
assert _spec is not None and _spec.loader is not None
known_rates: Any = importlib.util.module_from_spec(_spec)
sys.modules["known_rates"] = known_rates  # dataclasses look their own module up
_spec.loader.exec_module(known_rates)

# A low rate and a short window: there are other tests on this host, and the throttle is an upper bound only. 75 steps, 150 MiB.
RATE, WINDOW_S, REFERENCE_S, TARGET, TOLERANCE = 40 * 2**20, 3.75, 1.5, 0.5, 0.05
S3 = known_rates.Case(RATE, "direct", "as-is", TARGET, WINDOW_S)
DISK = known_rates.Case(RATE, "direct", "direct", TARGET, WINDOW_S)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Path, list[Path]]]:
    """The dataset of both, removed at once: pytest would keep three of them."""
    with tempfile.TemporaryDirectory(prefix="throttled-") as folder:
        yield Path(folder), known_rates.make_files(Path(folder), [S3, DISK])


def check(make_rig: Any, case: Any, served: tuple[Path, list[Path]], results: Path) -> None:
    """Right within the tolerance, at the second try at the latest. Its table's lines are in the output."""
    root, files = served
    try:
        with make_rig(root, case.rate) as rig:
            for _ in range(2):
                row = known_rates.measure(rig, case, files, results, REFERENCE_S)
                print(known_rates.show(row))
                assert row.reference_bytes_per_s <= 1.1 * case.rate  # the throttle is on
                if abs(row.difference) <= TOLERANCE:
                    break
    except known_rates.NoThrottle as error:
        pytest.skip(f"this kernel: {error}")
    except known_rates.NoRig as error:
        pytest.skip(str(error))
    assert row.expected == pytest.approx(TARGET, abs=0.02)
    assert abs(row.difference) <= TOLERANCE, known_rates.show(row)


@pytest.mark.s3
@pytest.mark.catalogue
def test_rclone_with_a_limited_rate(served: tuple[Path, list[Path]], tmp_path: Path) -> None:
    check(known_rates.s3_rig, S3, served, tmp_path)


@pytest.mark.root
@pytest.mark.catalogue
def test_a_disk_with_a_limited_rate(served: tuple[Path, list[Path]], tmp_path: Path) -> None:
    check(known_rates.disk_rig, DISK, served, tmp_path)
