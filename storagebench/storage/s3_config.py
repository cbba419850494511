"""What an S3 store is told, once and checked: options, endpoint, region, and credentials from the standard AWS chain.

Credentials live in this process's memory only. They never enter a spec, a repr, a message or a log; `Credentials.scrub` takes them out of texts
that other libraries wrote.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from storagebench.errors import StorageError, UsageError, did_you_mean
from storagebench.protocols import StoreSpec
from storagebench.storage.s3_policy import RetryPolicy, parse_policy

OPTIONS: Final = (
    "endpoint_url", "endpoint_index", "region", "client", "ranges", "native_ranges", "anonymous", "concurrency", "retries", "retry_budget", "timeout",
)  # fmt: skip
CLIENTS: Final = ("obstore", "s3fs")
RANGES: Final = ("auto", "native", "arrow")
DEFAULT_CONCURRENCY: Final = 16
MAX_CONCURRENCY: Final = 1024

CONNECT_TIMEOUT_S: Final = 3

_CREDENTIALS_HINT: Final = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket --storage-option anonymous=true"


@dataclass(frozen=True)
class S3Settings:
    """A checked spec. `base` is "" or ends in a slash; `endpoint` None means AWS itself; `native_ranges` None means not known yet. `endpoints`: all that were
    given, of which this is one."""

    url: str
    bucket: str
    base: str
    endpoint: str | None
    region: str
    client: str = "obstore"
    ranges: str = "auto"
    native_ranges: bool | None = None
    anonymous: bool = False
    concurrency: int = DEFAULT_CONCURRENCY
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    endpoints: tuple[str, ...] = ()

    @property
    def server(self) -> str:
        """How messages call the server."""
        return self.endpoint or f"AWS S3 in {self.region}"

    def name(self, key: str) -> str:
        """How messages call an object."""
        return f"{key} in {self.url}"


class FrozenCredentials(NamedTuple):
    """The keys as they are at this moment. Never printed."""

    access_key: str
    secret_key: str
    token: str | None

    def __repr__(self) -> str:
        return "FrozenCredentials(hidden)"


class Credentials:
    """Keys of the AWS chain, refreshed by botocore where they expire. `anonymous` has none."""

    def __init__(self, source: Any | None) -> None:
        self._source = source
        self._seen: set[str] = set()  # every secret that was handed out, for scrub: asking the source again could start a refresh

    def __repr__(self) -> str:
        return "Credentials(hidden)" if self._source is not None else "Credentials(anonymous)"

    @property
    def anonymous(self) -> bool:
        return self._source is None

    @property
    def refreshable(self) -> bool:
        """Whether they expire and botocore fetches new ones."""
        return hasattr(self._source, "refresh_needed")

    def current(self) -> FrozenCredentials | None:
        """The keys now (None: anonymous). Raises StorageError where a refresh fails."""
        if self._source is None:
            return None
        try:
            frozen = self._source.get_frozen_credentials()
        except Exception as error:
            raise StorageError(f"cannot refresh the AWS credentials: {type(error).__name__}", "sign in again (aws sso login, or new keys)") from None
        self._seen.update(secret for secret in (frozen.access_key, frozen.secret_key, frozen.token) if secret and len(secret) > 3)
        return FrozenCredentials(frozen.access_key, frozen.secret_key, frozen.token)

    def scrub(self, text: str) -> str:
        """The text without keys, signatures and the parts of error bodies that echo them."""
        for secret in self._seen:
            text = text.replace(secret, "***")
        text = re.sub(r"(?i)(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"]+", r"\1***", text)
        return re.sub(r"(?is)<(AWSAccessKeyId|StringToSign|SignatureProvided|CanonicalRequest)>.*?</\1>", r"<\1>***</\1>", text)


def endpoint_of_environment() -> str | None:
    """The endpoint that the standard AWS variables name, if any."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def resolve(spec: StoreSpec) -> tuple[S3Settings, Credentials]:
    """Check the spec and find the credentials. Raises UsageError (options), StorageError (no or broken credentials)."""
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    _check_options(spec.options)
    bucket, base = _place(spec.root)
    anonymous = _flag("anonymous", spec.options.get("anonymous", "false"))
    session = boto_session(Session)
    try:
        profile = session.get_scoped_config()
        region = spec.options.get("region") or session.get_config_variable("region") or "us-east-1"
        source = None if anonymous else session.get_credentials()
    except BotoCoreError as error:
        raise StorageError(f"the AWS configuration cannot be used: {type(error).__name__}", _CREDENTIALS_HINT) from None
    if source is None and not anonymous:
        raise StorageError(f"no AWS credentials were found for {spec.root}", _CREDENTIALS_HINT)
    endpoints = endpoints_of(spec.options.get("endpoint_url") or endpoint_of_environment() or profile.get("endpoint_url"))
    index = int(_count("endpoint_index", spec.options.get("endpoint_index", "0"), 10**9, least=0))
    native = spec.options.get("native_ranges")
    settings = S3Settings(
        url=spec.url,
        bucket=bucket,
        base=base,
        endpoint=endpoints[index % len(endpoints)] if endpoints else None,
        region=str(region),
        client=_choice("client", spec.options.get("client", "obstore"), CLIENTS),
        ranges=_choice("ranges", spec.options.get("ranges", "auto"), RANGES),
        native_ranges=None if native is None else _flag("native_ranges", native),
        anonymous=anonymous,
        concurrency=_count("concurrency", spec.options.get("concurrency", str(DEFAULT_CONCURRENCY)), MAX_CONCURRENCY),
        retry=parse_policy(*(spec.options.get(name) for name in ("retries", "retry_budget", "timeout"))),
        endpoints=endpoints,
    )
    return settings, Credentials(source)


