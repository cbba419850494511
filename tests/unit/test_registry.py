"""Names, fits and plug-ins: what does not fit says what would, and a broken plug-in breaks nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from storagebench import registry
from storagebench.commands.list_ import command
from storagebench.errors import RankError, UsageError


class Point:
    def __init__(self, name: str, value: Any) -> None:
        self.name, self._value = name, value

    def load(self) -> Any:
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Entry points of the group `storagebench.loaders` for one test."""

    def set_points(*points: Point) -> None:
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points if group == "storagebench.loaders" else ())
        registry.plugins.cache_clear()

    yield set_points
    registry.plugins.cache_clear()


def info(**fields: Any) -> registry.LoaderInfo:
    values: dict[str, Any] = {
        "entry": "storagebench.loaders.null:NullLoader", "needs": (), "formats": ("npz",), "stores": ("posix",), "unit": "sample", "about": "x",
        "workers": "none",
    }  # fmt: skip
    return registry.LoaderInfo(**{**values, **fields})


def test_a_plug_in_is_found_and_opened(plug: Any) -> None:
    plug(Point("mine", info()))
    assert registry.open_loader("mine").name == "null"


@pytest.mark.parametrize("value", [ImportError("no module named cuda"), info(api=99)])
def test_a_broken_plug_in_is_named_and_the_rest_works(value: Any, plug: Any) -> None:
    plug(Point("mine", value))
    with pytest.raises(RankError, match="'mine' is a plug-in that does not load"):
        registry.loader_info("mine")
    assert registry.open_loader("null").name == "null"
    assert "mine" in registry.plugins("loaders")[1]


def test_nobody_overrides_a_built_in_loader(plug: Any) -> None:
    plug(Point("files", info()))
    with pytest.raises(UsageError, match="has the name of a built-in one"):
        registry.loaders()


def test_two_providers_of_one_name_give_neither(plug: Any) -> None:
    plug(Point("mine", info()), Point("mine", info()))
    assert registry.plugins("loaders") == ({}, {"mine": "two distributions provide this name"})


@pytest.mark.parametrize(
    ("loader", "form", "store", "odirect"), [("direct", "npz", "posix", True), ("s3", "jpeg", "s3", False), ("parquet", "parquet", "s3", False)]
)
def test_what_fits(loader: str, form: str, store: str, odirect: bool) -> None:
    assert registry.misfit(loader, form, store, odirect) is None


@pytest.mark.parametrize(
    ("loader", "form", "store", "odirect", "why", "instead"),
    [
        ("files", "parquet", "posix", False, "loader files reads records at known places, and the dataset is parquet", "use --loader parquet"),
        ("s3", "npz", "posix", False, "loader s3 works on s3 or shaped storage, and the dataset lies on posix", "use --loader files or direct"),
        ("webdataset", "webdataset", "posix", True, "--cache direct needs O_DIRECT", "use --loader files or direct"),
        (
            "files",
            "tfrecord_zlib",
            "shaped",
            False,
            "and the dataset is tfrecord_zlib",
            "no loader reads tfrecord_zlib from shaped storage; for files",
        ),
        ("direct", "arrayrecord", "posix", False, "and the dataset is arrayrecord", "for arrayrecord use --loader grain"),
        ("grain", "arrayrecord", "s3", False, "works on posix storage with arrayrecord, and the dataset lies on s3 (its reader", "another storage"),
        ("files", "npz", "s3", True, "which loader files on s3 storage cannot do", "--cache cold"),
    ],
)
def test_what_does_not_fit_says_why_and_what_does(loader: str, form: str, store: str, odirect: bool, why: str, instead: str) -> None:
    problem = registry.misfit(loader, form, store, odirect)
    assert problem is not None
    assert why in problem.message
    assert instead in problem.hint


def test_a_loader_whose_library_is_missing_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.LOADERS, "null", info(needs=("no_such_module",)))
    with pytest.raises(RankError) as caught:
        registry.open_loader("null")
    assert "needs no_such_module" in caught.value.message
    assert "pip install no_such_module" in caught.value.hint


def test_a_format_whose_library_is_missing_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    row = registry.FormatInfo("storagebench.datasets.arrayrecord:ArrayRecordFormat", ("no_such_module",), False, "x", extra="arrayrecord")
    monkeypatch.setitem(registry.FORMATS, "arrayrecord", row)
    with pytest.raises(RankError, match="format arrayrecord needs no_such_module, which is not installed") as caught:
        registry.open_format("arrayrecord")
    assert caught.value.hint == "pip install 'storagebench[arrayrecord]'"
    found = CliRunner().invoke(command, ["formats", "--json"])
    shown = next(each for each in json.loads(found.output)["formats"] if each["name"] == "arrayrecord")
    assert shown["installed"] == caught.value.hint and shown["loaders"] == ["grain"]


ROOT = Path(__file__).parents[2]


def test_each_extra_installs_what_its_loader_needs_and_each_break_has_its_case() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    cases = "".join(path.read_text() for path in (ROOT / "tests" / "contract").glob("test_*.py"))
    named = {name: row for name, row in registry.LOADERS.items() if row.extra}
    assert {"tensorflow", "litdata", "mosaicml-streaming", "s3torchconnector", "spdl", "grain", "huggingface-datasets", "ray-data", "dali"} == set(
        named
    )
    for name, row in named.items():
        assert row.extra == name and extras[name], name
        assert (row.why_formats and row.why_stores) or len(row.stores) == 5, name
        assert all(f"def {case.partition('[')[0]}(" in cases for _, case in row.breaks)
    assert [name for name, row in named.items() if row.not_yet_run] == ["dali"]
    for form in (row for row in registry.FORMATS.values() if row.extra):
        assert [each.partition(">")[0] for each in extras[form.extra]] == list(form.needs)


def test_list_shows_what_installs_a_loader_and_what_it_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    row = info(needs=("no_such_module",), extra="grain", distribution="no-such-distribution numpy", breaks=(("loses samples", "test_orders"),))
    monkeypatch.setitem(registry.LOADERS, "null", row)
    found = CliRunner().invoke(command, ["loaders", "--json"])
    shown = next(each for each in json.loads(found.output)["loaders"] if each["name"] == "null")
    assert shown["installed"] == "pip install 'storagebench[grain]'"
    assert shown["version"] == registry.installed_version("numpy") and registry.installed_version("no-such-distribution") is None
    assert shown["breaks_contract"] == ["loses samples (test_orders)"]
    with pytest.raises(RankError) as caught:
        registry.open_loader("null")
    assert caught.value.hint == "pip install 'storagebench[grain]'"


def test_an_installed_package_sees_the_libraries_beside_it(tmp_path: Path) -> None:
    """Installed, our package lies in the same folder as all libraries; in a checkout, our own `datasets` lies beside it and is not the library."""
    package = Path(registry.__file__).parent
    shutil.copytree(package, tmp_path / "storagebench", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "torchlike").mkdir()
    (tmp_path / "torchlike" / "__init__.py").touch()
    code = "import json, storagebench.registry as r; print(json.dumps([r.__file__, r.missing_modules(('torchlike', 'nonesuch'))]))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [str(tmp_path / "storagebench" / "registry.py"), ["nonesuch"]]
