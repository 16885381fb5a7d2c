"""Encoding in shards: the same vectors in the same order as in one run, and no shard is made twice."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models import encode_to_file as one_file
from tain.models.encode_to_file import encode_to_file, ranges_file
from tain.models.vector_forms import Int8Ranges
from tain.scale.shards import ShardedRun, encode_shard, merge_shards

TEXTS = [f"text number {number} of a few" for number in range(50)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.jsonl"
    rows = ({"number": 100 + number, "body": text, "tags": [number]} for number, text in enumerate(TEXTS))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def a_run(source: Path, *, count: int = 4, **settings: Any) -> ShardedRun:
    return ShardedRun(source=str(source), folder=source.parent / "shards", count=count, **settings)


def encode_all(run: ShardedRun, embedder: Any) -> None:
    for number in range(1, run.count + 1):
        encode_shard(embedder, run, number)


def read(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)["vectors"]
    from pyarrow import parquet

    table = parquet.read_table(path)
    assert table["index"].to_pylist() == list(range(len(table)))
    return np.stack(table["vector"].to_numpy())


@pytest.mark.parametrize("ending", [".npy", ".safetensors", ".parquet"])
@pytest.mark.parametrize("count", [1, 3, 7, 80])
def test_merged_shards_are_the_vectors_of_one_run(source, hash_embedder, ending, count):
    run = a_run(source, count=count)
    encode_all(run, hash_embedder())
    made = merge_shards(run.folder, source.parent / f"merged{ending}")
    encode_to_file(hash_embedder(), TEXTS, source.parent / f"whole{ending}")
    assert (made.texts, made.dim, made.shards) == (50, 5, count)
    np.testing.assert_array_equal(read(made.path), read(source.parent / f"whole{ending}"))
    if ending != ".parquet":  # parquet has other row groups
        assert made.path.read_bytes() == (source.parent / f"whole{ending}").read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "binary"])
def test_every_stored_type_is_merged(source, hash_embedder, dtype):
    run = a_run(source, options={"dtype": dtype})
    encode_all(run, hash_embedder())
    for ending in (".npy", ".safetensors", ".parquet"):
        encode_to_file(hash_embedder(), TEXTS, source.parent / f"whole{ending}", dtype=dtype)
        merged = merge_shards(run.folder, source.parent / f"merged{ending}").path
        np.testing.assert_array_equal(read(merged), read(source.parent / f"whole{ending}"))
        assert read(merged).dtype == read(source.parent / f"whole{ending}").dtype


def test_shards_of_int8_share_their_ranges_and_are_merged_with_them(source, hash_embedder):
    with pytest.raises(UserError, match="shards of int8 need the same ranges"):
        encode_shard(hash_embedder(), a_run(source, options={"dtype": "int8"}), 1)
    ranges = Int8Ranges.calibrated(hash_embedder().encode(TEXTS))
    run = a_run(source, options={"dtype": "int8", "int8_ranges": ranges})
    encode_all(run, hash_embedder())
    merged = merge_shards(run.folder, source.parent / "merged.npy").path
    whole = source.parent / "whole.npy"
    encode_to_file(hash_embedder(), TEXTS, whole, dtype="int8", int8_ranges=ranges)
    assert np.array_equal(read(merged), read(whole))
    assert ranges_file(merged).read_text() == ranges_file(whole).read_text()
    with pytest.raises(UserError, match=r"merged\.npy.*exists"):
        merge_shards(run.folder, merged)


def test_columns_and_texts_go_through_shards_and_merge(table, hash_embedder):
    from pyarrow import parquet

    run = a_run(table, column="body", keep=("tags",), id_column="number", options={"with_texts": True})
    encode_all(run, hash_embedder())
    merged = parquet.read_table(merge_shards(run.folder, table.parent / "merged.parquet").path)
    assert merged.column_names == ["index", "id", "tags", "text", "vector"]
    assert merged["id"].to_pylist() == list(range(100, 150))
    assert merged["index"].to_pylist() == list(range(50))
    assert merged["tags"].to_pylist()[:2] == ["[0]", "[1]"]
    assert merged["text"].to_pylist() == TEXTS
    np.testing.assert_array_equal(np.stack(merged["vector"].to_numpy()), hash_embedder().encode(TEXTS))
    with pytest.raises(UserError, match=r"hold texts or columns besides their vectors, which a .npy file cannot"):
        merge_shards(run.folder, table.parent / "merged.npy")


def test_a_finished_shard_is_skipped(source, hash_embedder):
    run, embedder = a_run(source), hash_embedder()
    first = encode_shard(embedder, run, 2)
    before = (first.path.stat().st_mtime_ns, embedder.encoded)
    again = encode_shard(embedder, run, 2)
    assert again.skipped and not first.skipped
    assert (again.texts, again.dim) == (first.texts, first.dim)
    assert (first.path.stat().st_mtime_ns, embedder.encoded) == before
    encode_shard(embedder, run, 2, overwrite=True)
    assert embedder.encoded == 2 * before[1]


@pytest.mark.parametrize("damage", ["flipped", "short", "gone", "no record", "damaged record", "record of another file"])
def test_a_broken_shard_is_made_again(source, hash_embedder, damage, recwarn):
    run, embedder = a_run(source), hash_embedder()
    path = encode_shard(embedder, run, 2).path
    record, whole, encoded = path.with_suffix(".json"), path.read_bytes(), embedder.encoded
    if damage == "flipped":
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "short":
        path.write_bytes(whole[:-4])
    elif damage == "gone":
        path.unlink()
    elif damage == "no record":
        record.unlink()
    elif damage == "damaged record":
        record.write_text(record.read_text()[:-20])
    else:
        record.write_text(record.read_text().replace(path.name, "../other.npy"))
    assert not encode_shard(embedder, run, 2).skipped
    assert path.read_bytes() == whole
    assert embedder.encoded == 2 * encoded


def test_a_killed_shard_is_continued(source, hash_embedder, monkeypatch):
    run = a_run(source, count=2, options={"window_texts": 4})
    whole = encode_shard(hash_embedder(), run, 1).path.read_bytes()
    shutil.rmtree(run.folder)

    class KilledError(BaseException):
        pass

    real, windows = one_file._keep, []

    def killed(*given: Any) -> None:
        real(*given)
        windows.append(1)
        if len(windows) == 3:
            raise KilledError

    monkeypatch.setattr(one_file, "_keep", killed)
    with pytest.raises(KilledError):
        encode_shard(hash_embedder(), run, 1, progress=Progress.mute())
    monkeypatch.setattr(one_file, "_keep", real)
    embedder = hash_embedder()
    made = encode_shard(embedder, run, 1, progress=Progress.mute())
    assert made.path.read_bytes() == whole
    assert made.resumed == 12
    assert embedder.encoded == made.texts - 12


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"weights": "other"}, {}, "the weights of 'hash' differ"),
        ({"name": "new", "weights": "other"}, {}, "model was 'hash', now 'new'"),
        ({"max_tokens": 32}, {}, "max-tokens was 64, now 32"),
        ({}, {"options": {"dtype": "float16"}}, "dtype was not given, now float16"),
        ({}, {"options": {"normalize": True}}, "normalize was off, now on"),
    ],
)
def test_a_shard_of_another_run_is_refused_and_not_replaced(source, hash_embedder, changes, settings, message):
    path = encode_shard(hash_embedder(), a_run(source), 1).path
    before = path.read_bytes()
    with pytest.raises(UserError, match=message):
        encode_shard(hash_embedder(**changes), a_run(source, **settings), 1)
    assert path.read_bytes() == before


def test_other_texts_are_refused(source, hash_embedder):
    run = a_run(source)
    encode_shard(hash_embedder(), run, 1)
    whole = source.read_text()
    source.write_text(whole.replace("number 0 of", "number x of"))  # the same size
    with pytest.raises(UserError, match=r"shard 1/4 in '.*' was made of other texts"):
        encode_shard(hash_embedder(), run, 1)
    source.write_text(whole + "more\n")
    with pytest.raises(UserError, match="the files of the texts have other names or sizes"):
        encode_shard(hash_embedder(), run, 1)


def test_another_number_of_shards_is_refused_in_the_same_folder(source, hash_embedder):
    encode_shard(hash_embedder(), a_run(source, count=4), 1)
    with pytest.raises(UserError, match="holds shards of a run with 4 shards, not 5"):
        encode_shard(hash_embedder(), a_run(source, count=5), 1)


def test_merging_names_the_shards_that_are_missing(source, hash_embedder):
    run = a_run(source, count=9)
    for number in (1, 5, 9):
        encode_shard(hash_embedder(), run, number)
    with pytest.raises(UserError, match=r"lacks shards 2 to 4, 6 to 8 of 9: make them with tain encode --shard"):
        merge_shards(run.folder, source.parent / "merged.npy")
    assert not (source.parent / "merged.npy").exists()


def test_merging_names_the_shards_that_are_damaged(source, hash_embedder):
    run = a_run(source, count=3)
    encode_all(run, hash_embedder())
    run.file(2).write_bytes(run.file(2).read_bytes()[:-1])
    with pytest.raises(UserError, match=r"has damaged files \(shard 2 of 3\)"):
        merge_shards(run.folder, source.parent / "merged.npy")


def test_shards_of_other_models_are_not_merged(source, hash_embedder):
    encode_shard(hash_embedder(), a_run(source, count=2), 1)
    encode_shard(hash_embedder(weights="other"), a_run(source, count=2), 2)
    with pytest.raises(UserError, match=r"made otherwise than '00001-of-00002.npy' \('00002-of-00002.npy': the weights of 'hash' differ\)"):
        merge_shards(source.parent / "shards", source.parent / "merged.npy")


def test_folders_without_shards_or_with_those_of_two_runs_are_not_merged(source, hash_embedder):
    with pytest.raises(UserError, match="is not a folder: give a folder that tain encode --shard wrote"):
        merge_shards(source.parent / "nothing", source.parent / "merged.npy")
    with pytest.raises(UserError, match="holds no shards"):
        merge_shards(source.parent, source.parent / "merged.npy")
    run = a_run(source, count=2)
    encode_all(run, hash_embedder())
    for path in list(run.folder.iterdir()):
        shutil.copy(path, path.with_name(path.name.replace("00002.", "00003.")))
    with pytest.raises(UserError, match=r"holds shards of several runs \(2 and 3 shards\)"):
        merge_shards(run.folder, source.parent / "merged.npy")


def test_a_link_among_the_shards_is_not_followed(source, hash_embedder, tmp_path):
    run = a_run(source, count=2)
    encode_all(run, hash_embedder())
    (tmp_path / "elsewhere.npy").write_bytes(run.file(2).read_bytes())
    run.file(2).unlink()
    run.file(2).symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(UserError, match="is a link"):
        merge_shards(run.folder, source.parent / "merged.npy")


def test_a_header_that_lies_about_its_rows_is_refused(source, hash_embedder):
    import hashlib

    run = a_run(source, count=2)
    encode_all(run, hash_embedder())
    path = run.file(1)
    whole = path.read_bytes()
    huge = f"({2**60}, 5)"
    path.write_bytes(whole.replace(f"({(len(whole) - 128) // 20}, 5), }}".encode() + b" " * (len(huge) - 7), f"{huge}, }}".encode()))
    assert len(path.read_bytes()) == len(whole)
    record = json.loads(path.with_suffix(".json").read_text())
    record["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="its size does not fit its header"):
        merge_shards(run.folder, source.parent / "merged.npy")


def test_the_command_line_encodes_shards_and_merges_them(tmp_path, bert_folder, sentences, capsys):
    from tain.cli.main import main

    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in sentences))
    same = ["--compute-dtype", "float32", "--device", "cpu"]
    main(["encode", str(bert_folder), str(tmp_path / "texts.txt"), "-o", str(tmp_path / "whole.npy"), *same])
    for number in (1, 2, 3, 3):
        main(["encode", str(bert_folder), str(tmp_path / "texts.txt"), "-o", str(tmp_path / "shards"), "--shard", f"{number}/3", *same])
    out = capsys.readouterr().out.splitlines()
    assert out[1].startswith("shard 1/3: ") and out[4].startswith("shard 3/3 is complete: ")
    main(["encode", "--merge", str(tmp_path / "shards"), "-o", str(tmp_path / "merged.npy"), "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert figures == {"file": str(tmp_path / "merged.npy"), "shards": 3, "texts": 12, "dim": 32, "truncated": 0, "blank": 0}
    np.testing.assert_allclose(np.load(tmp_path / "merged.npy"), np.load(tmp_path / "whole.npy"), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--merge", "shards", "model", "texts", "-o", "x.npy"], "--merge joins shards that exist, but MODEL is 'model'"),
        (["--merge", "shards", "--shard", "1/2", "-o", "x.npy"], "--shard makes a shard and --merge joins them"),
        (["-o", "x.npy"], "MODEL is missing: give tain encode MODEL TEXTS -o FILE"),
        (["model", "-o", "x.npy"], "TEXTS is missing"),
        (["model", "texts", "--shard", "1/2", "--resume", "-o", "x"], "an interrupted shard is continued by itself: leave --resume out"),
        (["tain-mini", "TEXTS", "--shard", "9/2", "-o", "x"], "shard is 9/2, which does not exist"),
        (["tain-mini", "-", "--shard", "1/2", "-o", "x"], "standard input cannot be split into shards"),
        (["tain-mini", "TABLE", "--column", "body", "--keep", "id", "-o", "x.npy"], "columns cannot be kept in a .npy file"),
        (["tain-mini", "TEXTS", "--keep", "id", "-o", "x.parquet"], "read as plain text, which has no column 'id'"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(tmp_path, monkeypatch, capsys, arguments, message):
    from tain.cli.main import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("a text\n")
    (tmp_path / "table.tsv").write_text("id\tbody\n1\ta text\n")
    given = [{"TEXTS": "texts.txt", "TABLE": "table.tsv"}.get(word, word) for word in arguments]
    with pytest.raises(SystemExit) as stopped:
        main(["encode", *given])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.tsv", "texts.txt"]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_the_command_line_keeps_columns_of_every_table(tmp_path, bert_folder, name):
    import pyarrow as pa
    from pyarrow import parquet

    from tain.cli.main import main

    source = tmp_path / name
    if name == "a.parquet":
        parquet.write_table(pa.table({"n": pa.array([1, 2], pa.int32()), "body": ["a mirror", "glass"], "tags": [["x"], []]}), source)
    elif name == "a.jsonl":
        source.write_text('{"n": 1, "body": "a mirror", "tags": ["x"]}\n{"n": 2, "body": "glass", "tags": []}\n')
    else:
        mark = "," if name == "a.csv" else "\t"
        source.write_text("\n".join(mark.join(row) for row in (("n", "body", "tags"), ("1", "a mirror", "x"), ("2", "glass", ""))) + "\n")
    out = tmp_path / "out.parquet"
    main(["encode", str(bert_folder), str(source), "-o", str(out), "--column", "body", "--keep", "tags", "n", "--id-column", "n"])
    made = parquet.read_table(out)
    assert made.column_names == ["index", "id", "tags", "n", "vector"]
    expected = {
        "a.csv": (["1", "2"], ["x", ""]),
        "a.tsv": (["1", "2"], ["x", ""]),
        "a.jsonl": ([1, 2], ['["x"]', "[]"]),
        "a.parquet": ([1, 2], [["x"], []]),
    }
    assert (made["id"].to_pylist(), made["tags"].to_pylist()) == expected[name]
    assert made["n"].type == made["id"].type == {"a.jsonl": pa.int64(), "a.parquet": pa.int32()}.get(name, pa.string())


def test_a_resumed_run_compares_the_kept_columns_of_its_finished_part(tmp_path, hash_embedder):
    from tain.text.kept import KeptColumns, read_text_rows

    def run(content: str, *, resume: bool) -> Path:
        (tmp_path / "a.tsv").write_text(content)
        rows = read_text_rows(tmp_path / "a.tsv", column="body", keep=("n",))
        columns = KeptColumns(rows, rows.fields)
        path = tmp_path / "out.parquet"
        encode_to_file(hash_embedder(), columns.texts(), path, columns=columns, window_texts=2, resume=resume, progress=Progress.mute())
        return path

    good = "n\tbody\n1\ta\n2\tb\n3\tc\n"
    whole = run(good, resume=False).read_bytes()
    (tmp_path / "out.parquet").unlink()
    with pytest.raises(UserError, match="line 4 has 1 field"):
        run("n\tbody\n1\ta\n2\tb\n3\n", resume=False)
    with pytest.raises(UserError, match="interrupted run with other texts"):
        run("n\tbody\n1\ta\n9\tb\n3\tc\n", resume=True)
    assert run(good, resume=True).read_bytes() == whole
