"""Datasets made and verified by several members: the same bytes as by one, whoever dies on the way, in each placement."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from crews import crew_of, everywhere

from storagebench import buildparts
from storagebench.build import generate, generate_together
from storagebench.cluster.crew import Alone, Cause
from storagebench.cluster.pieces import exchange_bytes
from storagebench.commands.together import _ending
from storagebench.errors import EXIT_RANK, DatasetError, StorageBenchError, UsageError
from storagebench.manifest import INDEX_KEY, MANIFEST_KEY, Dataset, load_dataset
from storagebench.protocols import StoreSpec
from storagebench.storage.posix import PosixStore
from storagebench.verifycrew import verify_here, verify_together
from storagebench.workload import Workload


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of 5 shards, so that small datasets have many."""
    monkeypatch.setattr(buildparts, "_UNIT_SHARDS", 5)


def a_workload(placement: str = "shared", accelerators: int = 1, **fields: Any) -> Workload:
    data = {
        "num_samples": 130,
        "record_length_bytes": 2000,
        "record_length_bytes_stdev": 300,
        "samples_per_shard": 4,
        "format": "webdataset",
        **fields,
    }
    return Workload.model_validate({"name": "tests", "dataset": data, "run": {"placement": placement, "num_accelerators": accelerators}})


def a_store(folder: Path) -> PosixStore:
    return PosixStore(StoreSpec("posix", str(folder)))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make(members: Sequence[Any], folders: Sequence[Path], workloads: Sequence[Workload], stores: Sequence[PosixStore] | None = None) -> list[Any]:
    """What `generate` gives each member, whose errors end the others as the command has it."""

    def work(member: Any) -> Any:
        store = stores[member.member] if stores else a_store(folders[member.member])
        with _ending(member, "generate", "go on"):
            return generate_together(workloads[member.member], store, member, num_threads=2)

    return everywhere(list(members), work)


def test_members_share_one_store(three: list[Any], tmp_path: Path) -> None:
    for name in ("webdataset", "npz", "tfrecord", "mds"):
        reference = generate(a_workload(format=name), a_store(tmp_path / name / "one"))
        found = make(three, [tmp_path / name / "all"] * 3, [a_workload(format=name)] * 3)
        assert isinstance(found[0], Dataset), found
        assert found[0].digest() == reference.digest() and found[1:] == [None, None]
        assert files_of(tmp_path / name / "all") == files_of(tmp_path / name / "one")
        assert make(three, [tmp_path / name / "all"] * 3, [a_workload(format=name)] * 3)[0].digest() == reference.digest()


def test_each_host_gets_a_copy(three: list[Any], tmp_path: Path) -> None:
    generate(a_workload(), a_store(tmp_path / "one"))
    folders = [tmp_path / host for host in ("a", "a", "b")]
    found = make(three, folders, [a_workload("replicated")] * 3)
    assert [each is None for each in found] == [False, True, False]
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b") == files_of(tmp_path / "one")


@pytest.mark.parametrize(("accelerators", "first_part"), [((1, 1, 1), 43), ((2, 2, 1), 51), ((1, 1, 2), 32)])
def test_each_host_gets_its_part(three: list[Any], tmp_path: Path, accelerators: tuple[int, ...], first_part: int) -> None:
    whole = generate(a_workload(format="mds"), a_store(tmp_path / "one"))
    folders = [tmp_path / host for host in ("a", "a", "b")]
    workloads = [a_workload("partitioned", each, format="mds") for each in accelerators]
    found = make(three, folders, workloads)
    assert isinstance(found[0], Dataset), found
    assert found[0].partition == ((0, first_part), (first_part, 64))
    a, b, one = (files_of(tmp_path / name) for name in ("a", "b", "one"))
    assert a[MANIFEST_KEY] == b[MANIFEST_KEY] and a[INDEX_KEY] == b[INDEX_KEY] == one[INDEX_KEY]
    shards = {name: data for name, data in one.items() if name in whole.names}
    assert {name: data for name, data in a.items() if name in shards} == {name: shards[name] for name in whole.names[:first_part]}
    assert {name: data for name, data in b.items() if name in shards} == {name: shards[name] for name in whole.names[first_part:]}
    assert make(three, folders, workloads)[0].digest() == found[0].digest()  # complete: nothing is made again
    # The same hosts in another order (as a launcher numbers them anew): each keeps its part.
    with crew_of(("b", "a", "a")) as others:
        again = make(others, [tmp_path / "b", tmp_path / "a", tmp_path / "a"], [workloads[2], *workloads[:2]])
        assert again[0].digest() == found[0].digest(), again
    assert files_of(tmp_path / "a") == a
    with pytest.raises(UsageError, match="partition"):
        generate(a_workload(format="mds"), a_store(tmp_path / "a"))


