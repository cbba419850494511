"""The members of a run as one of them sees them: exchange values, and learn at once when the run must end because of another one.

Every method marked collective is called by all members in the same order. What ends a run is told by the connection (its end, or ten seconds without a
byte, heartbeats included), never by how long a collective takes: a fetch of two minutes ends nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from storagebench.errors import EXIT_RANK, EXIT_TERMINATED, DatasetError, InterruptedRunError, RankError, StorageBenchError, StorageError, UsageError
from storagebench.world import Rendezvous

Found = TypeVar("Found")

BEAT_PERIOD_S = 1.0
SILENCE_S = 10.0
_KINDS: tuple[type[StorageBenchError], ...] = (UsageError, DatasetError, StorageError, RankError, InterruptedRunError)
# After the run is known to end, so long may the others take to say how it ended for them.
SETTLE_S = 12.0


@dataclass(frozen=True)
class Cause:
    """Why the run has to end: `member` of which host failed or is gone (`lost`), and its exit code."""

    member: int
    host: str
    why: str
    hint: str
    exit_code: int
    lost: bool = False
    failed_rank: int | None = None

    def error(self) -> StorageBenchError:
        return error_of(self.exit_code, self.why, self.hint)


def error_of(exit_code: int, message: str, hint: str) -> StorageBenchError:
    """An error that another process has met."""
    kinds: dict[int, type[StorageBenchError]] = {kind.exit_code: kind for kind in _KINDS} | {EXIT_TERMINATED: InterruptedRunError}
    kind = kinds.get(exit_code, StorageBenchError)
    error = kind(message, hint)
    error.exit_code = exit_code
    return error


def lost(member: int, host: str, who: str, what: str) -> Cause:
    """The cause for a member that is gone; `who` is what messages call it."""
    return Cause(
        member,
        host,
        f"lost {who} on host {host}: {what}; the run was ended",
        "see whether that host or its network went down, or its processes were killed; the steps taken so far are kept: see `storagebench report`",
        EXIT_RANK,
        lost=True,
    )


class CrewEndedError(RankError):
    """Another member has ended the run, for the cause that `Crew.cause` gives."""


class Crew(Protocol):
    """`member` of `num_members`; `hosts` is the label of each member's host; `launcher` started them ("" where nobody did)."""

    member: int
    num_members: int
    launcher: str
    hosts: tuple[str, ...]

    @property
    def cause(self) -> Cause | None:
        """Why the run has to end, as soon as that is known."""

    def rendezvous(self) -> Rendezvous | None:
        """Where the ranks of the next run meet: a new name each time. Collective."""

    def exchange(self, value: Any) -> list[Any]:
        """The JSON-like values of all members, by member. Collective. Raises CrewEndedError where one is gone."""

    def call(self, names: Sequence[str]) -> None:
        """What messages call each member from now on: by its ranks, say."""

    def gather_traces(self, run_dir: Path, names: Callable[[str], bool] | None) -> None:
        """From now on, what is appended to this member's trace files in that run folder goes to member 0's (`names` says which are its own; None: they
        are there already). At member 0, `run_dir` is where they are written. Collective."""

    def fail(self, cause: Cause) -> None:
        """This member's part of the run has failed: the others are told to end. Only the first one counts."""

    def settle(self, value: Any) -> list[Any]:
        """`exchange` at the end of a run, after all that was appended to the traces has arrived; a member that is gone gives None. Collective."""

    def await_cause(self, seconds: float) -> None:
        """Return when a cause is known, or after that time."""

    def on_end(self, end: Callable[[], object] | None) -> None:
        """Call this, from another thread and over and over, while the run has to end because of another member."""

    def best_offset(self) -> tuple[float, float] | None:
        """(this host's wall clock less member 0's, its uncertainty) in seconds, from the quickest of the heartbeats; None at member 0."""

    def close(self) -> None:
        """Leave. May be called twice."""


class Alone:
    """A run that no launcher started: one member, for whom everything is immediate."""

    member, num_members, launcher = 0, 1, ""
    cause: Cause | None = None

    def __init__(self) -> None:
        self.hosts: tuple[str, ...] = (socket.gethostname(),)

    def rendezvous(self) -> Rendezvous | None:
        return None

    def exchange(self, value: Any) -> list[Any]:
        return [value]

    settle = exchange

    def call(self, names: Sequence[str]) -> None:
        return

    def gather_traces(self, run_dir: Path, names: Callable[[str], bool] | None) -> None:
        return

    def fail(self, cause: Cause) -> None:
        return

    def await_cause(self, seconds: float) -> None:
        return

    def on_end(self, end: Callable[[], object] | None) -> None:
        return

    def best_offset(self) -> tuple[float, float] | None:
        return None

    def close(self) -> None:
        return


def agreed(crew: Crew, work: Callable[[], Any]) -> list[Any]:
    """What `work` returned on each member. Where it raised on any, all raise the first member's error, with its host in the message. Collective."""
    failure: StorageBenchError | None = None
    value: Any = None
    try:
        value = work()
    except StorageBenchError as error:
        failure = error
    said = (
        {"value": value}
        if failure is None
        else {"exit_code": failure.exit_code, "message": failure.message, "hint": failure.hint, "host": crew.hosts[crew.member]}
    )
    answers = crew.exchange(said)
    bad = next((answer for answer in answers if "exit_code" in answer), None)
    if bad is None:
        return [answer["value"] for answer in answers]
    if crew.num_members == 1 and failure is not None:
        raise failure
    where = "" if bad["message"].startswith(f"host {bad['host']}") else f"host {bad['host']}: "
    raise error_of(int(bad["exit_code"]), f"{where}{bad['message']}", bad["hint"])


def from_first(crew: Crew, work: Callable[[], Found]) -> Found:
    """What `work` returns on member 0, on all; it is called there only. Collective."""
    first: Found = agreed(crew, work if crew.member == 0 else lambda: None)[0]
    return first
