"""``tain distil`` as it is typed."""

import json

import numpy as np
import pytest
from command_line import run

from tain.students.student import Student

SMALL = ("--features", 64, "--bottleneck", 16, "--state", 8, "--layers", 1, "--batch-texts", 8, "--epochs", 1, "--device", "cpu")


@pytest.fixture
def texts_file(sentences, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(f"{first} while {second}" for first in sentences for second in sentences[:4]), encoding="utf-8")
    return path


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.tsv"
    rows = [f"go to {city}\tO O B-city\t{'go' if index % 2 else ''}" for index, city in enumerate("abcdefghijklmnopqrst")]
    path.write_text("\n".join(["text\tslots\tintent", *rows]), encoding="utf-8")
    return path


def test_raw_text_becomes_a_student_and_two_tables(bert_folder, texts_file, tmp_path, capsys):
    assert run("distil", bert_folder, texts_file, "-o", tmp_path / "student", *SMALL) == 0
    said = capsys.readouterr().out
    assert "Spearman of cosines between texts" in said
    assert "all files of the student" in said
    assert Student.load(tmp_path / "student").encode(["a mirror"]).shape == (1, 32)


def test_columns_hold_texts_labels_and_tags(table, texts_file, tmp_path, capsys):
    columns = ("--column", "text", "--label-column", "intent", "--tags-column", "slots")
    assert run("distil", "none", table, "-o", tmp_path / "student", "--task", "tag", *columns, "--json", *SMALL) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"]["given"] == 20
    record = json.loads((tmp_path / "student" / "tain.json").read_text())
    assert (record["labels"], record["tags"]) == (["go"], ["B-city", "O"])


def test_logits_and_their_names_are_files(table, texts_file, tmp_path, capsys):
    np.save(tmp_path / "logits.npy", np.zeros((20 + 48, 2), np.float32))
    (tmp_path / "names.txt").write_text("go\nstay\n")
    more = ("--task", "classify", "--column", "text", "--label-column", "intent", "--unlabelled", texts_file)
    where = ("distil", tmp_path / "logits.npy", table, "-o", tmp_path / "student")
    assert run(*where, *more, "--labels", tmp_path / "names.txt", *SMALL) == 0
    (tmp_path / "names.txt").write_text("go\nstay\nfly\n")
    assert run(*where, "--overwrite", *more, "--labels", tmp_path / "names.txt", *SMALL) == 2
    assert "has logits of 2 labels, but 3 names were given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--labels", "names.txt"), "error: --labels has no effect with --task embed: remove it, or give --task classify\n"),
        (("--tags", "names.txt"), "error: --tags has no effect with --task embed: remove it, or give --task tag\n"),
        (("--temperature", "0"), "error: temperature is 0.0: give a number above 0\n"),
        (
            ("--task", "tag", "--student", "static"),
            "error: a static student sees each token alone, so it cannot tag: give --student pqrnn\n",
        ),
    ],
)
def test_what_cannot_work_is_one_line_and_code_2(bert_folder, texts_file, tmp_path, capsys, more, message):
    assert run("distil", bert_folder, texts_file, "-o", tmp_path / "student", *more) == 2
    assert capsys.readouterr().err == message
    assert not (tmp_path / "student").exists()


def test_missing_columns_and_files_are_refused(table, texts_file, tmp_path, capsys):
    where = ("-o", tmp_path / "student", "--task", "classify")
    assert run("distil", "none", table, *where, "--label-column", "intent") == 2
    assert "with --column" in capsys.readouterr().err
    assert run("distil", "none", table, *where, "--column", "text", "--label-column", "class") == 2
    assert "has no column 'class': give --label-column one of text, slots, intent" in capsys.readouterr().err
    assert run("distil", tmp_path / "no.npy", texts_file, "-o", tmp_path / "student") == 2
    assert "does not exist: give a matrix of outputs, or a model" in capsys.readouterr().err


def test_what_a_preset_turns_on_can_be_turned_off(bert_folder, texts_file, tmp_path):
    for name, flag in (("on", ()), ("off", ("--no-separate",))):
        assert run("distil", bert_folder, texts_file, "-o", tmp_path / name, "--quiet", *flag, *SMALL) == 0
        assert json.loads((tmp_path / name / "projection.json").read_text())["separate"] == (name == "on")


def test_a_student_refuses_options_that_were_settled_in_its_making(bert_folder, texts_file, tmp_path, capsys):
    assert run("distil", bert_folder, texts_file, "-o", tmp_path / "student", "--quiet", *SMALL) == 0
    assert run("encode", tmp_path / "student", texts_file, "-o", tmp_path / "v.npy", "--pooling", "cls") == 2
    assert "pooling is 'cls', but" in capsys.readouterr().err
    assert run("encode", tmp_path / "student", texts_file, "-o", tmp_path / "v.npy", "--quiet") == 0
    assert np.load(tmp_path / "v.npy").shape == (48, 32)
