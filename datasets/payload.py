"""The deterministic payload: a record's bytes are a pure function of (generator version, seed, sample id), on every machine and in any order.

This module computes bytes and lengths and does nothing else: no I/O, no threads, no knowledge of formats.

A record is the AES-128-CTR keystream of its seed, with the sample id stamped at each 512-byte boundary: incompressible, unlike any other block of the
dataset (storage that deduplicates at 512 bytes finds nothing), and a block in a file can be traced back to its sample. Every change of the bytes
needs a new GENERATOR_VERSION; golden hashes in tests/unit/test_payload.py pin the present one.
"""

from __future__ import annotations

import hashlib

import numpy as np
from crc32c import crc32c
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from storagebench.errors import UsageError

GENERATOR_VERSION = 1
STAMP_BLOCK_BYTES = 512
STAMP_BYTES = 8
MIN_RECORD_BYTES = 16
MAX_COMPRESSIBILITY = 0.95
MAX_RECORD_BYTES = 2**46

# 256 KiB of zeros stay in the L2 cache: 6 to 9 GB/s with AES-NI, and the GIL is free while a piece is made.
_PIECE_BYTES = 1 << 18
_ZEROS = memoryview(bytes(_PIECE_BYTES))
# Some versions of `cryptography` want this much room behind what they write, also for a stream mode.
_SLACK_BYTES = 15
_PURPOSE_LENGTHS = 0x6C656E67746873
_WORDS_PER_SAMPLE = 6
_SAMPLES_PER_PIECE = 1 << 16


class PayloadGenerator:
    """Fills buffers with the payload of samples. Stateless between calls, and safe to share between threads.

    `seed` 0 .. 2^63-1; `compressibility` 0 .. 0.95 is the share of every 512 bytes that is zero (the stamp stays). UsageError outside of these.
    """

    def __init__(self, seed: int, compressibility: float = 0.0) -> None:
        if not 0 <= seed < 2**63:
            raise UsageError(f"the data seed is {seed}, outside 0 to {2**63 - 1}", "choose a smaller --data-seed")
        if not 0.0 <= compressibility <= MAX_COMPRESSIBILITY:
            raise UsageError(f"compressibility is {compressibility}, outside 0 to {MAX_COMPRESSIBILITY}", "choose --compressibility 0 to 0.95")
        self.seed = seed
        self.zero_bytes = round(compressibility * STAMP_BLOCK_BYTES)
        self._key = hashlib.sha256(b"storagebench payload v%d" % GENERATOR_VERSION + seed.to_bytes(8, "little")).digest()[:16]

    def fill(self, target: memoryview, sample_id: int) -> int:
        """Fill all of `target` (writable, contiguous bytes) with the record of that sample; its CRC32C. A shorter record is a prefix of a longer one.

        All is done to a piece while it lies in the processor's cache."""
        stream, checksum = self._stream(sample_id), 0
        for start in range(0, len(target), _PIECE_BYTES):
            piece = target[start : start + _PIECE_BYTES]
            _keystream(piece, stream)
            _zero_tails(piece, self.zero_bytes)
            _stamp(piece, sample_id)
            checksum = crc32c(piece, checksum)
        return checksum

    def payload(self, sample_id: int, num_bytes: int) -> bytes:
        """The first `num_bytes` of that sample's record, as new bytes."""
        target = bytearray(num_bytes)
        self.fill(memoryview(target), sample_id)
        return bytes(target)

    def _stream(self, sample_id: int) -> CipherContext:
        # The upper half of the counter block is the sample id: 2^64 blocks of 16 bytes lie between two samples, so streams never overlap.
        counter = sample_id.to_bytes(8, "big") + bytes(8)
        return Cipher(algorithms.AES(self._key), modes.CTR(counter)).encryptor()


def _keystream(piece: memoryview, stream: CipherContext) -> None:
    direct = max(0, len(piece) - _SLACK_BYTES)
    if direct:
        stream.update_into(_ZEROS[:direct], piece)
    piece[direct:] = stream.update(_ZEROS[: len(piece) - direct])


