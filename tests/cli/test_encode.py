import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tain.cli.encode import _count_texts
from tain.cli.main import main
from tain.models.encode_to_file import partial_folder


@pytest.fixture
def texts(tmp_path: Path, sentences: list[str]) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(sentences) + "\n")
    return path


def run(*arguments: object) -> None:
    main(["encode", *map(str, arguments), "--compute-dtype", "float32", "--device", "cpu"])


def refusal(*arguments: object, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exited:
        main(["encode", *map(str, arguments)])
    out, error = capsys.readouterr()
    assert exited.value.code == 2
    assert out == ""
    assert error.startswith("error: ") and error.count("\n") == 1
    return error.removeprefix("error: ").strip()


def test_a_file_of_texts_becomes_a_file_of_vectors_and_one_line_says_so(tmp_path, bert_folder, texts, sentences, capsys):
    from tain.models.embedder import Embedder

    run(bert_folder, texts, "-o", tmp_path / "vectors.npy")
    expected = Embedder.load(bert_folder, dtype="float32", device="cpu").encode(sentences)
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=1e-5)
    out, error = capsys.readouterr()
    assert out.startswith("12 vectors of 32 dimensions, ")
    assert out.endswith(f" texts/s, saved in {tmp_path / 'vectors.npy'}\n")
    assert "encode: 12/12 in " in error


def test_freed_memory_is_kept(tmp_path, bert_folder, texts, monkeypatch):
    kept = []
    monkeypatch.setattr("tain.foundation.machine.keep_freed_memory", lambda: kept.append(True))
    run(bert_folder, texts, "-o", tmp_path / "vectors.npy")
    assert kept