class StoppingStore(PosixStore):
    """Its member is lost (as by SIGKILL) when it has begun so many files."""

    def __init__(self, folder: Path, budget: int, die: Any) -> None:
        super().__init__(StoreSpec("posix", str(folder)))
        self.budget, self.die, self.guard = budget, die, threading.Lock()

    @contextmanager
    def create(self, key: str) -> Iterator[Any]:
        with self.guard:
            self.budget -= 1
        if self.budget < 0:
            self.die()
            raise Killed
        with super().create(key) as sink:
            yield sink


class Killed(BaseException):
    """Nothing of a killed process says how it ended."""


@pytest.mark.parametrize("placement", ["shared", "replicated", "partitioned"])
@pytest.mark.parametrize("lost", [1, 2])
def test_a_lost_member_ends_the_others_and_the_same_command_goes_on(tmp_path: Path, placement: str, lost: int) -> None:
    workload = a_workload(placement)
    folders = [tmp_path / "x"] * 3 if placement == "shared" else [tmp_path / "a", tmp_path / "a", tmp_path / "b"]
    with crew_of(("a", "a", "b")) as members:
        stores = [a_store(folder) for folder in folders]
        stores[lost] = StoppingStore(folders[lost], 12, members[lost]._wire.close)

        def work(member: Any) -> Any:
            try:
                with _ending(member, "generate", "go on"):
                    return generate_together(workload, stores[member.member], member, num_threads=1)
            except Killed:
                return None

        found = everywhere(members, work)
    survivors = [found[member] for member in range(3) if member != lost]
    for error in survivors:
        assert isinstance(error, StorageBenchError) and error.exit_code == EXIT_RANK, found
        assert error.message.startswith(f"lost member {lost} on host {'aab'[lost]}: ") and error.hint == "go on"
    assert not any((folder / MANIFEST_KEY).exists() for folder in folders)
    kept = {path: path.stat().st_mtime_ns for folder in set(folders) for path in folder.rglob("shards/*.tar")}
    # What a writer left that was killed on another host, where this number was its: here it is a process that lives.
    (folders[lost] / "shards" / f".000001.tar.part-{os.getppid()}-00").write_bytes(b"half")
    done = [path for folder in set(folders) for path in folder.glob(f"{buildparts.PARTS_FOLDER}/0*.json")]
    assert done, "some unit was finished"
    with crew_of(("a", "a", "b")) as members:
        again = make(members, folders, [workload] * 3)
    assert isinstance(again[0], Dataset), again
    assert sum(path.stat().st_mtime_ns == stamp for path, stamp in kept.items()) >= 5 * len(done)
    generate(a_workload(), a_store(tmp_path / "one"))
    assert load_dataset(a_store(tmp_path / "one")).index.tobytes() == again[0].index.tobytes()
    assert not [path for folder in folders for path in folder.rglob("*.part-*")]
    if placement != "partitioned":
        assert all(files_of(folder) == files_of(tmp_path / "one") for folder in folders)


