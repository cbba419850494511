"""What so many accelerators need of a storage: bandwidth, reads, opens, bytes, client CPU, memory, and a burst for each checkpoint. Arithmetic, no
simulation.

Every figure says where it is from: asked for, of the workload, computed from such, measured by a saved run, or assumed; what nobody knows is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from storagebench.errors import UsageError
from storagebench.model.closed_forms import checkpointed
from storagebench.model.measured import Measured
from storagebench.model.reading import Origin, Reading, shaped_reads
from storagebench.model.system import Job
from storagebench.plan import make_plan
from storagebench.registry import format_info, loader_info
from storagebench.sampling import split_work
from storagebench.workload import Workload

LEAST_FILES: Final = 64  # sampling.shard_sizes: no dataset of several samples a file has fewer, but one with fewer samples


@dataclass(frozen=True)
class Figure:
    """A number with its unit (B, B/s, /s, cores, s, or nothing) and where it is from, in a word and in words."""

    name: str
    value: float | None
    unit: str
    origin: Origin
    why: str

    def as_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


@dataclass(frozen=True)
class Demand:
    """One workload with its accelerators: the job as the simulation has it, the AU that is asked for, and what it needs at that AU."""

    job: Job
    au: float
    figures: tuple[Figure, ...]


def demand_of(
    workload: Workload,
    accelerators: int,
    au: float,
    reading: Reading,
    provenance: Mapping[str, str],
    measured: Measured | None = None,
    copies: int = 1,
) -> Demand:
    """What these accelerators need. Raises UsageError where the compute time is 0 or unknown."""
    job = job_of(workload, accelerators, reading, measured)
    steps_per_s = accelerators * au / job.compute_s
    figures = (
        *_said(job, au, provenance, measured),
        *_rates(job, steps_per_s, reading, _cpu(steps_per_s * job.cpu_s_per_batch, workload.run.decode, measured)),
        *_files(workload, job, steps_per_s, copies),
        _memory(workload, accelerators),
    )
    return Demand(job, au, figures)


def job_of(workload: Workload, accelerators: int, reading: Reading, measured: Measured | None) -> Job:
    """The workload as the simulation has it. Raises UsageError where its compute time is 0 or unknown."""
    compute_s = workload.compute_time_of_step_s()
    if compute_s <= 0:
        raise UsageError(f"the compute time of {workload.name} is 0: it has no demand", "give an accelerator, or --compute-time")
    data, loader, batch = workload.dataset, workload.loader, workload.train.batch_size
    record, spread, cpu_s_per_gb = float(data.record_length_bytes), float(data.record_length_bytes_stdev), 0.0
    readers, reads, requests = shaped_reads(reading.requests_per_batch, reading.in_flight)
    if measured is not None:
        record, spread = measured.record_bytes, measured.record_bytes_stdev
        cpu_s_per_gb = (measured.cpu_s_per_gb or 0.0) if measured.decode == workload.run.decode else 0.0
    if measured is not None and measured.latency_of_reads:  # its times are of pieces of a batch, so the simulated reads are
        workers, reads, _ = split_work(loader.prefetch_batches, loader.num_workers, batch)
        readers, reads = (max(workers, 1), reads) if reads == measured.reads_per_batch else (measured.readers, measured.reads_per_batch)
        requests = max(1, round(reading.requests_per_batch / reads))
    return Job(
        name=f"{workload.name}@{workload.run.accelerator}" if workload.run.accelerator else workload.name,
        accelerators=accelerators,
        compute_s=compute_s,
        batch_size=batch,
        record_bytes=record,
        record_bytes_stdev=spread,
        prefetch_batches=loader.prefetch_batches if loader.num_workers else 0,
        readers=readers,
        reads_per_batch=reads,
        requests_per_read=requests,
        in_step=workload.run.sync == "step",
        cpu_s_per_batch=cpu_s_per_gb * batch * record / 1e9,
        dataset_bytes=data.num_samples * record,
    )


def _said(job: Job, au: float, provenance: Mapping[str, str], measured: Measured | None) -> list[Figure]:
    """What was there before any arithmetic."""

    def figure(name: str, value: float, unit: str, *keys: str) -> Figure:
        where = next((origin for key in keys for at, origin in provenance.items() if at == key or at.startswith(key + ".")), "default")
        return Figure(name, value, unit, "asked" if where.startswith("--") else "workload", where)

    return [
        figure("accelerators", job.accelerators, "", "run.num_accelerators"),
        figure("AU asked for", au, "", "run.au", "train.au_threshold"),
        figure("compute time", job.compute_s, "s", "run.compute_time_s")
        if "run.compute_time_s" in provenance
        else Figure("compute time", job.compute_s, "s", "workload", f"train.compute_time_s of {job.name}"),
        figure("batch", job.batch_size, "", "train.batch_size"),
        figure("sample", job.record_bytes, "B", "dataset.record_length_bytes")
        if measured is None
        else Figure("sample", job.record_bytes, "B", "measured", f"mean of {measured.run_id}"),
    ]


def _cpu(cores: float, decode: str, measured: Measured | None) -> Figure:
    """Of a run at the same decode level, or unknown."""

    def unknown(why: str) -> Figure:
        return Figure("client CPU", None, "cores", "unknown", why)

    if measured is None:
        return unknown("no run says what a byte costs here: --from-run RUN")
    if measured.decode != decode:
        return unknown(f"{measured.run_id} was at --decode {measured.decode}, and {decode} is asked for")
    if not measured.cpu_s_per_gb:
        return unknown(f"{measured.run_id} does not know")
    return Figure("client CPU", cores, "cores", "measured", f"{measured.cpu_s_per_gb:.3g} CPU s/GB at --decode {decode} in {measured.run_id}")


def _rates(job: Job, steps_per_s: float, reading: Reading, cpu: Figure) -> list[Figure]:
    each = "accelerators x AU x batch / compute time"
    return [
        Figure("samples", steps_per_s * job.batch_size, "/s", "computed", each),
        Figure("bandwidth", steps_per_s * job.batch_bytes, "B/s", "computed", f"{each} x sample"),
        Figure("reads", steps_per_s * reading.requests_per_batch, "/s", reading.origin, reading.why),
        Figure(
            "reads in flight",
            job.accelerators * min(reading.in_flight, max(job.prefetch_batches, 1) * math.ceil(reading.requests_per_batch)),
            "",
            "assumed",
            reading.why_in_flight,
        ),
        cpu,
    ]


def _files(workload: Workload, job: Job, steps_per_s: float, copies: int) -> list[Figure]:
    data = workload.dataset
    if format_info(data.format).one_sample_per_shard:
        files, of_file = data.num_samples, 1.0
    else:
        files = max(-(-data.num_samples // data.samples_per_shard), min(data.num_samples, LEAST_FILES))
        of_file = data.num_samples / files
    by_sample = loader_info(workload.loader.name).unit_of(data.format) == "sample"
    opens = steps_per_s * job.batch_size / (1.0 if by_sample else of_file)
    why = "one a sample, where no file is kept open" if by_sample and of_file > 1 else "one a file"
    return [
        Figure("dataset", copies * job.dataset_bytes, "B", "computed", f"{data.num_samples} samples" + (f" x {copies} copies" if copies > 1 else "")),
        Figure("files", copies * files, "", "computed", f"format {data.format}" + (f" x {copies} copies" if copies > 1 else "")),
        Figure("opens", opens, "/s", "assumed", why),
    ]


def _memory(workload: Workload, accelerators: int) -> Figure:
    """As `plan` works it out; of a dataset that is long enough for so many accelerators, since a capacity is asked for and no run."""
    least = workload.train.batch_size * accelerators * (workload.run.warmup_steps + 2)
    data = workload.dataset.model_copy(update={"num_samples": max(workload.dataset.num_samples, least)})
    run = workload.run.model_copy(update={"max_steps": None})
    plan = make_plan(workload.model_copy(update={"dataset": data, "run": run}), accelerators)
    return Figure(
        "client memory", plan.memory_bytes, "B", "computed", f"{plan.num_processes} processes, {plan.prefetch_batches} batches ahead: as `plan`"
    )


@dataclass(frozen=True)
class Checkpoints:
    """`num_bytes` written after each `every_s` of training, all of it standing still, and done `within_s`; `kept` of them stay."""

    num_bytes: float
    every_s: float
    within_s: float
    kept: int

    def __post_init__(self) -> None:
        for name, value in (("--checkpoint-bytes", self.num_bytes), ("--checkpoint-every", self.every_s), ("--checkpoint-within", self.within_s)):
            if not value > 0:
                raise UsageError(f"{name} is {value:g}, and must be above 0", "leave all --checkpoint options out for no checkpoints")

    @property
    def share(self) -> float:
        """Of the time that is left to training (A8)."""
        return checkpointed(self.every_s, self.within_s)

    def figures(self) -> list[Figure]:
        return [
            Figure(
                "checkpoint writes",
                self.num_bytes / self.within_s,
                "B/s",
                "computed",
                "--checkpoint-bytes / --checkpoint-within, while it is written",
            ),
            Figure("checkpoints kept", self.kept * self.num_bytes, "B", "asked", "--checkpoints-kept x --checkpoint-bytes"),
            Figure("AU lost to checkpoints", 1.0 - self.share, "", "computed", "within / (every + within), written while training stands still"),
        ]


_ADD_UP: Final = ("samples", "bandwidth", "reads", "reads in flight", "client CPU", "dataset", "files", "opens", "client memory")


def together(demands: Sequence[Demand], checkpoints: Checkpoints | None) -> list[Figure]:
    """All jobs at once; what is unknown of one is unknown of all."""
    found = []
    for name in _ADD_UP:
        parts = [next(figure for figure in demand.figures if figure.name == name) for demand in demands]
        known = [part.value for part in parts if part.value is not None]
        if len(parts) == 1:
            found.append(parts[0])
        elif len(known) < len(parts):
            found.append(replace(parts[0], value=None, origin="unknown", why="of some of the workloads nothing is known"))
        else:
            found.append(
                replace(
                    parts[0],
                    value=sum(known),
                    origin=parts[0].origin if len({part.origin for part in parts}) == 1 else "assumed",
                    why="sum over the workloads",
                )
            )
    if checkpoints is None:
        return found
    stored = next(figure for figure in found if figure.name == "dataset")
    more = checkpoints.figures()
    whole = (stored.value or 0.0) + (more[1].value or 0.0)
    return [*found, *more, Figure("capacity", whole, "B", "computed", "dataset and checkpoints kept")]
