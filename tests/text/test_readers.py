import gzip
import io
import json
import lzma
import os
import re
import sys
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tain.foundation.errors import UserError
from tain.text.lines import SourceWarning
from tain.text.ranking_pairs import read_ranking_examples
from tain.text.readers import read_pairs, read_rows, read_texts


def refusal(read, *args, **kwargs) -> str:
    """The message a call is refused with, at once or while it streams."""
    with pytest.raises(UserError) as caught:
        list(read(*args, **kwargs))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def write(tmp_path):
    def write_file(name: str, content: str | bytes) -> Path:
        data = content.encode() if isinstance(content, str) else content
        suffix = Path(name).suffix
        (tmp_path / name).write_bytes(gzip.compress(data) if suffix == ".gz" else lzma.compress(data) if suffix == ".xz" else data)
        return tmp_path / name

    return write_file


@pytest.fixture
def stdin(monkeypatch):
    def feed(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return feed


def write_parquet(path: Path, columns: dict, **options) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


# plain text


def test_texts_come_one_a_line_in_order_and_unchanged(write):
    path = write("x.txt", '  two  blanks \nü\n# no comment\n"quoted"\nlast, no line end')
    assert list(read_texts(path)) == ["  two  blanks ", "ü", "# no comment", '"quoted"', "last, no line end"]
    assert list(read_texts(str(path))) == list(read_texts(path))


def test_byte_order_mark_and_windows_line_ends_are_dropped(write):
    assert list(read_texts(write("x.txt", b"\xef\xbb\xbfone\r\ntwo\r\nthree\r"))) == ["one", "two", "three"]


def test_only_line_feeds_end_a_line(write):
    texts = ["form\ffeed", "line\u2028separator", "next\x85line", "lone\rreturn", "file\x1cseparator", "late \ufeff mark"]
    assert list(read_texts(write("x.txt", "\n".join(texts)))) == texts


def test_blank_lines_are_skipped_and_counted(write):
    stream = read_texts(write("x.txt", "\n \t\none\n\n\u3000\ntwo\n\n"))
    assert list(stream) == ["one", "two"]
    assert stream.blank == 5


@pytest.mark.parametrize("name", ["x.txt.gz", "x.txt.xz", "x.gz", "X.TXT.XZ"])
def test_packed_text_reads_like_plain_text(tmp_path, name):
    pack = gzip.compress if name.lower().endswith("gz") else lzma.compress
    (tmp_path / name).write_bytes(pack(b"\xef\xbb\xbfone\r\n\ntwo\n"))
    assert list(read_texts(tmp_path / name)) == ["one", "two"]


def test_packed_text_in_several_members_reads_whole(tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n"))
    (tmp_path / "x.xz").write_bytes(lzma.compress(b"one\n") + lzma.compress(b"two\n"))
    assert list(read_texts(tmp_path / "x.gz")) == list(read_texts(tmp_path / "x.xz")) == ["one", "two"]


def test_unknown_endings_are_plain_text(write):
    for name in ("corpus", "corpus.en", "notes.md"):
        assert list(read_texts(write(name, "a\tb\n"))) == ["a\tb"]


def test_a_dash_is_standard_input(stdin):
    stdin(b"\xef\xbb\xbfone\r\n\ntwo")
    stream = read_texts("-")
    assert list(stream) == ["one", "two"]
    assert stream.blank == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_read_like_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"one\ntwo\n",))
    writer.start()
    assert list(read_texts(tmp_path / "pipe")) == ["one", "two"]
    writer.join()


def test_bad_sources_are_refused_before_the_first_text_is_asked_for(tmp_path, write):
    for path in (tmp_path, tmp_path / "missing.txt", write("empty.txt", ""), write("nul.txt", "a\0b")):
        with pytest.raises(UserError):
            read_texts(path)


def test_a_folder_is_refused(tmp_path):
    message = refusal(read_texts, tmp_path)
    assert message == f"{str(tmp_path)!r} is a folder, but one file is read: give a file, or pipe several in and give - (standard input)"


