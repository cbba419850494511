"""What member 0 and the others have in common: the values of exchanges, the cause that ends the run, and the thread that makes it end here."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from storagebench.cluster.crew import BEAT_PERIOD_S, SILENCE_S, Cause, CrewEndedError
from storagebench.world import Rendezvous

_END_PERIOD_S = 0.3
# A thread that overslept so long was stopped with its process (SIGSTOP, a suspended machine): it has heard nobody meanwhile.
_OVERSLEPT_S = 3.0


class Joined(ABC):
    """State of one member, guarded by `changed`. A value is known by (kind, number): `exchange` and `settle` count for themselves, so that a member that
    failed in the middle of the one can still come to the other."""

    def __init__(self, member: int, hosts: tuple[str, ...], launcher: str, meeting: Rendezvous) -> None:
        self.member, self.num_members, self.hosts, self.launcher = member, len(hosts), hosts, launcher
        self.names: Sequence[str] = [f"member {number}" for number in range(self.num_members)]
        self.changed = threading.Condition()
        self.closed = False
        self._cause: Cause | None = None
        self._ended_by_us = False
        self._end: Callable[[], object] | None = None
        self._counts = {"exchange": 0, "settle": 0}
        self._meeting, self._runs = meeting, 0
        for name, loop in (("heartbeat", self._beat_loop), ("crew-end", self._end_loop)):
            threading.Thread(target=loop, name=name, daemon=True).start()

    @property
    def cause(self) -> Cause | None:
        return self._cause

    def rendezvous(self) -> Rendezvous | None:
        self._runs += 1
        return Rendezvous(self._meeting.address, self._meeting.port, f"{self._meeting.prefix}/gloo-{self._runs}")

    def call(self, names: Sequence[str]) -> None:
        self.names = [*names, *self.names[len(names) :]]

    def await_cause(self, seconds: float) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self._cause is not None, timeout=seconds)

    def on_end(self, end: Callable[[], object] | None) -> None:
        with self.changed:
            self._end = end
            self.changed.notify_all()

    def next_key(self, kind: str) -> tuple[str, int]:
        self._counts[kind] += 1
        return kind, self._counts[kind]

    def caused(self, cause: Cause, by_us: bool = False) -> bool:
        """Take the first cause; whether it was the first."""
        with self.changed:
            first = self._cause is None
            if first:
                self._cause, self._ended_by_us = cause, by_us
            self.changed.notify_all()
        return first

    def ended_error(self) -> CrewEndedError:
        assert self._cause is not None
        error = CrewEndedError(self._cause.why, self._cause.hint)
        error.exit_code = self._cause.exit_code
        return error

    def _end_loop(self) -> None:
        while not self.closed:
            with self.changed:
                self.changed.wait_for(lambda: self.closed or (self._cause is not None and self._end is not None and not self._ended_by_us))
                end = self._end
            if end is not None and not self.closed:
                with suppress(Exception):  # it is called again
                    end()
            time.sleep(_END_PERIOD_S)

    def _beat_loop(self) -> None:
        before_s = time.monotonic()
        while not self.closed:
            time.sleep(BEAT_PERIOD_S)
            now_s = time.monotonic()
            if now_s - before_s > _OVERSLEPT_S:
                self.forgive_silence()
            before_s = now_s
            self.beat(now_s - SILENCE_S)

    @abstractmethod
    def beat(self, heard_after_s: float) -> None:
        """Send a heartbeat, and find out who has not been heard since that time."""

    @abstractmethod
    def forgive_silence(self) -> None:
        """Count everybody's silence from now on."""

    @staticmethod
    def value_message(key: tuple[str, int], value: Any) -> dict[str, Any]:
        return {"kind": "value", "key": list(key), "value": value}
