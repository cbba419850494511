"""Where the held-out split of a dataset lies."""

from __future__ import annotations

import pytest

from storagebench.errors import UsageError
from storagebench.heldout import HELD_OUT, TRAINING, held_out_url, splits
from storagebench.storage import parse_url


@pytest.mark.parametrize(
    ("data_dir", "expected"),
    [
        ("/data/digits", "/data/digits-held-out"),
        ("/data/digits/", "/data/digits-held-out"),
        ("digits//", "digits-held-out"),
        ("./digits", "./digits-held-out"),
        ("~/digits", "~/digits-held-out"),
        ("/data/what?#", "/data/what?#-held-out"),  # of a path both are plain characters
        ("file:///data/digits/", "file:///data/digits-held-out"),
        ("s3://bucket/digits", "s3://bucket/digits-held-out"),
        ("s3://bucket/a/b//", "s3://bucket/a/b-held-out"),
        ("gs://bucket/digits", "gs://bucket/digits-held-out"),
        ("memory://digits", "memory://digits-held-out"),
        ("memory://a/b/", "memory://a/b-held-out"),
        ("shaped+/data/digits/", "shaped+/data/digits-held-out"),
        ("shaped+s3://bucket/digits", "shaped+s3://bucket/digits-held-out"),
        ("shaped+memory://digits", "shaped+memory://digits-held-out"),
    ],
)
def test_it_lies_beside_the_dataset(data_dir: str, expected: str) -> None:
    assert held_out_url(data_dir, "") == expected
    beside, here = parse_url(expected), parse_url(data_dir)
    assert (beside.kind, beside.root) == (here.kind, here.root + "-held-out")


@pytest.mark.parametrize(
    ("data_dir", "why"),
    [
        ("s3://bucket", "is a whole bucket"),
        ("s3://bucket/", "is a whole bucket"),
        ("s3://bucket//", "is a whole bucket"),
        ("gs://bucket", "is a whole bucket"),
        ("shaped+s3://bucket", "is a whole bucket"),
        ("s3://", "ends without a name"),
        ("memory://", "ends without a name"),
        ("file://", "ends without a name"),
        ("", "ends without a name"),
        ("/", "ends without a name"),
        (".", "ends without a name"),
        ("..", "ends without a name"),
        ("../..", "ends without a name"),
        ("data/./", "ends without a name"),
        ("~", "is a home folder"),
        ("~other/", "is a home folder"),
        ("s3://bucket/x?versionId=1", "has a query"),
        ("https://host/x#part", "has a query"),
        ("simplecache::s3://bucket/x", "is a chain"),
    ],
)
def test_where_no_name_can_be_made_of_it_the_place_is_asked_for(data_dir: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        held_out_url(data_dir, "")
    assert "--held-out-dir" in caught.value.hint and repr(data_dir) in caught.value.message
    assert held_out_url(data_dir, "/rest") == "/rest"


@pytest.mark.parametrize(("data_dir", "held_out_dir"), [("/a/b", "/a/b/"), ("s3://b/x/", "s3://b/x"), ("shaped+/a", "/a"), ("file:///a", "/a")])
def test_one_place_cannot_have_both(data_dir: str, held_out_dir: str) -> None:
    with pytest.raises(UsageError, match="place of the training split too"):
        held_out_url(data_dir, held_out_dir)


def test_no_message_has_credentials() -> None:
    for arguments in (("s3://user:word@bucket", ""), ("s3://user:word@b/x", "s3://user:word@b/x/")):
        with pytest.raises(UsageError) as caught:
            held_out_url(*arguments)
        assert "word" not in caught.value.message + caught.value.hint


def test_only_a_task_has_two_splits() -> None:
    assert splits("digits", "/a", "") == {TRAINING: "/a", HELD_OUT: "/a-held-out"}
    assert splits("digits", "s3://bucket", "s3://bucket/rest") == {TRAINING: "s3://bucket", HELD_OUT: "s3://bucket/rest"}
    assert splits("", "s3://bucket", "") == {TRAINING: "s3://bucket"}
    with pytest.raises(UsageError, match="no held-out split"):
        splits("", "/a", "/b")