def test_a_missing_file_is_refused_with_near_names(write):
    near = write("sentences.txt", "one")
    missing = near.with_name("sentence.txt")
    assert refusal(read_texts, missing) == f"{str(missing)!r} does not exist: did you mean {str(near)!r}?"
    assert refusal(read_texts, near.with_name("qqq")).endswith("does not exist: check the path")
    assert "there is no folder" in refusal(read_texts, near.parent / "no" / "x.txt")


@pytest.mark.parametrize("name", ["x.txt", "x.csv", "x.tsv", "x.jsonl", "x.txt.gz", "x.tsv.xz"])
def test_an_empty_file_is_refused(write, name):
    assert "is empty: give" in refusal(read_texts, write(name, ""))


@pytest.mark.parametrize("name", ["x.txt.gz", "x.txt.xz"])
def test_a_packed_file_of_no_bytes_at_all_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    refusal(read_texts, tmp_path / name)


def test_an_empty_standard_input_is_refused(stdin):
    stdin(b"")
    assert refusal(read_texts, "-") == "standard input is empty: give UTF-8 text with one text per line"


def test_a_file_of_blank_lines_is_refused(write):
    path = write("x.txt", "\n  \n\t\n")
    assert refusal(read_texts, path) == f"{str(path)!r} holds only blank lines (3): give UTF-8 text with one text per line"


def test_a_nul_byte_is_refused_by_line_number(write):
    path = write("x.txt", "one\ntwo\nth\0ree\n")
    assert refusal(read_texts, path) == f"{str(path)!r} line 3 has a NUL byte, so it is not plain text: give a UTF-8 text file"


@pytest.mark.parametrize("bad", [b"caf\xe9", b"\xed\xa0\x80", b"\xc0\xaf", b"cut \xe2\x82"])
def test_what_is_not_utf8_is_refused_by_line_number(write, bad):
    path = write("x.txt", b"one\n\n" + bad + b"\nfour\n")
    assert f"{str(path)!r} line 3 is not UTF-8 (byte 0x" in refusal(read_texts, path)


def test_the_error_names_the_position_of_the_wrong_byte(write):
    path = write("x.txt", b"caf\xe9\n")
    assert refusal(read_texts, path) == f"{str(path)!r} line 1 is not UTF-8 (byte 0xe9 at position 4 of the line): save the file as UTF-8"


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_line_of_ten_million_bytes_is_the_longest(write, end):
    assert len(next(read_texts(write("x.txt", b"x" * 10_000_000 + end)))) == 10_000_000
    path = write("y.txt", b"one\n" + b"x" * 10_000_001 + end)
    assert refusal(read_texts, path) == f"{str(path)!r} line 2 is longer than 10,000,000 bytes: give one text per line"


def test_an_endless_line_is_refused_before_it_is_all_in_memory(tmp_path):
    with gzip.GzipFile(tmp_path / "x.gz", "wb", compresslevel=1) as file:
        for _ in range(200):
            file.write(b"x" * 1_000_000)
    tracemalloc.start()
    try:
        refusal(read_texts, tmp_path / "x.gz")
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "line"), [("x.txt", "text\n"), ("x.tsv", "text\tb\n"), ("x.csv", "text,b\n"), ("x.jsonl", '{"text": "t"}\n')]
)
def test_memory_does_not_grow_with_the_file(write, name, line):
    header = {"x.tsv": "text\tb\n", "x.csv": "text,b\n"}.get(name, "")
    path = write(name, header + line * (8_000_000 // len(line)))
    tracemalloc.start()
    try:
        stream = read_texts(path, column=None if name == "x.txt" else "text")
        for _ in range(20_000):  # far enough to tell; tracing makes reading slow
            next(stream)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (gzip.compress(b"one\n"), "holds gzip data, not UTF-8 text: let its name end in .gz"),
        (lzma.compress(b"one\n"), "holds xz data, not UTF-8 text: let its name end in .xz"),
        (b"PK\x03\x04....", "holds a zip archive, not UTF-8 text: unpack it"),
        ("one\n".encode("utf-16"), "holds UTF-16 text, not UTF-8 text: convert it with: iconv -f UTF-16 -t UTF-8"),
    ],
    ids=["gzip", "xz", "zip", "utf-16"],  # packed bytes carry the time: as a name, no two of the suite's workers would agree on them
)
@pytest.mark.parametrize("name", ["x.txt", "x.tsv", "x.jsonl"])
def test_a_name_that_hides_what_a_file_is_is_refused(write, name, content, told):
    path = write(name, content)
    assert refusal(read_texts, path) == f"{str(path)!r} {told}"


