"""Member 0: it hears all others, hands values round, writes what comes of their traces into its own run folder, and decides who is lost."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from storagebench.cluster.base import Joined
from storagebench.cluster.crew import SETTLE_S, SILENCE_S, Cause, lost
from storagebench.cluster.wire import Wire
from storagebench.errors import EXIT_STORAGE
from storagebench.records import TRACE_DIR
from storagebench.world import Rendezvous

_LEAVE_S = 5.0
_NAMES = re.compile(r"(rank|host|writer)-\d{5,7}\.jsonl")


class GatheredTraces:
    """Files of other members in this member's run folder: appended to as it comes, never rewritten."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / TRACE_DIR
        self._files: dict[str, tuple[int, int, int]] = {}  # name -> (member, descriptor, bytes)
        self._lock = threading.Lock()

    def append(self, member: int, name: str, offset: int, data: bytes) -> None:
        """Raises OSError where the disk refuses, ValueError for what does not continue a file of that member."""
        with self._lock:
            owner, fd, size = self._files.get(name) or (member, self._create(name), 0)
            self._files[name] = (owner, fd, size)
            if owner != member or size != offset:
                raise ValueError(f"member {member} sent {name} from byte {offset}, and {size} are here")
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            self._files[name] = (owner, fd, size + len(data))

    def _create(self, name: str) -> int:
        if not _NAMES.fullmatch(name):
            raise ValueError(f"a trace called {name!r}")
        return os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def close(self) -> None:
        with self._lock:
            for _, fd, _ in self._files.values():
                os.fdatasync(fd)
                os.close(fd)
            self._files.clear()


class Hub(Joined):
    """See `storagebench.cluster.crew.Crew`. `wires` of the members 1 .. n-1, in order."""

    def __init__(self, hosts: tuple[str, ...], launcher: str, meeting: Rendezvous, wires: list[Wire]) -> None:
        self._wires: dict[int, Wire] = dict(enumerate(wires, 1))
        self._gone: set[int] = set()
        self._values: dict[tuple[str, int], dict[int, Any]] = {}
        self._traces: GatheredTraces | None = None
        super().__init__(0, hosts, launcher, meeting)
        for member, wire in self._wires.items():
            threading.Thread(target=self._listen, args=(member, wire), name=f"member-{member}", daemon=True).start()

    # -- collectives -------------------------------------------------------------------------------------------------------------------------------

    def exchange(self, value: Any) -> list[Any]:
        key = self.next_key("exchange")
        with self.changed:
            found = self._values.setdefault(key, {})
            found[0] = value
            self.changed.wait_for(lambda: len(found) == self.num_members or self._cause is not None)
            if len(found) < self.num_members:
                raise self.ended_error()
        return self._hand_round(key)

    def settle(self, value: Any) -> list[Any]:
        key = self.next_key("settle")
        with self.changed:
            found = self._values.setdefault(key, {})
            found[0] = value
            self.changed.wait_for(lambda: self._all_in(found) or self._cause is not None)
            self.changed.wait_for(lambda: self._all_in(found), timeout=SETTLE_S)
            silent = [member for member in self._wires if member not in found and member not in self._gone]
        for member in silent:
            self._lose(member, f"it did not end within {SETTLE_S:g} s")
        with self.changed:
            for member in self._wires:
                found.setdefault(member, None)
        return self._hand_round(key)

    def _all_in(self, found: dict[int, Any]) -> bool:
        return all(member in found or member in self._gone for member in range(self.num_members))

    def _hand_round(self, key: tuple[str, int]) -> list[Any]:
        with self.changed:
            found = self._values.pop(key)
        values = [found[member] for member in range(self.num_members)]
        self._tell_all({"kind": "values", "key": list(key), "values": values})
        return values

    def gather_traces(self, run_dir: Path, names: Callable[[str], bool] | None) -> None:
        self._stop_gathering()
        self._traces = GatheredTraces(run_dir)
        self.exchange(None)  # from here on they may come

    def _stop_gathering(self) -> None:
        if self._traces is not None:
            self._traces.close()
            self._traces = None

    # -- the end -------------------------------------------------------------------------------------------------------------------------------------

    def fail(self, cause: Cause) -> None:
        self._end_all(cause, by_us=True)

    def _end_all(self, cause: Cause, by_us: bool = False) -> None:
        if self.caused(cause, by_us):
            self._tell_all({"kind": "end", "cause": asdict(cause)})

    def _lose(self, member: int, what: str) -> None:
        with self.changed:
            if member in self._gone or self.closed:
                return
            self._gone.add(member)
            self.changed.notify_all()
        self._end_all(lost(member, self.hosts[member], self.names[member], what))
        self._wires[member].close()

    def best_offset(self) -> tuple[float, float] | None:
        return None

    def close(self) -> None:
        with self.changed:
            # Who leaves says so. A connection that ends before that is, to the other end, the loss of member 0.
            self.changed.wait_for(lambda: len(self._gone) == len(self._wires), timeout=_LEAVE_S)
            self.closed = True
            self.changed.notify_all()
        for wire in self._wires.values():
            wire.close()
        self._stop_gathering()

    # -- threads -------------------------------------------------------------------------------------------------------------------------------------

    def beat(self, heard_after_s: float) -> None:
        for member, wire in self._wires.items():
            if member not in self._gone and wire.heard_s < heard_after_s:
                self._lose(member, f"nothing was heard from it for {SILENCE_S:g} s")
        self._tell_all({"kind": "beat"})

    def forgive_silence(self) -> None:
        for wire in self._wires.values():
            wire.heard_s = time.monotonic()

    def _tell_all(self, message: dict[str, Any]) -> None:
        for member, wire in self._wires.items():
            if member not in self._gone:
                with suppress(OSError):  # its listener learns it, too
                    wire.send(message)

    def _listen(self, member: int, wire: Wire) -> None:
        what = "its connection ended"
        try:
            while (received := wire.receive()) is not None:
                if self._take(member, wire, *received):
                    with self.changed:
                        self._gone.add(member)
                        self.changed.notify_all()
                    return
        except (OSError, ValueError, KeyError, TypeError) as error:
            what = f"its connection broke ({error})"
        self._lose(member, what)

    def _take(self, member: int, wire: Wire, message: dict[str, Any], payload: bytes) -> bool:
        """One message; whether it was the last one."""
        kind = message["kind"]
        if kind == "beat":
            wire.send({"kind": "echo", "sent_ns": message["sent_ns"], "wall_ns": time.time_ns()})
        elif kind == "value":
            with self.changed:
                self._values.setdefault((str(message["key"][0]), int(message["key"][1])), {})[member] = message["value"]
                self.changed.notify_all()
        elif kind == "trace":
            self._append(member, message, payload)
        elif kind == "fail":
            self._end_all(Cause(**{**message["cause"], "member": member, "host": self.hosts[member]}))
        return bool(kind == "bye")

    def _append(self, member: int, message: dict[str, Any], payload: bytes) -> None:
        if self._traces is None:
            raise ValueError("a trace outside of a run")
        try:
            self._traces.append(member, message["name"], message["offset"], payload)
        except OSError as error:
            what = f"cannot write {message['name']} of member {member} into the run folder: {error.strerror}"
            self._end_all(Cause(0, self.hosts[0], what, "free space where --results-dir points to", EXIT_STORAGE))
