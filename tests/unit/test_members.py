"""Who took part: look-ups in a run of three members on two hosts, and which file of a host counts."""

from __future__ import annotations

from typing import Any

import pytest

from storagebench.members import (
    alone,
    end_of_run,
    files_of_members,
    first_files,
    host_of_rank,
    is_first_of_host,
    member_of_rank,
    number_of_host,
    pids_on,
)
from storagebench.traces import Steps, Trace

RUN: dict[str, Any] = {
    "hosts": [{"host": "a"}, {"host": "b"}],
    "members": [
        {"member": 0, "host": "a", "pid": 10, "first_rank": 0, "ranks": 2, "processes": 2},
        {"member": 1, "host": "b", "pid": 20, "first_rank": 2, "ranks": 1, "processes": 1},
        {"member": 2, "host": "a", "pid": 11, "first_rank": 3, "ranks": 3, "processes": 1},
    ],
}


def file(member: int | None, host: str, *records: dict[str, Any]) -> Trace:
    header = {} if member is None else {"kind": "header", "member": member, "host": host}
    return Trace(header, Steps.of(()), records, False)


def test_each_rank_has_its_member_and_host() -> None:
    assert [member_of_rank(RUN, rank)["member"] for rank in range(6)] == [0, 0, 1, 2, 2, 2]
    assert [host_of_rank(RUN, rank) for rank in range(6)] == ["a", "a", "b", "a", "a", "a"]
    for rank in (-1, 6):
        with pytest.raises(KeyError, match=f"no member has rank {rank}"):
            member_of_rank(RUN, rank)


def test_members_share_a_host() -> None:
    assert (pids_on(RUN, "a"), pids_on(RUN, "b"), number_of_host(RUN, "b")) == ((10, 11), (20,), 1)
    assert [is_first_of_host(RUN, member) for member in range(3)] == [True, True, False]


def test_a_run_by_hand_has_one_member_with_all_ranks() -> None:
    (member,) = alone("here", 7, ranks=4, processes=2)
    assert member == {"member": 0, "host": "here", "pid": 7, "first_rank": 0, "ranks": 4, "processes": 2}


def test_the_files_are_known_by_their_headers_and_not_by_their_order() -> None:
    ended = [{"kind": "end", "exit_code": code, "failure": None} for code in (5, 0, 9)]
    files = [file(2, "a", ended[0]), file(None, ""), file(0, "a", ended[1]), file(1, "b", ended[2])]
    assert end_of_run(files) == ended[1]
    assert list(files_of_members(files).items()) == [(0, files[2]), (1, files[3]), (2, files[0])]
    assert first_files(files) == {"a": files[2], "b": files[3]}
    assert end_of_run(files[:2]) is None and end_of_run([file(0, "a")]) is None


def test_where_member_0_died_the_others_say_how_it_ended() -> None:
    saw = {"kind": "end", "exit_code": 5, "failure": "lost rank 0 on host a"}
    assert end_of_run([file(2, "b", saw), file(1, "b", {**saw, "failure": None}), file(0, "a")]) == saw
