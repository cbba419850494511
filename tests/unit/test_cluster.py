"""Members over real sockets in one process: values, traces, and every way in which one of them can end or be lost."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from crews import MOST_S, everywhere

from storagebench.cluster import base, hub, spoke
from storagebench.cluster.crew import Alone, Cause, CrewEndedError, agreed, from_first
from storagebench.cluster.hub import GatheredTraces
from storagebench.cluster.join import host_labels
from storagebench.errors import EXIT_DATASET, EXIT_RANK, EXIT_STORAGE, DatasetError
from storagebench.world import Rendezvous

_MEETING = Rendezvous("127.0.0.1", 1, "test")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence of a second is death, so that the tests need not wait for ten."""
    monkeypatch.setattr(base, "BEAT_PERIOD_S", 0.1)
    for module in (base, hub, spoke):
        monkeypatch.setattr(module, "SILENCE_S", 1.0)
    for module in (hub, spoke):
        monkeypatch.setattr(module, "SETTLE_S", 1.5)


def cut(member: Any) -> None:
    """What a SIGKILL of its process does to a member's connection."""
    member._wire.close()


def test_values_go_round_in_order(three: list[Any]) -> None:
    turns = everywhere(three, lambda member: [member.exchange([turn, member.member]) for turn in range(20)])
    assert turns == [[[[turn, member] for member in range(3)] for turn in range(20)]] * 3


def test_a_large_value_goes_round(three: list[Any]) -> None:
    """A manifest's index part, say."""
    text = "x" * 5_000_000
    assert (
        everywhere(three, lambda member: [len(each) for each in member.exchange(text * (member.member + 1))])
        == [[5_000_000, 10_000_000, 15_000_000]] * 3
    )


def test_the_ranks_of_each_run_meet_under_a_name_of_their_own(three: list[Any]) -> None:
    names = everywhere(three, lambda member: [member.rendezvous().prefix for _ in range(2)])
    assert names[0] == names[1] == names[2] and len(set(names[0])) == 2


def test_the_first_error_of_any_member_is_everybodys(three: list[Any]) -> None:
    def work(member: Any) -> Any:
        def check() -> str:
            if member.member:
                raise DatasetError(f"shard {member.member} is missing", "look for it")
            return "fine"

        return agreed(member, check)

    for error in everywhere(three, work):
        assert isinstance(error, DatasetError) and error.exit_code == EXIT_DATASET
        assert (error.message, error.hint) == ("host a: shard 1 is missing", "look for it")


def test_what_member_0_finds_is_everybodys(three: list[Any]) -> None:
    asked: list[int] = []
    found = everywhere(three, lambda member: from_first(member, lambda: asked.append(member.member) or {"steps": 7}))
    assert found == [{"steps": 7}] * 3 and asked == [0]


def test_traces_are_gathered_while_they_grow_and_to_the_last_byte(three: list[Any], tmp_path: Path) -> None:
    folders = [tmp_path / str(member) for member in range(3)]
    for folder in folders:
        (folder / "trace").mkdir(parents=True)
    own = [None, lambda name: name == "rank-00001.jsonl", lambda name: name == "rank-00002.jsonl"]
    everywhere(three, lambda member: member.gather_traces(folders[member.member], own[member.member]))
    written = folders[2] / "trace/rank-00002.jsonl"
    (folders[2] / "trace/rank-00009.jsonl").write_text("not ours")
    gathered = folders[0] / "trace/rank-00002.jsonl"
    with open(written, "ab", buffering=0) as file:
        file.write(b"a" * 3_000_000)
        end_s = time.monotonic() + MOST_S
        while not (gathered.exists() and gathered.stat().st_size == 3_000_000):
            assert time.monotonic() < end_s
            time.sleep(0.02)
        file.write(b"the last line")
        assert everywhere(three, lambda member: member.settle(member.member)) == [[0, 1, 2]] * 3
    assert gathered.read_bytes() == written.read_bytes()
    assert not (folders[0] / "trace/rank-00009.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "offset"),
    [("../rank-00001.jsonl", 0), ("rank-00001.jsonl.part", 0), ("/etc/rank-00001.jsonl", 0), ("rank-00001.jsonl", 5), ("run.json", 0)],
)
def test_nothing_is_written_but_the_continuation_of_a_trace(tmp_path: Path, name: str, offset: int) -> None:
    (tmp_path / "trace").mkdir()
    traces = GatheredTraces(tmp_path)
    with pytest.raises(ValueError):
        traces.append(1, name, offset, b"x")
    traces.append(2, "rank-00002.jsonl", 0, b"abc")
    with pytest.raises(ValueError, match="member 1"):
        traces.append(1, "rank-00002.jsonl", 3, b"x")
    traces.close()
    assert (tmp_path / "trace/rank-00002.jsonl").read_bytes() == b"abc"


def test_a_trace_of_ours_is_never_taken_for_a_members(tmp_path: Path) -> None:
    (tmp_path / "trace").mkdir()
    (tmp_path / "trace/rank-00000.jsonl").write_text("rank 0 writes it")
    with pytest.raises(FileExistsError):
        GatheredTraces(tmp_path).append(1, "rank-00000.jsonl", 0, b"x")