def test_packed_standard_input_is_refused(stdin):
    stdin(gzip.compress(b"one\n"))
    assert "unpack it on the way in" in refusal(read_texts, "-")


@pytest.mark.parametrize(("name", "kind"), [("x.txt.gz", "gzip"), ("x.txt.xz", "xz")])
def test_damaged_packed_files_are_refused(tmp_path, name, kind):
    path = tmp_path / name
    path.write_bytes(b"plain text\n")
    assert refusal(read_texts, path) == f"{str(path)!r} is named like {kind} data but is none or is damaged: rename it or pack it again"

    lines = b"".join(b"line %d\n" % number for number in range(300_000))
    whole = (gzip.compress if kind == "gzip" else lzma.compress)(lines)
    path.write_bytes(whole[: len(whole) // 2])
    assert f"ends in the middle of its {kind} data, after line " in refusal(read_texts, path)

    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(byte ^ 0xFF for byte in whole[middle : middle + 64]) + whole[middle + 64 :])
    assert "damaged" in refusal(read_texts, path)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("x.json", "name it .jsonl"),
        ("x.xlsx", "save the sheet as .csv"),
        ("x.PDF", "save it as plain text, .txt"),
        ("x.tar.gz", "unpack it"),
        ("x.txt.bz2", "unpack it, or pack the text itself as .gz or .xz"),
    ],
)
def test_formats_that_are_not_read_say_what_to_give(write, name, advice):
    message = refusal(read_texts, write(name, "{}"))
    assert "which tain does not read" in message
    assert advice in message


def test_plain_text_has_no_columns(write, stdin):
    path = write("x.txt", "one\n")
    assert f"{str(path)!r} is read as plain text, which has no column 'text'" in refusal(read_texts, path, column="text")
    assert "which has no column 'text'" in refusal(read_texts, "-", column="text")


def test_a_file_without_permission_is_refused(write, monkeypatch):
    path = write("x.txt", "one\n")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # an administrator may read everything, whatever the mode says
    assert refusal(read_texts, path) == f"{str(path)!r} cannot be read without permission: change its permissions, or give another file"


# tables


TABLES = {
    "x.csv": 'id,text,label\n1,"Hello, ""you""",a\n\n2,,b\n3,ü,c\n',
    "x.tsv": 'id\ttext\tlabel\n1\tHello, "you"\ta\n\n2\t\tb\n3\tü\tc\n',
    "x.jsonl": """{"id": 1, "text": "Hello, \\"you\\"", "label": "a"}

{"id": 2, "text": "", "label": "b"}
{"label": "c", "id": 3, "text": "ü"}
""",
}


@pytest.mark.parametrize("packing", ["", ".gz", ".xz"])
@pytest.mark.parametrize("name", TABLES)
def test_every_table_format_gives_the_same_texts(write, name, packing):
    path = write(name + packing, TABLES[name])
    texts = read_texts(path, column="text")
    assert list(texts) == ['Hello, "you"', "ü"]
    assert texts.blank == 2

    pairs = read_pairs(path, columns=("label", "text"))
    assert list(pairs) == [("a", 'Hello, "you"'), ("c", "ü")]
    assert pairs.blank == 2

    columns, rows = read_rows(path)
    assert columns == ["id", "text", "label"]
    assert list(rows) == [
        {"id": "1", "text": 'Hello, "you"', "label": "a"},
        {"id": "2", "text": "", "label": "b"},
        {"id": "3", "text": "ü", "label": "c"},
    ]
    assert rows.blank == 1


def test_parquet_reads_like_the_other_tables(tmp_path):
    columns = {"id": [1, 2, 3], "text": ['Hello, "you"', None, "ü"], "score": [0.5, None, 2.0], "ok": [True, False, None]}
    path = write_parquet(tmp_path / "x.parquet", columns)
    texts = read_texts(path, column="text")
    assert list(texts) == ['Hello, "you"', "ü"]
    assert texts.blank == 1
    names, rows = read_rows(path)
    assert names == ["id", "text", "score", "ok"]
    assert list(rows)[:2] == [
        {"id": "1", "text": 'Hello, "you"', "score": "0.5", "ok": "true"},
        {"id": "2", "text": "", "score": "", "ok": "false"},
    ]


