"""Was the run what was asked: decode level, and what the loader says of its own settings."""

from __future__ import annotations

from collections.abc import Iterator

from storagebench.checks.case import Case, Found


def decode_differs(case: Case) -> Iterator[Found]:
    s = case.summary
    if case.reads_storage and s["decode"] is not None and s["decode"] != s["decode_asked"]:
        yield Found(
            f"--decode {s['decode_asked']} was asked, and loader {s['loader']} cannot stop before {s['decode']}",
            f"compare it only with runs at --decode {s['decode']}",
        )


def loader_settings(case: Case) -> Iterator[Found]:
    for note in case.summary["effective"].get("notes", []):
        yield Found(note, "change the setting, or read the number with this in mind")
