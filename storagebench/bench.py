"""The ladder's bench on this host: jobs run through the session, raw reads through the probe, the dataset's copy in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final

from storagebench.clock import SystemClock
from storagebench.configfile import changed
from storagebench.errors import UsageError
from storagebench.experiments.ladder import Asked, Ran
from storagebench.experiments.pinned import pinned_copy
from storagebench.manifest import Dataset, load_dataset
from storagebench.placement import refuse_partitioned
from storagebench.preparation import prepare
from storagebench.records import read_run
from storagebench.registry import loader_info, misfit
from storagebench.request import Request, store_spec
from storagebench.session import execute, raw_rate
from storagebench.storage import data_store, open_spec
from storagebench.trainname import refuse_training

RUNGS_DIR: Final = "rungs"
MOST_RAW_S: Final = 1.0  # of each try of a raw rung, of which there are a dozen
# These are the job itself and lie at the top of the folder; the other rungs are no results, and lie below.
_JOBS: Final = ("cold", "before", "after")
_STEPS_BESIDE_WARMUP: Final = 4


class HostBench:
    """Implements `experiments.ladder.Bench`, with rungs of so many seconds. `request.results_dir` is the diagnosis's own folder."""

    def __init__(self, request: Request, dataset: Dataset, copy: str | None, seconds: float) -> None:
        self._request = request
        self._dataset = dataset
        self._copy = copy
        self._raw_s = min(MOST_RAW_S, seconds / 2)

    def run(self, rung: str, repeat: int, settings: Mapping[str, Any], on_copy: bool = False) -> Ran:
        job = self._request
        request = replace(
            job,
            configured=changed(job.configured, settings, f"rung {rung}"),
            data_dir=self._copy if on_copy and self._copy else job.data_dir,
            storage_options={} if on_copy else job.storage_options,
            results_dir=job.results_dir if rung in _JOBS else job.results_dir / RUNGS_DIR,
            run_id=f"{rung}-{repeat}",
            command_start_ns=SystemClock().now_ns(),
        )
        run_dir = prepare(request)
        return Ran(read_run(run_dir), execute(run_dir, job.debug))

    def raw(self, cache: str) -> float:
        return raw_rate(self._request, self._dataset, cache, self._raw_s)


@contextmanager
def host_bench(request: Request, seconds: float, repeats: int) -> Iterator[tuple[HostBench, Asked]]:
    """The bench, and what is to be climbed on it. The copy in memory lives as long as the block.

    Raises UsageError for a job that cannot be diagnosed, DatasetError, StorageError.
    """
    workload = request.configured.workload
    _refuse(request, seconds)
    info, spec = loader_info(workload.loader.name), store_spec(request)
    absent = {} if spec.kind == "posix" else dict.fromkeys(("warm", "client"), f"a page cache of {spec.kind} storage is not this client's")
    with ExitStack() as stack:
        store = open_spec(spec)
        stack.callback(store.close)
        dataset = load_dataset(store)
        refuse_partitioned(dataset, "diagnose")
        problem = misfit(workload.loader.name, dataset.format, spec.kind, workload.run.cache == "direct")
        if problem is not None:
            raise problem
        copy = None
        try:
            least = workload.run.warmup_steps + _STEPS_BESIDE_WARMUP
            data = stack.enter_context(data_store(store, dataset))
            copy = stack.enter_context(pinned_copy(data, dataset, workload.train.batch_size * workload.run.num_accelerators, least))
        except UsageError as error:
            absent["pinned"] = error.message
        pinned_loader = workload.loader.name if "posix" in info.stores else "files"
        asked = Asked(seconds, repeats, workload.compute_time_of_step_s(), workload.run.cache, pinned_loader, absent)
        yield HostBench(request, dataset, copy, seconds), asked


def _refuse(request: Request, seconds: float) -> None:
    workload = request.configured.workload
    refuse_training(workload.run.accelerator, "diagnose", "holds rungs against a nominal compute time")
    if workload.loader.name == "null":
        raise UsageError("loader null reads nothing, so there is nothing to diagnose", "choose another --loader")
    if workload.compute_time_of_step_s() <= 0:
        raise UsageError("diagnose needs a compute time above 0", "give --accelerator or --compute-time")
    if workload.run.cache == "as-is":
        raise UsageError("diagnose needs a cache state that it can bring about, and --cache is as-is", "use --cache cold, warm or direct")
    if workload.run.writers:
        raise UsageError(
            f"diagnose holds the job against what the storage gives to readers alone, and --writers is {workload.run.writers}",
            "use --writers 0; what writers take shows in `compare` of two runs, with and without them",
        )
    if seconds <= 0:
        raise UsageError(f"--rung-duration is {seconds:g} s, and must be above 0", "such as 2s")
