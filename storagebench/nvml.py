"""What NVML says of NVIDIA devices: utilisation, memory, PCIe throughput. Information beside a run, never AU: any kernel counts as utilisation.

Needs the module `pynvml` (nvidia-ml-py, extra `cuda`) and the driver; without them there is nothing to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class DeviceSampler:
    """Samples some devices. Make it with `open_sampler`."""

    def __init__(self, nvml: Any, indices: list[int]) -> None:
        self._nvml = nvml
        self._handles = [(index, nvml.nvmlDeviceGetHandleByIndex(index)) for index in indices]

    def sample(self) -> list[dict[str, Any]]:
        """One row a device; a figure that the device does not give is None. Takes some 20 ms a device, in which PCIe is counted."""
        return [self._row(index, handle) for index, handle in self._handles]

    def _row(self, index: int, handle: Any) -> dict[str, Any]:
        nvml = self._nvml

        def known(read: Callable[[], Any]) -> Any:
            try:
                return read()
            except nvml.NVMLError:
                return None

        def pcie(counter: int) -> Any:
            rate = known(lambda: nvml.nvmlDeviceGetPcieThroughput(handle, counter))
            return None if rate is None else rate * 1000  # NVML counts in KB/s

        name = known(lambda: nvml.nvmlDeviceGetName(handle))
        return {
            "index": index,
            "name": name.decode() if isinstance(name, bytes) else name,
            "utilisation": known(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            "memory_used_bytes": known(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used),
            "pcie_rx_bytes_per_s": pcie(nvml.NVML_PCIE_UTIL_RX_BYTES),
            "pcie_tx_bytes_per_s": pcie(nvml.NVML_PCIE_UTIL_TX_BYTES),
        }

    def close(self) -> None:
        self._nvml.nvmlShutdown()


def open_sampler(accelerator: str, environment: Mapping[str, str]) -> DeviceSampler | None:
    """A sampler of the device that `--accelerator cuda[:i]` names, of all visible ones for cuda; None where NVML cannot be asked."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return DeviceSampler(pynvml, _physical(accelerator.partition(":")[2], environment.get("CUDA_VISIBLE_DEVICES"), pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return None


def _physical(number: str, visible: str | None, count: int) -> list[int]:
    """NVML counts all devices of the host, CUDA those that CUDA_VISIBLE_DEVICES lists; a list of other names than numbers is not followed."""
    listed = [word.strip() for word in (visible or "").split(",") if word.strip()]
    shown = [int(word) for word in listed if int(word) < count] if listed and all(word.isdigit() for word in listed) else list(range(count))
    return [shown[int(number)]] if number and int(number) < len(shown) else [] if number else shown
