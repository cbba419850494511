"""The main job at a small size: two datasets (synthetic, and real photographs) through all five loaders, from a disk and over S3.

It builds what it needs below one folder, runs through `storagebench.session` like any user's run, and prints nothing itself.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storagebench.build import generate, import_dataset
from storagebench.clock import SystemClock
from storagebench.configfile import load_workload
from storagebench.errors import RankError, UsageError
from storagebench.manifest import Dataset
from storagebench.metrics import Summary
from storagebench.preparation import prepare
from storagebench.request import Request
from storagebench.s3server import start
from storagebench.session import describe, execute
from storagebench.storage import open_store

WORKLOAD = "quick"
BUCKET = "demo"
LOADER_FORMATS = {"files": "jpeg", "parquet": "parquet", "webdataset": "webdataset", "s3": "jpeg", "direct": "jpeg"}
_TILE_PIXELS = 320
_TILES_ACROSS = _TILES_DOWN = 17  # of each photograph, so 578 in all
_TILE_QUALITY = 92
_MARKER = "storagebench-demo"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Sizes:
    """How large the demo is. The defaults take under three minutes on two cores."""

    num_samples: int = 1024
    epochs: int = 3
    null_duration_s: float = 1.0
    accelerator: str = "h100"
    num_accelerators: int = 2


def run_demo(folder: Path, sizes: Sizes, say: Say, debug: bool = False) -> list[tuple[Path, Summary]]:
    """Build the datasets (once), start the S3 server, run everything; (run folder, summary) of each run, in order.

    Raises UsageError where `folder` holds something else than an earlier demo.
    """
    _claim(folder)
    bucket = folder / "s3" / BUCKET
    say(f"datasets below {bucket}")
    build_datasets(folder, bucket, sizes, say)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(SystemClock().wall_ns() // 10**9))
    results = []
    with start(folder / "s3") as server, _environment(server.environment()):
        for name in ("synthetic", "photos"):
            for loader, form in LOADER_FORMATS.items():
                url = f"s3://{BUCKET}/{name}-{form}" if loader == "s3" else str(bucket / f"{name}-{form}")
                options = {"endpoint_url": server.endpoint_url} if loader == "s3" else {}
                run_dir = prepare(_request(folder / "results" / stamp, f"{name}-{loader}", loader, url, options, sizes, debug))
                summary = execute(run_dir, debug)
                results.append((run_dir, summary))
                say(f"{name}: {describe(summary)}")
    return results


def _claim(folder: Path) -> None:
    """Only an empty folder or one of ours: nobody else's files are ever touched."""
    marker = folder / f".{_MARKER}"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise UsageError(f"{folder} is not empty and not of an earlier demo", "choose another --work-dir")
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text("made by storagebench demo\n")


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """These variables for what is started inside the block (the server's credentials reach ranks and workers this way only)."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _request(results_dir: Path, run_id: str, loader: str, url: str, options: Mapping[str, str], sizes: Sizes, debug: bool) -> Request:
    overrides = [
        ("loader.name", loader, "demo"),
        ("train.epochs", sizes.epochs, "demo"),
        ("run.accelerator", sizes.accelerator, "demo"),
        ("run.num_accelerators", sizes.num_accelerators, "demo"),
        ("run.cache", "cold", "demo"),
        ("run.null_duration_s", sizes.null_duration_s, "demo"),
        ("run.verify", "full", "demo"),
    ]
    return Request(
        configured=load_workload(WORKLOAD, overrides),
        data_dir=url,
        storage_options=options,
        results_dir=results_dir,
        run_id=run_id,
        command=["storagebench", *sys.argv[1:]],
        command_start_ns=SystemClock().now_ns(),
        debug=debug,
    )


def build_datasets(folder: Path, bucket: Path, sizes: Sizes, say: Say) -> list[Dataset]:
    """The synthetic dataset and the photographs, each in the three formats that the loaders read. What is there already is kept."""
    photos = cut_photographs(folder / "photographs")
    say(f"{len(photos)} JPEG files cut from photographs")
    built = []
    for form in dict.fromkeys(LOADER_FORMATS.values()):
        overrides = [("dataset.format", form, "demo"), ("dataset.num_samples", sizes.num_samples, "demo")]
        workload = load_workload(WORKLOAD, overrides).workload
        built.append(generate(workload, open_store(str(bucket / f"synthetic-{form}"))))
        data = workload.dataset
        store = open_store(str(bucket / f"photos-{form}"))
        built.append(
            import_dataset(folder / "photographs", store, format=form, samples_per_shard=data.samples_per_shard, row_group_bytes=data.row_group_bytes)
        )
    return built


def photographs() -> list[Path]:
    """The photographs that scikit-learn ships, found without importing it."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise RankError("the demo's photographs come with scikit-learn, which is not installed", "pip install 'storagebench[demo]'")
    found = sorted((Path(spec.origin).parent / "datasets" / "images").glob("*.jpg"))
    if not found:
        raise RankError("the installed scikit-learn ships no photographs", "pip install 'scikit-learn>=1.4'")
    return found


def cut_photographs(folder: Path) -> list[Path]:
    """An ImageFolder tree of overlapping tiles, one class a photograph, no two alike; made once."""
    from PIL import Image

    tiles = []
    for photograph in photographs():
        with Image.open(photograph) as image:
            picture = image.convert("RGB")
        across, down = picture.width - _TILE_PIXELS, picture.height - _TILE_PIXELS
        target = folder / photograph.stem
        target.mkdir(parents=True, exist_ok=True)
        for row in range(_TILES_DOWN):
            for column in range(_TILES_ACROSS):
                tile = target / f"{row:02d}-{column:02d}.jpg"
                tiles.append(tile)
                if tile.exists():
                    continue
                left, top = across * column // (_TILES_ACROSS - 1), down * row // (_TILES_DOWN - 1)
                part = picture.crop((left, top, left + _TILE_PIXELS, top + _TILE_PIXELS))
                temporary = tile.with_suffix(".part")
                part.save(temporary, "JPEG", quality=_TILE_QUALITY)
                temporary.rename(tile)
    return tiles
