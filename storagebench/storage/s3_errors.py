"""What went wrong at an S3 server, said in our own words: four client libraries' exceptions -> StorageError or DatasetError with a hint.

Nothing here sends a request, but for the bucket probe that it is handed, because clients report a missing bucket and a missing key alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from storagebench.errors import DatasetError, StorageBenchError, StorageError
from storagebench.protocols import Extent
from storagebench.storage.s3_config import Credentials, S3Settings

VERIFY_HINT = "run `storagebench verify`, then generate or import again"
_LYING_HINT = "run `storagebench verify`; if it finds nothing wrong, the server or something on the way gives wrong answers"

_DENIED = {
    "AccessDenied": "ask for s3:GetObject, s3:PutObject and s3:ListBucket on this prefix (without ListBucket a missing key is refused, too)",
    "InvalidAccessKeyId": "this server does not know the key in AWS_ACCESS_KEY_ID (or of AWS_PROFILE): check endpoint_url and the key",
    "SignatureDoesNotMatch": "the secret does not belong to the key: check AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)",
    "ExpiredToken": "the session has expired: sign in again, or export new keys",
    "RequestTimeTooSkewed": "this host's clock is wrong: synchronise it",
}
_DENIED_HINT = "check endpoint_url, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)"
_REDIRECTS = ("PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301", "307")
_BUSY = ("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "500", "502", "503", "504", "SLOW_DOWN", "SERVICE_UNAVAILABLE")
_DENIED_KINDS = ("PermissionDeniedError", "UnauthenticatedError")
_UNREACHABLE_KINDS = ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError")
_UNREACHABLE = re.compile(
    r"(?i)connect(ion)? (refused|reset|error)|could not connect|couldn'?t connect|error sending request|dns error|name resolution|timed? ?out"
    r"|curlcode|NETWORK_CONNECTION|unreachable"
)
_TLS = re.compile(r"(?i)\b(certificate|certificates|ssl|tls|UnknownIssuer)\b")


class NotPartialError(Exception):
    """The server answered a range request with 200: it does not do ranges as the standard says."""


class FaultyAnswerError(StorageError):
    """An answer that does not fit the question, or came too slowly. Asking again may help; `kind` as `s3_retry` names them."""

    kind = "wrong_range"


class GaveUpError(Exception):
    """A request failed beyond a limit: the last attempt's own exception, what was tried (the end of a sentence), and the storage option that limits it."""

    def __init__(self, error: Exception, tried: str, option: str) -> None:
        super().__init__(tried)
        self.error, self.tried, self.option = error, tried, option


class ReadFailedError(Exception):
    """One of several reads failed: `key` and the client's own exception, for the store to explain."""

    def __init__(self, key: str, error: Exception) -> None:
        super().__init__(key)
        self.key = key
        self.error = error


