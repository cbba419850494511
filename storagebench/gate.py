"""A gate before the first epoch, so that several runs of one host begin together: files, since the runs are in process trees of their own.

A run waits at the gate that the variable `STORAGEBENCH_GATE` names, if it does: its first rank leaves a mark beside it and waits until the gate is there.
Importing torch and starting workers takes a run between 0.1 s and seconds; without the gate the windows of two runs would lie so far apart.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

VARIABLE: Final = "STORAGEBENCH_GATE"
_PERIOD_S: Final = 0.001


def wait_at_gate() -> None:
    """Called by a run's first rank when nothing is left to be opened. Whoever opens no gate ends the process."""
    gate = os.environ.get(VARIABLE)
    if not gate:
        return
    _mark(Path(gate)).touch()
    while not os.path.exists(gate):
        time.sleep(_PERIOD_S)


def await_waiting(gate: Path, is_alive: Callable[[], bool]) -> None:
    """Return when the run waits at this gate, or is alive no more."""
    while not _mark(gate).exists() and is_alive():
        time.sleep(_PERIOD_S)


def open_gate(gate: Path) -> None:
    gate.touch()


def remove_gate(gate: Path) -> None:
    """Remove what was made for it."""
    gate.unlink(missing_ok=True)
    _mark(gate).unlink(missing_ok=True)


def _mark(gate: Path) -> Path:
    return gate.with_name(f"{gate.name}.waiting")