def test_parquet_streams_across_row_groups_in_order(tmp_path):
    texts = [f"text {number}" for number in range(5_000)]
    path = write_parquet(tmp_path / "x.parquet", {"other": texts[::-1], "a.b": pa.array(texts).dictionary_encode()}, row_group_size=700)
    assert list(read_texts(path, column="a.b")) == texts
    assert list(read_pairs(path, columns=("a.b", "other"))) == list(zip(texts, texts[::-1], strict=True))


@pytest.mark.parametrize("name", TABLES)
def test_a_column_is_never_guessed(write, name):
    path = write(name, TABLES[name])
    listed = f"{str(path)!r} has 3 columns ('id', 'text', 'label') and nothing is guessed: name the "
    assert refusal(read_texts, path) == listed + "one that holds the texts with --column"
    assert refusal(read_pairs, path) == listed + "two that hold the pairs with --pairs"
    told = f"{str(path)!r} has no column 'txt': name one of 'id', 'text', 'label'"
    assert refusal(read_texts, path, column="txt") == told
    assert refusal(read_pairs, path, columns=("text", "txt")) == told


def test_a_very_wide_table_is_not_listed_whole(write):
    message = refusal(read_texts, write("x.tsv", "\t".join(f"c{number}" for number in range(500)) + "\n"))
    assert "'c19' and 480 more" in message
    assert "c20" not in message


@pytest.mark.parametrize(
    ("name", "content"), [("x.csv", "any name\none\ntwo\n"), ("x.tsv", "any name\none\ntwo"), ("x.jsonl", '{"t": "one"}\n{"t": "two"}')]
)
def test_a_single_column_needs_no_name(write, name, content):
    assert list(read_texts(write(name, content))) == ["one", "two"]


def test_two_columns_need_no_names_for_pairs(write, tmp_path):
    expected = [("one", "eins"), ("two", "zwei")]
    assert list(read_pairs(write("x.csv", "b,a\none,eins\ntwo,zwei\n"))) == expected
    assert list(read_pairs(write("x.tsv", "b\ta\none\teins\ntwo\tzwei\n"))) == expected
    assert list(read_pairs(write("x.jsonl", '{"b": "one", "a": "eins"}\n{"a": "zwei", "b": "two"}\n'))) == expected
    assert list(read_pairs(write_parquet(tmp_path / "x.parquet", {"b": ["one", "two"], "a": ["eins", "zwei"]}))) == expected


def test_pairs_have_named_sides(write):
    pair = next(read_pairs(write("x.tsv", "a\tb\none\teins\n")))
    assert (pair.left, pair.right) == ("one", "eins")


def test_a_pair_has_two_different_sides(write):
    assert "the two sides of a pair must differ" in refusal(read_pairs, write("x.tsv", "a\tb\n1\t2\n"), columns=("a", "a"))


def test_pairs_are_not_guessed_from_plain_text(write, stdin):
    path = write("x.txt", "one\teins\n")
    assert refusal(read_pairs, path) == (
        f"{str(path)!r} is read as plain text, one text per line, but pairs need two columns: "
        "give a .tsv file whose first line names its columns, and name the two with --pairs"
    )
    stdin(b"one\teins\n")
    assert "pairs need two columns" in refusal(read_pairs, "-")


def test_plain_text_has_no_rows_either(write):
    assert "a table is needed" in refusal(read_rows, write("x.txt", "one\n"))


def test_a_quotation_mark_in_a_tsv_is_a_plain_character(write):
    path = write("x.tsv", 'text\tn\n"open\t1\na "b" c\t2\n""\t3\n')
    assert list(read_texts(path, column="text")) == ['"open', 'a "b" c', '""']


def test_a_quoted_csv_field_may_hold_commas_line_ends_and_much_text(write):
    long = "x" * 500_000
    stream = read_texts(write("x.csv", f'text,n\r\n"a, b\r\nc",1\r\n"{long}",2\r\n'), column="text")
    assert list(stream) == ["a, b\nc", long]


