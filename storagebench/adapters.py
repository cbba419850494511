"""The tables of `registry`: which formats, loaders and stores come with storagebench, what each needs, and what fits with what. Plain data.

Adapters of libraries that are not among the dependencies are extras of pyproject; what the rows say of a library was seen in tests/contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

API_VERSION = 1

Unit = Literal["sample", "shard", "row_group"]
_FILES = ("npz", "npy", "jpeg", "png", "raw")
# Many records to a shard, each at a known place.
_PACKED = ("webdataset", "tfrecord", "indexed_binary", "csv", "hdf5", "mds", "litdata")
_AT_KNOWN_PLACES = (*_FILES, *_PACKED, "parquet")
_ALL_FORMATS = (*_AT_KNOWN_PLACES, "tfrecord_zlib", "arrayrecord")


@dataclass(frozen=True)
class FormatInfo:
    """A format's row in the table: where its code is, what it needs, what it is for; `extra` as loaders have it."""

    entry: str
    needs: tuple[str, ...]
    one_sample_per_shard: bool
    about: str
    api: int = API_VERSION
    extra: str = ""


@dataclass(frozen=True)
class LoaderInfo:
    """A loader's row: `unit` is what it shards over ranks (`units` has others for some formats), `own_io` that a library reads, so that our store does not
    see the bytes. `odirect`: it can read with O_DIRECT, `prefers_odirect`: it does where nothing is cached and the file system takes it.

    `least_decode` is the level below which the library cannot stop. `s3_client` is the client it uses on S3 when the user names none.
    `shares_process`: several of it may run side by side in one process (threads at most, no state of the process changed, LoadJob.counts_process kept).
    `whole_files_in_place`: it reads whole files, and those that others made too (`import --in-place`); who reads sample by sample can anyway.
    `own_formats`: of these formats a library reads local files itself, and parses them, where our store reads the others. `extra` is the extra of pyproject that installs it, `distribution` the package whose version `list` shows. `breaks`: where the library does not keep the
    loaders' contract, (what it does, the test in tests/contract that shows it); `not_yet_run`: why nobody has seen it run.
    """

    entry: str
    needs: tuple[str, ...]
    formats: tuple[str, ...]
    stores: tuple[str, ...]
    unit: Unit
    about: str
    workers: Literal["processes", "threads", "none"]
    needs_torch: bool = False
    own_io: bool = False
    odirect: bool = False
    prefers_odirect: bool = False
    least_decode: str = "none"
    s3_client: str = "obstore"
    why_formats: str = ""
    units: Mapping[str, Unit] = field(default_factory=dict)
    shares_process: bool = False
    whole_files_in_place: bool = False
    own_formats: tuple[str, ...] = ()
    extra: str = ""
    distribution: str = ""
    why_stores: str = ""
    breaks: tuple[tuple[str, str], ...] = ()
    not_yet_run: str = ""
    api: int = API_VERSION

    def unit_of(self, format_name: str) -> Unit:
        """What it shards over ranks with datasets of this format."""
        return self.units.get(format_name, self.unit)

    def stores_of(self, format_name: str) -> tuple[str, ...]:
        """Where datasets of this format may lie."""
        return ("posix",) if format_name in self.own_formats else self.stores

    def least_decode_of(self, format_name: str) -> str:
        """The level below which it cannot stop with this format."""
        return "parse" if format_name in self.own_formats else self.least_decode


FORMATS: dict[str, FormatInfo] = {
    "npz": FormatInfo("storagebench.datasets.npz:NpzFormat", (), True, "one NumPy zip archive a sample (uncompressed, arrays x and y)"),
    "npy": FormatInfo("storagebench.datasets.npy:NpyFormat", (), True, "one NumPy array file a sample"),
    "raw": FormatInfo("storagebench.datasets.jpeg:RawFormat", (), True, "one plain file a sample, bytes as they are"),
    "jpeg": FormatInfo("storagebench.datasets.jpeg:JpegFormat", ("PIL",), True, "one JPEG file a sample"),
    "png": FormatInfo("storagebench.datasets.png:PngFormat", ("PIL",), True, "one PNG file a sample"),
    "parquet": FormatInfo("storagebench.datasets.parquet:ParquetFormat", ("pyarrow",), False, "Parquet with a binary payload column, uncompressed"),
    "webdataset": FormatInfo("storagebench.datasets.webdataset:WebDatasetFormat", (), False, "tar shards as the webdataset library reads them"),
    "tfrecord": FormatInfo("storagebench.datasets.tfrecord:TFRecordFormat", (), False, "framed tf.train.Example records, with DALI's index files"),
    "tfrecord_zlib": FormatInfo("storagebench.datasets.tfrecord:TFRecordZlibFormat", (), False, "tfrecord, each file one zlib stream"),
    "indexed_binary": FormatInfo(
        "storagebench.datasets.indexed_binary:IndexedBinaryFormat", (), False, "Megatron's .bin with its .idx, a document a sample"
    ),
    "csv": FormatInfo("storagebench.datasets.textlines:CsvFormat", (), False, "text lines id,label,record"),
    "hdf5": FormatInfo("storagebench.datasets.hdf5:Hdf5Format", ("h5py",), False, "HDF5 with a contiguous dataset a sample"),
    "mds": FormatInfo("storagebench.datasets.mds:MdsFormat", (), False, "shards of Mosaic streaming, with their index.json"),
    "litdata": FormatInfo("storagebench.datasets.litdata:LitDataFormat", (), False, "chunks of LitData, with their index.json"),
    "arrayrecord": FormatInfo(
        "storagebench.datasets.arrayrecord:ArrayRecordFormat", ("array_record",), False, "ArrayRecord files, a record a chunk", extra="arrayrecord"
    ),
}

