"""Each finding has a golden-valid run and runs that trip just it; a rule that always passes is caught, and none finds fault with a good run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec import structs

from storagebench.checks.case import ERROR, WARNING, Case
from storagebench.checks.findings import NOT_WRITTEN, RULES, Rule, find
from storagebench.checks.judge import attributed
from storagebench.ranks import Ranks
from storagebench.records import StepRecord, config_digest
from storagebench.traces import Steps, Trace

MS = 1_000_000


@dataclass
class Draft:
    """A run to be spoilt. `patch` is put over the summary, for what no record can make alone."""

    run: dict[str, Any]
    ranks: list[Trace]
    hosts: list[Trace]
    patch: dict[str, Any] = field(default_factory=dict)
    writers: list[Trace] = field(default_factory=list)

    def case(self) -> Case:
        digest = config_digest(self.run["config"])
        ranks = Ranks(self.run, [trace._replace(header={"config_digest": digest, **trace.header}) for trace in self.ranks])
        summary = attributed(self.run, ranks, self.hosts, self.writers)
        return Case(self.run, {**summary, **self.patch}, ranks, self.hosts, self.writers)

    def header(self, rank: int, **fields: Any) -> None:
        self.ranks[rank] = self.ranks[rank]._replace(header={**self.ranks[rank].header, **fields})

    def others(self, kind: str, rank: int | None = None, **fields: Any) -> None:
        """Change the records of a kind, of one rank or all; a value that is a function is given the old one."""
        for index, trace in enumerate(self.ranks):
            if rank in (None, index):
                self.ranks[index] = trace._replace(others=tuple(_changed(record, kind, fields) for record in trace.others))

    def steps(self, rank: int, change: Callable[[StepRecord], StepRecord]) -> None:
        trace = self.ranks[rank]
        self.ranks[rank] = trace._replace(steps=Steps.of(step if step.kind == "null" else change(step) for step in trace.steps))

    def host(self, **fields: Callable[[int, Any], Any]) -> None:
        """Change the samples of the host; each function is given the index and the old value."""
        trace = self.hosts[0]
        changed = [
            {**record, **{name: change(index, record[name]) for name, change in fields.items()}} if record["kind"] == "host" else record
            for index, record in enumerate(trace.others)
        ]
        self.hosts[0] = trace._replace(others=tuple(changed))

    def longer(self, rank: int, extra_ns: Callable[[int], int], part: str) -> None:
        """Make each step longer by extra_ns(step) in one part: fetch, sync or host. All stamps after it move along."""
        moved = 0

        def change(step: StepRecord) -> StepRecord:
            nonlocal moved
            extra = extra_ns(step.step)
            names = ("asked_ns", "ready_ns", "got_ns", "start_ns", "due_ns", "compute_end_ns", "release_ns", "sync_end_ns")
            stamps = {name: getattr(step, name) + moved for name in names}
            late = names[1:] if part == "fetch" else names[6:]
            stamps.update({name: stamps[name] + extra for name in late})
            moved += extra
            return structs.replace(step, **stamps, host_delay_ns=step.host_delay_ns + (extra if part == "host" else 0))

        begins: dict[int, int] = {}

        def follow(step: StepRecord) -> StepRecord:
            begins.setdefault(step.epoch, moved)
            return change(step)

        self.steps(rank, follow)
        trace = self.ranks[rank]
        self.ranks[rank] = trace._replace(
            others=tuple(
                {**record, "start_ns": record["start_ns"] + begins[record["epoch"]]} if record["kind"] == "epoch_start" else record
                for record in trace.others
            )
        )


def _changed(record: Any, kind: str, fields: dict[str, Any]) -> Any:
    if record["kind"] != kind:
        return record
    return {**record, **{name: value(record[name]) if callable(value) else value for name, value in fields.items()}}


@dataclass(frozen=True)
class Trip:
    """A run that trips one rule. `also` are codes that cannot but come with it."""

    code: str
    about: str
    spoil: Callable[[Draft], None]
    base: str = "long"
    also: frozenset[str] = frozenset()


def config(draft: Draft, section: str, **fields: Any) -> None:
    draft.run["config"][section].update(fields)


def ended_with_failure(draft: Draft) -> None:
    draft.hosts[0] = draft.hosts[0]._replace(others=(*draft.hosts[0].others[:-1], {"kind": "end", "exit_code": 4, "failure": "the disk is full"}))


def killed_rank(draft: Draft) -> None:
    draft.ranks[1] = draft.ranks[1]._replace(others=tuple(record for record in draft.ranks[1].others if record["kind"] != "footer"))


def rank_without_a_trace(draft: Draft) -> None:
    draft.ranks.pop()


def at_step(number: int, **fields: Any) -> Callable[[StepRecord], StepRecord]:
    return lambda step: structs.replace(step, **fields) if step.step == number else step


def half_cached(draft: Draft) -> None:
    draft.others("epoch_end", device_read_bytes=lambda old: old // 2)


def called(cache: str, *more: Callable[[Draft], None]) -> Callable[[Draft], None]:
    def spoil(draft: Draft) -> None:
        config(draft, "run", cache=cache)
        for each in more:
            each(draft)

    return spoil


def store_lost_bytes(draft: Draft) -> None:
    draft.others("epoch_end", storage_bytes=lambda old: old // 2, device_read_bytes=lambda old: old // 2)


def epochs_one_byte_short(draft: Draft) -> None:
    config(draft, "run", remainder="keep")
    draft.run["dataset"]["record_bytes"] += 1


def from_step(number: int, change: Callable[[StepRecord], StepRecord]) -> Callable[[StepRecord], StepRecord]:
    return lambda step: change(step) if step.step >= number else step


def cut_line(draft: Draft) -> None:
    draft.ranks[0] = draft.ranks[0]._replace(truncated=True)


def both_ranks(extra_ns: Callable[[int], int], part: str) -> Callable[[Draft], None]:
    def spoil(draft: Draft) -> None:
        for rank in range(2):
            draft.longer(rank, extra_ns, part)

    return spoil


def one_rank_is_slow(draft: Draft) -> None:
    config(draft, "run", sync="none")
    draft.longer(0, lambda step: 6 * MS, "fetch")


def others_wait_for(extra_ns: int, *slow: int, part: str = "fetch", num_ranks: int = 2) -> Callable[[Draft], None]:
    """The slow ranks by turns take so much longer in each step, and the others wait for that one."""

    def spoil(draft: Draft) -> None:
        for rank in range(num_ranks):
            for turn, late in enumerate(slow):
                here = part if rank == late else "sync"
                draft.longer(rank, lambda step, turn=turn: extra_ns if step % len(slow) == turn else 0, here)  # type: ignore[misc]

    return spoil


def other_host(**fields: Any) -> Callable[[Draft], None]:
    return lambda draft: draft.run["hosts"][1].update(fields)


def told_the_time(draft: Draft, offset_s: float) -> None:
    record = {"kind": "clock", "wall_offset_s": offset_s, "uncertainty_s": 0.5}
    draft.hosts[1] = draft.hosts[1]._replace(others=(record, *draft.hosts[1].others))


def lost_host(draft: Draft, *records: dict[str, Any]) -> None:
    """The second host and its ranks went away without a word, and the first one ended the run."""
    for rank in (2, 3):
        draft.ranks[rank] = draft.ranks[rank]._replace(others=tuple(each for each in draft.ranks[rank].others if each["kind"] != "footer"))
    end = {"kind": "end", "exit_code": 5, "failed_rank": None, "failed_host": "node-2", "failure": "host node-2 was lost"}
    draft.hosts[0] = draft.hosts[0]._replace(others=(*draft.hosts[0].others[:-1], *records, end))
    draft.hosts[1] = draft.hosts[1]._replace(others=draft.hosts[1].others[:-1])


def lost_member(draft: Draft) -> None:
    lost_host(draft, {"kind": "lost", "member": 1, "host": "node-2", "ranks": [2, 3], "why": "lost host node-2: no heartbeat for 10 s"})


def no_trace_of_a_member(draft: Draft) -> None:
    lost_host(draft)
    draft.hosts.pop()


def edited_config(draft: Draft) -> None:
    for rank in range(2):
        draft.header(rank, config_digest=config_digest(draft.run["config"]))
    config(draft, "train", au_threshold=0.5)


def unknown_server(draft: Draft) -> None:
    draft.run["store"]["kind"] = "s3"
    draft.run["hosts"][0]["memory_bytes"] = 1
    draft.others("cache", server_cache="unknown")


def slow_null_run(draft: Draft) -> None:
    for rank, trace in enumerate(draft.ranks):
        steps = [structs.replace(step, sync_end_ns=step.sync_end_ns + step.step * 10 * MS) if step.kind == "null" else step for step in trace.steps]
        draft.ranks[rank] = trace._replace(steps=Steps.of(steps))


def parquet_without_ranges(draft: Draft) -> None:
    draft.run["dataset"]["format"] = "parquet"
    draft.run["ranges"] = "not native: whole objects"


def never_checked(draft: Draft) -> None:
    for rank in range(2):
        draft.steps(rank, lambda step: structs.replace(step, verified=0))


def effective(draft: Draft, **fields: Any) -> None:
    draft.others("opened", effective=lambda old: {**old, **fields})


def ceilings(before: float, after: float) -> Callable[[Draft], None]:
    """What the storage gave raw, in multiples of what the run read from it."""

    def probed(draft: Draft) -> None:
        plain = draft.case().summary
        own = plain["delivered_bytes_per_s"] * plain["storage_bytes"] / plain["delivered_bytes"]
        stamp = {"begin_ns": 0, "monotonic_ns": 1, "wall_ns": 1 + draft.hosts[0].others[0]["wall_ns"] - draft.hosts[0].others[0]["monotonic_ns"]}
        rates = {"before": before * own, "after": after * own}
        records = tuple({"kind": "ceiling", "when": when, "bytes_per_s": rate, **stamp} for when, rate in rates.items())
        draft.hosts[0] = draft.hosts[0]._replace(others=(*records, *draft.hosts[0].others))

    return probed


def cpu_full_of_decoding(draft: Draft) -> None:
    """Each rank uses a whole core of the two, most of it after the fetch."""
    seconds = {record["epoch"]: (record["end_ns"] - record["start_ns"]) / 1e9 for record in draft.ranks[0].of_kind("epoch_end")}
    draft.others("epoch_end", rank_cpu_s=0.0, worker_cpu_s=seconds[0], host_busy_s=2 * seconds[0], host_command_s=2 * seconds[0])
    for rank in (0, 1):
        draft.steps(rank, lambda step: structs.replace(step, prep_cpu_s=0.018))


def written_by(*endings: tuple[str, ...], rate: int = 0, removed: str | None = "") -> Callable[[Draft], None]:
    """Two writers that were asked for this rate: each wrote 10 shards of 1000 bytes in the first seconds, and then records of these kinds. `removed`: the
    error at deleting what they wrote ("" for none), or None where nobody deleted it."""

    def spoil(draft: Draft) -> None:
        config(draft, "run", writers=2, write_rate=rate)
        begin = draft.ranks[0].header["monotonic_ns"]
        for number, kinds in enumerate(endings):
            rows: list[dict[str, Any]] = []
            for index in range(10):
                key, at = f"written/r/{number:05d}-{index:08d}.npz", begin + index * 500 * MS
                rows += [{"kind": "writing", "keys": [key], "begin_ns": at}]
                rows += [{"kind": "shard", "key": key, "bytes": 1000, "samples": 1, "begin_ns": at, "end_ns": at + MS, "cpu_s": 0.1}]
            rows += [{"kind": kind, "message": "writer 0: the disk is full", "hint": "free space"} for kind in kinds]
            draft.writers.append(Trace({"kind": "header", "host": draft.run["hosts"][0]["host"]}, Steps.of(()), tuple(rows), False))
        if removed is not None:
            record = {"kind": "written", "keys": 20, "error": removed or None}
            draft.hosts[0] = draft.hosts[0]._replace(others=(*draft.hosts[0].others[:-1], record, draft.hosts[0].others[-1]))

    return spoil


def trained(target: float | None = 0.9, samples: int = 500, loss: float | None = 0.1, weights: tuple[int, int] = (7, 7)) -> Callable[[Draft], None]:
    """The run was a training that came to 0.95 after its first epoch."""

    def spoil(draft: Draft) -> None:
        config(draft, "run", accelerator="train:resnet8@cpu")
        draft.run["training"] = {
            "model": "resnet8", "device": "cpu", "metric": "top-1 accuracy", "target": target, "target_source": "test", "target_date": None,
        }  # fmt: skip
        for rank, trace in enumerate(draft.ranks):
            end = max(record["end_ns"] for record in trace.of_kind("epoch_end") if record["epoch"] == 0)
            stamps = {"epoch": 0, "start_ns": end, "end_ns": end + MS}
            reached = target is not None and target <= 0.95
            judged = {"kind": "eval", **stamps, "samples": samples, "correct": round(0.95 * samples), "accuracy": 0.95, "reached": reached}
            more = ({"kind": "trained", **stamps, "samples": 100, "loss": loss}, {**judged, "weights_crc32c": weights[rank]})
            draft.ranks[rank] = trace._replace(others=(*trace.others[:-1], *more, trace.others[-1]))

    return spoil


TRIPS = (
    Trip("PARTIAL_RUN", "the command failed after its ranks", ended_with_failure),
    Trip("PARTIAL_RANKS", "a rank died", killed_rank),
    Trip("PARTIAL_RANKS", "a rank left no trace", rank_without_a_trace),
    Trip("CHECKSUM", "two bad samples", lambda d: d.steps(0, at_step(9, errors=2, bad_samples=((1, "a"), (2, "b"))))),
    Trip("SAMPLE_COVERAGE", "samples are missing", lambda d: d.others("epoch_end", 0, missing_samples_of_all=3)),
    Trip("SAMPLE_COVERAGE", "samples came twice", lambda d: d.others("epoch_end", 0, duplicate_samples_of_all=1)),
    Trip("CACHE_SUSPECT", "cached before a cold epoch", lambda d: d.others("cache", cached_fraction_before=0.03)),
    Trip("CACHE_SUSPECT", "a cold run served from the cache", half_cached),
    Trip("CACHE_SUSPECT", "a direct run served from a cache", called("direct", half_cached)),
    Trip("CACHE_SUSPECT", "a warm run read the device", called("warm")),
    Trip("RAM_BACKED", "tmpfs", lambda d: d.run["hosts"][0]["data_filesystem"].update(type="tmpfs")),
    Trip("BYTES", "more delivered than read", store_lost_bytes),
    Trip("BYTES", "an epoch is a byte short", epochs_one_byte_short),
    Trip("ERRORS", "a read failed and the run went on", lambda d: d.others("epoch_end", 1, errors=2)),
    Trip("FASTER_THAN_CEILING", "over the ceiling", ceilings(0.96, 0.96)),
    Trip("CEILING_UNSTABLE", "slower after the run", ceilings(1.2, 1.1)),
    Trip("SAMPLE_COUNTS", "a step counts a sample more", lambda d: d.steps(1, at_step(77, samples=17))),
    Trip("SAMPLE_COUNTS", "a step without bytes", lambda d: d.steps(0, at_step(78, record_bytes=0))),
    Trip("TRACE_GAP", "a step is left out", lambda d: d.steps(1, from_step(900, lambda step: structs.replace(step, step=step.step + 1)))),
    Trip("TRACE_GAP", "an epoch ends early", lambda d: d.others("epoch_start", 0, steps=lambda old: old + 1)),
    Trip("TRACE_GAP", "a line is cut", cut_line, also=frozenset({"PARTIAL_RUN"})),
    Trip(
        "TIME_PARTS",
        "the clock runs on after the schedule",
        lambda d: d.steps(1, lambda s: structs.replace(s, sync_end_ns=s.sync_end_ns + 2 * s.step * MS)),
    ),
    Trip("MIXED_VERSIONS", "a trace of another run", lambda d: d.header(1, run_id="another")),
    Trip("MIXED_VERSIONS", "a rank of another version", lambda d: d.header(0, version="0.0.9")),
    Trip("MIXED_VERSIONS", "a rank of another dataset", lambda d: d.header(0, dataset_digest="sha256:other")),
    Trip("MIXED_VERSIONS", "a rank of another boot", lambda d: d.header(1, boot_id="c")),
    Trip("DATASET_CHANGED", "a rank read another dataset", lambda d: d.others("dataset", 1, digest="sha256:other")),
    Trip("CONFIG_CHANGED", "run.json was edited", edited_config),
    Trip("UNVERIFIED_DATA", "no checksum", never_checked),
    Trip("CACHED", "as it is, and cached", called("as-is", half_cached)),
    Trip("SERVER_CACHE_UNKNOWN", "a server that nobody sees", unknown_server),
    Trip("CACHE_UNPROVEN", "no device counter", lambda d: d.others("epoch_end", device_read_bytes=None)),
    Trip("SMALL_DATASET", "as it is, and nothing counts", called("as-is", lambda d: d.others("epoch_end", device_read_bytes=None))),
    Trip("TOO_SHORT", "16 s", lambda d: None, base="short"),
    Trip("FEW_STEPS", "a deep queue", lambda d: d.run["plan"].update(prefetch_batches=100)),
    Trip("NOT_STEADY", "steps grow longer", both_ranks(lambda step: step * 2000, "fetch")),
    Trip("NOT_STEADY", "the end is slower", both_ranks(lambda step: 4 * MS if step >= 3072 else 0, "fetch")),
    Trip("RANK_SKEW", "rank 0 is slow, and nobody waits", one_rank_is_slow),
    Trip("STRAGGLER", "a rank comes last", others_wait_for(2 * MS, 0)),
    Trip("STRAGGLER", "a rank comes last by far", others_wait_for(6 * MS, 1), also=frozenset({"RANK_SKEW"})),
    Trip("STRAGGLER", "the ranks of a host by turns", others_wait_for(4 * MS, 2, 3, num_ranks=4), base="hosts"),
    Trip("HOSTS_DIFFER", "a kernel", other_host(versions={"python": "3.11.9", "storagebench": "0.1.0", "kernel": "6.8"}), base="hosts"),
    Trip(
        "HOSTS_DIFFER", "a mount", other_host(data_filesystem={"mount": "/data", "type": "ext4", "device": "/dev/vdb", "options": "ro"}), base="hosts"
    ),
    Trip("HOSTS_DIFFER", "cores", other_host(usable_cores=4), base="hosts"),
    Trip("HOSTS_DIFFER", "memory", other_host(memory_bytes=65 * 2**30), base="hosts"),
    Trip("SHARED_MACHINE", "two containers", lambda d: [host.update(boot_id="x") for host in d.run["hosts"]], base="hosts"),
    Trip("CLOCK_SKEW", "ahead", lambda d: told_the_time(d, 301.0), base="hosts"),
    Trip("CLOCK_SKEW", "behind", lambda d: told_the_time(d, -9000.0), base="hosts"),
    Trip("LOST", "a host, and it was seen", lost_member, base="hosts", also=frozenset({"PARTIAL_RANKS"})),
    Trip("LOST", "a host without a word", lost_host, base="hosts", also=frozenset({"PARTIAL_RANKS"})),
    Trip("LOST", "a host without a trace", no_trace_of_a_member, base="hosts", also=frozenset({"PARTIAL_RANKS"})),
    Trip("HOST_LIMITED", "woken late", both_ranks(lambda step: MS, "host")),
    Trip("HOST_LIMITED", "no core for the ranks", lambda d: d.others("epoch_end", rank_run_delay_s=0.5, host_busy_s=20.0)),
    Trip("HOST_LIMITED", "others have half of the cores", lambda d: d.others("epoch_end", host_busy_s=1.6 + 16.0)),
    Trip("HOST_LIMITED", "the ranks crowd one another", lambda d: d.others("epoch_end", rank_run_delay_s=2.0)),
    Trip("DECODE_LIMITED", "the CPU is full of decoding", cpu_full_of_decoding),
    Trip("HARNESS_LIMITED", "the null run is slow", slow_null_run),
    Trip("VM_STEAL", "5 % stolen", lambda d: d.host(cpu_steal_s=lambda index, old: old + 0.1 * index)),
    Trip("CLOCK_STEP", "the wall clock was set", lambda d: d.host(wall_ns=lambda index, old: old + (700 * MS if index > 30 else 0))),
    Trip("AU_UNCERTAIN", "prefetched batches", lambda d: d.patch.update(au_uncertainty=0.06)),
    Trip("COMPRESSIBLE_DATA", "zeros", lambda d: d.run["dataset"]["origin"].update(compressibility=0.3)),
    Trip("DECODE_DIFFERS", "decoded further", lambda d: effective(d, decode="full")),
    Trip("RANGES_NOT_NATIVE", "no ranges", parquet_without_ranges),
    Trip(
        "LOCAL_CACHE",
        "a loader kept what it copied",
        lambda d: d.others("epoch_end", local_cache_bytes_before=5 * 10**6, local_cache_bytes=9 * 10**6),
    ),
    Trip("RETRIES", "a retry", lambda d: d.others("epoch_end", 0, retries=1)),
    Trip("LOADER_SETTINGS", "a note", lambda d: effective(d, notes=["4 of 8 workers are used"])),
    Trip("WRITER_LOST", "a writer said why", written_by(("error",), ("end",))),
    Trip("WRITER_LOST", "a writer was killed", written_by((), ("end",))),
    Trip("WRITER_LOST", "a writer without a trace", written_by(("end",))),
    Trip("WRITE_RATE", "they wrote for five seconds only", written_by(("end",), ("end",), rate=4000)),
    Trip("WRITTEN_LEFT", "nobody deleted it", written_by(("end",), ("end",), removed=None)),
    Trip("WRITTEN_LEFT", "the storage refused", written_by(("end",), ("end",), removed="permission denied")),
    Trip("TARGET_NOT_REACHED", "a target above the best", trained(0.96)),
    Trip("HELD_OUT_SMALL", "40 samples", trained(samples=40)),
    Trip("LOSS_NOT_FINITE", "it diverged", trained(loss=None)),
    Trip("RANKS_DIVERGED", "other weights", trained(weights=(7, 8))),
)


@pytest.fixture(scope="module")
def bases(report_make: Any) -> dict[str, Draft]:
    """Two valid runs of two ranks, long enough to publish, and short; and a long one of two hosts with two ranks each."""
    hosts = ("node-1", "node-1", "node-2", "node-2")
    return {
        "long": _complete(report_make(steps=1600)),
        "short": _complete(report_make(steps=400)),
        "hosts": _complete(report_make(steps=1600, world_size=4, hosts=hosts, stall_ms=1.0)),
    }


def _complete(loaded: Any) -> Draft:
    """The made-up run with all that a real one records of itself and its host."""
    run = copy.deepcopy(dict(loaded.run))
    header = {"run_id": run["run_id"], "version": run["hosts"][0]["versions"]["storagebench"], "dataset_digest": run["dataset"]["digest"]}
    dataset = {"kind": "dataset", "digest": run["dataset"]["digest"]}
    ranks = [trace._replace(header={**trace.header, **header}, others=(dataset, *trace.others)) for trace in loaded.ranks.traces()]
    begin, end = ranks[0].header["monotonic_ns"], ranks[0].steps[-1].sync_end_ns
    wall = ranks[0].header["wall_ns"] - begin
    names = {"cpu_user_s": 0.8, "cpu_system_s": 0.2, "cpu_idle_s": 0.9, "cpu_iowait_s": 0.095, "cpu_steal_s": 0.005}
    samples = []
    for index, now in enumerate(range(begin, end, 10**9)):
        counters = {name: share * index for name, share in names.items()}
        samples.append({"kind": "host", "monotonic_ns": now, "wall_ns": now + wall, "device_read_bytes": 0, "rss_bytes": 10**9, **counters})
    hosts = [host._replace(header={**host.header, "boot_id": "b"}, others=(*samples, host.others[-1])) for host in loaded.hosts]
    return Draft(run, ranks, hosts)


def tripped(bases: dict[str, Draft], trip: Trip) -> Case:
    base = bases[trip.base]
    draft = Draft(copy.deepcopy(base.run), list(base.ranks), list(base.hosts))
    trip.spoil(draft)
    return draft.case()


def codes(case: Case, rules: Sequence[Rule] = RULES) -> set[str]:
    return {finding.code for finding in find(case, rules)}


def name(trip: Trip) -> str:
    return f"{trip.code}: {trip.about}"


def always_passes(case: Case) -> Iterator[Any]:
    return iter(())


def test_the_golden_runs_have_no_findings(bases: dict[str, Draft]) -> None:
    assert find(bases["long"].case()) == find(bases["hosts"].case()) == []


def test_a_good_training_has_no_findings(bases: dict[str, Draft]) -> None:
    for target in (0.95, None):
        assert codes(tripped(bases, Trip("", "", trained(target)))) == set()


def test_every_code_has_one_row_and_a_run_that_trips_it() -> None:
    rows = [rule.code for rule in RULES]
    assert len(rows) == len(set(rows))
    assert {trip.code for trip in TRIPS} == set(rows)
    assert {rule.severity for rule in RULES} == {ERROR, WARNING}
    assert not set(NOT_WRITTEN) & set(rows)


@pytest.mark.parametrize("trip", TRIPS, ids=name)
def test_a_spoilt_run_trips_just_its_rule(trip: Trip, bases: dict[str, Draft]) -> None:
    case = tripped(bases, trip)
    assert codes(case) == {trip.code} | trip.also
    (severity,) = {rule.severity for rule in RULES if rule.code == trip.code}
    for finding in find(case):
        if finding.code == trip.code:
            assert finding.severity == severity
            assert finding.message and finding.hint
            assert finding.message.strip() == finding.message and not finding.message.endswith(".")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_rule_that_always_passes_is_caught(rule: Rule, bases: dict[str, Draft]) -> None:
    mutated = tuple(row._replace(check=always_passes) if row is rule else row for row in RULES)
    for trip in TRIPS:
        if trip.code == rule.code:
            case = tripped(bases, trip)
            assert codes(case, mutated) == set(trip.also), name(trip)
            assert codes(case, [rule]) == {rule.code}, name(trip)
    assert codes(bases["long"].case(), [rule]) == set()


def test_errors_come_first(bases: dict[str, Draft]) -> None:
    base = bases["short"]
    draft = Draft(copy.deepcopy(base.run), list(base.ranks), list(base.hosts))
    draft.others("epoch_end", 0, missing_samples_of_all=3)
    assert [(finding.code, finding.severity) for finding in find(draft.case())] == [("SAMPLE_COVERAGE", "error"), ("TOO_SHORT", "warning")]


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda d: d.others("cache", cached_fraction_before=0.02), "CACHE_SUSPECT"),
        (lambda d: ceilings(0.98, 0.98)(d), "FASTER_THAN_CEILING"),
        (lambda d: ceilings(1.2, 1.15)(d), "CEILING_UNSTABLE"),
        (lambda d: d.others("epoch_end", rank_run_delay_s=0.2, host_busy_s=1.6 + 15.9), "HOST_LIMITED"),
        (lambda d: d.others("epoch_end", rank_run_delay_s=1.0), "HOST_LIMITED"),
        (lambda d: d.patch.update(window_s=60.0), "TOO_SHORT"),
        (lambda d: d.run["plan"].update(prefetch_batches=63), "FEW_STEPS"),
        (both_ranks(lambda step: 400, "fetch"), "NOT_STEADY"),
        (both_ranks(lambda step: step * 200, "fetch"), "NOT_STEADY"),
        (lambda d: d.host(wall_ns=lambda index, old: old + (500 * MS if index > 30 else 0)), "CLOCK_STEP"),
        (lambda d: d.host(cpu_steal_s=lambda index, old: old + 0.015 * index), "VM_STEAL"),
        (both_ranks(lambda step: MS // 5, "host"), "HOST_LIMITED"),
        (others_wait_for(MS // 2, 0), "STRAGGLER"),
        (others_wait_for(6 * MS, 0, 1), "STRAGGLER"),
        (written_by(("end",), ("end",)), "WRITER_LOST"),
        (written_by(("end",), ("end",), rate=280), "WRITE_RATE"),
        (written_by(("end",), ("end",)), "WRITTEN_LEFT"),
    ],
)
def test_what_is_within_the_bound_is_not_found(spoil: Callable[[Draft], None], code: str, bases: dict[str, Draft]) -> None:
    assert code not in codes(tripped(bases, Trip(code, "", spoil)))


def test_steps_that_only_scatter_are_steady(report_make: Any) -> None:
    """Half of the steps wait 9 ms in the mean: a window of 32 of them is off by more than 7.5 % by chance alone."""
    assert "NOT_STEADY" not in codes(_complete(report_make(stall_ms=9.0, stalled=0.5, steps=400)).case())


def test_a_bounded_run_may_end_an_epoch_early(bases: dict[str, Draft]) -> None:
    def bounded(draft: Draft) -> None:
        config(draft, "run", max_steps=3200)
        draft.others("epoch_start", steps=lambda old: old + 1)

    assert codes(tripped(bases, Trip("TRACE_GAP", "", bounded))) == set()


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda d: told_the_time(d, 300.0), "CLOCK_SKEW"),
        (other_host(memory_bytes=64 * 2**30 + 600 * 2**20), "HOSTS_DIFFER"),
        (others_wait_for(4 * MS, 0, 1, 2, 3, num_ranks=4), "STRAGGLER"),
    ],
)
def test_what_is_within_the_bound_on_two_hosts_is_not_found(spoil: Callable[[Draft], None], code: str, bases: dict[str, Draft]) -> None:
    assert code not in codes(tripped(bases, Trip(code, "", spoil, base="hosts")))


def said(bases: dict[str, Draft], code: str, spoil: Callable[[Draft], None], base: str = "hosts") -> list[str]:
    return [finding.message for finding in find(tripped(bases, Trip(code, "", spoil, base=base))) if finding.code == code]


def test_a_straggler_is_named_with_its_host_and_what_it_took_longer_for(bases: dict[str, Draft]) -> None:
    (rank,) = said(bases, "STRAGGLER", others_wait_for(6 * MS, 2, num_ranks=4))
    assert "for rank 2 on host node-2, over 50%" in rank and "waiting for data, and the others" in rank
    (host,) = said(bases, "STRAGGLER", others_wait_for(6 * MS, 2, 3, num_ranks=4))
    assert "for host node-2, over 75%" in host
    (alone,) = said(bases, "STRAGGLER", others_wait_for(6 * MS, 1), base="long")
    assert "for rank 1, over 75%" in alone and "host" not in alone


def test_the_stage_of_a_straggler_is_the_one_that_took_longer(bases: dict[str, Draft]) -> None:
    def late_wake_ups(draft: Draft) -> None:
        others_wait_for(6 * MS, 2, part="host", num_ranks=4)(draft)

    def slow_fetches(draft: Draft) -> None:
        others_wait_for(6 * MS, 2, num_ranks=4)(draft)
        draft.steps(2, lambda step: structs.replace(step, spans_s={"fetch": 0.014, "parse": 0.002}))

    (fetch,) = said(bases, "STRAGGLER", slow_fetches)
    assert fetch.endswith("in its loader the stage fetch took 875 us a sample, and 250 us with the others")
    assert not [text for text in said(bases, "STRAGGLER", late_wake_ups) if "fetch" in text]


def test_hosts_that_differ_are_named(bases: dict[str, Draft]) -> None:
    def spoil(draft: Draft) -> None:
        other_host(memory_bytes=32 * 2**30, usable_cores=8)(draft)
        draft.run["hosts"][1]["versions"]["torch"] = "2.9"
        mount = {"mount": "/data", "type": "nfs4", "device": "srv:/x"}
        for number, host in enumerate(draft.run["hosts"]):
            host["data_filesystem"] = {**mount, "options": f"rw,clientaddr=10.0.0.{number},nconnect={4 + number}"}

    assert said(bases, "HOSTS_DIFFER", spoil) == [
        "the hosts differ in version of torch: none on node-1; 2.9 on node-2",
        "the hosts differ in data mount: nfs4 of srv:/x (nconnect=4,rw) on node-1; nfs4 of srv:/x (nconnect=5,rw) on node-2",
        "the hosts differ in number of usable cores: 2 on node-1; 8 on node-2",
        "the hosts differ in memory by 100%, over 1%: 34.4 GB on node-2; 68.7 GB on node-1",
    ]


def test_who_was_lost_is_named_once(bases: dict[str, Draft]) -> None:
    assert said(bases, "LOST", lost_member) == ["member 1 on host node-2 with ranks 2, 3 was lost: no heartbeat for 10 s"]
    (text,) = said(bases, "PARTIAL_RANKS", lost_host)
    assert text.startswith("2 of 4 ranks did not finish: 2 on host node-2, 3 on host node-2; the run is incomplete (host node-2 was lost)")
    assert said(bases, "LOST", lost_host) == ["member 1 on host node-2 with ranks 2, 3 ended without a word"]
    assert said(bases, "LOST", no_trace_of_a_member) == ["member 1 on host node-2 with ranks 2, 3 left no trace"]


def test_a_wrong_clock_is_named(bases: dict[str, Draft]) -> None:
    (text,) = said(bases, "CLOCK_SKEW", lambda d: told_the_time(d, -9000.0))
    assert text == "the wall clock of host node-2 is 9000 s behind that of host node-1 (to 500 ms), over 300 s"