def test_reading_csv_leaves_the_csv_module_as_it_was(write):
    import csv

    before = csv.field_size_limit()
    stream = read_texts(write("x.csv", "text\none\ntwo\n"))
    next(stream)
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("bad", ['"never closed\nthree\n', '"closed" and more\n', "lone\rreturn\n"])
def test_broken_csv_is_refused_by_line_number(write, bad):
    path = write("x.csv", "text\none\n" + bad)
    assert f"{str(path)!r} line 3 is not valid csv (" in refusal(read_texts, path)


def test_a_csv_quote_that_swallows_the_file_is_refused_in_bounded_memory(write):
    path = write("x.csv", 'text\n"open\n' + ("y" * 999 + "\n") * 12_000)
    message = refusal(read_texts, path)
    assert "line 2 is not valid csv" in message


@pytest.mark.parametrize(("content", "shown"), [("id;text\n1;one\n", "';'"), ("id\ttext\n1\tone\n", "tabs")])
def test_a_csv_with_other_separators_is_not_taken_for_one_column(write, content, shown):
    assert f"seems to be separated by {shown}" in refusal(read_texts, write("x.csv", content))


@pytest.mark.parametrize(("name", "separator"), [("x.csv", ","), ("x.tsv", "\t")])
def test_a_row_with_a_wrong_number_of_fields_is_refused_by_line_number(write, name, separator):
    for cells, fields in ((["one"], "1 field"), (["one", "two", "three"], "3 fields")):
        path = write(name, f"a{separator}b\n\n1{separator}2\n" + separator.join(cells) + "\n")
        assert refusal(read_texts, path, column="a") == (
            f"{str(path)!r} line 4 has {fields}, but the header has 2: fix the line or the header"
        )


def test_a_column_named_twice_is_refused(write):
    assert "more than one column named 'a'" in refusal(read_texts, write("x.tsv", "a\tb\ta\n1\t2\t3\n"), column="b")


@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
def test_a_table_without_rows_is_refused(write, name):
    path = write(name, "text\n")
    assert refusal(read_texts, path) == f"{str(path)!r} has column names ('text') but no rows: give a table with texts below its first line"
    assert "but no rows" in refusal(read_rows, path)


def test_an_empty_parquet_table_is_refused(tmp_path):
    assert "but no rows" in refusal(read_texts, write_parquet(tmp_path / "x.parquet", {"text": pa.array([], pa.string())}))


def test_a_column_without_a_text_is_refused(write):
    path = write("x.tsv", "text\tn\n\t1\n \t2\n")
    assert refusal(read_texts, path, column="text") == (
        f"{str(path)!r} is blank in column 'text' of every row (2): give another column or file (columns: 'text', 'n')"
    )


# jsonl


@pytest.mark.parametrize("bad", ['{"text": "cut', "{'text': 'one'}", "text", '{"text": "a"} {"text": "b"}', "[" * 100_000])
def test_broken_json_is_refused_by_line_number(write, bad):
    path = write("x.jsonl", '{"text": "one"}\n\n' + bad + "\n")
    assert f"{str(path)!r} line 3 is invalid JSON (" in refusal(read_texts, path)


@pytest.mark.parametrize("bad", ["[1]", '"text"', "3", "null"])
def test_json_that_is_no_object_is_refused_by_line_number(write, bad):
    path = write("x.jsonl", '{"text": "one"}\n' + bad + "\n")
    assert f"{str(path)!r} line 2 is not a JSON object" in refusal(read_texts, path)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (5, "a number (5)"),
        (0.5, "a number (0.5)"),
        (True, "a truth value (True)"),
        (["a"], "a list (['a'])"),
        ({"a": "b" * 99}, "an object"),
    ],
)
def test_a_value_that_is_no_text_is_refused(write, value, shown):
    path = write("x.jsonl", '{"text": "one"}\n' + json.dumps({"text": value}) + "\n")
    told = f"{str(path)!r} line 2, column 'text' holds {shown}, not text: name a column of texts"
    assert refusal(read_texts, path) == told
    assert refusal(read_texts, path, column="text") == told


