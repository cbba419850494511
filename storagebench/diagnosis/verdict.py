"""The verdict: storage, decode, loader, host or accelerator, with the numbers that led to it and the first knob to turn.

One tree for both sources of evidence: an ordinary run's limits (`online`), and a ladder's rungs (`ladder`). It asks in the order of
reference/measurement.md section 2: are the accelerators busy; is the host starved; is the CPU full; is the storage at its limit; else it is the loader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

# Rates within 2 % of the accelerators' own: nothing stands in the way.
BUSY: Final = 0.98
# Of a real training the hand-over of each batch (into tensors, onto the device) is waiting too, which neither storage nor loader can save.
TRAINING_BUSY: Final = 0.95
# Achieved over a limit, from where on that limit is what is in the way.
AT_LIMIT: Final = 0.8
# Without any storage: less than this is the host's (or the harness's) doing.
NULL_AT_LEAST: Final = 0.95
# Workers without a core for this share of their time, while others use this share of the cores.
DELAYED: Final = 0.15
OTHERS: Final = 0.15
HALF: Final = 0.5
MAX_WORKERS: Final = 64


@dataclass(frozen=True)
class Evidence:
    """What is known. Rates are samples per second of all ranks; shares 0..1; None is unknown.

    `achieved` against the limits `accelerator` (None: nothing is emulated), `cpu` (all cores), `storage` (raw), `workers` (the loader's, never idle).
    `au` and `au_null`; `host_delay_share` of the window in which late wake-ups stood; `worker_delay_share` of the workers' time without a core,
    `prep_cpu_share` of the CPU time spent after the fetch, `fetch_share` of the workers' time in the fetch, `epoch_start_share` and
    `slowest_steps_share` (of the slowest 2 %) of the waiting. `trains`: the compute is that of a real training, measured, as `au` is then.
    """

    achieved: float
    accelerator: float | None = None
    cpu: float | None = None
    storage: float | None = None
    workers: float | None = None
    au: float | None = None
    au_null: float | None = None
    host_delay_share: float = 0.0
    worker_delay_share: float = 0.0
    prep_cpu_share: float = 0.0
    fetch_share: float = 0.0
    epoch_start_share: float = 0.0
    slowest_steps_share: float = 0.0
    cores: float = 1.0
    cores_of_others: float = 0.0
    trains: bool = False
    setting: Mapping[str, Any] = field(default_factory=dict)  # num_workers, prefetch_batches, world_size, cache, storage (kind), cacheable


@dataclass(frozen=True)
class Verdict:
    """`bottleneck` is None where the evidence does not decide; `why` says what led to it; `knob` what to turn first, with `settings` (config key ->
    value) where storagebench itself can turn it."""

    bottleneck: str | None
    why: tuple[str, ...]
    knob: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"why": list(self.why), "knob": self.knob, "settings": dict(self.settings)}


def verdict_of(e: Evidence) -> Verdict:
    """The verdict on this evidence."""
    for ask in (_busy, _late, _starved, _cpu_full, _starting, _hiccups, _storage_or_loader):
        verdict = ask(e)
        if verdict is not None:
            return verdict
    raise AssertionError("the last question has always an answer")


def needs_storage_rate(e: Evidence) -> bool:
    """Whether only the raw rate of the storage can tell a slow storage from a loader that asks for too little."""
    return e.storage is None and all(ask(e) is None for ask in (_busy, _late, _starved, _cpu_full, _starting, _hiccups))


def share(value: float) -> str:
    return f"{value:.0%}"


def _rate(value: float) -> str:
    return f"{value:.4g} samples/s"


def _busy(e: Evidence) -> Verdict | None:
    if e.au is None:
        return None
    if e.trains:
        return None if e.au < TRAINING_BUSY else _trains_undisturbed(e.au)
    reachable = 1.0 if e.au_null is None else min(1.0, e.au_null)
    if e.au < BUSY * reachable:
        return None
    if reachable < NULL_AT_LEAST and e.au < BUSY:
        return Verdict(
            "host",
            (f"AU {e.au:.3f}, and even without any storage it is {reachable:.3f} here",),
            "fewer accelerators on this host, or a longer --compute-time",
            _fewer_accelerators(e),
        )
    return Verdict(
        "accelerator", (f"AU {e.au:.3f}: the accelerators hardly wait",), "more accelerators: `storagebench diagnose --what-if accelerators=N`"
    )


def _trains_undisturbed(computed: float) -> Verdict:
    return Verdict(
        "accelerator",
        (f"the training computed for {share(computed)} of the time: it hardly waits for its data",),
        "a faster device, or more ranks: storage and loader keep up with this one",
    )


def _late(e: Evidence) -> Verdict | None:
    if e.au is None or e.host_delay_share < HALF * (1 - e.au):
        return None
    return Verdict(
        "host",
        (f"late wake-ups of the host took {share(e.host_delay_share)} of the window, and all that was lost is {share(1 - e.au)}",),
        _free_the_host(e),
        _fewer_accelerators(e),
    )


def _starved(e: Evidence) -> Verdict | None:
    if e.worker_delay_share < DELAYED or e.cores_of_others < OTHERS * e.cores:
        return None
    return Verdict(
        "host",
        (
            f"the loader's workers were ready to run and had no core for {share(e.worker_delay_share)} of their time",
            f"others used {e.cores_of_others:.2f} of the {e.cores:g} cores",
        ),
        _free_the_host(e),
        _fewer_accelerators(e),
    )


def _cpu_full(e: Evidence) -> Verdict | None:
    if e.cpu is None or e.achieved < AT_LIMIT * e.cpu or (e.storage is not None and e.storage < e.cpu):
        return None
    full = f"{_rate(e.achieved)} is {share(e.achieved / e.cpu)} of what {e.cores:g} cores can do at the CPU time that a sample takes here"
    spent = f"{share(e.prep_cpu_share)} of the CPU time goes into what comes after the fetch (parse, checksum, decode)"
    if e.prep_cpu_share >= HALF:
        return Verdict("decode", (full, spent), "more or faster cores, a format that costs less to decode, or samples decoded ahead of time")
    return Verdict("host", (full, spent), "fewer copies (--cache direct, --loader direct), fewer accelerators on this host", _fewer_accelerators(e))


def _starting(e: Evidence) -> Verdict | None:
    if e.epoch_start_share <= HALF:
        return None
    return Verdict(
        "loader",
        (f"{share(e.epoch_start_share)} of the waiting was for the first batch of an epoch",),
        "longer epochs (more samples), or more workers to fill the queue faster",
        _more_workers(e),
    )


def _hiccups(e: Evidence) -> Verdict | None:
    """Single slow reads, while the storage keeps up otherwise. Where it does not, nearly all steps wait."""
    if e.slowest_steps_share <= HALF or e.fetch_share < HALF:
        return None
    depth = e.setting.get("prefetch_batches")
    return Verdict(
        "storage",
        (f"{share(e.slowest_steps_share)} of the waiting was in the slowest 2 % of the steps: single reads took long, the others kept up",),
        "a deeper queue, to bridge slow reads" + (f": --prefetch-batches {4 * depth}" if depth else ""),
        {"loader.prefetch_batches": 4 * depth} if depth else {},
    )


def _storage_or_loader(e: Evidence) -> Verdict:
    if e.storage is None and e.setting.get("writers"):
        return Verdict(
            None,
            ("the workers wait for their fetches, and writers use the storage too: what it gives to readers alone does not tell",),
            "run it again with --writers 0: what the two differ by is the writers'",
        )
    if e.storage is None:
        return Verdict(
            None, ("the workers wait for their fetches, and what the storage gives raw is not known",), "`storagebench diagnose`, or run --ceiling"
        )
    compared = f"{_rate(e.achieved)} is {share(e.achieved / e.storage)} of what the storage gives raw ({_rate(e.storage)})"
    if e.achieved >= AT_LIMIT * e.storage:
        needed = "" if e.accelerator is None else f"; the accelerators need {_rate(e.accelerator)}"
        return Verdict("storage", (compared + needed,), *_feed(e))
    why = [compared]
    if e.workers is not None:
        why.append(f"its workers could do {_rate(e.workers)} at what they take for a sample, {share(e.fetch_share)} of that in the fetch")
    return Verdict("loader", tuple(why), *_ask_more(e))


# -- knobs ---------------------------------------------------------------------------------------------------------------------------------------------


def _free_the_host(e: Evidence) -> str:
    used = f" (it uses {e.cores_of_others:.1f} of {e.cores:g} cores)" if e.cores_of_others >= OTHERS * e.cores else ""
    return f"stop what else runs on this host{used}, or use fewer accelerators on it"


def _fewer_accelerators(e: Evidence) -> dict[str, Any]:
    ranks = e.setting.get("world_size", 1)
    return {"run.num_accelerators": ranks // 2} if ranks > 1 else {}


def _feed(e: Evidence) -> tuple[str, dict[str, Any]]:
    if e.setting.get("cacheable") and e.setting.get("cache") in ("cold", "direct"):
        return "keep the dataset in memory (--cache warm): it fits; else a faster tier", {"run.cache": "warm"}
    return "a faster tier or a cache before it, larger shards, or fewer bytes a sample: no setting of the loader gets more out of it", {}


def _ask_more(e: Evidence) -> tuple[str, dict[str, Any]]:
    settings = _more_workers(e)
    text = ", ".join(f"--{key.partition('.')[2].replace('_', '-')} {value}" for key, value in settings.items())
    return (f"more in flight: {text}", settings) if settings else ("another loader: more workers do not help this one", {})


def _more_workers(e: Evidence) -> dict[str, Any]:
    """Four times the workers where they wait for fetches, as many as there are cores where they work; and a queue deep enough to keep them busy."""
    workers, depth = e.setting.get("num_workers"), e.setting.get("prefetch_batches")
    if workers is None or depth is None:
        return {}
    ranks = e.setting.get("world_size", 1)
    waits = workers == 0 or e.fetch_share >= HALF
    wanted = min(MAX_WORKERS, max(4, 4 * workers)) if waits else max(workers + 1, -(-round(e.cores) // ranks))
    return {"loader.num_workers": wanted, "loader.prefetch_batches": max(depth, 4)} if wanted > workers else {}
