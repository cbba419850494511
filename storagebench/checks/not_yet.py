"""What MLPerf Storage has and storagebench does not run yet. `list workloads` names it, and rule sets have its rules as `not judged`. Plain data."""

from __future__ import annotations

from typing import NamedTuple


class NotYet(NamedTuple):
    """A workload of MLPerf Storage that cannot be run here. `editions`: those of the rules that have it; `rule`: what they ask for, in one sentence."""

    name: str
    editions: tuple[str, ...]
    about: str
    rule: str
    source: str


NOT_YET: tuple[NotYet, ...] = (
    NotYet(
        "checkpointing",
        ("v2.0", "v3.0"),
        "checkpoints of llama3 8b, 70b, 405b and 1t are written and read back",
        "10 checkpoints written with fsync, then 10 read, cold where a host wrote less than 3 x its memory",
        "mlperf-storage.md section 5; R2 2.2, R3 section 4",
    ),
    NotYet(
        "vector_database",
        ("v2.0", "v3.0"),
        "vector search in Milvus: DISKANN, HNSW, AISAQ",
        "5 runs, with a recall floor (v2.0: a preview)",
        "mlperf-storage.md section 4, workloads.md section 4; R3 section 5",
    ),
    NotYet(
        "kv_cache",
        ("v3.0",),
        "the key-value cache of language models, written and read in blocks",
        "3 options x 3 trials of 300 s with seed 42; nothing but the client count is free",
        "mlperf-storage.md section 4, workloads.md section 4; R3 section 6",
    ),
)
