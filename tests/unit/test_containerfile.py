"""deploy/Containerfile, which no engine has built yet: what can be checked without one."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy" / "Containerfile").read_text()
LINES = [
    line for line in re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines() if line.strip()
]  # as a builder joins them
IGNORED = (ROOT / ".dockerignore").read_text().split()


def instructions(name: str) -> list[str]:
    return [line.partition(" ")[2] for line in LINES if line.split()[0] == name]


def defaults() -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in instructions("ARG"))


def test_every_line_is_an_instruction() -> None:
    assert {line.split()[0] for line in LINES} == {"ARG", "FROM", "WORKDIR", "RUN", "COPY", "ENV", "USER", "ENTRYPOINT"}


def test_every_source_exists_and_reaches_the_builder() -> None:
    sources = [word for line in instructions("COPY") if not line.startswith("--from") for word in line.split()[:-1]]
    assert len(sources) >= 9
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source.rstrip('/')}" in IGNORED, f"{source} is kept from the builder by .dockerignore"


def test_the_links_of_the_package_lead_to_folders_that_are_copied() -> None:
    copied = {line.split()[0].rstrip("/") for line in instructions("COPY")}
    links = [path for path in (ROOT / "storagebench").iterdir() if path.is_symlink()]
    assert {path.resolve().name for path in links} <= copied and len(links) == 3


def test_every_package_is_among_those_that_are_installed() -> None:
    """The checkout has them all by its links; an image or a wheel has what pyproject.toml lists."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    here = {"storagebench", *(f"storagebench.{path.parent.name}" for path in (ROOT / "storagebench").glob("*/__init__.py"))}
    assert sorted(listed) == sorted(here)


def test_extras_exist_and_versions_are_pinned() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(defaults()["EXTRAS"].split(",")) <= set(extras)
    installs = [shlex.split(line) for line in instructions("RUN") if "pip install" in line]
    assert len(installs) == 2
    for words in installs:
        constraints = [words[index + 1] for index, word in enumerate(words) if word == "-c"]
        assert constraints and all((ROOT / name).exists() for name in constraints)


def test_two_constraints_files_do_not_contradict_each_other() -> None:
    pins = [
        dict(line.strip().lower().replace("_", "-").split("==") for line in (ROOT / name).read_text().splitlines() if "==" in line)
        for name in ("constraints.txt", "constraints-kubeflow.txt")
    ]
    assert not {name for name in pins[0].keys() & pins[1].keys() if pins[0][name] != pins[1][name]}


def test_it_runs_as_the_user_that_the_manifests_name() -> None:
    from storagebench.export.pod import RESULTS_PATH, USER_ID

    assert instructions("USER") == [f"{USER_ID}:{USER_ID}"]
    assert f"useradd --uid {USER_ID}" in TEXT and RESULTS_PATH in instructions("WORKDIR")
    assert instructions("ENTRYPOINT") == ['["storagebench"]']
