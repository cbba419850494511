"""The tables of `probe`: every cell, the ceilings, and fio beside them. Plain data in, text or JSON out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from storagebench.probe.cells import Measured
from storagebench.probe.fio import FioCeiling
from storagebench.probe.plan import Group
from storagebench.probe.probe import Probed
from storagebench.probe.search import Ceiling
from storagebench.probecrew import ProbedTogether
from storagebench.units import format_bytes, format_seconds

_MODES = {"direct": "direct", "cold": "buffered, cold", "warm": "buffered, warm", "buffered": "buffered", "client": "client"}


def size_name(num_bytes: int) -> str:
    """1 MiB, 128 KiB, or plain bytes where it is no round number of these.

    >>> size_name(2**20), size_name(131072), size_name(114660)
    ('1 MiB', '128 KiB', '114660 B')
    """
    for unit, name in ((2**20, "MiB"), (2**10, "KiB")):
        if num_bytes and num_bytes % unit == 0:
            return f"{num_bytes // unit} {name}"
    return f"{num_bytes} B"


def _group_cells(group: Group) -> list[str]:
    return [group.direction, group.pattern, size_name(group.request_bytes), _MODES[group.mode]]


def _rate(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e6:.1f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[index]) for row in [head, *rows]) for index in range(len(head))]
    return "".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in [head, *rows])


def as_text(title: str, probed: Probed, fio: Mapping[Group, FioCeiling], proof: str | None) -> str:
    """The title, a line for each cell (the median of its runs), and a line for each ceiling."""
    cells = _table(
        ("direction", "pattern", "request", "mode", "threads", "depth", "runs", "MB/s", "requests/s", "p50", "p99", "CPU s/GB"),
        [_cell_row([row for row in probed.measured if row.cell == cell]) for cell in dict.fromkeys(row.cell for row in probed.measured)],
    )
    head = ["direction", "pattern", "request", "mode", "ceiling MB/s", "runs MB/s", "threads x depth"]
    if fio:
        head += ["fio MB/s", "ours/fio", "fio's setting"]
    ceilings = _table(head, [_ceiling_row(row, fio.get(row.group), bool(fio)) for row in probed.ceilings])
    proved = f"pages dropped before each pass, proved by {proof}\n" if proof else ""
    return f"{title}\n{proved}\ncells\n{cells}\nceilings (best median cell)\n{ceilings}"


def hosts_as_text(url: str, found: ProbedTogether) -> str:
    """The same of several hosts: cells and ceilings are the sums, and what each host got in the ceilings' cells stands below."""
    hosts = list(found.places)
    num_bytes = sum(size for _, size in found.places.values())
    what = "shards of a dataset, only read" if found.source == "dataset" else "scratch files, now removed"
    numbers = ", ".join(f"{count} on {host}" for host, (count, _) in found.places.items())
    title = f"{url}: {format_bytes(num_bytes)} in {what} ({numbers}), by {len(hosts)} hosts at the same time"
    rows = [[*_group_cells(row.group), host, _rate(found.of_host(host, row))] for row in found.probed.ceilings for host in hosts]
    by_host = _table(("direction", "pattern", "request", "mode", "host", "MB/s"), rows)
    return f"{as_text(title, found.probed, {}, found.proof)}\nceilings by host (medians in the same cells, at the same time)\n{by_host}"


def hosts_as_json(url: str, found: ProbedTogether) -> str:
    """The same as one JSON object: `cells` and `ceilings` are sums, `hosts` has every run of each host, in the order of `cells`."""
    num_bytes = sum(size for _, size in found.places.values())
    table = json.loads(as_json(url, found.source, num_bytes, found.probed, {}, found.proof))
    hosts = {
        host: {
            "data_bytes": found.places[host][1],
            "cells": [_flat(row.cell.group, row) for row in rows],
            "ceilings": [{**row.group._asdict(), "bytes_per_s": found.of_host(host, row)} for row in found.probed.ceilings],
        }
        for host, rows in found.by_host.items()
    }
    return json.dumps({**table, "hosts": hosts}, indent=1) + "\n"


def _cell_row(rows: Sequence[Measured]) -> list[str]:
    cell = rows[0].cell
    cpu = [row.cpu_s_per_gb for row in rows if row.cpu_s_per_gb is not None]
    return [
        *_group_cells(cell.group),
        str(cell.threads),
        str(cell.depth),
        str(len(rows)),
        _rate(median(row.bytes_per_s for row in rows)),
        f"{median(row.requests_per_s for row in rows):.0f}",
        format_seconds(median(row.latency_p50_s for row in rows)),
        format_seconds(median(row.latency_p99_s for row in rows)),
        f"{median(cpu):.3f}" if cpu else "-",
    ]


def _ceiling_row(ceiling: Ceiling, fio: FioCeiling | None, with_fio: bool) -> list[str]:
    row = [
        *_group_cells(ceiling.group),
        _rate(ceiling.bytes_per_s),
        f"{_rate(min(ceiling.rates))} to {_rate(max(ceiling.rates))}",
        f"{ceiling.cell.threads} x {ceiling.cell.depth}",
    ]
    if fio is not None:
        setting = fio.setting
        row += [_rate(fio.bytes_per_s), f"{ceiling.bytes_per_s / fio.bytes_per_s:.3f}", f"{setting.engine} {setting.jobs} x {setting.depth}"]
    elif with_fio:
        row += ["-", "-", "-"]
    return row


def as_json(url: str, source: str, num_bytes: int, probed: Probed, fio: Mapping[Group, FioCeiling], proof: str | None) -> str:
    """The same as one JSON object: every run, the ceilings, fio's."""
    return json.dumps(
        {
            "url": url,
            "source": source,
            "data_bytes": num_bytes,
            "cold_proof": proof,
            "cells": [_flat(row.cell.group, row) for row in probed.measured],
            "ceilings": [_flat(row.group, row) for row in probed.ceilings],
            "fio": [
                {
                    **row.group._asdict(),
                    **row.setting._asdict(),
                    "bytes_per_s": row.bytes_per_s,
                    "rates": list(row.rates),
                    "covered_bytes": row.covered_bytes,
                    "ratio": next(each.bytes_per_s for each in probed.ceilings if each.group == group) / row.bytes_per_s,
                }
                for group, row in fio.items()
            ],
        },
        indent=1,
    )


def _flat(group: Group, row: Measured | Ceiling) -> dict[str, Any]:
    """A run or a ceiling without nesting."""
    fields = {name: value for name, value in asdict(row).items() if name not in ("cell", "group")}
    return {**group._asdict(), "threads": row.cell.threads, "depth": row.cell.depth, **fields}
