"""A conversion as our YAML, as lines for people and as JSON. Values of keys that look like credentials are never repeated."""

from __future__ import annotations

import json
from typing import Any

from storagebench.dlio.convert import Conversion
from storagebench.dlio.draft import Fate
from storagebench.workload import SECTIONS

_SECRETS = ("key", "secret", "token", "password")
_MOST_CHARACTERS = 60


def yaml_text(conversion: Conversion) -> str:
    """The workload as YAML that `storagebench plan` reads: each field with the key that it is from, and at the top what was not carried over."""
    lines = [f"# Out of {_one_line(conversion.file)}, a workload file of DLIO, by `storagebench import-config`."]
    missing = conversion.of("not carried")
    lines += [f"# {len(missing)} not carried over:" if missing else "# Every key was carried over, or asks for what happens anyway."]
    lines += [f"#   {_sentence(fate)}" for fate in missing]
    top = [key for key in conversion.values if "." not in key]
    lines += [_field(conversion, key, key) for key in top]
    for section in SECTIONS:
        keys = [key for key in conversion.values if key.startswith(f"{section}.")]
        lines += [f"{section}:", *(f"  {_field(conversion, key, key.partition('.')[2])}" for key in keys)] if keys else []
    return "\n".join(lines) + "\n"


def report_text(conversion: Conversion) -> str:
    """What became of the file's keys: what was not carried over, line by line, then counts."""
    missing = conversion.of("not carried")
    carried, implied = ({fate.key for fate in conversion.of(status)} for status in ("carried", "implied"))
    lines = [f"{conversion.file}:{_sentence(fate, prefix='')}" for fate in missing]
    lines.append(
        f"{conversion.file}: {len(carried)} keys carried over, {len(implied)} ask for what happens anyway, {len({fate.key for fate in missing})} not carried (in full)"
    )
    return "\n".join(lines) + "\n"


def facts(conversion: Conversion) -> dict[str, Any]:
    """The same as plain data."""
    rows = [{**fate._asdict(), "value": _masked(fate)} for fate in conversion.fates]
    return {"file": conversion.file, "workload": conversion.workload.model_dump(), "origins": conversion.origins, "keys": rows}


def _field(conversion: Conversion, key: str, name: str) -> str:
    value = conversion.values[key]
    plain = not isinstance(value, str) or value.isprintable()  # else escaped: YAML breaks lines at more than \n
    return f"{name}: {json.dumps(value, ensure_ascii=not plain)} # {_one_line(conversion.origins[key])}"


def _sentence(fate: Fate, prefix: str = "line ") -> str:
    value = _one_line(json.dumps(_masked(fate), ensure_ascii=False, default=str))
    shown = value if len(value) <= _MOST_CHARACTERS else value[: _MOST_CHARACTERS - 3] + "..."
    return f"{prefix}{fate.line}: {_one_line(fate.key)}: {shown}: {fate.text}; instead: {fate.instead}"


def _masked(fate: Fate) -> Any:
    leaf = fate.key.rpartition(".")[2].lower()
    return "***" if ".storage_options." in f".{fate.key}" and any(word in leaf for word in _SECRETS) else fate.value


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
