"""Made-up runs of a search, for the tests of its folder, of the report and of the page in a browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from storagebench.experiments.search import Answer, Rules
from storagebench.experiments.searching import search
from storagebench.experiments.searchresult import Found, found_in
from storagebench.experiments.searchstate import open_log, save_search

RULES = Rules(0.9, 0.75, 2, 64, 40, 2)
EVIL = "</script><script>alert(1)</script>"


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it, and nothing is written after it."""


def summary(run_id: str, accelerators: int, au: float | None, **changes: Any) -> dict[str, Any]:
    return {
        "run_id": run_id, "status": "complete", "valid": True, "exit_code": 0, "failure": None, "findings": [], "au_nominal": au, "au_null": 0.999,
        "delivered_bytes_per_s": None if au is None else accelerators * au * 1e6, "bottleneck": "storage" if au and au < 0.95 else "accelerator",
        "verdict": {"why": [f"because {EVIL}"]}, "samples": 100, "delivered_bytes": 100_000, "batch_size": 10, "compute_time_s": 0.01, **changes,
    }  # fmt: skip


def make_run(folder: Path, found: Mapping[str, Any], stop_at: str = "") -> None:
    """A run folder as a command leaves it; `stop_at`: killed before its folder, in mid-run, or (130) by a signal that it handled."""
    run_dir = folder / found["run_id"]
    if stop_at == "before":
        raise Killed
    (run_dir / "trace").mkdir(parents=True)
    (run_dir / "run.json").write_text("{}")
    lines = [{"kind": "header", "schema_version": 2, "host": "h"}]
    if stop_at != "mid-run":
        lines.append({"kind": "end", "exit_code": 130 if stop_at == "signal" else found["exit_code"]})
    (run_dir / "trace" / "host-h.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if stop_at in ("mid-run", "signal"):
        raise Killed
    (run_dir / "summary.json").write_text(json.dumps(found))
    if stop_at == "after":
        raise Killed


def begin(folder: Path, rules: Rules = RULES, text: str = EVIL) -> None:
    asked = {
        "rules": rules.__dict__,
        "workload": EVIL,
        "loader": "direct",
        "store": "/data",
        "guess": {"start": 2, "why": "a guess"},
        "command": [EVIL],
    }
    save_search(folder, {"settings": {}, **asked})


def go_on(folder: Path, run_one: Callable[[int, str], Mapping[str, Any]], rules: Rules = RULES) -> Answer:
    with open_log(folder, rules) as log:
        if log.history:
            log.resume()
        return search(rules, log, run_one)


def make_search(folder: Path, text: str = EVIL) -> Found:
    """A finished search: 3.3 accelerators take what there is."""
    begin(folder, text=text)

    def run_one(accelerators: int, run_id: str) -> Mapping[str, Any]:
        found = summary(run_id, accelerators, min(1.0, 3.3 / accelerators), verdict={"why": [f"because {text}"]})
        make_run(folder, found)
        return found

    go_on(folder, run_one)
    return found_in(folder)
