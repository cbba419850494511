"""The state files of `serve-s3`: which folder and process stand behind an endpoint on this host. Read by `run`, written by `s3server`.

They hold no credentials. They lie in a folder of this user that is closed to others, and are believed only while the named process lives.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from storagebench.errors import StorageError

_MAX_STATE_BYTES = 65536


@dataclass(frozen=True)
class ServedDirectory:
    """What stands behind an endpoint of ours: the folder that is served (absolute) and the process that serves it."""

    endpoint_url: str
    directory: str
    pid: int


def find_server(endpoint_url: str) -> ServedDirectory | None:
    """What a server that `s3server.start` started, for this user and on this host, serves at the endpoint while it lives; None for any other."""
    parts = urlsplit(endpoint_url)
    try:
        port = parts.port
        folder = state_folder(create=False)
    except (ValueError, StorageError):
        return None
    if port is None or parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost"):
        return None
    return _read(folder / _name(port))


def state_folder(create: bool = True) -> Path:
    """`$XDG_RUNTIME_DIR/storagebench-<uid>`, else below /tmp; mode 0700.

    Raises StorageError where it cannot be made, where somebody else made it, or where it is open to others.
    """
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp", f"storagebench-{os.geteuid()}")
    try:
        if create:
            folder.mkdir(mode=0o700, exist_ok=True)
        info = folder.lstat()
    except OSError as error:
        raise StorageError(f"cannot use {folder} for state files: {error.strerror}", "set XDG_RUNTIME_DIR to a folder of yours") from None
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) & 0o077:
        raise StorageError(f"{folder} is not a folder of yours that is closed to others (mode 0700)", "remove it, or set XDG_RUNTIME_DIR")
    return folder


def write_state(served: ServedDirectory) -> None:
    """Say what is served at that endpoint. The file appears whole."""
    folder = state_folder()
    temp = folder / f".{secrets.token_hex(8)}"
    text = json.dumps({**asdict(served), "start_ticks": _start_ticks(served.pid)})
    with open(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(text)
    temp.rename(folder / _name(urlsplit(served.endpoint_url).port or 0))


def remove_state(served: ServedDirectory) -> None:
    """The server has ended. Another's file for the same port stays."""
    file = state_folder() / _name(urlsplit(served.endpoint_url).port or 0)
    if _stated_pid(file) == served.pid:
        file.unlink(missing_ok=True)


def forget_the_dead() -> None:
    """Remove state files whose server was killed, and the logs that no living server writes."""
    folder = state_folder()
    for file in folder.glob("serve-s3-*.json"):
        if _read(file) is None:
            file.unlink(missing_ok=True)
    for log in folder.glob("serve-s3-*.log"):
        if not Path(f"/proc/{log.stem.rpartition('-')[2]}").exists():
            log.unlink(missing_ok=True)


def _name(port: int) -> str:
    return f"serve-s3-{port}.json"


def _load(file: Path) -> dict[str, object]:
    """The JSON object in a state file of ours; {} for anything else."""
    try:
        with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), encoding="utf-8") as stream:
            info = os.fstat(stream.fileno())
            if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
                return {}
            found = json.loads(stream.read(_MAX_STATE_BYTES))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _stated_pid(file: Path) -> object:
    return _load(file).get("pid")


def _read(file: Path) -> ServedDirectory | None:
    match _load(file):
        case {"endpoint_url": str(endpoint), "directory": str(directory), "pid": int(pid), "start_ticks": int(ticks)} if _start_ticks(pid) == ticks:
            return ServedDirectory(endpoint, directory, pid)
    return None


def _start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None where there is none. With the pid it names a process for good."""
    try:
        # The second field is the command in parentheses and may hold anything; state is the 3rd field, the start time the 22nd.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
