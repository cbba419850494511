"""Where a run's numbers come from, section by section, as plain data: command, versions, host, dataset, store, and every config field.

A spec holds no secret by design. What looks like one is masked here all the same, since a page is handed around.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from storagebench.members import hosts_of
from storagebench.report import wording as w
from storagebench.report.detail import Section

_SECTIONS: Final = ("dataset", "loader", "train", "run")
_MAX_HOSTS: Final = 8
_SECRET_NAME: Final = r"secret|token|password|passwd|credential|(?:access|secret|api|account|sas)[_-]?key|signature"
_URL_USER: Final = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_ASSIGNED: Final = re.compile(rf"(?i)([\w.-]*(?:{_SECRET_NAME})[\w.-]*=)[^&\s]+")


def provenance(run: Mapping[str, Any]) -> list[Section]:
    """All that `run.json` says of a run, without secrets."""
    return [
        Section("Run", (), (("command", without_secrets(shlex.join(run["command"]))), ("started", _wall_time(run["created"]["wall_ns"])))),
        Section("Config", ("field", "value", "from"), tuple(_config(run["config"], run["provenance"])), is_wide=True),
        Section("Dataset", (), tuple(_flat(run["dataset"]))),
        Section("Store", (), (*_flat(run["store"]), ("ranges", w.printable(run["ranges"])))),
        Section("Listing", (), tuple(_flat(run["listing"] or {"listed": "taken from the manifest, not timed"}))),
        Section("Plan", (), tuple(_flat(run["plan"]))),
        *_hosts(run),
    ]


def _hosts(run: Mapping[str, Any]) -> Iterator[Section]:
    """The facts and versions of each host, under its name where there are several."""
    hosts = hosts_of(run)
    for host in hosts[:_MAX_HOSTS]:
        name = f" {w.printable(host['host'])}" if len(hosts) > 1 else ""
        yield Section(f"Host{name}", (), tuple(_flat({key: value for key, value in host.items() if key != "versions"})))
        yield Section(f"Versions{f' on{name}' if name else ''}", (), tuple(_flat(host["versions"])))
    if len(hosts) > _MAX_HOSTS:
        yield Section("More hosts", (), (("hosts", ", ".join(w.printable(host["host"]) for host in hosts[_MAX_HOSTS:])),))


def without_secrets(text: str) -> str:
    """The text with user parts of URLs and values of names like `secret_key=` masked."""
    return _ASSIGNED.sub(r"\1***", _URL_USER.sub("***", text))


def _wall_time(wall_ns: int) -> str:
    return datetime.fromtimestamp(wall_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _config(config: Mapping[str, Any], origins: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """(field, value, where it was said) of every field; what nobody said is the default."""
    for name, value in config.items():
        fields = {f"{name}.{field}": inner for field, inner in value.items()} if name in _SECTIONS else {name: value}
        for key, inner in fields.items():
            below = next((where for path, where in origins.items() if path.startswith(key + ".")), "default")
            yield key, _value(key, inner), w.printable(origins.get(key, below))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, _value(name, value)


def _value(name: str, value: Any) -> str:
    if value is None or value in ("", {}, []):
        return w.UNKNOWN
    if re.search(rf"(?i){_SECRET_NAME}", name):
        return "***"
    return without_secrets(w.printable(value if isinstance(value, str) else json.dumps(value)))
