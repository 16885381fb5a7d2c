"""``tain evaluate --suite tagging`` as it is typed: students without torch, classifiers and taggers beside them."""

import json
import subprocess
import sys

import pytest
from command_line import run

from tain.recipes.distil.recipe import distil
from tain.text.records import Example

CITIES = "abcdefghijkl"


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("students") / "tagging"
    examples = [Example(f"go to {city}", "go", ("O", "O", "B-city")) for city in CITIES]
    small = {"features": 64, "bottleneck": 16, "state": 12, "layers": 2, "batch_texts": 8, "epochs": 1, "held_out": 0, "device": "cpu"}
    distil("none", examples, folder, task="tag", **small)
    return folder


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("\n".join(["text\tslots\tintent", *(f"go to {city}\tO O B-city\tgo" for city in CITIES)]) + "\n")
    return path


def test_a_student_is_measured_without_torch(student, table):
    blocked = "import sys\nfor name in ('torch', 'transformers', 'onnx'): sys.modules[name] = None\nfrom tain.cli.main import main\n"
    call = f"main(['evaluate', {str(student)!r}, '--suite', 'tagging', '--data', {str(table)!r}, '--resamples', '50', '--json', '--quiet'])"
    done = subprocess.run([sys.executable, "-c", blocked + call], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert set(row["figures"]) == {"accuracy", "slot_f1", "exact"}
    assert row["figures"]["accuracy"]["value"] == 1.0  # it knows one intent


def test_teachers_stand_beside_their_student_and_typos_make_a_table(student, table, save_labeller, tmp_path, capsys):
    classifier = save_labeller("SequenceClassification", ["go", "stay"])
    tagger = save_labeller("TokenClassification", ["O", "B-city", "I-city"])
    both = f"intents={classifier},slots={tagger}"
    where = ("--suite", "tagging", "--data", table, "--typos", 0, "--typos", 0.2, "--resamples", 20, "--device", "cpu")
    assert run("evaluate", both, student, *where, "-o", tmp_path / "figures.json") == 0
    said = capsys.readouterr().out
    assert "slot F1" in said and "20%" in said
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [(row["model"], row["typos"]) for row in rows] == [(both, 0.0), (both, 0.2), (str(student), 0.0), (str(student), 0.2)]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--suite", "tagging", "--suite", "sts"), "measures other models than sts: run them separately"),
        (("--suite", "tagging", "--pooling", "cls"), "--pooling has no effect with suite tagging: remove it"),
        (("--suite", "tagging", "--dtype", "bfloat16", "--level", "word"), "--dtype, --level has no effect with suite tagging: remove it"),
        (("--suite", "tagging", "--backend", "onnx"), "--backend has no effect with suite tagging: remove it"),
        (("--suite", "tagging", "--data", "nowhere.tsv"), "data is 'nowhere.tsv', which does not exist"),
        (("--suite", "tagging"), "needs its files: give their folder, or your own table, with --data"),
        (("--suite", "sts", "--typos", "0.1"), "typos and unknown_labels only apply to the suite tagging: leave them out"),
    ],
)
def test_what_cannot_work_is_one_line_and_code_2(student, more, message, capsys):
    assert run("evaluate", student, *more) == 2
    assert message in capsys.readouterr().err


def test_labels_that_a_student_was_not_taught_are_refused_unless_they_count_as_wrong(student, tmp_path, capsys):
    path = tmp_path / "mine.tsv"
    path.write_text("text\tintent\ngo to a\tgo\nhello\tgreet\n")
    where = ("evaluate", student, "--suite", "tagging", "--data", path)
    assert run(*where) == 2
    assert "1 of 2 texts of mine have labels unknown to model" in capsys.readouterr().err
    assert run(*where, "--unknown-labels", "count-as-wrong") == 0
    assert "Labels unknown to a model count as wrong (texts with such labels: 1)." in " ".join(capsys.readouterr().out.split())


def test_a_student_of_vectors_tells_no_labels(bert_folder, sentences, table, tmp_path, capsys):
    small = {"features": 64, "bottleneck": 16, "state": 12, "layers": 1, "batch_texts": 4, "epochs": 1, "held_out": 0, "device": "cpu"}
    distil(bert_folder, sentences, tmp_path / "student", **small)
    assert run("evaluate", tmp_path / "student", "--suite", "tagging", "--data", table) == 2
    assert "was trained with --task embed, so it predicts no labels" in capsys.readouterr().err
