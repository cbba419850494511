"""Fixtures of the contract suites: one real S3 server for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from storagebench import s3server
from storagebench.errors import UsageError


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3server.Server]:
    """`rclone serve s3` over an empty folder with the bucket `bench`. Skips where there is no rclone."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "bench").mkdir()
    try:
        server = s3server.start(folder)
    except UsageError as error:
        pytest.skip(error.message)
    with server:
        yield server


@pytest.fixture
def s3_environment(s3_server: s3server.Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The AWS variables of this server for one test; storage options to reach it."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return {"endpoint_url": s3_server.endpoint_url}
