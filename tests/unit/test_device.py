"""The CUDA consumer against a stand-in for torch.cuda, and NVML against a stand-in for pynvml: no GPU is needed, and none was used."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from storagebench import host
from storagebench.accelerator import EmulatedAccelerator
from storagebench.cachestate import HostCache
from storagebench.clock import FakeClock
from storagebench.configfile import load_workload
from storagebench.device import CudaAccelerator, TorchCuda, device_index, is_device, open_device
from storagebench.devicefigures import device_figures
from storagebench.engine import Engine, EngineJob
from storagebench.errors import RankError, UsageError
from storagebench.nvml import open_sampler
from storagebench.protocols import Batch, LoaderCounters
from storagebench.ranks import Ranks
from storagebench.records import TraceWriter, host_traces
from storagebench.sampling import EpochPlan
from storagebench.traces import Steps, Trace, read_trace
from storagebench.world import SingleWorld

MS = 1_000_000
CYCLES_PER_NS = 1.5
COPY_BYTES_PER_NS = 20


class FakeTorch:
    """The part of torch that is used, on a fake clock: streams run side by side, events have the device's time, and nothing waits but synchronize."""

    uint8 = "uint8"

    def __init__(self, clock: FakeClock, devices: int = 1, warm_up: float = 1.0) -> None:
        self.clock, self._devices, self._kernels, self._warm_up = clock, devices, 0, warm_up
        self.pinned: list[bool] = []
        self.copies: list[tuple[bytes, bool]] = []
        self._stream: Any = None
        outer = self

        class Stream:
            def __init__(self) -> None:
                self.free_ns = 0

            def run(self, duration_ns: float) -> None:
                self.free_ns = max(self.free_ns, outer.clock.now_ns()) + round(duration_ns)

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at_ns = max(outer._stream.free_ns, outer.clock.now_ns())

            def synchronize(self) -> None:
                outer.clock.sleep_until_ns(self.at_ns)

            def elapsed_time(self, other: Any) -> float:
                return (other.at_ns - self.at_ns) / 1e6

        self.cuda = SimpleNamespace(
            Stream=Stream,
            Event=Event,
            stream=self._using,
            device=self._on,
            _sleep=self._sleep,
            is_available=lambda: devices > 0,
            device_count=lambda: devices,
        )

    @contextmanager
    def _using(self, stream: Any) -> Any:
        self._stream = stream
        yield

    @contextmanager
    def _on(self, device: Any) -> Any:
        yield

    def _sleep(self, cycles: int) -> None:
        self._kernels += 1
        self._stream.run(cycles / CYCLES_PER_NS * (self._warm_up if self._kernels == 1 else 1.0))

    def device(self, kind: str, index: int) -> str:
        return f"{kind}:{index}"

    def empty(self, size: int, dtype: str, pin_memory: bool = False, device: str = "cpu") -> Any:
        self.pinned.append(pin_memory)
        return FakeTensor(self, np.zeros(size, np.uint8))


class FakeTensor:
    def __init__(self, torch: FakeTorch, values: Any) -> None:
        self._torch, self._values = torch, values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: slice) -> FakeTensor:
        return FakeTensor(self._torch, self._values[index])

    def numpy(self) -> Any:
        return self._values

    def copy_(self, other: FakeTensor, non_blocking: bool) -> None:
        self._values[:] = other._values
        self._torch.copies.append((bytes(other._values), non_blocking))
        self._torch._stream.run(len(other) / COPY_BYTES_PER_NS)


def batch(data: Any, size: int = 4) -> Batch:
    return Batch(np.arange(size), record_bytes=8, handover_bytes=8, data=data, ready_ns=0)


def make(clock: FakeClock, compute_ms: float = 10, **torch: Any) -> tuple[CudaAccelerator, FakeTorch]:
    fake = FakeTorch(clock, **torch)
    return CudaAccelerator(TorchCuda(fake, 0), clock, round(compute_ms * MS)), fake


def test_the_kernel_is_calibrated_to_the_compute_time() -> None:
    clock = FakeClock()
    accelerator, _ = make(clock, warm_up=3.0)
    begun = accelerator.begin(batch(None), 4, 0, clock.now_ns(), clock.now_ns())
    wake = accelerator.wait(begun, begun.due_ns)
    assert wake.compute_end_ns - begun.start_ns == pytest.approx(10 * MS, rel=1e-3)
    assert wake.host_delay_ns == 0


