"""Messages over one TCP connection between two members: a JSON header and, for traces, bytes behind it. Safe to send from several threads."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

_LENGTHS = struct.Struct("!II")  # bytes of the header, bytes of the payload
MOST_HEADER_BYTES = 256 * 2**20
MOST_PAYLOAD_BYTES = 2**20
_RECEIVE_BYTES = 2**16


class Wire:
    """One end of a connection. `heard_s` is CLOCK_MONOTONIC when the last byte came: a large message on a slow link is life, too."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # What was sent and not acknowledged for so long ends the connection, so that a sender that waits for room finds out, too.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000)
        connection.settimeout(None)
        self._connection = connection
        self._sending = threading.Lock()
        self._received = bytearray()
        self.heard_s = time.monotonic()

    @property
    def own_address(self) -> str:
        return str(self._connection.getsockname()[0])

    @property
    def peer_address(self) -> str:
        return str(self._connection.getpeername()[0])

    def send(self, message: Mapping[str, Any], payload: bytes = b"") -> None:
        """Raises OSError where the other end is gone."""
        header = json.dumps(message, separators=(",", ":")).encode()
        with self._sending:
            self._connection.sendall(_LENGTHS.pack(len(header), len(payload)) + header + payload)

    def receive(self) -> tuple[dict[str, Any], bytes] | None:
        """The next message; None at the end of the connection. Raises OSError where it broke, ValueError for what is no message of ours."""
        start = self._take(_LENGTHS.size)
        if start is None:
            return None
        header_bytes, payload_bytes = _LENGTHS.unpack(start)
        if header_bytes > MOST_HEADER_BYTES or payload_bytes > MOST_PAYLOAD_BYTES:
            raise ValueError(f"a message of {header_bytes} + {payload_bytes} bytes")
        header, payload = self._take(header_bytes), self._take(payload_bytes)
        if header is None or payload is None:
            return None
        message = json.loads(header)
        if not isinstance(message, dict):
            raise ValueError("a message that is no object")
        return message, payload

    def _take(self, count: int) -> bytes | None:
        while len(self._received) < count:
            data = self._connection.recv(_RECEIVE_BYTES)
            if not data:
                return None
            self.heard_s = time.monotonic()
            self._received += data
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    def close(self) -> None:
        """Let the other end see the end, and wake up who receives here."""
        with suppress(OSError):  # it is closed
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
