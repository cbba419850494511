"""`serve-s3 DIR`: a real S3 endpoint on loopback for trying things out, in the foreground until it is interrupted."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import click

from storagebench.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, StorageError, UsageError

_MARK = "# storagebench serve-s3: credentials of one start"


@click.command("serve-s3")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="Port on 127.0.0.1; 0 takes a free one.")
@click.option("--bwlimit", metavar="RATE", help="Bytes per second for all requests together, such as 100MB.")
@click.option("--env-file", type=click.Path(path_type=Path), metavar="FILE", help="Write the credentials to this file (mode 0600), not to stdout.")
def command(directory: Path, port: int, bwlimit: str | None, env_file: Path | None) -> None:
    """Serve DIR over S3 on this host (rclone). Each folder in DIR is a bucket.

    The credentials are made for this start. Ends at Ctrl-C.
    """
    from storagebench.s3server import start

    with _until_signal() as stopped, start(directory, port, bwlimit) as server, _env_file(env_file, server.environment()):
        if env_file is not None:
            click.echo(f". {shlex.quote(str(env_file))}")
        else:
            click.echo(_exports(server.environment()), nl=False)
        click.echo(f"# serves {server.directory} until it is interrupted; use it with:")
        bucket = _a_bucket(directory)
        click.echo(f"storagebench probe s3://{bucket}/data --storage-option endpoint_url={server.endpoint_url}")
        while not stopped and server.wait(0.2) is None:
            continue
        if not stopped:
            raise StorageError(f"the S3 server ended by itself: {server.last_words() or 'it said nothing'}", "start it again")
    click.get_current_context().exit(EXIT_INTERRUPTED if stopped[0] == signal.SIGINT else EXIT_TERMINATED)


@contextmanager
def _until_signal() -> Iterator[list[int]]:
    """A list that gets the number of the first SIGINT or SIGTERM; nothing is interrupted, so that the server is always ended in order."""
    stopped: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def note(number: int, frame: FrameType | None) -> None:
        stopped.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _env_file(path: Path | None, environment: dict[str, str]) -> Iterator[None]:
    """The file with the export lines, there as long as the server is. Raises UsageError for a file that is not one of ours."""
    if path is None:
        yield
        return
    if path.exists() and not path.read_text(errors="replace").startswith(_MARK):
        raise UsageError(f"--env-file {path} exists and was not written by serve-s3", "name another file")
    text = f"{_MARK}\n{_exports(environment)}"
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
            file.write(text)
        temp.rename(path)
    except OSError as error:
        raise UsageError(f"--env-file {path} cannot be written: {error.strerror}", "name another file") from None
    try:
        yield
    finally:
        with suppress(FileNotFoundError):  # gone, or by now another start's
            if path.read_text() == text:
                path.unlink()


def _exports(environment: dict[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())


def _a_bucket(directory: Path) -> str:
    """The first folder in the served one, for the example."""
    return min((entry.name for entry in directory.iterdir() if entry.is_dir() and not entry.name.startswith(".")), default="BUCKET")