def _zero_tails(target: memoryview, zero_bytes: int) -> None:
    """Zero the last bytes of every 512; of a shorter last block the same places, as far as they exist."""
    if zero_bytes == 0:
        return
    flat = np.frombuffer(target, dtype=np.uint8)
    whole = len(flat) // STAMP_BLOCK_BYTES * STAMP_BLOCK_BYTES
    first_zero = STAMP_BLOCK_BYTES - zero_bytes
    flat[:whole].reshape(-1, STAMP_BLOCK_BYTES)[:, first_zero:] = 0
    flat[whole + first_zero :] = 0


def _stamp(target: memoryview, sample_id: int) -> None:
    """Write the little-endian id at each 512-byte boundary; of a last block under 8 bytes, what fits."""
    words = len(target) // STAMP_BYTES
    np.frombuffer(target, "<u8", words)[:: STAMP_BLOCK_BYTES // STAMP_BYTES] = sample_id
    rest = len(target) - words * STAMP_BYTES
    if words * STAMP_BYTES % STAMP_BLOCK_BYTES == 0:
        target[words * STAMP_BYTES :] = sample_id.to_bytes(STAMP_BYTES, "little")[:rest]


def make_text(target: memoryview) -> None:
    """Turn payload bytes into printable text where they lie: the lower six bits of each, from "0" (48) to "o" (111); no comma, quote or newline is among these."""
    values = np.frombuffer(target, np.uint8)
    values &= 0x3F
    values += 48


def record_length_bounds(mean: int) -> tuple[int, int]:
    """Shortest and longest record of a spread around `mean`: symmetric, so that clipping leaves the mean where it is."""
    low = min(mean, max(MIN_RECORD_BYTES, mean // 16))
    return low, 2 * mean - low


def record_lengths(seed: int, num_samples: int, mean: int, stdev: int) -> NDArray[np.int64]:
    """Bytes of each record, int64[num_samples]: about normal with that mean and standard deviation, clipped to `record_length_bounds(mean)`.

    The length of sample i depends on (seed, i, mean, stdev) only, so a dataset can grow. mean + stdev * (s / 2^32 - 6) with s the sum of twelve
    uniform 32-bit words (Irwin-Hall, standard deviation 1): sums are exact integers and there is one rounding of one IEEE product, so every machine
    gets the same. Clipping makes a wide spread a little narrower. stdev 0 gives the mean. UsageError for mean under 16 or over 2^46 bytes.
    """
    if not MIN_RECORD_BYTES <= mean <= MAX_RECORD_BYTES:
        raise UsageError(f"record length is {mean} bytes, outside {MIN_RECORD_BYTES} to {MAX_RECORD_BYTES}", "choose another --record-length")
    if not 0 <= stdev <= mean:
        raise UsageError(f"record length stdev is {stdev} bytes, outside 0 to the mean of {mean}", "choose a smaller --record-length-stdev")
    lengths = np.full(num_samples, mean, dtype=np.int64)
    if stdev == 0:
        return lengths
    low, high = record_length_bounds(mean)
    source = np.random.Philox(key=np.array([seed, _PURPOSE_LENGTHS], dtype=np.uint64))
    for first in range(0, num_samples, _SAMPLES_PER_PIECE):
        count = min(_SAMPLES_PER_PIECE, num_samples - first)
        words = np.asarray(source.random_raw(count * _WORDS_PER_SAMPLE), dtype=np.uint64).reshape(count, _WORDS_PER_SAMPLE)
        total = ((words >> np.uint64(32)) + (words & np.uint64(0xFFFFFFFF))).sum(axis=1, dtype=np.uint64).astype(np.int64)
        deviation = (total - (6 << 32)).astype(np.float64) / 2.0**32
        lengths[first : first + count] = np.clip(mean + np.rint(stdev * deviation).astype(np.int64), low, high)
    return lengths
