import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tain.cli.main import main


@pytest.fixture
def texts(sentences: list[str], tmp_path: Path) -> Path:
    for name in ("valid_a.txt", "valid_b.txt", "other.txt"):
        (tmp_path / name).write_text("\n".join(sentences), encoding="utf-8")
    return tmp_path


CHANGEABLE = {"--max-tokens": "24", "--resamples": "50"}
OPTIONS = ["--suite", "mlm", "--device", "cpu", "--dtype", "float32", *(part for option in CHANGEABLE.items() for part in option)]


def test_each_text_and_all_together_are_measured_side_by_side(bert_folder: Path, modernbert_folder: Path, texts: Path, capsys):
    figures = texts / "figures.json"
    main(["evaluate", str(bert_folder), str(modernbert_folder), *OPTIONS, "--data", str(texts), "-o", str(figures)])
    rows = json.loads(figures.read_text())["rows"]
    assert [row["text"] for row in rows] == ["valid_a"] * 2 + ["valid_b"] * 2 + ["all"] * 2
    # the texts are alike and each is measured with the same seed
    assert rows[0] == rows[2] | {"text": "valid_a"}
    assert rows[4]["loss"] == pytest.approx(rows[0]["loss"], abs=1e-5)
    assert rows[4]["tokens"] == 2 * rows[0]["tokens"]
    assert all(row["interval"][0] <= row["loss"] <= row["interval"][1] for row in rows)
    out, error = capsys.readouterr()
    assert "bits/byte" in out and "valid_a" in out and "50 resamples" in " ".join(out.split())
    assert "measuring" in error and "measuring" not in out


def test_one_file_is_enough_and_json_is_one_object(bert_folder: Path, texts: Path, capsys):
    found = []
    for flag in ("--texts", "--data"):
        main(["evaluate", str(bert_folder), *OPTIONS, flag, str(texts / "other.txt"), "--json"])
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]  # deterministic, whichever way the file was given
    assert [row["text"] for row in found[0]["rows"]] == ["other"]
    assert found[0]["passes"] == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "suite mlm needs texts: give a file with --texts"),
        (["--texts", "TEXTS", "--data", "FOLDER"], "(not both)"),
        (["--texts", "TEXTS", "--suite", "sts"], "measures other models than sts: run it separately"),
        (["--texts", "TEXTS", "--chart", "x.svg"], "draws no chart"),
        (["--texts", "TEXTS", "--pooling", "cls", "--typos", "0.1"], "--pooling, --typos has no effect with suite mlm: remove it"),
        (["--texts", "UNKNOWN"], "knows no token of the texts: give texts of its language"),
        (["--texts", "TEXTS", "--max-tokens", "1000"], "max_tokens is 1000, but blocks for"),
        (["--texts", "TEXTS", "--resamples", "0"], "resamples is 0"),
        (["--data", "EMPTY"], "which has no file named valid_*"),
        (["--texts", "SHORT"], "fewer than a block of"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(arguments: list[str], message: str, bert_folder: Path, texts: Path, capsys):
    (texts / "empty").mkdir()
    (texts / "short.txt").write_text("a red sun\n", encoding="utf-8")
    (texts / "unknown.txt").write_text("ж " * 200, encoding="utf-8")
    indices = {
        "UNKNOWN": texts / "unknown.txt",
        "TEXTS": texts / "other.txt",
        "FOLDER": texts,
        "EMPTY": texts / "empty",
        "SHORT": texts / "short.txt",
    }
    kept = {flag: value for flag, value in CHANGEABLE.items() if flag not in arguments}
    options = [*OPTIONS[:6], *(part for option in kept.items() for part in option)]
    with pytest.raises(SystemExit) as exited:
        main(["evaluate", str(bert_folder), *options, *(str(indices.get(argument, argument)) for argument in arguments)])
    assert exited.value.code == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert message in error.splitlines()[-1]


def test_a_model_that_blew_up_is_refused_in_one_line(bert_folder: Path, texts: Path, tmp_path: Path, capsys):
    broken, figures = tmp_path / "broken", tmp_path / "figures.json"
    shutil.copytree(bert_folder, broken)
    weights = load_file(broken / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"][:] = torch.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SystemExit) as exited:
        main(["evaluate", str(broken), *OPTIONS, "--texts", str(texts / "other.txt"), "-o", str(figures)])
    assert exited.value.code == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert "has weights that are not finite" in error.splitlines()[-1]
    assert not figures.exists()