def test_a_short_batch_computes_less() -> None:
    clock = FakeClock()
    accelerator, _ = make(clock)
    begun = accelerator.begin(batch(None, 1), 4, 0, 0, clock.now_ns())
    assert begun.due_ns - begun.start_ns == 2.5 * MS
    assert accelerator.wait(begun, begun.due_ns).compute_end_ns - begun.start_ns == pytest.approx(2.5 * MS, rel=1e-3)


def test_an_unsteady_device_is_refused() -> None:
    class Unsteady(FakeTorch):
        def _sleep(self, cycles: int) -> None:
            self._kernels += 1
            self._stream.run(cycles / CYCLES_PER_NS * (1 + 0.2 * (self._kernels % 2)))

    clock = FakeClock()
    with pytest.raises(RankError, match="calibrations, and 2% is allowed"):
        CudaAccelerator(TorchCuda(Unsteady(clock), 0), clock, 10 * MS)


def test_a_batch_is_copied_whole_from_pinned_memory_before_it_is_computed_on() -> None:
    clock = FakeClock()
    accelerator, torch = make(clock)
    pieces = [[memoryview(b"abcd"), np.arange(3, dtype="<u2")], [FakeTensor(torch, np.arange(8, dtype=np.uint8)), memoryview(b"")]]
    big = [np.zeros((500, 2000), np.uint8)[:, ::2]]
    first = accelerator.begin(batch(pieces), 4, 0, 0, clock.now_ns())
    assert torch.copies == [(b"abcd" + bytes([0, 0, 1, 0, 2, 0]) + bytes(range(8)), True)]
    accelerator.wait(first, first.due_ns)
    begin_ns = clock.now_ns()
    second = accelerator.begin(batch(big), 4, first.due_ns, begin_ns, begin_ns)
    assert second.copy_s * 1e9 == pytest.approx(500_000 / COPY_BYTES_PER_NS, abs=1)
    assert second.start_ns == begin_ns + 500_000 // COPY_BYTES_PER_NS
    assert torch.pinned == [True, False, True, False]  # grown once, and kept
    accelerator.close()


def test_nothing_is_copied_of_a_batch_without_data() -> None:
    clock = FakeClock()
    accelerator, torch = make(clock)
    assert accelerator.begin(batch(None), 4, 0, 0, 0).copy_s == 0.0
    assert torch.copies == []


@pytest.mark.parametrize(("name", "rank", "index"), [("cuda", 0, 0), ("cuda", 3, 1), ("cuda:1", 0, 1)])
def test_which_device_a_rank_uses(name: str, rank: int, index: int) -> None:
    assert is_device(name)
    assert device_index(name, rank, 2) == index