def test_standard_input_and_json(tmp_path, bert_folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a mirror\n\na long text about glass and sand\n")))
    run(bert_folder, "-", "-o", tmp_path / "vectors.safetensors", "--json", "--max-tokens", 6, "--normalize", "--dtype", "float16")
    out, error = capsys.readouterr()
    result = json.loads(out)
    assert result.pop("texts_per_s") > 0
    assert result == {
        "file": str(tmp_path / "vectors.safetensors"),
        "texts": 2,
        "dim": 32,
        "truncated": 1,
        "chunked": 0,
        "blank": 1,
        "resumed": 0,
    }
    messages = [event["message"] for event in map(json.loads, error.splitlines()) if event["event"] == "warning"]
    assert messages == [
        "1 of 2 texts are longer than 6 tokens and were truncated: raise --max-tokens if the model allows it, or split the texts",
        "1 blank lines were skipped: row numbers count texts, not lines",
    ]


def test_quiet_says_only_the_result(tmp_path, bert_folder, texts, capsys):
    run(bert_folder, texts, "-o", tmp_path / "vectors.npy", "--quiet")
    out, error = capsys.readouterr()
    assert out.count("\n") == 1
    assert error == ""


def test_a_column_of_a_table_and_its_texts_go_to_parquet(tmp_path, bert_folder):
    from pyarrow import parquet

    (tmp_path / "table.tsv").write_text("id\tbody\n1\ta mirror\n2\ta red house\n")
    run(bert_folder, tmp_path / "table.tsv", "--column", "body", "--with-texts", "-o", tmp_path / "vectors.parquet", "--pooling", "cls")
    assert parquet.read_table(tmp_path / "vectors.parquet")["text"].to_pylist() == ["a mirror", "a red house"]


def test_a_killed_run_leaves_no_file_and_goes_on_to_the_same_bytes(tmp_path, bert_folder, capsys):
    path, source = tmp_path / "vectors.npy", tmp_path / "texts.txt"
    lines = [f"{number:04d} mirrors ".ljust(2_500, "a") for number in range(1_000)]  # a window holds 2,000,000 characters
    source.write_text("\n".join(lines) + "\n")
    run(bert_folder, source, "-o", tmp_path / "whole.npy")
    capsys.readouterr()

    command = [sys.executable, "-m", "tain", "encode", str(bert_folder), "-", "-o", str(path), "--compute-dtype", "float32"]
    child = subprocess.Popen(
        [*command, "--device", "cpu"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )
    assert child.stdin is not None
    child.stdin.write("\n".join(lines[:900]).encode())  # more than a window, and then the pipe stays open
    child.stdin.flush()
    deadline_s = time.monotonic() + 60
    while not (partial_folder(path) / "state.json").exists():
        assert time.monotonic() < deadline_s and child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdin.close()

    assert not path.exists()
    assert "belongs to a run that was interrupted after 800 texts" in refusal(bert_folder, source, "-o", path, capsys=capsys)
    run(bert_folder, source, "-o", path, "--resume")
    assert "1,000 vectors (800 from an earlier run) of 32 dimensions" in capsys.readouterr().out
    assert path.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert not partial_folder(path).exists()


def test_bad_input_is_refused_before_torch_is_loaded(tmp_path, texts, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tain.models.embedder", None)  # importing it would be an ImportError
    out = tmp_path / "vectors.npy"
    taken = tmp_path / "taken.npy"
    taken.touch()
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    said = {
        "missing.txt' does not exist: check the path": (model, tmp_path / "missing.txt", "-o", out),
        "ends in .csv, which is not a vector format: use .npy, .parquet or .safetensors": (model, texts, "-o", "vectors.csv"),
        "a .npy file, which holds vectors only: use an output ending in .parquet": (model, texts, "-o", out, "--with-texts"),
        "batch_tokens is 0, but a batch needs at least one token: give 1 or more": (model, texts, "-o", out, "--batch-tokens", "0"),
        "nowhere' does not exist: give a model folder, a hub name, or tain-mini": (tmp_path / "nowhere", texts, "-o", out),
        "taken.npy' already exists: choose another name or give --overwrite": (model, texts, "-o", taken),
        "is read as plain text, which has no column 'body'": (model, texts, "-o", out, "--column", "body"),
        'Invalid value "int4" for --dtype. Choose from: "float32", "float16", "int8", "binary". Did you mean "int8"? (see tain encode --help)': (
            model,
            texts,
            "-o",
            out,
            "--dtype",
            "int4",
        ),
        "unknown option --outptu": (model, "--outptu", "-o", out),
        "Unknown option: --resum. Did you mean --resume? (see tain encode --help)": (model, texts, "-o", out, "--resum"),
    }
    for message, arguments in said.items():
        assert message in refusal(*arguments, capsys=capsys)
    assert not out.exists()


def test_what_only_the_model_knows_is_refused_with_its_limits(tmp_path, bert_folder, texts, capsys):
    arguments = (bert_folder, texts, "-o", tmp_path / "vectors.npy")
    assert "max_tokens is 41, but model" in refusal(*arguments, "--max-tokens", 41, capsys=capsys)
    assert "device is 'gpu', which torch does not know: give cpu, cuda or cuda:N" in refusal(*arguments, "--device", "gpu", capsys=capsys)
    assert not (tmp_path / "vectors.npy").exists()


@pytest.mark.parametrize(
    ("content", "texts"),
    [(b"a\nb\n", 2), (b"a\n\n  \r\nb", 2), (b"", 0), (b"\n", 0), (b"a" * 3_000_000 + b"\nb", 2), (b" " * 2_000_000, 0)],
)
def test_lines_are_counted_as_the_reader_counts_texts(tmp_path, content, texts):
    path = tmp_path / "texts.txt"
    path.write_bytes(content)
    assert _count_texts(str(path)) == texts


def test_what_is_read_once_or_packed_is_not_counted(tmp_path):
    (tmp_path / "texts.txt.gz").write_bytes(b"")
    (tmp_path / "table.csv").write_bytes(b"a\n")
    for source in ("-", "hf:name", str(tmp_path / "texts.txt.gz"), str(tmp_path / "table.csv"), os.devnull):
        assert _count_texts(source) is None
