"""Findings over a saved run, as one table of named rules. `error`: the number is false; `warning`: true, but weak or to be read with care.

One row is one code, one severity and one function; removing a row takes its code away and nothing else. An AU below its threshold is a result, not a
finding. Codes that the field knows and that no rule here can find stand in `NOT_WRITTEN`, and `check` names them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from storagebench.checks import ceiling_rules, rules_bytes, rules_hosts, rules_records, rules_settings, rules_time, rules_training, rules_writers
from storagebench.checks.case import ERROR, WARNING, Case, Check


@dataclass(frozen=True)
class Finding:
    """One thing to know about a run. `code` is stable, `hint` is the next action."""

    code: str
    severity: str
    message: str
    hint: str

    def as_dict(self) -> dict[str, str]:
        return {"code": self.code, "severity": self.severity, "message": self.message, "hint": self.hint}


class Rule(NamedTuple):
    """A row of the table. `check` yields a message and a hint for each thing that it finds."""

    code: str
    severity: str
    check: Check


RULES: tuple[Rule, ...] = (
    Rule("PARTIAL_RUN", ERROR, rules_records.partial_run),
    Rule("PARTIAL_RANKS", ERROR, rules_records.partial_ranks),
    Rule("LOST", ERROR, rules_hosts.lost),
    Rule("CHECKSUM", ERROR, rules_bytes.checksum),
    Rule("SAMPLE_COVERAGE", ERROR, rules_bytes.sample_coverage),
    Rule("CACHE_SUSPECT", ERROR, rules_bytes.cache_suspect),
    Rule("RAM_BACKED", ERROR, rules_bytes.ram_backed),
    Rule("BYTES", ERROR, rules_bytes.bytes_reconcile),
    Rule("ERRORS", ERROR, rules_bytes.errors),
    Rule("FASTER_THAN_CEILING", ERROR, ceiling_rules.faster_than_ceiling),
    Rule("SAMPLE_COUNTS", ERROR, rules_records.sample_counts),
    Rule("TRACE_GAP", ERROR, rules_records.trace_gap),
    Rule("TIME_PARTS", ERROR, rules_records.time_parts),
    Rule("MIXED_VERSIONS", ERROR, rules_records.mixed_versions),
    Rule("DATASET_CHANGED", ERROR, rules_records.dataset_changed),
    Rule("CONFIG_CHANGED", ERROR, rules_records.config_changed),
    Rule("WRITER_LOST", ERROR, rules_writers.writer_lost),
    Rule("LOSS_NOT_FINITE", ERROR, rules_training.loss_not_finite),
    Rule("RANKS_DIVERGED", ERROR, rules_training.ranks_diverged),
    Rule("UNVERIFIED_DATA", WARNING, rules_bytes.unverified_data),
    Rule("CACHED", WARNING, rules_bytes.cached),
    Rule("LOCAL_CACHE", WARNING, rules_bytes.local_cache),
    Rule("SERVER_CACHE_UNKNOWN", WARNING, rules_bytes.server_cache_unknown),
    Rule("CACHE_UNPROVEN", WARNING, rules_bytes.cache_unproven),
    Rule("TOO_SHORT", WARNING, rules_time.too_short),
    Rule("FEW_STEPS", WARNING, rules_time.few_steps),
    Rule("NOT_STEADY", WARNING, rules_time.not_steady),
    Rule("RANK_SKEW", WARNING, rules_time.rank_skew),
    Rule("STRAGGLER", WARNING, rules_hosts.straggler),
    Rule("HOSTS_DIFFER", WARNING, rules_hosts.hosts_differ),
    Rule("SHARED_MACHINE", WARNING, rules_hosts.shared_machine),
    Rule("SMALL_DATASET", WARNING, rules_bytes.small_dataset),
    Rule("HOST_LIMITED", WARNING, rules_time.host_limited),
    Rule("DECODE_LIMITED", WARNING, rules_time.decode_limited),
    Rule("HARNESS_LIMITED", WARNING, rules_time.harness_limited),
    Rule("VM_STEAL", WARNING, rules_time.vm_steal),
    Rule("CLOCK_STEP", WARNING, rules_time.clock_step),
    Rule("CLOCK_SKEW", WARNING, rules_hosts.clock_skew),
    Rule("AU_UNCERTAIN", WARNING, rules_time.au_uncertain),
    Rule("COMPRESSIBLE_DATA", WARNING, rules_bytes.compressible_data),
    Rule("DECODE_DIFFERS", WARNING, rules_settings.decode_differs),
    Rule("CEILING_UNSTABLE", WARNING, ceiling_rules.ceiling_unstable),
    Rule("RANGES_NOT_NATIVE", WARNING, rules_bytes.ranges_not_native),
    Rule("RETRIES", WARNING, rules_bytes.retries),
    Rule("LOADER_SETTINGS", WARNING, rules_settings.loader_settings),
    Rule("WRITE_RATE", WARNING, rules_writers.write_rate),
    Rule("WRITTEN_LEFT", WARNING, rules_writers.written_left),
    Rule("TARGET_NOT_REACHED", WARNING, rules_training.target_not_reached),
    Rule("HELD_OUT_SMALL", WARNING, rules_training.held_out_small),
)

# Codes without a rule, and why (reference/measurement.md section 6 names them).
NOT_WRITTEN: Mapping[str, str] = {
    "CODE_MODIFIED": "a run records the version of storagebench, not a digest of its files",
}


def find(case: Case, rules: Sequence[Rule] = RULES) -> list[Finding]:
    """All findings of these rules, errors first."""
    found = [Finding(rule.code, rule.severity, each.message, each.hint) for rule in rules for each in rule.check(case)]
    return sorted(found, key=lambda finding: finding.severity != ERROR)
