"""Candidates of a table: values keep their kind, ids are never blank, and bad cells are named."""

import datetime
import json

import pytest

from tain.foundation.errors import UserError
from tain.text.candidates import read_candidates
from tain.text.records import Candidate


@pytest.fixture
def written(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        return path

    return write


def test_plain_text_has_neither_ids_nor_metadata(written):
    path = written("a.txt", "one\n\ntwo\n")
    assert list(read_candidates(path)) == [Candidate("one"), Candidate("two")]
    with pytest.raises(UserError, match="which has no column 'id'"):
        read_candidates(path, id_column="id")


def test_jsonl_keeps_kinds_and_leaves_nulls_out(written):
    rows = [
        {"text": "a", "id": 7, "year": 2020, "tags": ["x", {"y": 1.5}], "more": {"z": True}},
        {"text": "", "id": None, "year": None, "tags": None, "more": None},
        {"text": "b", "id": "k", "year": None, "tags": [], "more": None},
    ]
    found = read_candidates(written("a.jsonl", rows), column="text", id_column="id", keep=["year", "tags"], metadata_column="more")
    assert list(found) == [
        Candidate("a", "7", {"z": True, "year": 2020, "tags": ["x", {"y": 1.5}]}),
        Candidate("b", "k", {"tags": []}),
    ]
    assert found.blank == 1


def test_cells_of_csv_are_texts_and_blank_ones_are_missing(written):
    path = written("a.csv", "id,text,year\n1,one,2020\n2,two,\n")
    assert list(read_candidates(path, column="text", id_column="id", keep=["year"])) == [
        Candidate("one", "1", {"year": "2020"}),
        Candidate("two", "2"),
    ]


def test_dates_of_parquet_become_iso_texts(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a"], "day": [datetime.date(2024, 3, 1)], "raw": [b"x"]}), tmp_path / "a.parquet")
    assert list(read_candidates(tmp_path / "a.parquet", column="text", keep=["day"])) == [Candidate("a", None, {"day": "2024-03-01"})]
    with pytest.raises(UserError, match="row 1, column 'raw' holds bytes, which JSON has no form for"):
        list(read_candidates(tmp_path / "a.parquet", column="text", keep=["raw"]))


@pytest.mark.parametrize(
    ("row", "options", "problem"),
    [
        ({"text": "a", "id": ""}, {"id_column": "id"}, "line 1 has no value in the id column 'id': give every row its id"),
        ({"text": "a", "id": None}, {"id_column": "id"}, "has no value in the id column"),
        ({"text": "a", "id": 1.5}, {"id_column": "id"}, "id column 'id' holds '1.5': give texts or whole numbers"),
        ({"text": "a", "id": True}, {"id_column": "id"}, "id column 'id' holds 'True'"),
        ({"text": "a", "id": [1]}, {"id_column": "id"}, "id column 'id' holds"),
        ({"text": "a", "x": 1}, {"keep": ["y"]}, "has no column 'y': name one of 'text', 'x'"),
        ({"text": "a", "x": 1}, {"keep": ["x", "x"]}, "column 'x' is kept twice"),
        ({"text": "a", "x": 1}, {"metadata_column": "x"}, "column 'x' holds '1', not an object of metadata"),
        ({"text": "a", "x": "b\0"}, {"keep": ["x"]}, "has a NUL character"),
    ],
)
def test_bad_cells_are_named(row, options, problem, written):
    with pytest.raises(UserError, match=problem):
        list(read_candidates(written("a.jsonl", [row]), column="text", **options))
