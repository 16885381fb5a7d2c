"""``tain label`` as it is typed: students without torch, transformers models, standard output and files."""

import json
import subprocess
import sys

import pytest
from command_line import run

from tain.recipes.distil.recipe import distil
from tain.students.student import Student
from tain.text.records import Example

TEXTS = ["go to a", "go to b and then on to c and d"]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("students") / "tagging"
    examples = [Example(f"go to {city}", "go", ("O", "O", "B-city")) for city in "abcdefghijkl"]
    small = {"features": 64, "bottleneck": 16, "state": 12, "layers": 1, "batch_texts": 8, "epochs": 1, "held_out": 0, "device": "cpu"}
    distil("none", examples, folder, task="tag", max_tokens=6, **small)
    return folder


@pytest.fixture
def texts_file(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS))
    return path


def test_a_student_labels_without_torch_what_it_says_in_python(student, texts_file):
    blocked = "import sys\nfor name in ('torch', 'transformers', 'onnx'): sys.modules[name] = None\nfrom tain.cli.main import main\n"
    call = f"main(['label', {str(student)!r}, {str(texts_file)!r}])"
    done = subprocess.run([sys.executable, "-c", blocked + call], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    said = Student.load(student).predict(TEXTS)
    assert [(row["label"], row["tags"]) for row in rows] == [(one.label, one.tags) for one in said]
    assert rows[0]["chance"] == 1.0  # it knows one label
    assert "1 texts were cut at the model's length limit" in done.stderr


def test_classifiers_and_taggers_label_into_a_file(save_labeller, texts_file, tmp_path, capsys):
    both = (
        f"intents={save_labeller('SequenceClassification', ['go', 'stay'])},slots={save_labeller('TokenClassification', ['O', 'B-city'])}"
    )
    where = ("label", both, texts_file, "-o", tmp_path / "labels.jsonl", "--device", "cpu")
    assert run(*where, "--quiet") == 0
    assert "2 texts labelled, saved in" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert [len(row["tags"]) for row in rows] == [3, 10]
    assert {row["label"] for row in rows} <= {"go", "stay"}
    assert run(*where) == 2
    assert "already exists" in capsys.readouterr().err


def test_a_student_of_vectors_labels_nothing(bert_folder, sentences, texts_file, tmp_path, capsys):
    small = {"features": 64, "bottleneck": 16, "state": 12, "layers": 1, "batch_texts": 4, "epochs": 1, "held_out": 0, "device": "cpu"}
    distil(bert_folder, sentences, tmp_path / "student", **small)
    assert run("label", tmp_path / "student", texts_file) == 2
    assert "was trained with --task embed, so it predicts no labels" in capsys.readouterr().err
    assert run("label", tmp_path / "nowhere", texts_file) == 2


def test_one_of_two_heads_is_refused(tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("a text\n")
    assert run("label", "intents=model", tmp_path / "texts.txt") == 2
    assert "intents=MODEL,slots=MODEL, or one model alone" in capsys.readouterr().err
