"""One trial of a query run: its samples, LoadGen's verdict on them, and the reasons where it is not VALID. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storagebench.queryrecords import QueryTrace
from storagebench.scenarios.schedule import Scenario
from storagebench.scenarios.verdict import Measured, Rules, Verdict, judge


class Trial:
    """One trial's samples, and LoadGen's verdict on them (None where no query was answered in full)."""

    def __init__(self, run: Mapping[str, Any], trace: QueryTrace) -> None:
        config = run["config"]["query"]
        self.trace, self.columns = trace, trace.columns
        self.footer = trace.last("footer")
        self.scenario: Scenario = config["scenario"]
        self.width = int(trace.header.get("samples_per_query", 1))
        self.rules = Rules(
            scenario=self.scenario,
            percentile=run["query"]["percentile"],
            latency_limit_ns=round(config["latency_limit_s"] * 1e9),
            min_duration_s=config["min_duration_s"],
            min_query_count=run["query"]["min_query_count"],
            samples_per_query=self.width,
        )
        self.latencies_ns = self.columns["done_ns"] - self.columns["scheduled_ns"]
        self.query_latencies_ns, self.complete_queries = self._by_query()
        self.verdict: Verdict | None = judge(self.rules, self._measured()) if self.complete_queries else None

    def _by_query(self) -> tuple[NDArray[np.int64], int]:
        """Latency of each query that is answered in full (its last sample's), and how many there are."""
        numbers, places = np.unique(self.columns["query"], return_inverse=True)
        longest = np.zeros(len(numbers), np.int64)
        np.maximum.at(longest, places, self.latencies_ns)
        whole = np.bincount(places, minlength=len(numbers)) == self.width if len(numbers) else np.zeros(0, np.bool_)
        return longest[whole], int(whole.sum())

    def _measured(self) -> Measured:
        begin_ns = self.begin_ns
        last = self.columns["query"] == self.columns["query"].max()
        return Measured(
            queries_issued=self.complete_queries,
            sample_latencies_ns=self.latencies_ns.tolist(),
            query_latencies_ns=self.query_latencies_ns.tolist(),
            last_scheduled_ns=int(self.columns["scheduled_ns"][last].max()) - begin_ns,
            last_issued_ns=int(self.columns["issued_ns"][last].max()) - begin_ns,
            last_done_ns=int(self.columns["done_ns"][last].max()) - begin_ns,
        )

    @property
    def begin_ns(self) -> int:
        """When the schedule began; of a trial that was cut short, when its first query was due."""
        return int(self.footer["start_ns"] if self.footer else self.columns["scheduled_ns"].min())

    @property
    def gave_up(self) -> bool:
        return bool(self.footer and self.footer["gave_up"])

    @property
    def valid(self) -> bool:
        """LoadGen's VALID: for a trial that ran to its end."""
        return self.footer is not None and not self.gave_up and self.verdict is not None and self.verdict.valid

    def reasons(self) -> list[str]:
        """Why it is not VALID, in the order in which LoadGen lists what is satisfied."""
        if self.valid:
            return []
        if self.footer is None:
            return ["the run ended before all queries were answered"]
        if self.gave_up:
            return [f"more than {self.trace.header['gives_up_after']} queries were over the limit, and the trial was ended"]
        found, rules = self.verdict, self.rules
        if found is None:
            return ["no query was answered"]
        limit = f"{rules.latency_limit_ns / 1e6:g} ms"
        told = [
            (
                found.latency_met,
                f"the latency at the {rules.percentile * 100:g}th percentile is {found.latency_ns / 1e6:.3f} ms, over the limit of {limit}",
            ),
            (found.min_duration_met, f"the run was shorter than {rules.min_duration_s:g} s"),
            (found.min_queries_met, f"{self.complete_queries} queries were run, and {rules.min_query_count} is the least"),
            (found.early_stopping is None or found.early_stopping.met, f"early stopping: {self._stopping_reason()}"),
        ]
        return [text for met, text in told if not met]

    def _stopping_reason(self) -> str:
        found = self.verdict.early_stopping if self.verdict else None
        if found is None:
            return ""
        over = "" if found.over_limit is None else f" with {found.over_limit} over the limit"
        return f"{self.complete_queries} queries{over} prove nothing at 99 % confidence, {found.more_queries} more would (if none is over)"


def judge_trial(run: Mapping[str, Any], trace: QueryTrace) -> Trial:
    """One trial, judged."""
    return Trial(run, trace)