LOADERS: dict[str, LoaderInfo] = {
    "null": LoaderInfo(
        "storagebench.loaders.null:NullLoader",
        (),
        _ALL_FORMATS,
        ("posix", "s3", "memory", "fsspec", "shaped"),
        "sample",
        "hands over ready batches and reads nothing: the harness's own limit",
        "none",
        shares_process=True,
    ),
    "files": LoaderInfo(
        "storagebench.loaders.files:FilesLoader",
        ("torch",),
        (*_FILES, *_PACKED),
        ("posix", "s3", "fsspec", "memory", "shaped"),
        "sample",
        "torch DataLoader, map style, one read a sample",
        "processes",
        needs_torch=True,
        odirect=True,
        s3_client="s3fs",
        why_formats="reads records at known places",
    ),
    "parquet": LoaderInfo(
        "storagebench.loaders.parquet:ParquetLoader",
        ("pyarrow",),
        ("parquet",),
        ("posix", "s3", "fsspec", "memory"),
        "row_group",
        "pyarrow: shuffled row groups read ahead by threads, and a shuffle buffer",
        "threads",
        own_io=True,
        least_decode="parse",
        why_formats="reads Parquet row groups",
    ),
    "webdataset": LoaderInfo(
        "storagebench.loaders.webdataset:WebDatasetLoader",
        ("webdataset", "torch"),
        ("webdataset",),
        ("posix", "s3", "fsspec", "memory"),
        "shard",
        "the webdataset library in torch DataLoader workers, shards in sequence and a shuffle buffer",
        "processes",
        needs_torch=True,
        own_io=True,
        least_decode="parse",
        why_formats="reads tar shards",
    ),
    "tfrecord": LoaderInfo(
        "storagebench.loaders.tfrecord:TFRecordLoader",
        ("torch",),
        ("tfrecord", "tfrecord_zlib"),
        ("posix", "s3", "fsspec", "memory"),
        "shard",
        "TFRecord shards in sequence and a shuffle buffer, in torch DataLoader workers, checksums compared",
        "processes",
        needs_torch=True,
        own_io=True,
        least_decode="parse",
        why_formats="reads TFRecord shards",
        whole_files_in_place=True,
    ),
    "s3": LoaderInfo(
        "storagebench.loaders.s3:S3Loader",
        ("torch",),
        _FILES,
        ("s3", "shaped"),
        "sample",
        "torch DataLoader over S3 objects: one GET an object, a batch at a time",
        "processes",
        needs_torch=True,
        s3_client="s3fs",
        why_formats="reads one object a sample",
    ),
    "direct": LoaderInfo(
        "storagebench.loaders.direct:DirectLoader",
        (),
        _AT_KNOWN_PLACES,
        ("posix", "s3", "memory", "fsspec", "shaped"),
        "sample",
        "storagebench's own: many reads in flight into reused memory, O_DIRECT where nothing is cached, obstore on S3",
        "threads",
        odirect=True,
        prefers_odirect=True,
        why_formats="reads records at known places",
        units={"parquet": "row_group"},
        shares_process=True,
    ),
}

_OWN_FILES = "opens local files itself"

