"""The payload: pinned bytes, no dependence on order or buffers, incompressible, and traceable to its sample."""

from __future__ import annotations

import hashlib
import threading

import numpy as np
import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from storagebench.datasets.payload import GENERATOR_VERSION, PayloadGenerator, record_length_bounds, record_lengths
from storagebench.errors import UsageError

GOLDEN = [
    (42, 0, 4096, 0.0, "ccf6e385610e6ed61c804f54e8125fd8"),
    (42, 1, 4096, 0.0, "f2f6cb001a9772810bed5db4e958b436"),
    (1, 0, 4096, 0.0, "d09487b78e7e4bcb008f43acacad6f84"),
    (42, 7, 1000, 0.5, "baf9a9ed0dc920c2d651cd7fb1ef2836"),
    (42, 2**40, 114_660, 0.0, "c67a145d66ae8ed039fd3c92de1c1ece"),
    (0, 3, 300_001, 0.95, "8bf91c05c63615c1add498610fe49c8d"),
]


@pytest.mark.parametrize(("seed", "sample_id", "num_bytes", "compressibility", "digest"), GOLDEN)
def test_golden_hashes(seed: int, sample_id: int, num_bytes: int, compressibility: float, digest: str) -> None:
    assert GENERATOR_VERSION == 1, "new bytes need a new version, and new hashes here"
    payload = PayloadGenerator(seed, compressibility).payload(sample_id, num_bytes)
    assert hashlib.sha256(payload).hexdigest()[:32] == digest


