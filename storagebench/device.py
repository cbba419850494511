"""A real CUDA device as the consumer: each batch is copied to it from pinned memory, then a kernel runs that takes the compute time.

The kernel spins (`torch.cuda._sleep`) for a number of clock cycles that is calibrated when the device is opened, and checked. A compute starts when the
batch lies on the device, so waiting for the data includes the hand-over: into pinned memory, and the copy, whose own time is in the record. It is not hidden
behind the compute before, as a training loop with a pinning thread would do it: 0.5 ms for 460 KB and 8 ms for 40 MB on an H200, which AU shows. AU stays
nominal compute over real time. Tested against a stand-in for `torch.cuda`; run on one H200 (benchmarks/cuda_device.py), not yet on several devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from storagebench.accelerator import Begun, Wake, step_compute_ns, woken
from storagebench.clock import Clock
from storagebench.errors import RankError, UsageError
from storagebench.protocols import Batch

FAMILY = "cuda"
_FIRST_CYCLES = 10_000_000
_CALIBRATIONS, _WITHIN = 5, 0.02
_LEAST_CHECKED_NS = 1_000_000


class DeviceApi(Protocol):
    """What is asked of a device. Times are the device's own, of its events."""

    def pinned(self, num_bytes: int) -> memoryview:
        """Host memory of at least that size, the same one while it suffices, from which `copy` copies."""

    def copy(self, num_bytes: int) -> None:
        """Begin to copy so many bytes of the pinned memory to the device; returns at once."""

    def copied_s(self) -> float:
        """Wait for that copy; how long it took."""

    def compute(self, cycles: int) -> None:
        """Begin to compute for so many cycles; returns at once."""

    def computed_s(self) -> float:
        """Wait for that compute; how long it took."""

    def close(self) -> None:
        """Free its memory; may be called twice."""


def is_device(name: str) -> bool:
    """Whether `--accelerator NAME` means a real device: cuda, or cuda:0, cuda:1 ..."""
    return name.partition(":")[0] == FAMILY


def device_index(name: str, rank_of_host: int, num_devices: int) -> int:
    """The number of the device that a rank uses: the one that is named, or one after the other. Raises UsageError for one that is not there."""
    _, _, number = name.partition(":")
    if number and not (number.isascii() and number.isdigit()):
        raise UsageError(f"--accelerator is {name!r}", "cuda, or the number of a device such as cuda:0")
    if num_devices == 0:
        raise UsageError(
            f"--accelerator {name} needs a CUDA device, and this host has 0 of them",
            "leave it out and give --compute-time: the accelerator is emulated",
        )
    index = int(number) if number else rank_of_host % num_devices
    if index >= num_devices:
        raise UsageError(f"--accelerator is {name}, and this host has {num_devices} CUDA devices", f"cuda:0 to cuda:{num_devices - 1}")
    return index


def open_device(name: str, clock: Clock, compute_ns: int, rank_of_host: int) -> CudaAccelerator:
    """The device of this rank, calibrated. Raises UsageError where there is none, RankError where its clock is too unsteady."""
    import torch

    index = device_index(name, rank_of_host, torch.cuda.device_count() if torch.cuda.is_available() else 0)
    return CudaAccelerator(TorchCuda(torch, index), clock, compute_ns)


