"""A member other than 0: it speaks to member 0 only, sends what is appended to its traces, and ends its ranks when it is told to, or when member 0 is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from storagebench.cluster.base import Joined
from storagebench.cluster.crew import SETTLE_S, SILENCE_S, Cause, lost
from storagebench.cluster.wire import MOST_PAYLOAD_BYTES, Wire
from storagebench.records import TRACE_DIR
from storagebench.world import Rendezvous

_SHIP_PERIOD_S = 0.2


class Shipper:
    """Sends what is appended to trace files, from a thread of its own: no step waits for it, and it holds one piece of a file at a time."""

    def __init__(self, run_dir: Path, names: Callable[[str], bool], wire: Wire) -> None:
        self._folder, self._names, self._wire = run_dir / TRACE_DIR, names, wire
        self._sent: dict[str, int] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="shipper", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        with suppress(OSError):  # the listener learns it, too
            while not self._stop.wait(_SHIP_PERIOD_S):
                self.ship()

    def ship(self) -> None:
        """All that is there now. Raises OSError where member 0 is gone."""
        with self._lock:
            for path in sorted(self._folder.glob("*.jsonl")):
                if self._names(path.name):
                    self._ship_file(path)

    def _ship_file(self, path: Path) -> None:
        with open(path, "rb") as file:
            offset = self._sent.get(path.name, 0)
            file.seek(offset)
            while data := file.read(MOST_PAYLOAD_BYTES):
                self._wire.send({"kind": "trace", "name": path.name, "offset": offset}, data)
                offset += len(data)
                self._sent[path.name] = offset

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(SETTLE_S)


class Spoke(Joined):
    """See `storagebench.cluster.crew.Crew`."""

    def __init__(self, member: int, hosts: tuple[str, ...], launcher: str, meeting: Rendezvous, wire: Wire) -> None:
        self._wire = wire
        self._hub_gone = False
        self._values: dict[tuple[str, int], list[Any]] = {}
        self._shipper: Shipper | None = None
        self._offset: tuple[float, float] | None = None
        super().__init__(member, hosts, launcher, meeting)
        threading.Thread(target=self._listen, name="member-0", daemon=True).start()

    # -- collectives -------------------------------------------------------------------------------------------------------------------------------

    def exchange(self, value: Any) -> list[Any]:
        key = self.next_key("exchange")
        self._send(self.value_message(key, value))
        with self.changed:
            self.changed.wait_for(lambda: key in self._values or self._cause is not None)
            if key not in self._values:
                raise self.ended_error()
            return self._values.pop(key)

    def settle(self, value: Any) -> list[Any]:
        key = self.next_key("settle")
        with suppress(OSError):
            if self._shipper is not None:
                self._shipper.ship()
        self._send(self.value_message(key, value))
        with self.changed:
            self.changed.wait_for(lambda: key in self._values or self._hub_gone)
            alone: list[Any] = [value if member == self.member else None for member in range(self.num_members)]
            return self._values.pop(key, alone)

    def gather_traces(self, run_dir: Path, names: Callable[[str], bool] | None) -> None:
        self._stop_shipping()
        self.exchange(None)
        if names is not None:
            self._shipper = Shipper(run_dir, names, self._wire)

    def _stop_shipping(self) -> None:
        if self._shipper is not None:
            self._shipper.stop()
            self._shipper = None

    # -- the end -------------------------------------------------------------------------------------------------------------------------------------

    def fail(self, cause: Cause) -> None:
        self.caused(cause, by_us=True)
        self._send({"kind": "fail", "cause": asdict(cause)})

    def _lose_hub(self, what: str) -> None:
        with self.changed:
            if self.closed:
                return
            self._hub_gone = True
        self.caused(lost(0, self.hosts[0], self.names[0], what))

    def best_offset(self) -> tuple[float, float] | None:
        return self._offset

    def close(self) -> None:
        self._stop_shipping()
        self._send({"kind": "bye"})
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self._wire.close()

    # -- threads -------------------------------------------------------------------------------------------------------------------------------------

    def beat(self, heard_after_s: float) -> None:
        if not self._hub_gone and self._wire.heard_s < heard_after_s:
            self._lose_hub(f"nothing was heard from it for {SILENCE_S:g} s")
            self._wire.close()
        self._send({"kind": "beat", "sent_ns": time.monotonic_ns()})

    def forgive_silence(self) -> None:
        self._wire.heard_s = time.monotonic()

    def _send(self, message: dict[str, Any]) -> None:
        with suppress(OSError):  # the listener learns it, too
            self._wire.send(message)

    def _listen(self) -> None:
        what = "its connection ended"
        try:
            while (received := self._wire.receive()) is not None:
                self._take(received[0])
        except (OSError, ValueError, KeyError, TypeError) as error:
            what = f"its connection broke ({error})"
        self._lose_hub(what)

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "values":
            with self.changed:
                self._values[str(message["key"][0]), int(message["key"][1])] = message["values"]
                self.changed.notify_all()
        elif kind == "end":
            self.caused(Cause(**message["cause"]))
        elif kind == "echo":
            self._note_offset(int(message["sent_ns"]), int(message["wall_ns"]))

    def _note_offset(self, sent_ns: int, wall_ns: int) -> None:
        """Cristian's method: member 0 looked at its clock somewhere between sending and hearing, so its reading is right to half the round trip."""
        round_trip_ns = time.monotonic_ns() - sent_ns
        offset_s, uncertainty_s = (time.time_ns() - round_trip_ns / 2 - wall_ns) / 1e9, round_trip_ns / 2e9
        if self._offset is None or uncertainty_s <= self._offset[1]:
            self._offset = offset_s, uncertainty_s
