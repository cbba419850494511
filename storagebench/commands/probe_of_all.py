"""`probe` under a launcher, and what it has in common with the probe of one host: progress, warnings, proofs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storagebench.errors import UsageError

if TYPE_CHECKING:
    from storagebench.cluster.crew import Crew
    from storagebench.probe.probe import Asked, Opened
    from storagebench.protocols import Store, StoreSpec


def refuse_fio(asked: bool | None) -> None:
    """Raises UsageError where fio is asked for: its ceilings are of one host."""
    if asked:
        raise UsageError("--fio reads on one host, and this probe runs on several at the same time", "leave --fio out, or probe without a launcher")


def probe_of_all(crew: Crew, spec: StoreSpec, asked: Asked, url: str, as_json: bool) -> str:
    """The text of a probe by all hosts at once. Collective."""
    from storagebench.commands import probe_text
    from storagebench.commands.progress import Line
    from storagebench.probecrew import probe_together
    from storagebench.storage import open_spec

    line = Line()
    progress = shown(line) if crew.member == 0 else lambda _done, _total, _row: None
    try:
        found = probe_together(crew, lambda: open_spec(spec), asked, proof_of, progress, warn_of)
    finally:
        line.clear()
    return probe_text.hosts_as_json(url, found) if as_json else probe_text.hosts_as_text(url, found)


def shown(line: Any) -> Callable[[int, int, Any], None]:
    """Progress on a line of stderr."""
    from storagebench.units import format_bytes

    def progress(done: int, total: int, row: Any) -> None:
        group = row.cell.group
        line.show(f"probe: {done} of {total} runs; {group.direction} {group.pattern} {group.request_bytes} B: {format_bytes(row.bytes_per_s)}/s")

    return progress


def warn_of(store: Store, place: Opened) -> None:
    """What makes the figures of something else than the storage, on stderr."""
    from storagebench import host
    from storagebench.commands.progress import say
    from storagebench.probe.places import ObjectsPlace

    if isinstance(place.reads, ObjectsPlace):
        if place.reads.local is None:
            say("note: the server's own cache cannot be seen or dropped from here: objects that were read before may come from its memory")
        return
    filesystem = host.facts(Path(store.spec.root))["data_filesystem"] or {}
    if filesystem.get("type") in ("tmpfs", "ramfs"):
        say(f"note: {store.url} lies on {filesystem['type']}: this is memory, not storage")


def proof_of(place: Opened) -> str | None:
    """By what means dropped pages were proved to be gone."""
    from storagebench.probe.places import FilesPlace

    return place.reads.pages.proof if isinstance(place.reads, FilesPlace) else place.reads.local.proof if place.reads.local else None