@pytest.mark.parametrize(
    ("name", "count", "words"), [("cuda", 0, "this host has 0 of them"), ("cuda:2", 2, "this host has 2 CUDA devices"), ("cuda:x", 2, "'cuda:x'")]
)
def test_a_device_that_is_not_there(name: str, count: int, words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        device_index(name, 0, count)
    assert raised.value.hint


def test_without_cuda_the_real_torch_is_refused() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this kernel: has a CUDA device")
    with pytest.raises(UsageError, match="needs a CUDA device"):
        open_device("cuda", FakeClock(), MS, 0)


def test_the_command_says_so_too(cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this kernel: has a CUDA device")
    path, _ = make_dataset()
    place = ["--data-dir", path, "--results-dir", str(tmp_path), "--cache", "as-is"]
    result = cli("run", "quick", *place, "--accelerator", "cuda", "--compute-time", "10ms")
    assert result.returncode == 2, result.stderr
    assert "error: --accelerator cuda needs a CUDA device, and this host has 0 of them" in result.stderr
    assert "hint: leave it out and give --compute-time" in result.stderr


def test_the_compute_time_of_a_device_comes_from_the_option_or_the_table() -> None:
    def seconds(*settings: tuple[str, Any, str]) -> float:
        return load_workload("quick", [("run.accelerator", "cuda:1", "t"), *settings]).workload.compute_time_of_step_s()

    assert seconds(("run.compute_time_s", 0.3, "t")) == 0.3
    assert seconds(("train.compute_time_s", {"cuda": 0.2}, "t")) == 0.2
    with pytest.raises(UsageError, match="'cuda:1' has no compute time"):
        seconds()


class Loader:
    """Ten batches of 1 MB that take 4 ms each."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    def plan(self, epoch: int) -> EpochPlan:
        return EpochPlan((4,) * 10, np.arange(40), 0)

    def start(self, epoch: int) -> None: ...

    def next(self) -> Batch:
        self._clock.advance_ns(4 * MS)
        return batch([[memoryview(bytes(1_000_000))]])

    def drain(self) -> None: ...

    def counters(self) -> LoaderCounters:
        return LoaderCounters()


@pytest.mark.parametrize("real", [True, False])
def test_the_engine_drives_either_the_same_way(real: bool, tmp_path: Path) -> None:
    """A step is 4 ms of waiting, 10 of compute, and on the device 0.05 of copying before it; the copy is in the record."""
    clock = FakeClock(start_ns=5)
    accelerator = make(clock)[0] if real else EmulatedAccelerator(clock, 10 * MS)
    path = tmp_path / "rank-00000.jsonl"
    trace = TraceWriter(path)
    job = EngineJob(1, 4, 10 * MS, 1, "step", None, None, 0, np.zeros(40, np.uint32), str)
    Engine(job, SingleWorld(), clock, trace, HostCache("as-is", []), accelerator).run(Loader(clock), None)  # type: ignore[arg-type]
    trace.close()
    steps = read_trace(path).steps
    copy_ns = 50_000 if real else 0
    assert len(steps) == 10
    for step, after in pairwise(steps[1:]):
        assert step.due_ns - step.start_ns == 10 * MS
        assert step.compute_end_ns - step.start_ns == pytest.approx(10 * MS, rel=1e-3)
        assert round(step.copy_s * 1e9) == copy_ns
        if real:  # it cannot start before the batch was copied
            assert after.start_ns - step.release_ns == pytest.approx(4 * MS + copy_ns, rel=0.01)


def fake_nvml(**more: Any) -> Any:
    class NVMLError(Exception):
        pass

    calls: list[str] = []
    return SimpleNamespace(
        NVMLError=NVMLError,
        NVML_PCIE_UTIL_TX_BYTES=0,
        NVML_PCIE_UTIL_RX_BYTES=1,
        calls=calls,
        nvmlInit=lambda: calls.append("init"),
        nvmlShutdown=lambda: calls.append("shutdown"),
        nvmlDeviceGetCount=lambda: 4,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: b"Tester 9000",
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=40 + handle, memory=3),
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=10**9, total=8 * 10**9),
        **{"nvmlDeviceGetPcieThroughput": lambda handle, counter: (1_500_000, 2_500_000)[counter], **more},
    )


def test_nvml_is_sampled_into_the_host_trace_and_summed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fake_nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    trace = host.HostTrace(tmp_path, 0, "h", FakeClock(), None, open_sampler("cuda:1", {"CUDA_VISIBLE_DEVICES": "0,2"}))
    with trace.sampling():
        pass
    trace.end({"exit_code": 0})
    saved = read_trace(host_traces(tmp_path)[0])
    figures = device_figures({"config": {"run": {"accelerator": "cuda:1"}}}, [], [saved])
    (row,) = figures["devices"]
    assert (row["index"], row["name"], row["memory_used_bytes"]) == (2, "Tester 9000", 10**9)
    assert (row["utilisation"], row["pcie_rx_bytes_per_s"], row["pcie_tx_bytes_per_s"]) == (pytest.approx(0.42), 2.5e9, 1.5e9)
    assert nvml.calls == ["init", "shutdown"]


def test_a_figure_that_a_device_does_not_give_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fake_nvml()

    def refuse(*_: Any) -> Any:
        raise nvml.NVMLError

    nvml.nvmlDeviceGetPcieThroughput = refuse
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    sampler = open_sampler("cuda", {})
    assert sampler is not None
    rows = sampler.sample()
    assert [row["index"] for row in rows] == [0, 1, 2, 3]
    assert {row["pcie_rx_bytes_per_s"] for row in rows} == {None}
    assert rows[0]["utilisation"] == 0.4


def test_without_the_driver_or_the_module_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fake_nvml()

    def refuse() -> None:
        raise nvml.NVMLError

    nvml.nvmlInit = refuse
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert open_sampler("cuda", {}) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert open_sampler("cuda", {}) is None


def test_the_real_module_has_what_the_stand_in_has() -> None:
    real = pytest.importorskip("pynvml")
    assert [name for name in vars(fake_nvml()) if name != "calls" and not hasattr(real, name)] == []
    assert (real.NVML_PCIE_UTIL_TX_BYTES, real.NVML_PCIE_UTIL_RX_BYTES) == (0, 1)


def test_an_emulated_run_has_no_device() -> None:
    figures = device_figures({"config": {"run": {"accelerator": "h100"}}}, Ranks({}, []), [Trace({}, Steps.of([]), (), False)])
    assert figures == {"copy_s": None, "devices": []}
