"""The splits of a small real task, and where each lies: the held-out one is a dataset of its own beside the training one. Pure."""

from __future__ import annotations

from storagebench.errors import UsageError

TRAINING, HELD_OUT = "training", "held-out"
_SUFFIX = "-held-out"
_SHAPED = "shaped+"
_HINT = "say where the held-out split lies with --held-out-dir URL"


def splits(task: str, data_dir: str, held_out_dir: str) -> dict[str, str]:
    """The URL of each split of a dataset: of a task both, of synthetic records (task "") the training one. Raises UsageError where a held-out place is
    named for records that have no such split, and what `held_out_url` does."""
    if task:
        return {TRAINING: data_dir, HELD_OUT: held_out_url(data_dir, held_out_dir)}
    if held_out_dir:
        raise UsageError(
            f"--held-out-dir is {_shown(held_out_dir)}, and synthetic records have no held-out split",
            "leave it out, or use a workload with a task (digits, photographs)",
        )
    return {TRAINING: data_dir}


def held_out_url(data_dir: str, held_out_dir: str) -> str:
    """Where the held-out split of the dataset at `data_dir` lies: at `held_out_dir` where that is given, else at the same name with `-held-out` behind it.

    Raises UsageError where both would be one place, and where the data dir is no name that something can stand behind: a bucket alone, `/`, `.`, a URL with
    a query.

    >>> held_out_url("/data/digits/", ""), held_out_url("s3://bucket/digits", "/local/rest"), held_out_url("shaped+memory://d", "")
    ('/data/digits-held-out', '/local/rest', 'shaped+memory://d-held-out')
    """
    if held_out_dir:
        if _bare(held_out_dir) == _bare(data_dir):
            raise UsageError(
                f"--held-out-dir {_shown(held_out_dir)} is the place of the training split too", "give a place of its own, or leave it out"
            )
        return held_out_dir
    why = _why_no_name(data_dir.removeprefix(_SHAPED))
    if why:
        raise UsageError(f"the data dir {_shown(data_dir)} {why}, so no held-out split can be named after it", _HINT)
    return data_dir.rstrip("/") + _SUFFIX


def _why_no_name(url: str) -> str:
    """Why nothing can be put behind the last part of this URL; empty where it can."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    elif "?" in rest or "#" in rest:
        return "has a query"
    elif "::" in scheme:
        return "is a chain of URLs"
    elif scheme not in ("file", "memory"):
        place, _, rest = rest.partition("/")
        if place and not rest.strip("/"):
            return "is a whole bucket"
    last = rest.rstrip("/").rpartition("/")[2]
    if last in ("", ".", ".."):
        return "ends without a name"
    return "is a home folder" if not scheme and rest.rstrip("/") == last and last.startswith("~") else ""


def _bare(url: str) -> str:
    return url.removeprefix(_SHAPED).removeprefix("file://").rstrip("/")


def _shown(url: str) -> str:
    """As a message may have it: without what could be credentials."""
    return repr(url) if "@" not in url else repr(f"...@{url.rpartition('@')[2]}")