@cache
def _service_models() -> Any:
    from botocore.loaders import create_loader

    return create_loader()


def boto_session(kind: Callable[[], Any]) -> Any:
    """A session of this class (botocore's or aiobotocore's). The parsed service models are shared: a client then takes 20 ms, not 110."""
    session = kind()
    session.register_component("data_loader", _service_models())
    return session


def boto_config(settings: S3Settings) -> dict[str, Any]:
    """Arguments of botocore's Config, the same for s3fs and for our own control requests."""
    return {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": settings.retry.timeout_s,
        "retries": {"mode": "standard", "total_max_attempts": 1},  # `s3_retry` asks again
        "max_pool_connections": settings.concurrency,
        "s3": {"addressing_style": "path" if settings.endpoint else "auto"},
        # Trailing checksums are an AWS extra that compatible servers reject; lengths are checked here, and contents against the manifest.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }


def _check_options(options: Any) -> None:
    for name in options:
        if name not in OPTIONS:
            hint = did_you_mean(name, list(OPTIONS))
            if re.search(r"(?i)secret|token|password|key", name):
                hint = "credentials come from the standard AWS chain only: AWS_ACCESS_KEY_ID or AWS_PROFILE"
            raise UsageError(f"unknown storage option {name!r} for s3", hint)


def _place(root: str) -> tuple[str, str]:
    parts = urlsplit(root)
    if parts.scheme != "s3" or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", parts.netloc) or parts.query or parts.fragment:
        raise UsageError(f"{parts.scheme}://{parts.hostname or ''} names no S3 bucket", "write it as s3://bucket/prefix")
    prefix = parts.path.strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise UsageError(f"the prefix {prefix!r} of {root} has an empty or a dot part", "write it as s3://bucket/prefix")
    return parts.netloc, f"{prefix}/" if prefix else ""


def endpoints_of(text: str | None) -> tuple[str, ...]:
    """The addresses in `endpoint_url`, which are separated by commas; none for None. Raises UsageError."""
    found = tuple(_endpoint(part.strip()) for part in text.split(",")) if text else ()
    if len(set(found)) != len(found):
        raise UsageError(f"endpoint_url names an address twice: {', '.join(found)}", "name each once")
    return found


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    if parts.username or parts.password:
        raise UsageError(f"the endpoint URL of {parts.hostname} carries credentials", "put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(
            f"endpoint_url has {text!r}, which is no http or https address",
            "write it like http://127.0.0.1:9000, or several with a comma between them",
        )
    return text.rstrip("/")


def _choice(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise UsageError(f"storage option {name} is {value!r}", did_you_mean(value, list(known)))
    return value


def _flag(name: str, value: str) -> bool:
    return _choice(name, value, ("true", "false")) == "true"


def _count(name: str, value: str, most: int, least: int = 1) -> int:
    if not (value.isascii() and value.isdigit() and least <= int(value) <= most):
        raise UsageError(f"storage option {name} is {value!r}, and it is a whole number from {least} to {most}", f"write it like {name}=16")
    return int(value)
