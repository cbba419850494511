"""A workload file of DLIO or mlpstorage into one of ours, with the fate of every key. Reads one YAML file and touches nothing else.

The rule is that nothing is dropped in silence: each key with a value is carried, or asks for what happens anyway, or is named with the reason and
what there is instead; a key that no release of DLIO and no file of theirs has is an error, all such keys at once. `Conversion` proves it to itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storagebench.configfile import read_yaml
from storagebench.dlio import fields
from storagebench.dlio.draft import Draft, Fate, Leaf
from storagebench.dlio.keys import plain_name, row_of, unknown_key
from storagebench.errors import UsageError
from storagebench.workload import Workload


@dataclass(frozen=True)
class Conversion:
    """The workload, its fields as they were set (key path -> value, and where each is from), and the fate of each key in the file's order."""

    file: str
    workload: Workload
    values: dict[str, Any]
    origins: dict[str, str]
    fates: tuple[Fate, ...]

    def of(self, status: str) -> list[Fate]:
        """The keys with this fate: carried, implied or not carried. A key may be carried in part, and so have two."""
        return [fate for fate in self.fates if fate.status == status]


def convert(path: Path) -> Conversion:
    """Read and convert one file. Raises UsageError for unknown keys (all at once), for values that DLIO does not take, and where nothing is read."""
    leaves = _leaves(*_read(path))
    draft = Draft(path.name, leaves)
    if not draft.get("workflow.train", True) and not any(name.startswith("dataset.") for name in leaves):
        raise UsageError(
            f"{path.name} has no dataset and trains nothing: it only writes checkpoints, which are not measured yet", "import a training workload"
        )
    for leaf in leaves.values():
        _settle(draft, leaf)
    fields.name_of(draft, path.stem)
    fields.container(draft)
    fields.lengths(draft)
    fields.row_groups(draft)
    fields.loader(draft)
    fields.train(draft, path.stem)
    fields.run(draft)
    draft.values["source"] = f"{path.name}, a workload file of DLIO"
    draft.origins["source"] = "storagebench import-config"
    _prove_complete(draft)
    workload = Workload.model_validate(_nested(draft.values))
    return Conversion(path.name, workload, draft.values, draft.origins, tuple(sorted(draft.fates, key=lambda fate: fate.line)))


def _read(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int], str]:
    if not path.is_file():
        raise UsageError(f"workload file {str(path)!r} does not exist", "give the path of a YAML file of DLIO or mlpstorage")
    return *read_yaml(path, unknown_key), path.name


def _leaves(tree: dict[str, Any], lines: dict[tuple[str, ...], int], file: str) -> dict[str, Leaf]:
    """The keys with their values, by their names in the table. A list is one value."""
    leaves: dict[str, Leaf] = {}
    for parts, line in lines.items():
        if "-" in parts:
            continue
        value: Any = tree
        for part in parts:
            value = value[part]
        leaf = Leaf(plain_name(parts), ".".join(parts), value, line)
        if leaf.name in leaves:
            raise UsageError(f"{file}:{line}: {leaf.written} and {leaves[leaf.name].written} are one key", "keep one of them")
        if row_of(leaf.name) is None:
            raise UsageError(f"{file}:{line}: {leaf.written} is a section of DLIO, and has the value {str(value)[:80]!r}", "mend the file")
        leaves[leaf.name] = leaf
    return leaves


def _settle(draft: Draft, leaf: Leaf) -> None:
    """The fate of a key that no field is made of."""
    row = row_of(leaf.name)
    assert row is not None  # _leaves refused it otherwise
    if leaf.value is None:
        draft.fates.append(Fate(leaf.written, None, leaf.line, "implied", "empty: DLIO's default counts"))
    elif row.same and any(leaf.value == value and isinstance(leaf.value, bool) == isinstance(value, bool) for value in row.same_for):
        draft.imply(leaf.name, row.same)
    elif not row.carried:
        draft.name(leaf.name, row.why, row.instead)


def _prove_complete(draft: Draft) -> None:
    """No key without a fate: the promise of this module, kept at run time too."""
    settled = {fate.key for fate in draft.fates}
    lost = [leaf for leaf in draft.leaves.values() if leaf.written not in settled]
    if lost:
        text = ", ".join(f"{leaf.written} (line {leaf.line})" for leaf in lost)
        raise UsageError(
            f"{draft.file}: no rule says what becomes of {text}", "report it: this is a defect of storagebench; leave the key out meanwhile"
        )


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in values.items():
        section, _, name = path.partition(".")
        if name:
            tree.setdefault(section, {})[name] = value
        else:
            tree[section] = value
    return tree