def by_definition(seed: int, sample_id: int, num_bytes: int) -> bytes:
    """The documented definition, a block at a time, by another mode of the cipher."""
    key = hashlib.sha256(b"storagebench payload v1" + seed.to_bytes(8, "little")).digest()[:16]
    block_cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    counters = b"".join(sample_id.to_bytes(8, "big") + block.to_bytes(8, "big") for block in range(-(-num_bytes // 16)))
    stream = bytearray(block_cipher.update(counters)[:num_bytes])
    for start in range(0, num_bytes, 512):
        stamp = sample_id.to_bytes(8, "little")[: num_bytes - start]
        stream[start : start + len(stamp)] = stamp
    return bytes(stream)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), st.integers(0, 5000))
def test_is_what_its_definition_says(seed: int, sample_id: int, num_bytes: int) -> None:
    assert PayloadGenerator(seed).payload(sample_id, num_bytes) == by_definition(seed, sample_id, num_bytes)


@pytest.mark.parametrize("num_bytes", [2**18 - 16, 2**18 - 1, 2**18, 2**18 + 14, 2**18 + 15, 2**18 + 16, 2**19 + 31])
def test_pieces_join_without_a_seam(num_bytes: int) -> None:
    assert PayloadGenerator(9).payload(3, num_bytes) == by_definition(9, 3, num_bytes)


def test_a_reused_buffer_and_other_samples_leave_no_trace() -> None:
    generator = PayloadGenerator(42, 0.25)
    buffer = bytearray(b"\xaa" * 70_000)
    view = memoryview(buffer)
    generator.fill(view, 1)
    generator.fill(view[:3000], 2)
    assert bytes(view[:3000]) == generator.payload(2, 3000)
    assert bytes(view[3000:]) == generator.payload(1, 70_000)[3000:], "nothing past the target may be written"
    assert generator.payload(2, 5000)[:2560] == generator.payload(2, 2560), "a shorter record is a prefix of a longer one"


def test_threads_do_not_disturb_each_other() -> None:
    generator = PayloadGenerator(5)
    expected = [generator.payload(sample, 200_000) for sample in range(4)]
    found: dict[int, bytes] = {}
    threads = [threading.Thread(target=lambda s=sample: found.update({s: generator.payload(s, 200_000)})) for sample in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[sample] for sample in range(4)] == expected


@pytest.mark.parametrize("compressibility", [0.0, 0.3, 0.95])
def test_every_512_bytes_carry_the_sample_id(compressibility: float) -> None:
    payload = PayloadGenerator(42, compressibility).payload(123_456_789, 512 * 40 + 100)
    stamps = np.frombuffer(payload[: 512 * 40], dtype="<u8").reshape(40, 64)[:, 0]
    assert set(stamps.tolist()) == {123_456_789}
    assert int.from_bytes(payload[512 * 40 :][:8], "little") == 123_456_789


@pytest.mark.parametrize("compressibility", [0.1, 0.5, 0.95])
def test_compressibility_is_the_share_of_zeros(compressibility: float) -> None:
    blocks = np.frombuffer(PayloadGenerator(42, compressibility).payload(77, 512 * 1000), dtype=np.uint8).reshape(1000, 512)
    zeros = round(compressibility * 512)
    assert not blocks[:, 512 - zeros :].any()
    share = float((blocks[:, 8 : 512 - zeros] == 0).mean())
    assert abs(share - 1 / 256) < 0.003, "the rest is random"
    ratio = len(pa.Codec("zstd").compress(blocks.tobytes())) / blocks.size
    assert ratio < 1 - compressibility + 0.05


def test_incompressible_and_without_duplicates() -> None:
    generator = PayloadGenerator(42)
    data = b"".join(generator.payload(sample, 114_660) for sample in range(80))
    assert len(pa.Codec("zstd").compress(data)) / len(data) >= 0.99
    for block_bytes in (512, 4096):
        blocks = [data[start : start + block_bytes] for start in range(0, len(data) - block_bytes, block_bytes)]
        assert len(set(blocks)) / len(blocks) >= 0.9999


@pytest.mark.parametrize(("seed", "compressibility"), [(-1, 0.0), (2**63, 0.0), (1, -0.1), (1, 0.96), (1, float("nan"))])
def test_out_of_range_is_refused(seed: int, compressibility: float) -> None:
    with pytest.raises(UsageError) as caught:
        PayloadGenerator(seed, compressibility)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("seed", "mean", "stdev", "first_five", "digest"),
    [
        (42, 146_600_628, 68_341_808, [208894970, 64807638, 84135196, 176756981, 97473515], "18068a6a42e8711942015e7312c4947b"),
        (1, 114_660, 30_000, [101032, 120816, 88515, 130089, 95999], "f272054ab9966fc28fc0f9ddf5133f4f"),
        (42, 114_660, 0, [114660] * 5, "bb655f193897b1144621bdcd9581639b"),
    ],
)
def test_golden_lengths(seed: int, mean: int, stdev: int, first_five: list[int], digest: str) -> None:
    lengths = record_lengths(seed, 100_000, mean, stdev)
    assert lengths[:5].tolist() == first_five
    assert hashlib.sha256(lengths.astype("<i8").tobytes()).hexdigest()[:32] == digest


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(16, 2**40), st.floats(0, 1), st.integers(1, 500))
def test_lengths_stay_in_their_bounds_and_grow_by_prefix(seed: int, mean: int, share: float, count: int) -> None:
    stdev = int(mean * share)
    lengths = record_lengths(seed, count, mean, stdev)
    low, high = record_length_bounds(mean)
    assert 16 <= low <= lengths.min() and lengths.max() <= high == 2 * mean - low
    assert (record_lengths(seed, count + 100, mean, stdev)[:count] == lengths).all()


def test_lengths_are_prefix_stable_over_the_pieces_they_are_made_in() -> None:
    assert (record_lengths(3, 200_000, 10_000, 2000)[:65_537] == record_lengths(3, 65_537, 10_000, 2000)).all()


def test_lengths_have_the_mean_and_the_spread() -> None:
    lengths = record_lengths(42, 200_000, 1_000_000, 200_000)
    assert abs(lengths.mean() - 1_000_000) < 4 * 200_000 / 200_000**0.5
    assert abs(lengths.std() / 200_000 - 1) < 0.01
    # A spread as wide as unet3d's is clipped, symmetrically: the mean stays.
    wide = record_lengths(42, 200_000, 146_600_628, 68_341_808)
    assert abs(wide.mean() / 146_600_628 - 1) < 0.003


@pytest.mark.parametrize(("mean", "stdev"), [(15, 0), (2**46 + 1, 0), (1000, 1001), (1000, -1)])
def test_impossible_lengths_are_refused(mean: int, stdev: int) -> None:
    with pytest.raises(UsageError):
        record_lengths(1, 10, mean, stdev)
