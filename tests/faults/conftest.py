"""An HTTP proxy in front of a real S3 server that spoils some of its answers, at given rates and in an order that a seed fixes, and counts what it did."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from storagebench.s3server import Server

BUSY = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'
DENIED = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>'
# What each does to the answer of a GET of an object:
#   503         SlowDown instead of it
#   reset       the connection is reset before a byte of it
#   reset-body  the connection is reset after half of the body
#   cut         the connection ends after half of the body
#   range       206 of another range, of the right length; of a whole object: 206 of its second half
#   full        200 with the whole object for a range
#   slow        no byte for `slow_s` seconds, then all of it
#   stall       half of the body, then no byte for `stall_s` seconds, then the connection ends
#   drip        half of the body, then a byte each 0.1 s for `stall_s` seconds, then the connection ends
#   denied      403 ExpiredToken
KINDS = ("503", "reset", "reset-body", "cut", "range", "full", "slow", "stall", "drip", "denied")


class FaultProxy(ThreadingHTTPServer):
    """`rates`: share of the GETs of objects whose path contains `match` that are spoilt, by kind; may be changed at any time. An answer of status 200
    with a Content-Range (rclone's to a range) becomes a 206, so that ranges work as the standard has them, unless `native_ranges` is False.

    Counts: `requests` by method, `objects` (GETs that the rates are for), `injected` by kind, `passed_bytes` of whole good bodies that were sent to their end,
    and `sent_bytes` of all bodies of objects, spoilt ones included.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, server: Server, rates: Mapping[str, float], seed: int = 1, match: str = "", native_ranges: bool = True) -> None:
        assert set(rates) <= set(KINDS), rates
        super().__init__(("127.0.0.1", 0), _Handler)
        self.backend, self.folder = urlsplit(server.endpoint_url).netloc, Path(server.directory)
        self.rates, self.match, self.native_ranges = dict(rates), match, native_ranges
        self.slow_s = self.stall_s = 1.0
        self.injected: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.objects = self.passed_bytes = self.sent_bytes = 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def draw(self, method: str, path: str, is_range: bool) -> str | None:
        """What to do to this request."""
        with self._lock:
            self.requests[method] += 1
            if method != "GET" or "?" in path or path.count("/") < 2 or self.match not in path:
                return None
            self.objects += 1
            drawn, total = self._random.random(), 0.0
            for kind, rate in self.rates.items():
                total += rate
                if drawn < total and (is_range or kind != "full"):
                    self.injected[kind] += 1
                    return kind
        return None

    def count(self, kind: str | None, num_bytes: int) -> None:
        with self._lock:
            self.sent_bytes += num_bytes
            if kind in (None, "slow"):
                self.passed_bytes += num_bytes

    def stopped(self, seconds: float = 0.0) -> bool:
        """Whether it was closed, before so many seconds are over."""
        return self._stopped.wait(seconds)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no surprise here."""

    def close(self) -> None:
        self._stopped.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy
    disable_nagle_algorithm = True
    _upstream: http.client.HTTPConnection | None = None

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def finish(self) -> None:
        if self._upstream is not None:
            self._upstream.close()
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def _serve(self) -> None:
        if self.server.stopped():
            return self._reset()
        asked = self.headers.get("Range")
        kind = self.server.draw(self.command, self.path, asked is not None)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if kind == "503":
            return self._send(503, {"Content-Type": "application/xml"}, BUSY)
        if kind == "denied":
            return self._send(403, {"Content-Type": "application/xml"}, DENIED)
        if kind == "reset":
            return self._reset()
        if kind == "full":  # from the disk, since the request is signed with its range
            data = (self.server.folder / unquote(self.path).lstrip("/")).read_bytes()
            self.server.count(kind, len(data))
            return self._send(200, {"Content-Type": "application/octet-stream", "Last-Modified": "Mon, 23 Nov 2026 20:00:00 GMT"}, data)
        status, headers, data = self._ask(body)
        if kind is None:
            good = self.command == "GET" and status in (200, 206) and "?" not in self.path
            self._send(status, headers, data)
            return self.server.count(kind, len(data)) if good else None
        return self._spoil(kind, status, headers, data, asked)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """The answer of the real server, which gets the same headers: the signature covers Host."""
        if self._upstream is None:
            self._upstream = http.client.HTTPConnection(self.server.backend, timeout=30)
        self._upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect"):
                self._upstream.putheader(name, value)
        self._upstream.endheaders(body or None)
        answer = self._upstream.getresponse()
        data = answer.read()
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in ("connection", "transfer-encoding", "date", "server")}
        status = 206 if self.server.native_ranges and answer.status == 200 and answer.getheader("Content-Range") else answer.status
        return status, headers, data

    def _spoil(self, kind: str, status: int, headers: dict[str, str], data: bytes, asked: str | None) -> None:
        if kind == "slow":
            self.server.stopped(self.server.slow_s)
        elif kind == "range" and status in (200, 206):
            status, headers, data = self._another_range(headers, data, asked)
        sent = data[: len(data) // 2] if kind in ("reset-body", "cut", "stall", "drip") else data
        self.server.count(kind, len(sent))
        self._send(status, headers, sent, len(data))
        if kind == "stall":
            self.server.stopped(self.server.stall_s)
        if kind == "drip":
            for position in range(len(sent), min(len(data), len(sent) + round(10 * self.server.stall_s))):
                self.wfile.write(data[position : position + 1])
                self.server.stopped(0.1)
        if kind == "reset-body":
            time.sleep(0.02)  # so that the client has what was sent: a reset drops what lies unread
            self._reset()
        self.close_connection = self.close_connection or sent is not data

    def _another_range(self, headers: dict[str, str], data: bytes, asked: str | None) -> tuple[int, dict[str, str], bytes]:
        rest = {name: value for name, value in headers.items() if name.lower() not in ("content-range", "content-length")}
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked or "")
        if not found:
            half = len(data) // 2
            return 206, {**rest, "Content-Range": f"bytes {half}-{len(data) - 1}/{len(data)}"}, data[half:]
        total = next((value.split("/")[1] for name, value in headers.items() if name.lower() == "content-range"), "*")
        first = int(found[1]) + 8
        return 206, {**rest, "Content-Range": f"bytes {first}-{first + len(data) - 1}/{total}"}, data[::-1]

    def _send(self, status: int, headers: Mapping[str, str], data: bytes, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        said = next((value for name, value in headers.items() if name.lower() == "content-length"), None)
        length = len(data) if length is None else length
        self.send_header("Content-Length", said if self.command == "HEAD" and said else str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _reset(self) -> None:
        """End the connection with a RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            os.close(self.connection.detach())
        self.close_connection = True


@pytest.fixture
def fault_proxy() -> Iterator[Callable[..., FaultProxy]]:
    """Start a proxy: `fault_proxy(server, {"503": 0.1}, seed=1)`. It ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(server: Server, rates: Mapping[str, float] | None = None, **more: Any) -> FaultProxy:
            proxy = FaultProxy(server, rates or {}, **more)
            stack.callback(proxy.close)
            return proxy

        yield start
