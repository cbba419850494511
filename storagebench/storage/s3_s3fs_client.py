"""How s3fs is made: keys from our chain, one request at a time for an object, and no retries of its own, of botocore's or of aiohttp's (`s3_retry` asks again)."""

from __future__ import annotations

from functools import cache
from typing import Any

from storagebench.storage.s3_config import Credentials, S3Settings, boto_config, boto_session

_S3FS_ATTEMPTS = 1


def make_s3fs(settings: S3Settings, credentials: Credentials) -> Any:
    """An asynchronous s3fs.S3FileSystem, without a session yet."""
    from aiobotocore.session import AioSession  # type: ignore[import-untyped]
    from s3fs import S3FileSystem

    # Keys that expire are left to s3fs, which finds them in the same chain and refreshes them.
    keys = None if credentials.refreshable else credentials.current()
    fs = S3FileSystem(
        anon=credentials.anonymous,
        key=keys.access_key if keys else None,
        secret=keys.secret_key if keys else None,
        token=keys.token if keys else None,
        endpoint_url=settings.endpoint,
        client_kwargs={"region_name": settings.region},
        config_kwargs={**boto_config(settings), "http_session_cls": _one_attempt_session()},
        session=boto_session(AioSession),
        max_concurrency=1,
        use_listings_cache=False,
        skip_instance_cache=True,
        asynchronous=True,  # s3fs's own loop would stay behind for the life of the process
    )
    fs.retries = _S3FS_ATTEMPTS
    return fs


@cache
def _one_attempt_session() -> type:
    """aiobotocore's HTTP session without the second GET that aiohttp sends, unseen, where a kept connection ends before the answer."""
    from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]

    class OneAttemptSession(AIOHTTPSession):  # type: ignore[misc]
        async def _get_session(self, proxy_url: Any) -> Any:
            session = await super()._get_session(proxy_url)
            session._retry_connection = False
            return session

    return OneAttemptSession
