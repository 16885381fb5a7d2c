import json
from pathlib import Path

import pytest

from tain.cli.main import main


@pytest.fixture
def texts(tmp_path: Path, sentences: list[str]) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(sentences) + "\n")
    return path


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exited:
        main(["correct", *arguments])
    assert exited.value.code == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1
    return error


def test_languages_are_shown_as_a_table_and_used_by_encode(
    bert_folder: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    main(
        [
            "correct",
            str(bert_folder),
            "-o",
            str(out),
            "--language",
            f"en={texts}",
            "--language",
            f"de={texts}",
            "--device",
            "cpu",
            "--quiet",
        ]
    )
    shown = capsys.readouterr().out
    assert "cosine to mean" in shown and "cosine of the means of en and de: 1.000 before" in shown and "saved in" in shown
    main(["encode", str(out), str(texts), "-o", str(tmp_path / "v.npy"), "--language", "de", "--quiet", "--device", "cpu"])
    with pytest.raises(SystemExit):
        main(["encode", str(out), str(texts), "-o", str(tmp_path / "w.npy"), "--quiet", "--device", "cpu"])
    assert "give the language of the texts, one of de, en" in capsys.readouterr().err


def test_json_gives_every_figure(bert_folder: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["correct", str(bert_folder), str(texts), "-o", str(tmp_path / "out"), "--remove-top", "2", "--device", "cpu", "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert (figures["method"], figures["components"], figures["texts"], figures["dim"]) == ("remove-top", 2, 12, 32)
    assert 0 < figures["removed_share"] < 1


def test_whitening_says_what_it_did(bert_folder: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = [str(bert_folder), str(texts), "-o", str(tmp_path / "out"), "--whiten", "--dimensions", "4", "--device", "cpu", "--quiet"]
    main(["correct", *arguments])
    assert "removed, 4 dimensions" in " ".join(capsys.readouterr().out.split())
    assert "already exists" in refusal(arguments, capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no correction is named, but exactly one is fitted"),
        (["--whiten", "--remove-top", "1"], "--whiten and --remove-top are given, but exactly one is fitted"),
        (["--whiten"], "--whiten needs texts to fit on"),
        (["--language", "en"], "names no file: give CODE=FILE"),
        (["--language", "en=TEXTS", "--language", "EN=TEXTS"], "language 'en' is given twice"),
        (["TEXTS", "--language", "en=TEXTS"], "--language: name the language of every file"),
        (["--language", "e n=TEXTS"], "which is not a language code"),
        (["--language", "en=nowhere.txt"], "'nowhere.txt' does not exist"),
        (["TEXTS", "--remove-top", "0"], "remove_top is 0: give 1 or more"),
        (["TEXTS", "--remove-top", "400"], "remove_top is 400, but vectors of dimension 32"),
        (["--language", "en=TEXTS", "--components", "0"], "components is 0: give 1 or more"),
        (["TEXTS", "--whiten", "--components", "0"], "components is 0, which only applies to --language: leave it out"),
        (["TEXTS", "--whiten", "--dimensions", "1000"], "dimensions is 1000, but the vectors have 32"),
        (["TEXTS", "--remove-top", "1", "--components", "2"], "components is 2, which only applies to --language"),
        (["TEXTS", "--remove-top", "1", "--dimensions", "2"], "dimensions is 2, but remove-top keeps all dimensions"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    arguments: list[str], words: str, bert_folder: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    given = [argument.replace("TEXTS", str(texts)) for argument in arguments]
    assert words in refusal([str(bert_folder), *given, "-o", str(tmp_path / "out"), "--quiet"], capsys)
    assert not (tmp_path / "out").exists()
