"""What rules look at: one judged run with its traces, and the two shapes that a rule may have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from storagebench.hostfiles import HostRecords
from storagebench.ranks import Ranks
from storagebench.traces import Trace

ERROR = "error"
WARNING = "warning"


@dataclass(frozen=True)
class Case:
    """One saved run: `run.json`, its summary (findings not needed), what its ranks' traces gave, and the traces of hosts and writers."""

    run: Mapping[str, Any]
    summary: Mapping[str, Any]
    ranks: Ranks
    hosts: Sequence[HostRecords]
    writers: Sequence[Trace] = ()

    @property
    def complete(self) -> bool:
        return bool(self.summary["status"] == "complete")

    @property
    def reads_storage(self) -> bool:
        """The null loader hands over bytes that no storage gave."""
        return bool(self.summary["loader"] != "null")

    @property
    def bounded(self) -> bool:
        """Whether --max-steps or --duration may end an epoch early."""
        config = self.run["config"]["run"]
        return config["max_steps"] is not None or config["duration_s"] is not None


class Found(NamedTuple):
    """What a rule says: the name, value and bound in one sentence, and the next action."""

    message: str
    hint: str


Check = Callable[[Case], Iterator[Found]]