def test_a_lost_member_ends_the_others_and_is_named(three: list[Any]) -> None:
    ended: list[int] = []
    for member in (0, 1):
        three[member].on_end(lambda member=member: ended.append(member))
    answers: list[Any] = [None, None]
    waiting = [
        threading.Thread(target=lambda m=m: answers.__setitem__(m, everywhere([three[m]], lambda each: each.exchange("?"))[0])) for m in (0, 1)
    ]
    for thread in waiting:
        thread.start()
    cut(three[2])
    for thread in waiting:
        thread.join(MOST_S)
    for answer in answers:
        assert isinstance(answer, CrewEndedError) and answer.exit_code == EXIT_RANK
        assert answer.message.startswith("lost member 2 on host b: its connection ")
    cause = three[1].cause
    assert (cause.member, cause.host, cause.lost) == (2, "b", True)
    settled = everywhere(three[:2], lambda member: member.settle(member.member))
    assert settled == [[0, 1, None]] * 2
    assert set(ended) == {0, 1}


def test_silence_is_death_and_a_long_collective_is_not(three: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    begin_s = time.monotonic()
    late = threading.Timer(2.5, lambda: three[2].exchange("late"))
    late.start()
    assert everywhere(three[:2], lambda member: member.exchange(member.member))[0] == [0, 1, "late"]
    assert time.monotonic() - begin_s > 2.0  # more than twice the silence that is death
    monkeypatch.setattr(three[2], "beat", lambda _: None)  # the link is down: nothing comes, and no end of the connection either
    answers = everywhere(three[:2], lambda member: member.exchange("?"))
    assert all("nothing was heard from it for 1 s" in error.message for error in answers)


def test_without_member_0_a_member_ends_by_itself(three: list[Any]) -> None:
    ended = threading.Event()
    three[2].on_end(ended.set)
    three[0].closed = True  # it tells nobody anything more
    three[0]._gone.update({1, 2})
    for wire in three[0]._wires.values():
        wire.close()
    assert ended.wait(MOST_S)
    assert three[2].cause.why.startswith("lost member 0 on host a: its connection ")
    assert three[2].settle("mine") == [None, None, "mine"]
    with pytest.raises(CrewEndedError):
        three[2].exchange("?")


def test_a_failure_is_told_once_and_the_first_one_counts(three: list[Any]) -> None:
    ended: list[int] = []
    for member in range(3):
        three[member].on_end(lambda member=member: ended.append(member))
    first = Cause(0, "?", "rank 3 died", "look", EXIT_STORAGE, failed_rank=3)
    three[2].fail(first)
    end_s = time.monotonic() + MOST_S
    while three[1].cause is None:
        assert time.monotonic() < end_s
        time.sleep(0.01)
    three[1].fail(Cause(1, "a", "only because of that", "", EXIT_RANK))
    assert everywhere(three, lambda member: member.settle(member.member)) == [[0, 1, 2]] * 3
    told = [three[member].cause for member in (0, 1)]
    assert [(cause.why, cause.member, cause.host, cause.failed_rank, cause.exit_code) for cause in told] == [
        ("rank 3 died", 2, "b", 3, EXIT_STORAGE)
    ] * 2
    assert set(ended) == {0, 1}  # nobody ends the one that has ended


def test_one_that_does_not_end_is_not_waited_for(three: list[Any]) -> None:
    three[1].fail(Cause(1, "a", "rank 1 died", "look", EXIT_RANK))
    assert everywhere(three[:2], lambda member: member.settle(member.member)) == [[0, 1, None]] * 2
    assert three[0].cause.why == "rank 1 died"


def test_what_is_no_message_is_the_end_of_a_member(three: list[Any]) -> None:
    three[2]._wire._connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
    error = everywhere(three[:1], lambda member: member.exchange("?"))[0]
    assert error.message.startswith("lost member 2 on host b: its connection broke (a message of ")


def test_clocks_are_compared_by_their_wall_time_with_an_uncertainty(three: list[Any]) -> None:
    end_s = time.monotonic() + MOST_S
    while three[1].best_offset() is None:
        assert time.monotonic() < end_s
        time.sleep(0.02)
    offset_s, uncertainty_s = three[1].best_offset()
    assert abs(offset_s) <= uncertainty_s + 0.001 < 1.0  # one machine: the offset is what cannot be known
    assert three[0].best_offset() is None


def test_a_command_started_by_hand_is_alone() -> None:
    alone = Alone()
    assert alone.exchange("x") == alone.settle("x") == ["x"] and alone.rendezvous() is None and alone.cause is None
    assert agreed(alone, lambda: 3) == [3]
    with pytest.raises(DatasetError, match=r"^missing$"):
        agreed(alone, lambda: (_ for _ in ()).throw(DatasetError("missing")))


def test_hosts_are_labelled_apart() -> None:
    assert host_labels([("a", ""), ("b", ""), ("a", "")]) == ("a", "b", "a")
    assert host_labels([("vm", "0"), ("vm", "1"), ("vm", "0"), ("x", "7")]) == ("vm-0", "vm-1", "vm-0", "x")
