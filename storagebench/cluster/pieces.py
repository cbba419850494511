"""Large values between members, in pieces that a message holds."""

from __future__ import annotations

import base64

from storagebench.cluster.crew import Crew

# All members' pieces of a round come in one message, as base64 (a third more), and a message may have 256 MiB (`wire.MOST_HEADER_BYTES`).
_ROUND_BYTES = 64 * 2**20


def exchange_bytes(crew: Crew, data: bytes, round_bytes: int = _ROUND_BYTES) -> list[bytes]:
    """The bytes of all members, by member, on all. Collective. Raises CrewEndedError where one is gone."""
    piece = max(1, round_bytes // crew.num_members)
    longest = max(crew.exchange(len(data)))
    found = [bytearray() for _ in range(crew.num_members)]
    for begin in range(0, longest, piece):
        for received, text in zip(found, crew.exchange(base64.b64encode(data[begin : begin + piece]).decode()), strict=True):
            received += base64.b64decode(text)
    return [bytes(received) for received in found]