def error_code(error: BaseException) -> str:
    """The S3 error code or HTTP status behind a client's exception; "" where none shows."""
    for link in (error, error.__cause__):
        response = getattr(link, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    text = str(error)
    for pattern in (r"<Code>(\w+)</Code>", r"AWS Error (?:UNKNOWN \(HTTP status )?(\w+)", r"status code: (\d{3})"):
        found = re.search(pattern, text)
        if found:
            return _ARROW_CODES.get(found.group(1), found.group(1))
    return ""


_ARROW_CODES = {"NO_SUCH_BUCKET": "NoSuchBucket", "NO_SUCH_KEY": "NoSuchKey", "ACCESS_DENIED": "AccessDenied", "RESOURCE_NOT_FOUND": "404"}


def explain(
    error: Exception, settings: S3Settings, credentials: Credentials, key: str, action: str, bucket_exists: Callable[[], bool]
) -> StorageBenchError:
    """The exception to raise (from None) for what a client raised while it did `action` (read, write, list, delete) on `key` ("": the bucket)."""
    if isinstance(error, GaveUpError):
        last = explain(error.error, settings, credentials, key, action, bucket_exists)
        return StorageError(f"{last.message}; {error.tried}", f"{last.hint}; the limit is --storage-option {error.option}=")
    if isinstance(error, StorageBenchError):
        return error
    code, text = error_code(error), str(error)
    name = settings.name(key) if key else settings.url
    if code == "NoSuchBucket":
        return missing_bucket(settings)
    if isinstance(error, FileNotFoundError) or code in ("NoSuchKey", "404"):
        if code != "NoSuchKey" and not bucket_exists():
            return missing_bucket(settings)
        return DatasetError(f"{name} is missing", VERIFY_HINT)
    if code in ("InvalidRange", "416"):
        return DatasetError(f"{name} is shorter than what was asked for: it is truncated", VERIFY_HINT)
    return _failure(error, code, settings, f"{action} {name}", _short(text, credentials))


def _failure(error: Exception, code: str, settings: S3Settings, doing: str, short: str) -> StorageError:
    """What is the server's, the network's or the credentials' fault."""
    kind, server = type(error).__name__, settings.server
    if code in _REDIRECTS:
        return StorageError(f"{server} says that bucket {settings.bucket} is in another region ({code})", "give --storage-option region=...")
    if code in _DENIED or code == "403" or isinstance(error, PermissionError) or kind in _DENIED_KINDS:
        return StorageError(f"{server} refused to {doing} ({code or 'access denied'})", _DENIED.get(code, _DENIED_HINT))
    if code in _BUSY:
        return StorageError(f"{server} failed to {doing} ({code})", "lower the load, or wait and try again")
    if kind == "SSLError" or _TLS.search(short):
        return StorageError(f"no trusted TLS connection to {server} ({short})", "set AWS_CA_BUNDLE to the server's CA file")
    if kind in _UNREACHABLE_KINDS or _UNREACHABLE.search(short):
        return StorageError(f"cannot {doing}: no answer from {server} ({short})", "check endpoint_url and that the server runs")
    return StorageError(f"cannot {doing} at {server}: {short or kind}", _LYING_HINT)


def missing_bucket(settings: S3Settings) -> StorageError:
    """The bucket is not there."""
    hint = "create it first (storagebench never makes or removes buckets)"
    return StorageError(f"bucket {settings.bucket} does not exist at {settings.server}", hint)


def wrong_answer(settings: S3Settings, key: str, asked: str, got: str, kind: str = "wrong_range") -> StorageError:
    """The server's answer does not fit its own headers or the question; `kind` as `s3_retry` names it, "" where asking again is no use."""
    message = f"{settings.name(key)}: asked {settings.server} for {asked}, got {got}"
    if not kind:
        return StorageError(message, _LYING_HINT)
    error = FaultyAnswerError(message, _LYING_HINT)
    error.kind = kind
    return error


def not_partial(settings: S3Settings, key: str) -> StorageError:
    """A range was answered with 200, by a server that is known to do ranges or is said to."""
    return wrong_answer(settings, key, "a range", "the answer 200 instead of 206 (use --storage-option ranges=arrow)")


def too_large(settings: S3Settings, key: str, size: int, limit_bytes: int) -> StorageError:
    """The object is over the size that its reader is ready for."""
    return StorageError(f"{settings.name(key)} has {size} bytes, over the limit of {limit_bytes}", "this is not an object of storagebench")


def wrong_size(settings: S3Settings, key: str, size: int, asked: int) -> StorageBenchError:
    """The whole object has another size than the one that was asked for."""
    if size < asked:
        return truncated(settings, key, size, asked)
    return wrong_answer(settings, key, f"an object of {asked} bytes", f"one of {size} bytes", kind="")


def truncated(settings: S3Settings, key: str, size: int, needed: int) -> DatasetError:
    """The server says that the object is smaller than what was asked for."""
    return DatasetError(f"{settings.name(key)} has {size} bytes, and {needed} were asked for: it is truncated", VERIFY_HINT)


def check_range(settings: S3Settings, extent: Extent, content_range: str, content_length: int) -> None:
    """Whether an answer's headers fit the range that was asked for. Raises DatasetError (the object ends before it) or StorageError."""
    length = extent.length or 0
    last = extent.offset + length - 1
    got = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", content_range)
    if got and got[3].isdigit() and int(got[3]) <= last:
        raise truncated(settings, extent.key, int(got[3]), last + 1)
    if not got or (int(got[1]), int(got[2]), content_length) != (extent.offset, last, length):
        found = f"{content_range or 'the whole object'} with {content_length} bytes"
        raise wrong_answer(settings, extent.key, f"bytes {extent.offset}-{last}", found)


def _short(text: str, credentials: Credentials) -> str:
    """The first sentence of a client's text, scrubbed: what follows is debug output."""
    text = credentials.scrub(text.split("Debug source", 1)[0].split("<?xml", 1)[0])
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:200]}..."
