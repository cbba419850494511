"""How obstore's client is made: endpoint, limits of time, keys from our chain; its own retries are off (`s3_retry` asks again)."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from storagebench.storage.s3_config import CONNECT_TIMEOUT_S, MAX_CONCURRENCY, Credentials, S3Settings

_CREDENTIAL_TTL = timedelta(minutes=10)


def make_obstore(settings: S3Settings, credentials: Credentials, limit: timedelta) -> Any:
    """A client whose requests may take `limit` each, bodies included.

    One runtime of obstore's serves the whole process, with a thread a core by default. The callers, who take and check what arrives, need cores too: half
    as many threads gave a tenth more bytes/s at four fifths of the CPU time here (115 KB objects, 2 cores). A value in the environment wins."""
    os.environ.setdefault("TOKIO_WORKER_THREADS", str(max(1, len(os.sched_getaffinity(0)) // 2)))
    from obstore.store import S3Store

    config: dict[str, Any] = {"region": settings.region, "skip_signature": settings.anonymous}
    if settings.endpoint:
        # The service-specific name, because it wins over what obstore itself reads from AWS_ENDPOINT_URL_S3.
        config |= {"aws_endpoint_url_s3": settings.endpoint, "virtual_hosted_style_request": False}
    client: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "read_timeout": timedelta(seconds=settings.retry.timeout_s),
        "timeout": limit,  # of the whole request; the default of 30 s would cut large objects on slow links
        "allow_http": bool(settings.endpoint and settings.endpoint.startswith("http://")),
        "pool_max_idle_per_host": str(MAX_CONCURRENCY),  # fewer than are in use would close a connection after each request
    }
    bundle = os.environ.get("AWS_CA_BUNDLE")
    if bundle and not client["allow_http"]:
        with open(bundle, "rb") as file:
            client["root_certificate"] = file.read()
    retry: dict[str, Any] = {"max_retries": 0}
    provider = None if credentials.anonymous else _provider(credentials)
    made: Any = S3Store(settings.bucket, config=config, client_options=client, retry_config=retry, credential_provider=provider)  # type: ignore[arg-type]
    return made


def _provider(credentials: Credentials) -> Callable[[], Any]:
    """What obstore calls for keys: at the start, and again before they expire where they do."""

    def provide() -> dict[str, Any]:
        now = credentials.current()
        assert now is not None
        expires = datetime.now(UTC) + _CREDENTIAL_TTL if credentials.refreshable else None
        return {"access_key_id": now.access_key, "secret_access_key": now.secret_key, "token": now.token, "expires_at": expires}

    return provide
