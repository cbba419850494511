"""Names to lazy entry points, and what fits with what. Importing this imports no adapter: `list` and error messages need the table only.

The built-in tables are in `adapters`; other distributions add to them with the entry-point groups `storagebench.loaders`, `.formats` and `.stores`,
whose objects are `LoaderInfo`, `FormatInfo` and store classes. Two providers of one name are an error, never a silent override.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from storagebench.adapters import API_VERSION, FORMATS, LOADERS, STORES, FormatInfo, LoaderInfo
from storagebench.errors import RankError, UsageError, did_you_mean
from storagebench.protocols import Format, Loader

_Info = TypeVar("_Info", LoaderInfo, FormatInfo, str)


@cache
def plugins(group: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Third-party rows of a group (`loaders`, `formats`, `stores`): (name -> row, name -> why it is unusable)."""
    good: dict[str, Any] = {}
    broken: dict[str, str] = {}
    for point in importlib.metadata.entry_points(group=f"storagebench.{group}"):
        try:
            row = point.load()
            version = getattr(row, "api", API_VERSION)
            if version != API_VERSION:
                raise UsageError(f"plug-in API {version}, and this storagebench has {API_VERSION}")
        except Exception as error:  # a broken plug-in is listed with its error and breaks nothing
            broken[point.name] = f"{type(error).__name__}: {error}"
            continue
        if point.name in good:
            broken[point.name] = "two distributions provide this name"
            del good[point.name]
        elif point.name not in broken:
            good[point.name] = row
    return good, broken


def _table(group: str, built_in: dict[str, _Info]) -> dict[str, _Info]:
    good, broken = plugins(group)
    for name in good:
        if name in built_in:
            raise UsageError(f"plug-in {name!r} in storagebench.{group} has the name of a built-in one", "uninstall one of the two")
    del broken
    return {**built_in, **good}


def _look_up(kind: str, name: str, table: dict[str, _Info], broken: dict[str, str]) -> _Info:
    if name in table:
        return table[name]
    if name in broken:
        raise RankError(f"{kind} {name!r} is a plug-in that does not load ({broken[name]})", "mend or uninstall it")
    raise UsageError(f"unknown {kind} {name!r}", did_you_mean(name, list(table)))


def loaders() -> dict[str, LoaderInfo]:
    return _table("loaders", LOADERS)


def formats() -> dict[str, FormatInfo]:
    return _table("formats", FORMATS)


def loader_info(name: str) -> LoaderInfo:
    """The loader's row. Raises UsageError with a suggestion for an unknown name."""
    return _look_up("loader", name, loaders(), plugins("loaders")[1])


def format_info(name: str) -> FormatInfo:
    """The format's row. Raises UsageError with a suggestion for an unknown name."""
    return _look_up("format", name, formats(), plugins("formats")[1])


def _load(entry: str, what: str, needs: tuple[str, ...], extra: str = "") -> Callable[..., Any]:
    refuse_missing(what, needs, extra)
    module, _, attribute = entry.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


_PIP_NAMES = {"PIL": "pillow"}
_CHECKOUT = Path(__file__).resolve().parents[1]
# Where the links lead: in a checkout to folders that lie beside the package, and could be taken for libraries of these names; installed, into the package.
_OURS = {(Path(__file__).parent / name).resolve() for name in ("loaders", "datasets", "configs")}


def missing_modules(needs: tuple[str, ...]) -> list[str]:
    """Which of these modules are not installed (nothing is imported but the package above a dotted name)."""
    return [name for name in needs if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    """Whether there is such a module; a folder of the checkout that has the name of a library is not it."""
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # the package above a dotted name is not there
        return False
    if found is None or found.origin is None or Path(found.origin).resolve().parent not in _OURS:
        return found is not None
    elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != _CHECKOUT]
    return importlib.machinery.PathFinder.find_spec(name, elsewhere) is not None


def refuse_missing(what: str, needs: tuple[str, ...], extra: str = "") -> None:
    """Raises RankError where one of these modules is not installed; `extra` is what of ours installs them."""
    missing = missing_modules(needs)
    if missing:
        command = f"'storagebench[{extra}]'" if extra else " ".join(_PIP_NAMES.get(m, m) for m in missing)
        raise RankError(f"{what} needs {', '.join(missing)}, which is not installed", f"pip install {command}")


def installed_version(distribution: str) -> str | None:
    """The version of the first of these distributions (names with spaces between them) that is installed, without importing it."""
    for name in distribution.split():
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def open_loader(name: str) -> Loader:
    """The loader of that name. Raises UsageError (unknown) or RankError (something it needs is not installed)."""
    info = loader_info(name)
    loader: Loader = _load(info.entry, f"loader {name}", info.needs, info.extra)()
    return loader


def open_format(name: str) -> Format:
    """The format of that name. Raises UsageError (unknown) or RankError (something it needs is not installed)."""
    info = format_info(name)
    found: Format = _load(info.entry, f"format {name}", info.needs, info.extra)()
    return found


def store_class(kind: str) -> Callable[..., Any]:
    """The class of a store kind (posix, s3, memory, fsspec, or a plug-in's)."""
    table = _table("stores", STORES)
    return _load(_look_up("storage", kind, table, plugins("stores")[1]), f"storage {kind}", ())


def _able(format_name: str, store_kind: str) -> list[str]:
    """Loaders that read this format from this storage; of the extras those that are installed, or all where there is no other."""
    fitting = {
        name: row for name, row in loaders().items() if format_name in row.formats and store_kind in row.stores_of(format_name) and name != "null"
    }
    here = [name for name, row in fitting.items() if not row.extra or not (row.not_yet_run or missing_modules(row.needs))]
    return here or [name for name, row in fitting.items() if not row.not_yet_run]


def misfit(loader: str, format_name: str, store_kind: str, odirect: bool = False) -> UsageError | None:
    """Why this loader cannot read this format from this store, with what fits instead; None if it can."""
    info = loader_info(loader)
    if format_name not in info.formats:
        able = _able(format_name, store_kind)
        instead = f"for {format_name} use --loader {' or '.join(able)}" if able else f"no loader reads {format_name} from {store_kind} storage"
        return UsageError(
            f"loader {loader} {info.why_formats or 'does not read it'}, and the dataset is {format_name}",
            f"{instead}; for {loader} generate --format {' or '.join(info.formats)}",
        )
    stores, owns = info.stores_of(format_name), format_name in info.own_formats
    if store_kind not in stores:
        able = _able(format_name, store_kind)
        why = ", which cannot slow down a library's own I/O" if store_kind == "shaped" and (info.own_io or owns) else ""
        why = f" ({info.why_stores})" if info.why_stores and not why else why
        which = f" with {format_name}" if owns else ""
        return UsageError(
            f"loader {loader} works on {' or '.join(stores)} storage{which}, and the dataset lies on {store_kind}{why}",
            f"use --loader {' or '.join(able)}" if able else "use another storage",
        )
    if odirect and (store_kind != "posix" or not info.odirect):
        able = [name for name, row in loaders().items() if row.odirect and format_name in row.formats]
        return UsageError(
            f"--cache direct needs O_DIRECT, which loader {loader} on {store_kind} storage cannot do",
            f"use --loader {' or '.join(able)} on a local path, or --cache cold",
        )
    return None
