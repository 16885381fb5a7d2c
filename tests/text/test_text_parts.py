"""Shares of a source: together they are the source, in order, whatever their number."""

import gzip
import json
import lzma
import random
from pathlib import Path

import pytest

from tain.foundation.errors import UserError
from tain.text.kept import TextRow, read_text_rows
from tain.text.parts import Share, files_of, parts_of

COUNTS = (1, 2, 3, 5, 8, 64)


def texts_for(seed: int, count: int = 40) -> list[str]:
    """Short and long texts, some not ASCII, some blank."""
    chance = random.Random(seed)
    alphabet = "abc ä語😀\u2028"
    drawn = ["".join(chance.choice(alphabet) for _ in range(chance.choice([1, 3, 20, 200]))) for _ in range(count)]
    return [text if chance.random() > 0.15 else "  " for text in drawn] + ["the last one"]


def write_table(path: Path, texts: list[str]) -> Path:
    """The same rows in the format that the name asks for: a number, the text, and a category with a line break where the format allows it."""
    kind = path.name.removesuffix(".gz").removesuffix(".xz").rpartition(".")[2]
    if kind == "txt":
        content = "".join(f"{text}\n" for text in texts)
    elif kind == "tsv":
        content = "\nid\tbody\tgroup\n" + "".join(f"{number}\t{text}\tg{number % 3}\n" for number, text in enumerate(texts))
    elif kind == "csv":
        content = "id,body,group\n" + "".join(f'{number},"{text}","g\n{number % 3}"\n' for number, text in enumerate(texts))
    elif kind == "jsonl":
        rows = ({"id": number, "body": text, "group": f"g{number % 3}"} for number, text in enumerate(texts))
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        import pyarrow as pa
        from pyarrow import parquet

        table = pa.table({"id": range(len(texts)), "body": texts, "group": [f"g{number % 3}" for number in range(len(texts))]})
        parquet.write_table(table, path, row_group_size=7)
        return path
    packed = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
    path.write_bytes(packed(content.encode()))
    return path


def rows_of(source: Path | str, share: Share | None = None, **columns: object) -> list[TextRow]:
    return list(read_text_rows(source, share=share, **columns))


@pytest.mark.parametrize("name", ["a.txt", "a.tsv", "a.jsonl", "a.parquet", "a.csv", "a.txt.gz", "a.jsonl.xz", "a.tsv.gz", "a.csv.gz"])
@pytest.mark.parametrize("seed", range(3))
def test_shares_of_any_format_are_the_whole_in_order(tmp_path, name, seed):
    source = write_table(tmp_path / name, texts_for(seed))
    columns = {} if ".txt" in name else {"column": "body", "keep": ("group",), "id_column": "id"}
    whole = rows_of(source, **columns)
    assert len(whole) > 20
    for count in COUNTS:
        shares = [rows_of(source, Share(number, count), **columns) for number in range(1, count + 1)]
        assert [row for share in shares for row in share] == whole


@pytest.mark.parametrize(
    "names", [("a.txt", "b.txt", "sub/c.txt.gz"), ("a.csv", "b.tsv.gz", "c.parquet", "d.jsonl"), ("a.txt.gz", "b.txt.xz")]
)
def test_shares_of_a_folder_are_its_files_in_the_order_of_their_names(tmp_path, names):
    folder = tmp_path / "corpus"
    (folder / "sub").mkdir(parents=True)
    for seed, name in enumerate(names):
        write_table(folder / name, texts_for(seed))
    (folder / ".hidden.txt").write_text("not read\n")
    columns = {} if "a.txt" in names[0] else {"column": "body", "keep": ("group",)}
    whole = rows_of(folder, **columns)
    assert [row.text for row in whole] == [
        row.text for name in names for row in rows_of(folder / name, **({"column": "body"} if columns else {}))
    ]
    for count in COUNTS:
        shares = [rows_of(folder, Share(number, count), **columns) for number in range(1, count + 1)]
        assert [row for share in shares for row in share] == whole


@pytest.mark.parametrize("name", ["a.txt", "a.tsv", "a.jsonl", "a.parquet", "a.csv"])
def test_shares_have_about_the_same_size(tmp_path, name):
    source = write_table(tmp_path / name, [f"text number {number:04d}" for number in range(1000)])
    columns = {} if name == "a.txt" else {"column": "body"}
    sizes = [len(rows_of(source, Share(number, 10), **columns)) for number in range(1, 11)]
    assert sum(sizes) == 1000
    assert max(sizes) - min(sizes) <= 10


def test_only_the_row_groups_of_a_share_are_read(tmp_path, monkeypatch):
    from pyarrow import parquet

    source = write_table(tmp_path / "a.parquet", [f"text {number}" for number in range(70)])  # ten groups of seven
    read = []
    real = parquet.ParquetFile.iter_batches
    monkeypatch.setattr(
        parquet.ParquetFile, "iter_batches", lambda self, *args, **kwargs: read.append(kwargs["row_groups"]) or real(self, *args, **kwargs)
    )
    rows_of(source, Share(2, 5), column="body")
    assert read[-1] == [2, 3]


