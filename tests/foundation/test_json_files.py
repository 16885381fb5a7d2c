"""Records written by tain are read completely or refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from tain.foundation.errors import UserError
from tain.foundation.json_files import Field, checked_object, read_object

FIELDS = {
    "format": Field(kind=int, least=1),
    "share": Field(kind=float, least=0, most=1),
    "name": Field(kind=str, among=("a", "b"), is_needed=False),
    "labels": Field(kind=list, items=Field(kind=str), is_needed=False, may_be_null=True),
    "part": Field(kind=dict, fields={"on": Field(kind=bool)}, is_needed=False),
    "files": Field(kind=list, least=1, items=Field(kind=dict, fields={"bytes": Field(kind=int)}), is_needed=False),
}
WHOLE: dict[str, Any] = {"format": 1, "share": 1, "name": "b", "labels": None, "part": {"on": True}, "files": [{"bytes": 3}], "more": [1]}


def check(content: Any) -> dict[str, Any]:
    return checked_object(content, FIELDS, damaged="it is damaged", advice="make it again")


def test_a_whole_record_is_given_back_with_what_is_not_known():
    assert check(WHOLE) == WHOLE
    assert check({"format": 2, "share": 0.5}) == {"format": 2, "share": 0.5}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": -3}, "format is -3, less than 1"),
        ({"format": 1.0}, "format is 1.0, not a whole number"),
        ({"format": True}, "format is True, not a whole number"),
        ({"format": None}, "format is None, not a whole number"),
        ({"share": float("nan")}, "share is nan, not a number"),
        ({"share": float("inf")}, "share is inf, not a number"),
        ({"share": 2}, "share is 2, more than 1"),
        ({"name": "c"}, "name is 'c', not one of 'a', 'b'"),
        ({"name": ["a"]}, r"name is \['a'\], not text"),
        ({"labels": ["x", 3]}, r"labels\[1\] is 3, not text"),
        ({"labels": "xyz"}, "labels is 'xyz', not a list"),
        ({"part": []}, r"part is \[\], not an object"),
        ({"part": {}}, r"part.on is missing"),
        ({"part": {"on": 1}}, r"part.on is 1, not true or false"),
        ({"files": []}, "files has 0, fewer than 1"),
        ({"files": [{"bytes": 1}, {}]}, r"files\[1\].bytes is missing"),
        ({"name": "x" * 100}, "name is a str of 102 characters, not one of"),
    ],
)
def test_a_field_that_holds_something_else_is_named(change: dict[str, Any], problem: str):
    with pytest.raises(UserError, match=rf"^it is damaged: make it again \({problem}"):
        check(WHOLE | change)


@pytest.mark.parametrize(
    ("content", "problem"), [([], r"it is \[\], not an object"), (None, "it is None"), ({"format": 1}, "share is missing")]
)
def test_what_is_no_record_is_refused(content: Any, problem: str):
    with pytest.raises(UserError, match=problem):
        check(content)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"", b'{"a": ' * 100_000, b"[" * 100_000])
def test_a_file_that_is_not_json_is_refused_in_one_line(content: bytes, tmp_path: Path):
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(UserError, match=r"^it is damaged: make it again \(it is not JSON: ") as caught:
        read_object(tmp_path / "record.json", {}, damaged="it is damaged", advice="make it again")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_the_callers_to_tell(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "record.json", FIELDS, damaged="it is damaged", advice="make it again")
    (tmp_path / "record.json").write_text(json.dumps(WHOLE))
    assert read_object(tmp_path / "record.json", FIELDS, damaged="", advice="") == WHOLE