class CudaAccelerator:
    """`Accelerator` on a device."""

    def __init__(self, api: DeviceApi, clock: Clock, compute_ns: int) -> None:
        self._api = api
        self._clock = clock
        self.compute_ns = compute_ns
        self.handoff_ns = 0  # the compute starts when the batch lies on the device, whenever it was ready
        self._computing = False
        self._cycles_per_ns = self._calibrated() if compute_ns else 0.0

    def _calibrated(self) -> float:
        """Cycles in a nanosecond, such that a compute takes its time within 2 %. The first kernels are slower, and bring the clock up."""
        self._api.compute(_FIRST_CYCLES)
        self._api.computed_s()
        rate, error = 0.0, 1.0
        cycles, wanted_ns = _FIRST_CYCLES, max(self.compute_ns, _LEAST_CHECKED_NS)
        for _ in range(_CALIBRATIONS):
            self._api.compute(cycles)
            took_ns = self._api.computed_s() * 1e9
            if took_ns <= 0:
                break
            error = abs(took_ns / wanted_ns - 1.0)
            if rate and error <= _WITHIN:
                return rate
            rate = cycles / took_ns
            cycles = round(rate * wanted_ns)
        raise RankError(
            f"the device's kernel takes {error:.1%} more or less than its compute time after {_CALIBRATIONS} calibrations, and {_WITHIN:.0%} is allowed",
            "leave the device to this run alone, or lock its clock (nvidia-smi --lock-gpu-clocks)",
        )

    def begin(self, batch: Batch, batch_size: int, previous_end_ns: int, asked_ns: int, got_ns: int) -> Begun:
        copy_s, num_bytes = 0.0, sum(len(part) for part in _parts(batch.data))
        if num_bytes:
            target, position = self._api.pinned(num_bytes), 0
            for part in _parts(batch.data):
                target[position : position + len(part)] = part
                position += len(part)
            self._api.copy(num_bytes)
            copy_s = self._api.copied_s()
        compute_ns = step_compute_ns(self.compute_ns, batch.num_samples, batch_size)
        start_ns = self._clock.now_ns()
        if compute_ns:
            self._api.compute(max(1, round(compute_ns * self._cycles_per_ns)))
            self._computing = True
        return Begun(start_ns, start_ns + compute_ns, round(copy_s, 9))

    def wait(self, begun: Begun, release_ns: int) -> Wake:
        compute_end_ns = begun.start_ns
        if self._computing:
            compute_end_ns += round(self._api.computed_s() * 1e9)
            self._computing = False
        return woken(self.compute_ns, self._clock.sleep_until_ns(release_ns), release_ns, compute_end_ns)

    def close(self) -> None:
        self._api.close()


def _parts(data: Any) -> Iterator[memoryview]:
    """The bytes of what a batch hands over, sample by sample: memory, arrays, tensors, or lists of them."""
    if data is None:
        return
    if isinstance(data, (list, tuple)):
        for item in data:
            yield from _parts(item)
        return
    numpy = getattr(data, "numpy", None)  # a tensor on the CPU
    memory = memoryview(numpy() if callable(numpy) else data)
    if memory.nbytes:
        yield (memory if memory.c_contiguous else memoryview(memory.tobytes())).cast("B")


class TorchCuda:
    """`DeviceApi` over torch (handed in, so that a stand-in can be)."""

    def __init__(self, torch: Any, index: int) -> None:
        self._torch = torch
        self._device = torch.device(FAMILY, index)
        with torch.cuda.device(self._device):
            self._copies, self._computes = torch.cuda.Stream(), torch.cuda.Stream()
            self._copy_events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self._compute_events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self._host: Any = None
        self._there: Any = None

    def pinned(self, num_bytes: int) -> memoryview:
        if self._host is None or len(self._host) < num_bytes:
            self._host = self._torch.empty(num_bytes, dtype=self._torch.uint8, pin_memory=True)
            self._there = self._torch.empty(num_bytes, dtype=self._torch.uint8, device=self._device)
        return memoryview(self._host.numpy())

    def copy(self, num_bytes: int) -> None:
        with self._torch.cuda.stream(self._copies):
            self._copy_events[0].record()
            self._there[:num_bytes].copy_(self._host[:num_bytes], non_blocking=True)
            self._copy_events[1].record()

    def copied_s(self) -> float:
        return self._between_s(self._copy_events)

    def compute(self, cycles: int) -> None:
        with self._torch.cuda.stream(self._computes):
            self._compute_events[0].record()
            self._torch.cuda._sleep(cycles)
            self._compute_events[1].record()

    def computed_s(self) -> float:
        return self._between_s(self._compute_events)

    def _between_s(self, events: Sequence[Any]) -> float:
        events[1].synchronize()
        return float(events[0].elapsed_time(events[1])) / 1e3

    def close(self) -> None:
        self._host = self._there = None
