"""`serve-s3`: start, find, stop; no secret where others can see it; it dies with its parent."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storagebench import s3server
from storagebench.errors import StorageError, UsageError
from storagebench.s3server_state import state_folder

pytestmark = pytest.mark.s3


def wait_until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        s3server.find_rclone()
    except UsageError as error:
        pytest.skip(error.message)
    (tmp_path / "state").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "state"))


@pytest.fixture
def served(tmp_path: Path) -> Path:
    (tmp_path / "served" / "bucket").mkdir(parents=True)
    return tmp_path / "served"


def test_start_find_stop(served: Path) -> None:
    with s3server.start(served) as server:
        assert server.directory == str(served) and is_alive(server.pid)
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.endpoint_url)
        found = s3server.find_server(server.endpoint_url)
        assert found == s3server.ServedDirectory(server.endpoint_url, str(served), server.pid)
        assert s3server.find_server(server.endpoint_url.replace("127.0.0.1", "localhost") + "/") == found
        assert s3server.find_server("http://127.0.0.1:1") is None
        assert s3server.find_server(server.endpoint_url.replace("http:", "https:")) is None
        assert s3server.find_server("http://10.0.0.1:" + server.endpoint_url.rpartition(":")[2]) is None
        assert os.getpgid(server.pid) == server.pid != os.getpgid(0)  # a Ctrl-C at the terminal does not reach it by itself
        _no_secret_is_visible(server)
        folder = state_folder()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
        with pytest.raises(StorageError, match="address already in use"):
            s3server.start(served, int(server.endpoint_url.rpartition(":")[2]))
        assert s3server.find_server(server.endpoint_url) == found
    server.close()
    assert not is_alive(server.pid) and list(folder.iterdir()) == []
    assert s3server.find_server(server.endpoint_url) is None


def _no_secret_is_visible(server: s3server.Server) -> None:
    assert len(server.secret_key) >= 32 and server.environment()["AWS_SECRET_ACCESS_KEY"] == server.secret_key
    command = Path(f"/proc/{server.pid}/cmdline").read_bytes()
    assert b"serve\0s3" in command and b"127.0.0.1:" in command
    assert server.secret_key.encode() not in command and server.access_key.encode() not in command
    assert server.secret_key not in repr(server)
    for file in state_folder().iterdir():
        assert server.secret_key.encode() not in file.read_bytes()


def test_state_is_believed_only_while_the_process_lives(served: Path) -> None:
    folder = state_folder()
    file = folder / "serve-s3-12345.json"
    endpoint = "http://127.0.0.1:12345"
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    good = {"endpoint_url": endpoint, "directory": str(served), "pid": os.getpid(), "start_ticks": ticks}
    file.write_text(json.dumps(good))
    assert s3server.find_server(endpoint) == s3server.ServedDirectory(endpoint, str(served), os.getpid())
    for bad in ({**good, "start_ticks": ticks + 1}, {**good, "pid": 2**22 + 5}, {**good, "directory": 5}, [good]):
        file.write_text(json.dumps(bad))
        assert s3server.find_server(endpoint) is None
    for text in ("", "{", "\0" * 100):
        file.write_text(text)
        assert s3server.find_server(endpoint) is None
    file.unlink()
    file.symlink_to(served)
    assert s3server.find_server(endpoint) is None
    file.unlink()
    file.write_text(json.dumps(good))
    folder.chmod(0o755)
    assert s3server.find_server(endpoint) is None
    with pytest.raises(StorageError, match="closed to others"):
        s3server.start(served)
    folder.chmod(0o700)


def test_refuses(served: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        s3server.start(served / "nothing")
    with pytest.raises(UsageError, match="70000"):
        s3server.start(served, 70000)
    for rate in ("0", "fast"):
        with pytest.raises(UsageError):
            s3server.start(served, bwlimit=rate)


def test_needs_rclone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nothing")
    monkeypatch.setattr(s3server.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="rclone") as caught:
        s3server.find_rclone()
    assert "pip install" in caught.value.hint


def test_dies_with_its_parent(served: Path) -> None:
    program = f"from storagebench import s3server; import time; print(s3server.start({str(served)!r}).pid, flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert is_alive(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not is_alive(pid))
    left = sorted(file.suffix for file in state_folder().iterdir())
    assert left == [".json", ".log"]
    with s3server.start(served):  # cleans up what the killed one left behind
        assert len(list(state_folder().iterdir())) == 2
    assert list(state_folder().iterdir()) == []


@pytest.fixture
def verb(served: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    program = "from storagebench.commands.serve_s3 import command; command()"

    def run(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", program, str(served), *arguments], stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_verb(verb: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: int, status: int) -> None:
    file = tmp_path / "env file"
    process = verb("--env-file", str(file)) if number == signal.SIGINT else verb()
    assert process.stdout is not None
    lines = []
    while not lines or "endpoint_url=" not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], "it ended early"
    endpoint = lines[-1].split("endpoint_url=")[1].strip()
    assert "s3://bucket/" in lines[-1]
    found = s3server.find_server(endpoint)
    assert found is not None
    exports = file.read_text() if file.exists() else "".join(lines)
    assert "export AWS_ACCESS_KEY_ID=" in exports and "export AWS_SECRET_ACCESS_KEY=" in exports
    if number == signal.SIGINT:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600 and "AWS_SECRET" not in "".join(lines)
    process.send_signal(number)
    assert process.wait(10) == status
    assert not is_alive(found.pid) and not file.exists() and s3server.find_server(endpoint) is None


def test_verb_keeps_a_file_of_the_users(served: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from storagebench.commands.serve_s3 import command

    file = tmp_path / "mine.txt"
    file.write_text("precious")
    result = CliRunner().invoke(command, [str(served), "--env-file", str(file)])
    assert isinstance(result.exception, UsageError) and file.read_text() == "precious"
    assert [path.suffix for path in state_folder().iterdir()] == []


def test_bandwidth_limit(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from storagebench.storage import open_store

    (served / "bucket" / "x").write_bytes(bytes(6_000_000))
    with s3server.start(served, bwlimit="2MB") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        store = open_store("s3://bucket", {"endpoint_url": server.endpoint_url, "native_ranges": "false"})
        started = time.monotonic()
        store.read_all("x", 10**7)
        took = time.monotonic() - started
        store.close()
    assert took > 0.5  # 6 MB at 2 MB/s, less rclone's burst


def test_unused_port_stays_free(served: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with s3server.start(served, port) as server:
        assert server.endpoint_url == f"http://127.0.0.1:{port}"