def test_a_failed_member_is_everybodys_error(three: list[Any], tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("somebody's")
    for error in make(three, [tmp_path / "a", tmp_path / "a", tmp_path / "b"], [a_workload("replicated")] * 3):
        assert isinstance(error, UsageError) and error.message.startswith("host b: ") and "mine.txt" in error.message


def test_hosts_that_do_not_share_are_told(three: list[Any], tmp_path: Path) -> None:
    for error in make(three, [tmp_path / "a", tmp_path / "a", tmp_path / "b"], [a_workload()] * 3):
        assert isinstance(error, UsageError)
        assert error.message == f"host b does not see at {tmp_path / 'b'} what host a has begun there"
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("placement", ["replicated", "partitioned"])
def test_hosts_that_share_after_all_are_told(three: list[Any], tmp_path: Path, placement: str) -> None:
    for error in make(three, [tmp_path / "x"] * 3, [a_workload(placement)] * 3):
        assert isinstance(error, UsageError)
        assert error.message == f"host b sees at {tmp_path / 'x'} what host a has begun there: they share this storage"


def test_members_that_ask_for_different_datasets_are_refused(three: list[Any], tmp_path: Path) -> None:
    for error in make(three, [tmp_path] * 3, [a_workload(), a_workload(), a_workload(seed=7)]):
        assert isinstance(error, UsageError) and error.message.startswith("seed is 7 for member 2 on host b, and 42 for member 0 on host a")


def test_alone_a_partitioned_dataset_has_one_part(tmp_path: Path) -> None:
    found = generate_together(a_workload("partitioned"), a_store(tmp_path), Alone())
    assert found is not None and found.partition == ((0, 64),)
    assert verify_here(a_store(tmp_path), None, 1, None).found == []


def test_bytes_go_round_in_pieces(three: list[Any]) -> None:
    data = [b"x" * 1000, b"", bytes(range(256)) * 3]
    assert everywhere(three, lambda member: exchange_bytes(member, data[member.member], 300)) == [data] * 3


# -- verify ------------------------------------------------------------------------------------------------------------------------------------------


def check(members: Sequence[Any], folders: Sequence[Path], placement: str | None = None) -> list[Any]:
    return everywhere(list(members), lambda member: verify_together(member, a_store(folders[member.member]), placement, 1))


def told(verified: Any) -> list[tuple[str, str, str]]:
    return [(found.host, found.problem.shard, found.problem.severity) for found in verified.found]


def spoil(path: Path) -> None:
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def test_each_shard_of_a_shared_dataset_is_read_by_one_member(three: list[Any], tmp_path: Path) -> None:
    dataset = generate(a_workload(), a_store(tmp_path))
    for shard in (0, 1, 2):
        spoil(tmp_path / dataset.names[shard])
    (tmp_path / "notes.txt").write_text("mine")
    found = check(three, [tmp_path] * 3)
    assert found[0].found == found[1].found == found[2].found
    assert sorted(told(found[0])) == [("", "notes.txt", "note"), *(("", dataset.names[shard], "error") for shard in (0, 1, 2))]


def test_each_host_verifies_its_copy(three: list[Any], tmp_path: Path) -> None:
    folders = [tmp_path / host for host in ("a", "a", "b")]
    dataset = make(three, folders, [a_workload("replicated")] * 3)[0]
    assert told(check(three, folders, "replicated")[0]) == []
    spoil(tmp_path / "b" / dataset.names[7])
    (tmp_path / "a" / dataset.names[9]).unlink()
    assert sorted(told(check(three, folders, "replicated")[1])) == [("a", dataset.names[9], "error"), ("b", dataset.names[7], "error")]
    generate(a_workload(seed=7), a_store(tmp_path / "other"))
    for error in check(three, [tmp_path / "a", tmp_path / "a", tmp_path / "other"], "replicated"):
        assert isinstance(error, DatasetError) and error.message.startswith("host b has at ")


def test_each_host_verifies_its_part_and_every_part_has_a_host(three: list[Any], tmp_path: Path) -> None:
    folders = [tmp_path / host for host in ("a", "a", "b")]
    dataset = make(three, folders, [a_workload("partitioned")] * 3)[0]
    verified = check(three, folders)[0]
    assert told(verified) == [] and verified.spans == {"a": (0, 43), "b": (43, 64)}
    spoil(tmp_path / "b" / dataset.names[50])
    (tmp_path / "a" / dataset.names[3]).unlink()
    assert sorted(told(check(three, folders)[2])) == [("a", dataset.names[3], "error"), ("b", dataset.names[50], "error")]
    # Two hosts with the same part: nobody has the other one.
    alone = check(three, [tmp_path / "a"] * 3)[0]
    assert ("", f"{dataset.names[43]} to {dataset.names[63]}", "error") in told(alone)
    for error in check(three, folders, "shared"):
        assert isinstance(error, UsageError) and "partitioned over 2 hosts, and --placement is shared" in error.message
    # By hand, each host checks what lies there.
    here = verify_here(a_store(tmp_path / "b"), None, 1, None)
    assert here.spans == {"": (43, 64)} and told(here) == [("", dataset.names[50], "error")]
    for name in dataset.names[43:]:
        (tmp_path / "b" / name).unlink()
    with pytest.raises(DatasetError, match="no whole shard of any of them"):
        verify_here(a_store(tmp_path / "b"), None, 1, None)


def test_an_error_of_one_member_ends_the_verification(three: list[Any], tmp_path: Path) -> None:
    generate(a_workload(), a_store(tmp_path / "a"))
    for error in check(three, [tmp_path / "a", tmp_path / "a", tmp_path / "b"]):
        assert isinstance(error, DatasetError) and error.message.startswith("host b: no dataset at ")
    assert three[0].cause is None or isinstance(three[0].cause, Cause)
