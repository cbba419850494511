"""Watching a run from outside while it goes on: a page over HTTP, and a file for node exporter's textfile collector.

All of it happens in threads of the command's process, beside the run: one thread polls the traces (the command's live line shares it), one answers
scrapes, one at a time, from what was last read. Nothing is added to a step. A rank may live in this process; then the threads share the interpreter with it, which
`follow` keeps short.
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from storagebench.errors import StorageError, UsageError
from storagebench.follow import Follower, RankState
from storagebench.records import SUMMARY_FILE, read_run, write_whole
from storagebench.report.openmetrics import CLASSIC_TYPE, OPENMETRICS_TYPE, View, as_classic, as_openmetrics

TEXTFILE_PERIOD_S: Final = 5.0
_CLIENT_TIMEOUT_S: Final = 5.0
_END_WITHIN_S: Final = 1.0


class Watch:
    """What is watched, for the length of a command: its runs one after another, each until the next begins. A context manager; the page is there within.

    Raises UsageError where the port or the file cannot be had, when it is made.
    """

    def __init__(self, port: int | None, address: str, textfile: Path | None, say: Callable[[str], None]) -> None:
        """`port` 0 picks a free one; None serves nothing. `say` takes a message for the person."""
        self._lock = threading.Lock()
        self._follower: Follower | None = None
        self._run: dict[str, Any] = {}
        self._run_dir = Path()
        self._summary: dict[str, Any] | None = None
        self._textfile, self._say = textfile, say
        self._wrote_at_s, self._complained = 0.0, False
        self._final_served = threading.Event()
        if textfile is not None:
            _check_textfile(textfile)
        self._server = None if port is None else _listen(self, address, port)

    @property
    def url(self) -> str | None:
        """Where the page is, or None."""
        if self._server is None:
            return None
        host, port = self._server.server_address[:2]
        return f"http://{f'[{host!s}]' if ':' in str(host) else host!s}:{port}/metrics"

    def __enter__(self) -> Watch:
        if self._server is not None:
            threading.Thread(target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True).start()
            self._say(f"metrics at {self.url}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._server is not None:
            # A client that drips its request may hold the server for long, and the command does not wait for it.
            ending = threading.Thread(target=self._server.shutdown, daemon=True)
            ending.start()
            ending.join(_END_WITHIN_S)
            self._server.server_close()

    def begin(self, run_dir: Path) -> None:
        """From here on this run is shown; `run.json` is there."""
        with self._lock:
            self._run, self._run_dir, self._summary = read_run(run_dir), run_dir, None
            self._follower = Follower(run_dir)
            self._final_served.clear()
        self._write_textfile(final=False)

    def poll(self) -> None:
        """Read what the traces have grown by, and write the file where it is due."""
        with self._lock:
            if self._follower is not None:
                self._follower.poll()
        if time.monotonic() - self._wrote_at_s >= TEXTFILE_PERIOD_S:
            self._write_textfile(final=False)

    def ranks(self) -> list[RankState]:
        """The ranks as of the last poll, for the thread that polls."""
        return [] if self._follower is None else self._follower.ranks()

    def finish(self) -> None:
        """The run is over, and its summary written if it could be judged: the final state."""
        path = self._run_dir / SUMMARY_FILE
        summary = json.loads(path.read_bytes()) if path.is_file() else None
        with self._lock:
            if self._follower is not None:
                self._follower.poll()
            self._summary = summary
        self._write_textfile(final=True)

    def linger(self, seconds: float) -> None:
        """Go on serving until the final state was scraped once, and for at most so long."""
        if self._server is not None and self._follower is not None and seconds > 0:
            self._final_served.wait(seconds)

    def page(self, classic: bool = False) -> tuple[bytes, bool]:
        """(the page as of the last poll, whether it shows the final state)."""
        with self._lock:
            view = None if self._follower is None else View(self._run, self._follower.ranks(), self._summary)
            return (as_classic if classic else as_openmetrics)(view), self._summary is not None

    def served(self, final: bool) -> None:
        """A client has got the whole page."""
        if final:
            self._final_served.set()

    def _write_textfile(self, final: bool) -> None:
        """Whole, under a temporary name first, so that no reader sees half of it. Only the last one is synced: a sync every few seconds could be felt by the
        storage that is measured. A disk that refuses is said once and ends nothing."""
        if self._textfile is None:
            return
        self._wrote_at_s = time.monotonic()
        try:
            page = self.page(classic=True)[0]
            write_whole(self._textfile, page) if final else _replace(self._textfile, page)
        except (OSError, StorageError) as error:
            if not self._complained:
                self._say(f"note: --metrics-textfile {self._textfile} cannot be written: {getattr(error, 'strerror', None) or error}")
            self._complained = True


def _replace(path: Path, data: bytes) -> None:
    temp = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        temp.write_bytes(data)
        os.replace(temp, path)
    except OSError:
        temp.unlink(missing_ok=True)
        raise


def _check_textfile(path: Path) -> None:
    if path.suffix != ".prom":
        raise UsageError(f"--metrics-textfile is {str(path)!r}, and node exporter reads only names that end in .prom", f"name it {path.stem}.prom")
    if not path.parent.is_dir():
        raise UsageError(f"--metrics-textfile is {str(path)!r}, and there is no folder {path.parent}", "make the folder, or name another one")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"--metrics-textfile {str(path)!r} cannot be written", "name a file in a folder that you may write to")


class _Server(socketserver.TCPServer):
    """One scrape at a time: what scrapes cost is bounded, whoever asks."""

    allow_reuse_address = True

    def __init__(self, watch: Watch, family: socket.AddressFamily, place: tuple[Any, ...]) -> None:
        self.watch = watch
        self.address_family = family
        super().__init__(place, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _CLIENT_TIMEOUT_S
    server_version = "storagebench"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        if self.path.partition("?")[0] not in ("/", "/metrics"):
            self.send_error(404)
            return
        accept = self.headers.get("Accept", "")
        classic = "text/plain" in accept and "openmetrics" not in accept
        page, final = self.server.watch.page(classic)
        self.send_response(200)
        self.send_header("Content-Type", CLASSIC_TYPE if classic else OPENMETRICS_TYPE)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if with_body:
            self.wfile.write(page)
            self.server.watch.served(final)

    def log_message(self, format: str, *args: Any) -> None:
        """stderr is for what concerns the run."""


def _listen(watch: Watch, address: str, port: int) -> _Server:
    try:
        family, _, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return _Server(watch, family, place)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"--metrics-port {port} on {address} cannot be listened to: {why}", "give another port (0 picks a free one), or another --metrics-address"
        ) from None
