"""Readers on texts that nobody thought of: what was written is what is read, and shares add up."""

import csv
import gzip
import io
import json
from pathlib import Path

import pytest

from tain.foundation.errors import UserError
from tain.text.kept import read_text_rows
from tain.text.lines import is_blank
from tain.text.parts import Share
from tain.text.readers import read_texts

pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# everything that UTF-8 can hold, except NUL and the characters that end lines
LINES = st.lists(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\n\r"), max_size=30), min_size=1, max_size=30)
CELLS = st.lists(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"), max_size=20), min_size=1, max_size=20)
many = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def visible(texts: list[str]) -> list[str]:
    return [text for text in texts if not is_blank(text)]


def checked(path: Path, expected: list[str], count: int, **columns: object) -> None:
    """The whole and the union of shares are what was written; nothing to read is refused."""
    shares = [row.text for number in range(1, count + 1) for row in read_text_rows(path, share=Share(number, count), **columns)]
    assert shares == expected
    if expected:
        assert list(read_texts(path, **columns)) == expected
    else:
        with pytest.raises(UserError):
            read_texts(path, **columns)


@many
@given(lines=LINES, count=st.integers(1, 9), end=st.sampled_from(["\n", "\r\n"]), is_packed=st.booleans(), has_mark=st.booleans())
def test_plain_text(tmp_path, lines, count, end, is_packed, has_mark):
    first = lines[0].lstrip("\ufeff")  # a byte order mark at the start belongs to the file
    lines = [first, *lines[1:]]
    content = (("\ufeff" if has_mark else "") + "".join(line + end for line in lines)).encode()
    if content[:2] in (b"\x1f\x8b", b"PK"):
        return  # named as packed data
    path = tmp_path / ("a.txt.gz" if is_packed else "a.txt")
    path.write_bytes(gzip.compress(content) if is_packed else content)
    checked(path, visible(lines), count)


@many
@given(cells=CELLS, count=st.integers(1, 9))
def test_csv_with_any_cell(tmp_path, cells, count):
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["number", "body"])
    writer.writerows([str(number), cell] for number, cell in enumerate(cells))
    (tmp_path / "a.csv").write_text(written.getvalue(), encoding="utf-8", newline="")
    checked(tmp_path / "a.csv", visible(cells), count, column="body")


@many
@given(cells=CELLS, count=st.integers(1, 9), is_ascii=st.booleans())
def test_jsonl_with_any_text(tmp_path, cells, count, is_ascii):
    rows = (json.dumps({"number": number, "body": cell}, ensure_ascii=is_ascii) for number, cell in enumerate(cells))
    (tmp_path / "a.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8", newline="")
    checked(tmp_path / "a.jsonl", visible(cells), count, column="body")


@many
@given(cells=CELLS, count=st.integers(1, 9), group=st.integers(1, 7))
def test_parquet_with_any_row_groups(tmp_path, cells, count, group):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"body": cells, "number": range(len(cells))}), tmp_path / "a.parquet", row_group_size=group)
    checked(tmp_path / "a.parquet", visible(cells), count, column="body")


@many
@given(content=st.binary(max_size=300), name=st.sampled_from(["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.txt.gz", "a.jsonl.xz"]))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    try:
        for text in read_texts(tmp_path / name):
            assert text and "\0" not in text
    except UserError as error:
        assert "\n" not in str(error)
