"""The exception tree. Every error a user can meet is one sentence with the name, the value and the bound, and one hint with the next action.

The exit code belongs to the class, so that a failure means the same thing from every verb (DESIGN section 1).
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_DATASET = 3
EXIT_STORAGE = 4
EXIT_RANK = 5
EXIT_INVALID = 6
EXIT_INCONCLUSIVE = 7
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class StorageBenchError(Exception):
    """Base of all expected failures. `hint` is the next action; `exit_code` is the command's own."""

    exit_code = EXIT_USAGE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the trip out of a worker process with the hint."""
        return (type(self), (self.message, self.hint))


class UsageError(StorageBenchError):
    """Bad arguments, bad config, a combination that does not fit, or a run that would not fit in memory."""


class DatasetError(StorageBenchError):
    """The dataset is missing, incomplete, corrupt or not the one that was asked for."""

    exit_code = EXIT_DATASET


class StorageError(StorageBenchError):
    """The storage failed: unreachable, refused, full, short reads."""

    exit_code = EXIT_STORAGE


class RankError(StorageBenchError):
    """A loader, worker or rank failed or is missing."""

    exit_code = EXIT_RANK


class RunInvalidError(StorageBenchError):
    """The run finished and its number is false."""

    exit_code = EXIT_INVALID


class InterruptedRunError(StorageBenchError):
    """The user (SIGINT) or the system (SIGTERM) ended the run."""

    exit_code = EXIT_INTERRUPTED


def did_you_mean(name: str, known: list[str]) -> str:
    """A suggestion such as " did you mean 'batch_size'?" for a misspelt name, or the known names if none is near."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known: " + ", ".join(sorted(known))
