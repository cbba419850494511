"""MLPerf Storage, training, as tables: the closed values of each edition, and what else its rules fix. Plain data; the rules are in the modules beside.

Source tags are those of reference/workloads.md: S1 is mlcommons/storage v1.0 and v1.0.1, whose numbers v2.0 kept; S3@c its YAML of the v3.0 round at
commit c; R2 the submission guidelines of v2.0, R3 `Rules.md` of v3.0. The text of the rules of v1.0 was not to be had: what is judged of it is what
v2.0 kept of it, and what it asked of the runs (how many, how far apart) stands in its sets as not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

Division = Literal["closed", "open"]
Framework = Literal["pytorch", "tensorflow"]

# mlperf-storage.md section 2 (R2 7, R3 3.1.2).
MEMORY_FACTOR = 5
MIN_STEPS = 500
# R2 8, R3 3.3.3: "approximately 0.5GB of host memory per simulated accelerator".
HOST_BYTES_PER_ACCELERATOR = 500_000_000


class AcceleratorValues(NamedTuple):
    """What depends on the accelerator. `source` is of both."""

    compute_time_s: float
    batch_size: int
    source: str


@dataclass(frozen=True)
class ClosedValues:
    """The closed values of one workload. `framework` reads it; `read_threads` is the default, and free; `odirect`: whether O_DIRECT may be used.
    `source` is of all that does not depend on the accelerator."""

    format: str
    framework: Framework
    samples_per_file: int
    record_length_bytes: float
    record_length_bytes_stdev: float
    epochs: int
    au_threshold: float
    shuffle: bool
    read_threads: int
    accelerators: Mapping[str, AcceleratorValues]
    source: str
    odirect: bool = False


_S1_UNET3D = ClosedValues(
    "npz", "pytorch", 1, 146_600_628, 68_341_808, 5, 0.90, True, 4,
    MappingProxyType({
        "a100": AcceleratorValues(0.636, 7, "S1 unet3d_a100.yaml"),
        "h100": AcceleratorValues(0.323, 7, "S1 unet3d_h100.yaml"),
    }),
    "S1 unet3d_{a100,h100}.yaml; O_DIRECT: R2 10.1",
    odirect=True,
)  # fmt: skip
_S1_RESNET50 = ClosedValues(
    "tfrecord", "tensorflow", 1251, 114_660.07, 0, 5, 0.90, False, 8,
    MappingProxyType({
        "a100": AcceleratorValues(0.435, 400, "S1 resnet50_a100.yaml"),
        "h100": AcceleratorValues(0.224, 400, "S1 resnet50_h100.yaml"),
    }),
    "S1 resnet50_{a100,h100}.yaml",
)  # fmt: skip
_S1_COSMOFLOW = ClosedValues(
    "tfrecord", "tensorflow", 1, 2_828_486, 71_311, 5, 0.70, True, 4,
    MappingProxyType({
        "a100": AcceleratorValues(0.00551, 1, "S1 cosmoflow_a100.yaml"),
        "h100": AcceleratorValues(0.00350, 1, "S1 cosmoflow_h100.yaml"),
    }),
    "S1 cosmoflow_{a100,h100}.yaml",
)  # fmt: skip
_S3_UNET3D = ClosedValues(
    "npz", "pytorch", 1, 146_600_628, 68_341_808, 5, 0.90, True, 4,
    MappingProxyType({"b200": AcceleratorValues(0.162, 7, "S3@0d75b41 unet3d_b200.yaml (h100 / 2, not measured)")}),
    "S3@0d75b41 unet3d_b200.yaml; O_DIRECT: R3 3.6.2",
    odirect=True,
)  # fmt: skip
_S3_RETINANET = ClosedValues(
    "jpeg", "pytorch", 1, 322_957, 0, 8, 0.85, True, 8,
    MappingProxyType({
        "b200": AcceleratorValues(0.04755, 24, "S3@11460d0 retinanet_b200.yaml"),
        "mi355": AcceleratorValues(0.0634, 32, "S3@76f4545 retinanet_mi355.yaml"),
    }),
    "S3@11460d0 retinanet_b200.yaml, S3@76f4545 retinanet_mi355.yaml",
)  # fmt: skip


class Parameter(NamedTuple):
    """A parameter of the engine that is open to choice: its bounds, and how storagebench calls it (empty: it has none such)."""

    name: str
    bounds: str
    option: str


# mlperf-storage.md section 4.
_CLOSED_PARAMETERS = (
    Parameter("dataset.num_files_train", "the size that the rules give", "--num-samples"),
    Parameter("dataset.num_subfolders_train", "any", "--num-subfolders"),
    Parameter("dataset.data_folder", "any", "--data-dir"),
    Parameter("reader.read_threads", "any", "--num-workers"),
    Parameter("reader.computation_threads", "any", ""),
    Parameter("reader.transfer_size", "any, with TensorFlow", ""),
    Parameter("reader.prefetch_size", "0 to 2", "--prefetch-batches"),
    Parameter("reader.odirect", "unet3d only", "--cache direct"),
    Parameter("storage.storage_root", "any", "--data-dir"),
    Parameter("storage.storage_type", "any", "--data-dir"),
)
_CHECKPOINT_FOLDER = Parameter("checkpoint.checkpoint_folder", "any", "")
_PREFETCH_WINDOW = Parameter("storage.storage_options.prefetch_window", "any, on object storage", "")
OPEN_PARAMETERS = (
    Parameter("framework", "any", "--loader"),
    Parameter("dataset.format", "any", "--format"),
    Parameter("dataset.num_samples_per_file", "any", "--samples-per-shard"),
    Parameter("reader.data_loader", "any, also one's own", "--loader"),
)


@dataclass(frozen=True)
class Edition:
    """What an edition of the rules fixes. None where its text was not to be had, or says nothing.

    `engine`: whose window AU and samples/s are counted in (E2 or E3). `num_runs` are the runs to be given; the first of them is the warm-up run where
    `with_warm_up`. `spread`: how far the best and the worst run may be apart, over their mean. `seeds_change`: another seed in each run.
    `consecutive`: each gap between runs is shorter than a run. `exact_size`: the run reads exactly the least dataset. `flushes`: the engine drops the
    page cache before each epoch. `apart`: results and data lie on different file systems.
    """

    name: str
    engine: Literal["E2", "E3"]
    workloads: Mapping[str, ClosedValues]
    closed_parameters: tuple[Parameter, ...]
    num_runs: int | None = None
    with_warm_up: bool = False
    spread: float | None = None
    seeds_change: bool | None = None
    consecutive: bool | None = None
    exact_size: bool = False
    flushes: bool = False
    apart: bool = False

    def parameters(self, division: Division) -> tuple[Parameter, ...]:
        """What is open to choice in a division."""
        return self.closed_parameters + (OPEN_PARAMETERS if division == "open" else ())


_S1 = MappingProxyType({"unet3d": _S1_UNET3D, "resnet50": _S1_RESNET50, "cosmoflow": _S1_COSMOFLOW})
EDITIONS: Mapping[str, Edition] = MappingProxyType({
    "v1.0": Edition("v1.0", "E2", _S1, _CLOSED_PARAMETERS),
    "v2.0": Edition(
        "v2.0", "E2", _S1, (*_CLOSED_PARAMETERS, _CHECKPOINT_FOLDER),
        num_runs=5, spread=0.05, seeds_change=True, consecutive=True,
    ),
    "v3.0": Edition(
        "v3.0", "E3", MappingProxyType({"unet3d": _S3_UNET3D, "retinanet": _S3_RETINANET}), (*_CLOSED_PARAMETERS, _PREFETCH_WINDOW),
        num_runs=6, with_warm_up=True, consecutive=True, exact_size=True, flushes=True, apart=True,
    ),
})  # fmt: skip
