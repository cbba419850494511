"""What a loader does with its settings: decode level, share verified, workers, prefetch; and what it refuses, with what fits instead."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from storagebench.adapters import LOADERS, STORES
from storagebench.datasets.decode import IMAGE_PAYLOADS
from storagebench.errors import UsageError
from storagebench.protocols import DECODE_LEVELS, LoadJob
from storagebench.registry import formats, loader_info, misfit


@pytest.mark.cells("every loader and format")
@pytest.mark.parametrize("level", DECODE_LEVELS)
def test_decode_levels_and_checksums(cell: Any, job: LoadJob, records: Any, level: str, tools: Any) -> None:
    run = tools.opened(cell.loader, replace(job, decode=level))
    effective = run.effective()["decode"]
    assert effective == DECODE_LEVELS[max(DECODE_LEVELS.index(level), DECODE_LEVELS.index(cell.info.least_decode_of(cell.format)))]
    tools.epoch(run, 0, records(cell.format))
    run.start(1)
    batch = run.next()
    assert batch is not None
    if effective == "none":
        assert batch.checksums is None or not batch.checked.any()  # type: ignore[union-attr]
    else:
        assert batch.checksums is not None and batch.checked is not None and batch.checked.all()
        assert batch.checksums.tolist() == job.dataset.index["crc32c"][batch.sample_ids].tolist()
    if effective == "full":
        shape = (24, 24, 3) if job.dataset.payload in IMAGE_PAYLOADS else (job.handover_bytes_per_sample,)
        assert [value.shape for value in tools.views(batch)] == [shape] * batch.num_samples
    del batch
    run.close()


@pytest.mark.cells("every loader and format")
def test_verify_reads_the_asked_share(cell: Any, job: LoadJob, tools: Any) -> None:
    counts = {}
    for verify in ("off", "sample", "full"):
        run = tools.opened(cell.loader, replace(job, verify=verify, batch_size=job.dataset.num_samples))
        run.start(0)
        batch = run.next()
        assert batch is not None
        counts[verify] = 0 if batch.checked is None else int(batch.checked.sum())
        assert batch.checksums is None or (batch.checksums == job.dataset.index["crc32c"][batch.sample_ids])[batch.checked].all()
        del batch
        run.close()
    assert counts["full"] == job.dataset.num_samples
    if cell.info.least_decode_of(cell.format) == "none":
        assert counts["off"] == 0
        assert counts["sample"] < job.dataset.num_samples


def test_webdataset_uses_fewer_workers_than_asked_and_says_so(get_dataset: Any, records: Any, tools: Any) -> None:
    spec, dataset = get_dataset("webdataset", "posix")
    run = tools.opened("webdataset", LoadJob(spec, dataset, 2, 3, 2, keep_remainder=True, num_workers=4))
    assert run.effective()["workers"] == 1
    assert "1 of 4 workers" in run.effective()["notes"][0]
    tools.epoch(run, 0, records("webdataset"))
    run.close()


@pytest.mark.parametrize(("shuffle", "most"), [(False, 4), (True, 9)])
def test_parquet_reads_no_further_than_prefetch_and_shuffle_buffer(
    get_dataset: Any, monkeypatch: pytest.MonkeyPatch, shuffle: bool, most: int, tools: Any
) -> None:
    """Row groups of up to 2 samples; 2 batches of 3 in flight, and 6 samples of shuffle buffer before the last of them comes out."""
    from storagebench.loaders.row_groups import RowGroup, RowGroupReader

    read: list[int] = []
    original = RowGroupReader.read

    def spy(self: RowGroupReader, group: int) -> RowGroup:
        read.append(group)
        return original(self, group)

    monkeypatch.setattr(RowGroupReader, "read", spy)
    spec, dataset = get_dataset("parquet", "posix")
    job = LoadJob(spec, dataset, 0, 1, 3, keep_remainder=True, num_workers=2, prefetch_batches=2, shuffle_buffer=6, shuffle=shuffle)
    run = tools.opened("parquet", job)
    run.start(0)
    time.sleep(0.2)
    assert 3 <= len(read) <= most
    while run.next() is not None:
        pass
    assert sorted(read) == list(range(len(dataset.row_groups()[0])))
    run.close()


def test_misfits_are_refused_with_what_fits(cells: Any, tools: Any) -> None:
    claimed = {(cell.loader, cell.format, cell.kind) for cell in cells} | {("null", form, kind) for form in formats() for kind in STORES}
    for loader in LOADERS:
        for form in formats():
            for kind in STORES:
                error = misfit(loader, form, kind)
                assert (error is None) == ((loader, form, kind) in claimed)
                if error is not None:
                    tools.check_sentence(error)
    for loader, kind in (("parquet", "posix"), ("webdataset", "posix"), ("direct", "s3")):
        error = misfit(loader, loader_info(loader).formats[0], kind, odirect=True)
        assert error is not None
        tools.check_sentence(error)


def test_fewer_shards_than_ranks_are_refused(get_dataset: Any, tools: Any) -> None:
    spec, dataset = get_dataset("webdataset", "posix")
    with pytest.raises(UsageError, match="5 shards, and 6 accelerators") as caught:
        tools.opened("webdataset", LoadJob(spec, dataset, 0, 6, 1))
    tools.check_sentence(caught.value)


@pytest.mark.parametrize("loader", ["parquet", "webdataset"])
@pytest.mark.parametrize("mode", ["direct", "dontcache"])
def test_an_io_mode_that_a_library_does_not_have_is_refused(get_dataset: Any, loader: str, mode: str, tools: Any) -> None:
    spec, dataset = get_dataset(loader, "posix")
    with pytest.raises(UsageError, match=f"io is {mode}") as caught:
        tools.opened(loader, LoadJob(replace(spec, options={"io": mode}), dataset, 0, 1, 1))
    tools.check_sentence(caught.value)
