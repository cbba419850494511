"""A storage probed by all hosts of a crew at the same time: the first member of each reads and writes, cell by cell, and the rates of the hosts add up.

Which cells are tried again follows from the sums, so that all hosts do the same. Clocks of hosts are not compared: each measures its own cell between two
barriers, and leaves its own ramp out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from storagebench.cluster.crew import Crew, agreed, from_first
from storagebench.placement import held_here
from storagebench.probe.cells import Measured
from storagebench.probe.plan import Cell, Group
from storagebench.probe.probe import Asked, Opened, Probed, opened
from storagebench.probe.search import Ceiling, num_runs, search
from storagebench.protocols import Store

Progress = Callable[[int, int, Measured], None]


@dataclass(frozen=True)
class ProbedTogether:
    """`probed` has the sums, `by_host` what each host got in the same runs, in the same order. `source` and `places` as the hosts have them: (files, bytes)."""

    source: str
    probed: Probed
    by_host: Mapping[str, Sequence[Measured]]
    places: Mapping[str, tuple[int, int]]
    proof: str | None

    def of_host(self, host: str, ceiling: Ceiling) -> float:
        """Bytes per second of a host in the cell of a ceiling: the median of its runs."""
        return median(row.bytes_per_s for row in self.by_host[host] if row.cell == ceiling.cell)


def probe_together(
    crew: Crew,
    open_store: Callable[[], Store],
    asked: Asked,
    proof: Callable[[Opened], str | None],
    progress: Progress = lambda _done, _total, _row: None,
    warn: Callable[[Store, Opened], None] = lambda _store, _place: None,
) -> ProbedTogether:
    """Probe it; the same on all members. Collective. `proof` and `warn` are asked where a place is open. Raises what `probe` does, on all members."""
    with ExitStack() as stack:
        found: list[Opened] = []

        def open_place() -> dict[str, Any] | None:
            if crew.hosts.index(crew.hosts[crew.member]) != crew.member:
                return None
            store = open_store()
            stack.callback(store.close)
            place = stack.enter_context(opened(store, asked, held_here))
            warn(store, place)
            found.append(place)
            return {"source": place.source, "aio": place.has_aio, "place": [len(place.reads.sizes), sum(place.reads.sizes)]}

        rows = agreed(crew, open_place)
        places = {host: row for host, row in zip(crew.hosts, rows, strict=True) if row is not None}
        has_aio = all(row["aio"] for row in places.values())
        table = _table(from_first(crew, lambda: _plain(replace(found[0], has_aio=has_aio).cells())))
        probed, by_host = _search(crew, found[0] if found else None, table, asked.seconds, progress)
        proofs = agreed(crew, lambda: proof(found[0]) if found else None)
    numbers = {host: (row["place"][0], row["place"][1]) for host, row in places.items()}
    return ProbedTogether(rows[0]["source"], probed, by_host, numbers, next((each for each in proofs if each), None))


def _plain(table: Mapping[Group, Sequence[Cell]]) -> list[Any]:
    return [[group._asdict(), [[cell.threads, cell.depth] for cell in cells]] for group, cells in table.items()]


def _table(plain: Sequence[Any]) -> dict[Group, list[Cell]]:
    return {group: [Cell(group, threads, depth) for threads, depth in cells] for fields, cells in plain for group in [Group(**fields)]}


def _search(
    crew: Crew, place: Opened | None, table: Mapping[Group, Sequence[Cell]], seconds: float, progress: Progress
) -> tuple[Probed, dict[str, list[Measured]]]:
    by_host: dict[str, list[Measured]] = {host: [] for host in crew.hosts}
    total = num_runs(table)
    count = 0

    def run(cell: Cell) -> Measured:
        crew.exchange(None)  # all begin when the slowest is there
        rows = agreed(crew, lambda: None if place is None else _fields(place.run(cell, seconds, seed=count)))
        measured = {host: Measured(cell, **row) for host, row in zip(crew.hosts, rows, strict=True) if row is not None}
        for host, row in measured.items():
            by_host[host].append(row)
        return added_up(list(measured.values()))

    def done(row: Measured) -> None:
        nonlocal count
        count += 1
        progress(count, total, row)

    measured, ceilings = search(table, run, done)
    return Probed(tuple(measured), tuple(ceilings)), by_host


def _fields(row: Measured) -> dict[str, Any]:
    return {name: value for name, value in asdict(row).items() if name != "cell"}


def added_up(rows: Sequence[Measured]) -> Measured:
    """One cell on several hosts at the same time as one: rates and bytes add up, the latencies are those of the slowest host, the CPU time of a byte is the
    mean over all bytes."""
    num_bytes = sum(row.num_bytes for row in rows)
    cpu = [row.cpu_s_per_gb * row.num_bytes for row in rows if row.cpu_s_per_gb is not None]
    return Measured(
        cell=rows[0].cell,
        bytes_per_s=sum(row.bytes_per_s for row in rows),
        requests_per_s=sum(row.requests_per_s for row in rows),
        latency_p50_s=max(row.latency_p50_s for row in rows),
        latency_p99_s=max(row.latency_p99_s for row in rows),
        cpu_s_per_gb=sum(cpu) / num_bytes if len(cpu) == len(rows) and num_bytes else None,
        seconds=max(row.seconds for row in rows),
        num_bytes=num_bytes,
        passes=max(row.passes for row in rows),
    )