def test_a_number_in_a_pair_is_refused(write):
    assert "holds a number (5), not text" in refusal(read_pairs, write("x.jsonl", '{"a": "one", "b": 5}\n'))


def test_null_is_a_blank(write):
    stream = read_texts(write("x.jsonl", '{"text": null}\n{"text": "one"}\n'))
    assert list(stream) == ["one"]
    assert stream.blank == 1


def test_rows_spell_numbers_plainly_and_refuse_what_is_nested(write):
    rows = '{"s": 4.25, "n": 3, "ok": true, "none": null, "text": "t"}\n'
    assert list(read_rows(write("x.jsonl", rows))[1]) == [{"s": "4.25", "n": "3", "ok": "true", "none": "", "text": "t"}]
    with pytest.raises(UserError, match="column 's' holds a list"):
        read_rows(write("y.jsonl", '{"s": [1]}\n'))


def test_an_object_without_the_key_is_refused_by_line_number(write):
    path = write("x.jsonl", '{"text": "one", "n": 1}\n{"n": 2}\n')
    assert refusal(read_texts, path, column="text") == (
        f"{str(path)!r} line 2 has no key 'text', which is read: give every object the same keys"
    )


def test_a_further_key_is_refused_only_where_it_would_be_lost(write):
    path = write("x.jsonl", '{"text": "one"}\n{"text": "two", "label": "b"}\n')
    assert list(read_texts(path, column="text")) == ["one", "two"]
    assert "line 2 has the key 'label', which the first object lacks" in refusal(read_texts, path)
    columns, rows = read_rows(path)
    assert columns == ["text"]
    with pytest.raises(UserError, match="has the key 'label'"):
        list(rows)


def test_escapes_that_are_no_text_are_refused(write):
    assert "line 1, column 'text' has a NUL character" in refusal(read_texts, write("x.jsonl", '{"text": "a\\u0000b"}\n'))
    assert "has half of a surrogate pair" in refusal(read_texts, write("x.jsonl", '{"text": "a\\ud800b"}\n'))
    assert list(read_texts(write("x.jsonl", '{"text": "\\ud83d\\ude00\\n"}\n'))) == ["\U0001f600\n"]


# parquet and the hub


