"""A workload in the making: the values that DLIO's file asks for, and what became of each. Numbers are read strictly, with file and line in the error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from storagebench.errors import UsageError

Status = Literal["carried", "implied", "not carried"]


class Fate(NamedTuple):
    """What became of one key: `field` (ours) and `how` where it was carried; why, and what there is `instead`, where it was not."""

    key: str
    value: Any
    line: int
    status: Status
    text: str
    field: str = ""
    instead: str = ""


class Leaf(NamedTuple):
    """A key of the file: `name` as the table has it, `written` as the file has it."""

    name: str
    written: str
    value: Any
    line: int


@dataclass
class Draft:
    """Fields of our workload as they are found (`values`: "dataset.format" -> value), where each is from, and the fates of DLIO's keys."""

    file: str
    leaves: dict[str, Leaf]
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    fates: list[Fate] = field(default_factory=list)

    def has(self, *names: str) -> bool:
        """Whether the file gives one of these keys a value."""
        return any(name in self.leaves and self.leaves[name].value is not None for name in names)

    def get(self, name: str, default: Any = None) -> Any:
        """The value as YAML has it; the default where the key is not there, or empty."""
        return self.leaves[name].value if self.has(name) else default

    def number(self, name: str, default: float) -> float:
        """The value as a number. Raises UsageError with file and line; `1e-3`, which YAML takes for text, is a number to DLIO."""
        value = self.get(name, default)
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                value = None
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
            raise self.bad(name, "a number")
        return value

    def whole(self, name: str, default: int) -> int:
        """The value as a whole number. Raises UsageError with file and line."""
        value = self.number(name, default)
        if value != int(value):
            raise self.bad(name, "a whole number")
        return int(value)

    def flag(self, name: str) -> bool:
        """The value as true or false, false where it is not there. Raises UsageError with file and line."""
        value = self.get(name, False)
        if not isinstance(value, bool):
            raise self.bad(name, "true or false")
        return value

    def choice(self, name: str, default: str, known: Sequence[str]) -> str:
        """The value as one of DLIO's words; `off`, which YAML takes for false, is a word. Raises UsageError with file and line."""
        value = self.get(name, default)
        text = "off" if value is False else value
        if text not in known:
            raise self.bad(name, f"one of {', '.join(known)}")
        return str(text)

    def bad(self, name: str, wanted: str) -> UsageError:
        """The error for a value that DLIO would not take either."""
        leaf = self.leaves[name]
        return UsageError(f"{self.file}:{leaf.line}: {leaf.written} is {str(leaf.value)[:80]!r}, and must be {wanted}", "mend the file")

    def carry(self, ours: str, value: Any, names: Sequence[str], how: str) -> None:
        """Set a field of ours out of these keys (of which not all need be there)."""
        self.values[ours] = value
        there = [self.leaves[name] for name in names if self.has(name)]
        self.origins[ours] = " and ".join(f"{leaf.written} (line {leaf.line})" for leaf in there) or f"DLIO's default of {names[0]}"
        self.fates += [Fate(leaf.written, leaf.value, leaf.line, "carried", how, ours) for leaf in there]

    def name(self, names: str | Sequence[str], why: str, instead: str) -> None:
        """Say of these keys, as far as they are there, why they are not carried, or not in full."""
        for name in [names] if isinstance(names, str) else names:
            if self.has(name):
                leaf = self.leaves[name]
                self.fates.append(Fate(leaf.written, leaf.value, leaf.line, "not carried", why, instead=instead))

    def imply(self, name: str, same: str) -> None:
        """Say of a key that it asks for what storagebench does anyway."""
        if self.has(name):
            leaf = self.leaves[name]
            self.fates.append(Fate(leaf.written, leaf.value, leaf.line, "implied", same))

    def bounded(self, ours: str, value: int, least: int, most: int, names: Sequence[str], how: str) -> None:
        """Carry a number within our bounds; one outside is carried as the bound, and said to be."""
        kept = min(max(value, least), most)
        self.carry(ours, kept, names, how if kept == value else f"{how}; {ours} is {least} to {most}, so it is {kept}")
        if kept != value:
            self.name(names, f"{value} is outside of {ours}, which is {least} to {most}", f"{ours} is {kept}")
