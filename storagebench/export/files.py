"""Exported files: YAML out of plain data, and writing that takes nothing from anybody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from storagebench import __version__
from storagebench.errors import StorageError, UsageError
from storagebench.records import write_whole

MARK = f"# Written by storagebench export {__version__}. It is made anew with --force; keep changes of your own under another name."
_MARK_START = b"# Written by storagebench export "


class _Dumper(yaml.SafeDumper):
    """Safe YAML without aliases: a part that stands twice is written twice. Text of several lines stays readable."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def as_yaml(documents: Iterable[Mapping[str, Any]]) -> str:
    """The documents as one YAML stream, below the line that says who wrote it."""
    return f"{MARK}\n" + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=150, explicit_start=True)


def write_files(folder: Path, files: Mapping[str, str], force: bool) -> list[Path]:
    """Write all of them, whole. Raises UsageError, before anything is written, where one exists: with `force` only one that is not ours stands in the way."""
    paths = [folder / name for name in files]
    for path in paths:
        if not path.exists() and not path.is_symlink():
            continue
        if not force:
            raise UsageError(f"{path} exists", "give --force to write it anew, or another --out or --name")
        if not _is_ours(path):
            raise UsageError(f"{path} exists, and was not written by `storagebench export`", "move it away, or give another --out or --name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot create {folder}: {error.strerror}", "give --out a folder that can be written") from None
    for path, text in zip(paths, files.values(), strict=True):
        write_whole(path, text.encode())
    return paths


def _is_ours(path: Path) -> bool:
    """The mark stands in the first line, or below the `#!` of a script."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            first, second = file.readline(1000), file.readline(1000)
    except OSError:
        return False
    return first.startswith(_MARK_START) or (first.startswith(b"#!") and second.startswith(_MARK_START))
