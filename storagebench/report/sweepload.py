"""The folder of a sweep -> what its pages show: cells and rankings of a matrix, or jobs beside their neighbours. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storagebench.checks.neighbours import LEAST_OVERLAP, Neighbours, Round, Written, neighbours_of, written_of
from storagebench.checks.sweeps import Cell, CellRuns, Ranking, cell_of, rankings
from storagebench.errors import EXIT_RANK
from storagebench.experiments.repeat import worst_code
from storagebench.experiments.suite import Suite
from storagebench.experiments.sweep import Refused
from storagebench.experiments.sweepfolder import WRITERS_DIR, FolderPast, load, suite_of, units_of_record
from storagebench.experiments.units_of_suite import ALONE, TOGETHER, Unit
from storagebench.records import writer_traces
from storagebench.report.load import LoadedRun, load_runs
from storagebench.traces import read_trace


@dataclass(frozen=True)
class Sweep:
    """A sweep as its pages show it. `unfit` and `refused` have the units that were not run with the reason; `missing` counts runs that are still to be
    made. A matrix has `cells` and `rankings`, a suite of jobs `jobs` and `written`."""

    name: str
    suite: Suite
    command: tuple[str, ...]
    num_units: int
    num_runs: int
    missing: int
    unfit: Mapping[str, str]
    refused: Mapping[str, Refused]
    cells: tuple[Cell, ...] = ()
    rankings: tuple[Ranking, ...] = ()
    jobs: tuple[Neighbours, ...] = ()
    written: tuple[Written, ...] = ()

    @property
    def exit_code(self) -> int:
        """The worst of all runs' and refusals'. What does not fit is no failure."""
        codes = [code for cell in self.cells for code in cell.exit_codes] + [code for job in self.jobs for code in job.exit_codes]
        return worst_code([*(EXIT_RANK if code is None else code for code in codes), *(one.exit_code for one in self.refused.values())])

    @property
    def left_out(self) -> dict[str, str]:
        """Runs that are in no figure, with the reason."""
        found = [cell.left_out for cell in self.cells] + [job.left_out for job in self.jobs]
        return {run_id: why for each in found for run_id, why in each.items()}

    @property
    def weak_overlaps(self) -> list[Neighbours]:
        """Jobs of which a good part of the window had fewer neighbours."""
        return [job for job in self.jobs if job.overlap is not None and job.overlap < LEAST_OVERLAP]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "sweep": self.name,
            "exit_code": self.exit_code,
            "suite": self.suite.model_dump(),
            "num_runs": self.num_runs,
            "missing": self.missing,
            "unfit": dict(self.unfit),
            "refused": {name: one._asdict() for name, one in self.refused.items()},
            "cells": [cell.as_dict() for cell in self.cells],
            "rankings": [ranking.as_dict() for ranking in self.rankings],
            "jobs": [job.as_dict() for job in self.jobs],
            "writers": [
                {"writer": one.writer, "bytes_per_s": None if one.bytes_per_s is None else one.bytes_per_s._asdict(), "error": one.error}
                for one in self.written
            ],
        }


@dataclass(frozen=True)
class _Found:
    """The finished runs of each unit, by round."""

    folder: Path
    past: FolderPast
    repeats: int

    def rounds(self, unit: Unit) -> list[list[LoadedRun]]:
        standings = [self.past.standing(unit, number) for number in range(1, self.repeats + 1)]
        return [load_runs([self.folder / run_id for run_id in one.run_ids]) for one in standings if one.finished]


def load_sweep(folder: Path) -> Sweep:
    """Judge the runs of a sweep anew. Raises as `report.load.load_runs` and `sweepfolder.load`."""
    record = load(folder)
    suite, units = suite_of(record), units_of_record(record)
    found = _Found(folder, FolderPast(folder), suite.repeats)
    runnable = [unit for unit in units if not unit.reason]
    rounds = {unit.name: found.rounds(unit) for unit in runnable}
    done = sum(len(run) for these in rounds.values() for run in these)
    asked = suite.repeats * sum(len(unit.jobs) for unit in runnable)
    refused = {name: one for name, one in found.past.refused().items() if len(rounds.get(name, ())) < suite.repeats}
    held = suite.repeats * sum(len(unit.jobs) for unit in runnable if unit.name in refused)
    sweep = Sweep(
        name=folder.name,
        suite=suite,
        command=tuple(map(str, record["command"])),
        num_units=len(units),
        num_runs=done,
        missing=max(0, asked - done - held),
        unfit={unit.name: unit.reason for unit in units if unit.reason},
        refused=refused,
    )
    return _with_cells(sweep, runnable, rounds) if suite.axes is not None else _with_jobs(sweep, folder, runnable, rounds)


Rounds = Mapping[str, Sequence[Sequence[LoadedRun]]]


def _with_cells(sweep: Sweep, units: Sequence[Unit], rounds: Rounds) -> Sweep:
    found = [CellRuns(unit.name, unit.settings, [run for one in rounds[unit.name] for run in one]) for unit in units]
    found = [one for one in found if one.runs]
    cells = [cell_of(one) for one in found]
    return Sweep(**{**sweep.__dict__, "cells": tuple(cells), "rankings": tuple(rankings(found, cells))})


def _with_jobs(sweep: Sweep, folder: Path, units: Sequence[Unit], rounds: Rounds) -> Sweep:
    together = next((unit for unit in units if unit.name == TOGETHER), None)
    if together is None:
        return sweep
    jobs, writers = [job.name for job in together.jobs], [job.name for job in together.writers]
    at_once = []
    for runs in rounds[TOGETHER]:
        traces = {
            name: [read_trace(path) for path in writer_traces(folder / WRITERS_DIR / f"{runs[0].summary['run_id']}-{name}")] for name in writers
        }
        at_once.append(Round(dict(zip(jobs, runs, strict=True)), traces))
    alone = {job: [run for one in rounds.get(f"{ALONE}-{job}", ()) for run in one] for job in jobs}
    found = neighbours_of(jobs, at_once, alone) if at_once or any(alone.values()) else []
    return Sweep(**{**sweep.__dict__, "jobs": tuple(found), "written": tuple(written_of(writers, at_once))})