# Libraries that are not among the dependencies: an extra each.
LOADERS |= {
    "tensorflow": LoaderInfo(
        "storagebench.loaders.tensorflow:TensorFlowLoader",
        ("tensorflow",),
        ("tfrecord", "tfrecord_zlib"),
        ("posix",),
        "shard",
        "tf.data: interleaved TFRecord files, TensorFlow's shuffle buffer and parser, in its own threads",
        "threads",
        own_io=True,
        least_decode="parse",
        why_formats="reads TFRecord shards",
        why_stores=f"{_OWN_FILES}, and TensorFlow's build for pip has no S3",
        extra="tensorflow",
        distribution="tensorflow tensorflow-cpu",
    ),
    "litdata": LoaderInfo(
        "storagebench.loaders.litdata:LitDataLoader",
        ("litdata", "torch"),
        ("litdata",),
        ("posix",),
        "shard",
        "LitData's StreamingDataset in torch DataLoader workers, over its own chunks, mapped where they lie",
        "processes",
        needs_torch=True,
        own_io=True,
        least_decode="parse",
        why_formats="reads the chunks of LitData",
        why_stores=_OWN_FILES,
        extra="litdata",
        distribution="litdata",
    ),
    "mosaicml-streaming": LoaderInfo(
        "storagebench.loaders.mosaicml_streaming:MosaicStreamingLoader",
        ("streaming", "torch"),
        ("mds",),
        ("posix",),
        "shard",
        "Mosaic's StreamingDataset in torch DataLoader workers: shards are copied into an empty local cache, and read there",
        "processes",
        needs_torch=True,
        own_io=True,
        least_decode="parse",
        why_formats="reads the shards of Mosaic streaming",
        why_stores="is run on local files and mounts here; its own clients for object stores are not wired up",
        extra="mosaicml-streaming",
        distribution="mosaicml-streaming",
    ),
    "s3torchconnector": LoaderInfo(
        "storagebench.loaders.s3torchconnector:S3TorchConnectorLoader",
        ("s3torchconnector", "torch"),
        _FILES,
        ("s3",),
        "sample",
        "Amazon's connector for PyTorch: S3MapDataset in torch DataLoader workers, one object a sample, read by its own client",
        "processes",
        needs_torch=True,
        why_formats="reads one object a sample",
        why_stores="is a client of S3 alone",
        extra="s3torchconnector",
        distribution="s3torchconnector",
    ),
    "huggingface-datasets": LoaderInfo(
        "storagebench.loaders.huggingface_datasets:HuggingFaceDatasetsLoader",
        ("datasets", "torch"),
        ("parquet",),
        ("posix",),
        "shard",
        "Hugging Face datasets, streaming Parquet in torch DataLoader workers, with its shuffle buffer",
        "processes",
        needs_torch=True,
        own_io=True,
        least_decode="parse",
        why_formats="is run on Parquet",
        why_stores=_OWN_FILES,
        extra="huggingface-datasets",
        distribution="datasets",
    ),
    "ray-data": LoaderInfo(
        "storagebench.loaders.ray_data:RayDataLoader",
        ("ray", "pyarrow"),
        ("parquet",),
        ("posix",),
        "shard",
        "Ray Data on a Ray of its own: Parquet read in Ray's worker processes, batches through its object store",
        "threads",
        own_io=True,
        least_decode="parse",
        why_formats="is run on Parquet",
        why_stores=_OWN_FILES,
        extra="ray-data",
        distribution="ray",
        breaks=(
            (
                "leaves its driver's log, sockets and the thread of an iteration that was stopped open after ray.shutdown()",
                "test_close_leaves_nothing",
            ),
            ("leaves its driver's log open after an error and ray.shutdown()", "test_a_missing_or_short_shard_is_named"),
        ),
    ),
    "grain": LoaderInfo(
        "storagebench.loaders.grain:GrainLoader",
        ("grain",),
        (*_FILES, *_PACKED, "arrayrecord"),
        ("posix", "s3", "fsspec", "memory", "shaped"),
        "sample",
        "Grain's MapDataset over a random access source, read ahead by its threads; bytes through our store, ArrayRecord through its own on local files",
        "threads",
        why_formats="reads records at known places and ArrayRecord files",
        own_formats=("arrayrecord",),
        why_stores="its reader of ArrayRecord opens local files itself",
        extra="grain",
        distribution="grain",
    ),
    "spdl": LoaderInfo(
        "storagebench.loaders.spdl:SpdlLoader",
        ("spdl",),
        (*_FILES, *_PACKED),
        ("posix", "s3", "fsspec", "memory", "shaped"),
        "sample",
        "SPDL's pipeline of stages in threads with bounded queues; bytes through our store",
        "threads",
        why_formats="reads records at known places",
        extra="spdl",
        distribution="spdl_core",
    ),
}

LOADERS["dali"] = LoaderInfo(
    "storagebench.loaders.dali:DaliLoader",
    ("nvidia.dali",),
    ("tfrecord",),
    ("posix",),
    "shard",
    "NVIDIA DALI's TFRecord reader in a pipeline of the CPU, with its reservoir",
    "threads",
    own_io=True,
    least_decode="parse",
    why_formats="is written for TFRecord shards with their index files",
    why_stores=_OWN_FILES,
    extra="dali",
    distribution="nvidia-dali-cuda130 nvidia-dali-cuda120",
    not_yet_run="written against DALI's documentation; no machine of ours has had the library",
)

STORES: dict[str, str] = {
    "posix": "storagebench.storage.posix:PosixStore",
    "s3": "storagebench.storage.s3:S3Store",
    "memory": "storagebench.storage.memory:MemoryStore",
    "fsspec": "storagebench.storage.fsspec_store:FsspecStore",
    "shaped": "storagebench.storage.shaped:ShapedStore",
}