def test_lines_of_any_ending_and_a_byte_order_mark_are_split_alike(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n\nthree\r\nfour")
    for count in range(1, 40):
        shares = [rows_of(tmp_path / "a.txt", Share(number, count)) for number in range(1, count + 1)]
        assert [row.text for share in shares for row in share] == ["one", "two", "three", "four"]


def test_a_pattern_names_its_files_in_order(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(f"in {name}\n")
    assert [Path(name).name for name in files_of(str(tmp_path / "*.txt"))] == ["a.txt", "b.txt"]
    assert [row.text for row in rows_of(str(tmp_path / "*.txt"))] == ["in a.txt", "in b.txt"]
    (tmp_path / "[x].txt").write_text("a name, not a pattern\n")
    assert files_of(str(tmp_path / "[x].txt")) == [str(tmp_path / "[x].txt")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("3", "shard is '3', which is not of the form NUMBER/COUNT: give for example 3/64"),
        ("a/b", "not of the form"),
        ("-1/4", "not of the form"),
        ("0/4", "shard is 0/4, which does not exist: give 1/4"),
        ("5/4", "shard is 5/4, which does not exist"),
        ("1/0", "shard is 1/0, which does not exist"),
    ],
)
def test_shards_that_do_not_exist_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        Share.parse(given)


def test_sources_that_cannot_be_split_are_refused(tmp_path):
    with pytest.raises(UserError, match="standard input cannot be split into shards"):
        parts_of("-", Share(1, 2))
    with pytest.raises(UserError, match="is a folder without files"):
        files_of(tmp_path)
    with pytest.raises(UserError, match="matches no file"):
        files_of(str(tmp_path / "*.txt"))
    (tmp_path / "a.txt").write_text("text\n")
    (tmp_path / "b.csv").write_text("text\nmore\n")
    with pytest.raises(UserError, match="has both tables and plain text"):
        rows_of(tmp_path)


def test_a_bad_line_of_a_share_is_named_with_the_first_byte_of_the_share(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\n" * 10 + b"\xff\n")
    with pytest.raises(UserError, match=r"a.txt' \(from byte 26\) line 5 is not UTF-8"):
        rows_of(tmp_path / "a.txt", Share(2, 2))


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("one\ntwo\n")
    rows = read_text_rows(source)
    assert next(rows).text == "one"
    with source.open("a") as file:
        file.write("three\n")
    with pytest.raises(UserError, match="changed while it was read"):
        list(rows)


# ---- kept columns


def test_values_of_jsonl_keep_the_kind_of_the_first_rows(tmp_path):
    rows = [
        {"body": "a", "n": 1, "x": 1, "b": True, "l": [1, 2], "m": None},
        {"body": "b", "n": None, "x": 2.5, "b": False, "l": {"k": "ä"}, "m": "text"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = read_text_rows(tmp_path / "a.jsonl", column="body", keep=("n", "x", "b", "l", "m"))
    assert [field.kind for field in given.fields] == ["whole number", "number", "truth value", "text", "text"]
    assert [row.values for row in given] == [(1, 1.0, True, "[1, 2]", None), (None, 2.5, False, '{"k": "ä"}', "text")]


def test_a_later_value_of_another_kind_is_refused(tmp_path):
    rows = [{"body": "a", "n": number} for number in range(1000)] + [{"body": "a", "n": "many"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="line 1001, column 'n' holds 'many', but the first rows hold a whole number"):
        rows_of(tmp_path / "a.jsonl", column="body", keep=("n",))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"keep": ("nothing",)}, "no column 'nothing'"),
        ({"keep": ("index",)}, "column 'index' cannot be kept"),
        ({"keep": ("id", "id")}, "column 'id' is kept twice"),
        ({"keep": ("id",), "id_column": "index"}, "column 'id' is kept twice"),
    ],
)
def test_columns_that_cannot_be_kept_are_refused(tmp_path, columns, message):
    (tmp_path / "a.tsv").write_text("id\tbody\tindex\n1\ta text\t2\n")
    with pytest.raises(UserError, match=message):
        rows_of(tmp_path / "a.tsv", column="body", **columns)


def test_plain_text_has_no_columns_to_keep(tmp_path):
    (tmp_path / "a.txt").write_text("a\n")
    with pytest.raises(UserError, match="read as plain text, which has no column 'id'"):
        rows_of(tmp_path / "a.txt", id_column="id")


def test_a_row_without_its_id_is_refused(tmp_path):
    (tmp_path / "a.tsv").write_text("id\tbody\n1\tx\n\ty\n")
    with pytest.raises(UserError, match="line 3 has no value in the id column 'id'"):
        rows_of(tmp_path / "a.tsv", column="body", id_column="id")