def test_parquet_without_pyarrow_names_the_package_to_install(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "x.parquet", {"text": ["one"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refusal(read_texts, path) == (
        f'{str(path)!r} is parquet, which needs pyarrow: run pip install "tain[data]", or give .tsv or .jsonl'
    )


def test_bad_parquet_is_refused(tmp_path, write):
    assert "is not a parquet file, or is damaged (" in refusal(read_texts, write("x.parquet", b"PAR1 not really"))
    assert "is a folder" in refusal(read_texts, tmp_path)
    assert "does not exist" in refusal(read_texts, tmp_path / "y.parquet")
    assert "unpack it to .parquet" in refusal(read_texts, write("x.parquet.gz", b"..."))
    numbers = write_parquet(tmp_path / "n.parquet", {"text": [1, 2]})
    assert "row 1, column 'text' holds a number (1), not text" in refusal(read_texts, numbers)

    whole = write_parquet(tmp_path / "z.parquet", {"text": [f"text {n}" for n in range(10_000)]}, compression="zstd").read_bytes()
    cut = write("z.parquet", whole[:100] + bytes(1000) + whole[1100:])
    assert "is damaged after row " in refusal(read_texts, cut)


def test_a_parquet_text_over_the_limit_is_refused(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", {"text": ["one", "ü" * 6_000_000]})
    assert "row 2, column 'text' is longer than 10,000,000 bytes" in refusal(read_texts, path)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the ``datasets`` package that knows one data set."""

    def load_dataset(name, *, split, streaming):
        assert streaming
        if name != "team/set":
            raise ConnectionError("Couldn't reach the hub.\nSecond line")
        if split == "broken":
            return (example if example else 1 / 0 for example in ({"text": "one"}, None))
        return iter(
            {"train": [{"text": "one", "label": "a"}, {"text": "two", "label": None}], "test": [{"text": "three"}], "none": []}[split]
        )

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))


def test_hub_data_sets_stream_by_name_split_and_column(hub):
    assert list(read_texts("hf:team/set:train:text")) == ["one", "two"]
    assert list(read_texts("hf:team/set", column="text")) == ["one", "two"]
    assert list(read_texts("hf:team/set:test")) == ["three"]
    assert list(read_pairs("hf:team/set")) == [("one", "a")]
    assert list(read_rows("hf:team/set")[1]) == [{"text": "one", "label": "a"}, {"text": "two", "label": ""}]


def test_bad_hub_sources_are_refused(hub):
    assert "has 2 columns ('text', 'label') and nothing is guessed" in refusal(read_texts, "hf:team/set")
    assert "names the column 'text', but --column says 'label'" in refusal(read_texts, "hf:team/set:train:text", column="label")
    assert "pairs need two" in refusal(read_pairs, "hf:team/set:train:text")
    assert refusal(read_texts, "hf:other") == (
        "'hf:other' could not be read (Couldn't reach the hub): check name, split and network, or give a local file"
    )
    assert "'hf:team/set:none:text' is empty" in refusal(read_texts, "hf:team/set:none:text")
    assert "could not be read (division by zero)" in refusal(read_texts, "hf:team/set:broken")
    for source in ("hf:", "hf::train", "hf:a:b:c:d", "hf:a:"):
        assert "is not of the form hf:NAME[:SPLIT[:COLUMN]]" in refusal(read_texts, source)


def test_hub_data_sets_without_the_package_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refusal(read_texts, "hf:team/set") == (
        "'hf:team/set' is a hub data set, which needs datasets: run pip install \"tain[data]\", or give a local file"
    )


def test_reading_needs_neither_torch_nor_pyarrow():
    import subprocess

    script = "import sys, tain.text.readers, tain.text.cleaning; print({'torch', 'pyarrow', 'datasets', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "set()"


# the page for users

MESSAGES = Path(__file__).with_name("reader_messages.txt")  # for review: what users see


def test_every_message_is_as_it_was_reviewed(tmp_path, write, monkeypatch, stdin, hub):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name, content in {
        "notes.txt": "one\n",
        "empty.txt": "",
        "blank.txt": "\n\n\n",
        "latin.txt": b"one\ncaf\xe9\n",
        "nul.txt": b"one\ntwo\nth\0ree\n",
        "long.txt": b"one\n" + b"x" * 10_000_001,
        "packed.txt": gzip.compress(b"one\n"),
        "windows.txt": "one\n".encode("utf-16"),
        "book.pdf": b"%PDF",
        "reviews.csv": "id,text,label\n1,one,a\n",
        "header.csv": "text\n",
        "german.csv": "id;text\n1;eins\n",
        "quote.csv": 'text\none\n"two\n',
        "ragged.tsv": "a\tb\n1\t2\n3\n",
        "twice.tsv": "text\ttext\n1\t2\n",
        "hollow.tsv": "text\tn\n\t1\n\t2\n",
        "cut.jsonl": '{"text": "one"}\n{"text": "tw\n',
        "mixed.jsonl": '{"text": "one"}\n{"text": 2}\n',
        "keys.jsonl": '{"text": "one"}\n{"txt": "two"}\n',
    }.items():
        write(name, content)
    (tmp_path / "false.gz").write_bytes(b"plain text\n")
    stdin(b"")
    cases = [
        *(
            (read_texts, path.name, None)
            for path in tmp_path.iterdir()
            if path.name not in ("notes.txt", "hollow.tsv", "keys.jsonl", "ragged.tsv")
        ),
        (read_texts, "-", None),
        (read_texts, "note.txt", None),
        (read_texts, "hf:other", None),
        (read_texts, "reviews.csv", "txt"),
        (read_texts, "notes.txt", "text"),
        (read_texts, "hollow.tsv", "text"),
        (read_texts, "keys.jsonl", "text"),
        (read_texts, "ragged.tsv", "a"),
        (read_pairs, "notes.txt", None),
        (read_pairs, "reviews.csv", None),
    ]
    given = {refusal(read, source) if column is None else refusal(read, source, column=column) for read, source, column in cases}
    assert sorted(given) == MESSAGES.read_text(encoding="utf-8").splitlines()


# ---- sources that are perhaps not meant as they are read


@pytest.mark.parametrize(
    ("file", "first"),
    [
        ("x.csv", "The first sentence of the file."),
        ("x.csv", "four words are here"),
        ("x.tsv", "What is it?"),
        ("x.csv", "4.5"),
        ("x.csv", "\u6211\u4eec\u53bb\u770b\u3002"),
        ("x.csv.gz", "a line of many words"),
    ],
)
def test_a_first_line_that_looks_like_a_text_is_a_warning(write, file, first):
    content = f"{first}\nanother\n"
    path = write(file, content)
    with pytest.warns(SourceWarning, match=re.escape(f"the first line of {str(path)!r} is read as column names ({first!r})")):
        assert list(read_texts(path)) == ["another"]


def test_a_first_line_that_looks_like_a_pair_is_a_warning_too(write):
    path = write("x.tsv", "a first question, is it?\tan answer\nb\tc\n")
    with pytest.warns(SourceWarning, match="is read as column names"):
        assert list(read_pairs(path)) == [("b", "c")]
    with pytest.warns(SourceWarning, match="is read as column names"):
        read_ranking_examples(path)


@pytest.mark.parametrize("first", ["text", "the text", "review_text", "Sentence 1"])
def test_names_of_columns_are_no_news(write, first, recwarn):
    list(read_texts(write("x.csv", f"{first}\nanother\n")))
    list(read_texts(write("y.csv", "is this a column's name?\nanother\n"), column="is this a column's name?"))  # it was named
    list(read_texts(write("z.jsonl", '{"is this a name?": "a text"}\n')))
    assert not [warning for warning in recwarn if issubclass(warning.category, SourceWarning)]


def test_lines_that_end_with_carriage_returns_only_are_a_warning(write):
    path = write("x.txt", b"one\rtwo\rthree\r")
    with pytest.warns(
        SourceWarning, match=r"x.txt' has 1 line \(a line ends with LF\) and 2 carriage returns inside: where these end lines"
    ):
        assert list(read_texts(path)) == ["one\rtwo\rthree"]
    path = write("y.txt", b"one\rtwo\nthree\rfour\r\n")
    with pytest.warns(SourceWarning, match=r"y.txt' has 2 lines \(a line ends with LF\) and 2 carriage returns inside"):
        assert list(read_texts(path)) == ["one\rtwo", "three\rfour"]


def test_a_stray_carriage_return_is_no_news(write, recwarn):
    assert list(read_texts(write("x.txt", b"one\rtwo\r\nthree\r\nfour\n"))) == ["one\rtwo", "three", "four"]
    assert not recwarn.list


def test_a_single_long_line_with_carriage_returns_is_a_warning(write):
    path = write("x.txt", b"a text\r" * 1_500_000)
    with pytest.raises(
        UserError, match=r"line 1 is longer than 10,000,000 bytes and has [\d,]+ carriage returns; where these end lines, convert them"
    ):
        read_texts(path)


def test_the_error_for_a_csv_with_carriage_returns_only_tells_how_to_convert_it(write):
    path = write("x.csv", b"text\rone\rtwo\r")
    with pytest.raises(
        UserError,
        match=r"line 1 is not valid csv \(a carriage return outside of quotation marks\): its lines may end with CR alone; convert them",
    ):
        read_texts(path)


@pytest.mark.parametrize("blank", ["\u200b", "\ufeff\u200d", " \u2060\t\u200e ", "\u00ad", "\u3000\u200b"])
def test_lines_of_which_nothing_can_be_seen_are_blank(write, blank):
    texts = read_texts(write("x.txt", f"one\n{blank}\ntwo\n"))
    assert (list(texts), texts.blank) == (["one", "two"], 1)
    texts = read_texts(write("x.tsv", f"text\none\n{blank}\ntwo\n"))
    assert (list(texts), texts.blank) == (["one", "two"], 1)
    with pytest.raises(UserError, match="holds only blank lines"):
        read_texts(write("y.txt", f"{blank}\n{blank}\n"))


def test_joiners_and_marks_inside_a_text_stay(write):
    persian = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    assert list(read_texts(write("x.txt", f"{persian}\n\u200fright\n"))) == [persian, "\u200fright"]
