"""Slurm's notation for many hosts, `node[01-04,7],login`, written out. Pure; `scontrol show hostnames` does the same where Slurm is installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, product

from storagebench.errors import UsageError

_ITEM = re.compile(r"(?:[^,\[\]]|\[[^\[\]]*\])+")
_PART = re.compile(r"[^\[\]]+|\[[^\[\]]*\]")
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")


def expand_hosts(nodelist: str) -> Iterator[str]:
    """The hosts of a list in its order, one at a time, so that the first one of a large range costs nothing. Raises UsageError on what is no host list.

    >>> list(expand_hosts("node[01-03,7],login"))
    ['node01', 'node02', 'node03', 'node7', 'login']
    >>> list(expand_hosts("rack[1-2]-gpu[0-1].site"))
    ['rack1-gpu0.site', 'rack1-gpu1.site', 'rack2-gpu0.site', 'rack2-gpu1.site']
    """
    items = _ITEM.findall(nodelist)
    if ",".join(items) != nodelist:
        raise _no_list(nodelist)
    return chain.from_iterable(map(_expand_item, items))


def _expand_item(item: str) -> Iterator[str]:
    """product() would write every range out, so all but the last bracket are; these count racks, not hosts."""
    parts = _PART.findall(item)
    brackets = [index for index, part in enumerate(parts) if part.startswith("[")]
    if not brackets:
        yield item
        return
    last = brackets[-1]
    for before in product(*(list(_expand_range(part)) if part.startswith("[") else [part] for part in parts[:last])):
        for number in _expand_range(parts[last]):
            yield "".join((*before, number, *parts[last + 1 :]))


def _expand_range(bracket: str) -> Iterator[str]:
    """The numbers of `[01-04,7]`, as wide as the first number of their range is written."""
    for part in bracket[1:-1].split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise _no_list(bracket)
        first, last = match[1], match[2] or match[1]
        if int(last) < int(first):
            raise _no_list(bracket)
        for number in range(int(first), int(last) + 1):
            yield f"{number:0{len(first)}d}"


def _no_list(text: str) -> UsageError:
    return UsageError(f"{text!r} is not a list of hosts as Slurm writes it, such as node[01-04,7]", "set MASTER_ADDR to the host of task 0")
