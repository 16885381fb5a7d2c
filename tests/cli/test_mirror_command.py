"""``tain mirror`` as it is typed: results on stdout, one line and exit code 2 for what cannot work."""

import io
import json
import re
import sys

import pytest
from command_line import run


@pytest.fixture
def texts_file(sentences, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(f"{first} while {second}" for first in sentences for second in sentences[:4]), encoding="utf-8")
    return path


SMALL = ("--batch-texts", 8, "--max-tokens", 40, "--dtype", "float32", "--held-out", 4, "--device", "cpu")


def test_a_file_becomes_an_encoder_and_a_table(bert_folder, texts_file, tmp_path, capsys):
    assert run("mirror", bert_folder, texts_file, "-o", tmp_path / "encoder", *SMALL) == 0
    said = capsys.readouterr()
    assert "self-retrieval MRR" in said.out
    assert "saved in" in said.out
    assert (tmp_path / "encoder" / "modules.json").exists()


def test_json_results_are_one_object(bert_folder, texts_file, tmp_path, capsys):
    assert run("mirror", bert_folder, texts_file, "-o", tmp_path / "encoder", "--json", *SMALL) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 5
    assert found["counts"]["held_out"] == 4


def test_standard_input_is_read(bert_folder, texts_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(texts_file.read_bytes())))
    assert run("mirror", bert_folder, "-", "-o", tmp_path / "encoder", *SMALL) == 0
    assert (tmp_path / "encoder").exists()


def test_pairs_are_two_named_columns(bert_folder, sentences, tmp_path):
    table = tmp_path / "pairs.tsv"
    rows = [f"{first}\t{second}" for first, second in zip(sentences * 2, sentences[1:] + sentences[:1] + sentences, strict=False)]
    table.write_text("\n".join(["one\tother", *rows]), encoding="utf-8")
    assert run("mirror", bert_folder, table, "-o", tmp_path / "encoder", "--pairs", "one", "other", *SMALL) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ("--temperature", "0"),
            "error: temperature is 0.0, but similarities are divided by it: give a number above 0 (sentences: 0.04, words: 0.2)\n",
        ),
        (("--budget", "soon"), "error: 'soon' is not a duration: give one like 30s, 2m or 1h\n"),
        (
            ("--batch-texts", "500"),
            "error: there are 48 different texts, fewer than a batch of 500: give more texts, or --batch-texts 24\n",
        ),
        (("--batch-texts", "8", "--max-tokens", "41"), "error: max_tokens is 41, but the model reads 40 at most: give 40 or fewer\n"),
        (("--batch-texts", "8", "--device", "abacus"), "error: device is 'abacus', which torch does not know: give cpu, cuda or cuda:N\n"),
    ],
)
def test_what_cannot_work_is_one_line_and_code_2(bert_folder, texts_file, tmp_path, capsys, more, message):
    assert run("mirror", bert_folder, texts_file, "-o", tmp_path / "encoder", *more) == 2
    assert capsys.readouterr().err == message
    assert not (tmp_path / "encoder").exists()


@pytest.mark.parametrize("command", [("mirror", "--recipe", "best"), ("compare",)])
def test_two_sources_of_documents_are_refused(command, bert_folder, texts_file, tmp_path, capsys):
    table = tmp_path / "texts.tsv"
    table.write_text("text\tdoc\na text\t1\n")
    asked = ("--column", "text", "--document-column", "doc", "--documents", texts_file)
    assert run(command[0], bert_folder, table, "-o", tmp_path / "encoder", *command[1:], *asked) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: document_column is 'doc', a column of TEXTS, but the documents are read from --documents")
    assert said.count("\n") == 1 and not (tmp_path / "encoder").exists()


def test_a_budget_counts_from_the_process_start(bert_folder, texts_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tain.foundation.machine.process_age_s", lambda: 100.0)
    assert run("mirror", bert_folder, texts_file, "-o", tmp_path / "encoder", "--budget", "60s", *SMALL) == 2
    assert "error: budget is 60 s, and 10" in capsys.readouterr().err
    assert not (tmp_path / "encoder").exists()


def test_several_seeds_tell_every_figure_and_which_is_kept(bert_folder, texts_file, tmp_path, capsys):
    assert run("mirror", bert_folder, texts_file, "-o", tmp_path / "table", "--seeds", 2, *SMALL) == 0
    said = " ".join(capsys.readouterr().out.split())
    main = ("self-retrieval MRR", "alignment", "uniformity", "mean cosine")
    for figure in main:
        assert re.search(rf"{figure} -?\d\S* ± \d\S* over 2 seeds", said), figure
    rest = ("self-retrieval R@1", "isotropy", "mean-vector norm")
    assert not any(figure in said for figure in rest)
    assert run("mirror", bert_folder, texts_file, "-o", tmp_path / "all", "--seeds", 2, "--all-figures", *SMALL) == 0
    everything = " ".join(capsys.readouterr().out.split())
    for figure in (*main, *rest):
        assert everything.count(figure) >= 2, figure  # in the table of the best seed, and with its spread
        assert re.search(rf"{figure} -?\d\S* ± \d\S* over 2 seeds", everything), figure
    record = json.loads((tmp_path / "table" / "tain.json").read_text())
    assert {"isotropy", "mean_vector_norm", "self_retrieval_recall_at_1"} <= record["figures"]["after"].keys()
    assert re.search(r"kept: seed 1[34], by self-retrieval", said)
    assert run("mirror", bert_folder, texts_file, "-o", tmp_path / "json", "--seeds", 2, "--json", *SMALL) == 0
    found = json.loads(capsys.readouterr().out)
    values = [figures["uniformity"] for figures in found["all_seeds"]]
    assert found["spread"]["uniformity"]["mean"] == pytest.approx(sum(values) / 2)
    assert found["best_seed"] in found["seeds"] == [13, 14]
    assert found["after"] == found["all_seeds"][found["seeds"].index(found["best_seed"])]
    none_held = [0 if before == "--held-out" else given for before, given in zip(("", *SMALL), SMALL, strict=False)]
    assert run("mirror", bert_folder, texts_file, "-o", tmp_path / "none", "--seeds", 2, *none_held) == 0
    assert "by loss of the last batch" in " ".join(capsys.readouterr().out.split())


def test_standard_input_is_not_torn_among_processes(bert_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("mirror", bert_folder, "-", "-o", tmp_path / "encoder", *SMALL) == 2
    assert "error: standard input would be split among 2 processes: save it in a file and give the file\n" in capsys.readouterr().err


def test_repeats_of_one_text_are_refused_with_advice_that_works(bert_folder, tmp_path, capsys):
    path = tmp_path / "same.txt"
    path.write_text("the same line\n" * 300, encoding="utf-8")
    assert run("mirror", bert_folder, path, "-o", tmp_path / "encoder", *SMALL) == 2
    expected = "error: there is 1 different text (299 were repeats), but a text needs others as negatives: give at least 2\n"
    assert capsys.readouterr().err == expected


def test_the_built_in_models_name_is_no_output(bert_folder, texts_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("mirror", bert_folder, texts_file, "-o", "tain-mini", *SMALL) == 2
    assert "is the built-in model's name, which would be loaded instead: choose another name" in capsys.readouterr().err


def test_nothing_to_resume_is_told_before_the_model_is_looked_at(texts_file, tmp_path, capsys, bert_folder, monkeypatch):
    monkeypatch.setattr("tain.models.embedder.Embedder.load", lambda *_, **__: pytest.fail("loaded"))
    assert run("mirror", bert_folder, texts_file, "-o", tmp_path / "encoder", "--resume", *SMALL) == 2
    assert "resume" in capsys.readouterr().err


def test_missing_files_are_refused(bert_folder, texts_file, tmp_path, capsys):
    assert run("mirror", bert_folder, tmp_path / "none.txt", "-o", tmp_path / "encoder") == 2
    assert "does not exist" in capsys.readouterr().err
    assert run("mirror", tmp_path / "no-model", texts_file, "-o", tmp_path / "encoder") == 2
    assert "does not exist: give a model folder, a hub name, or tain-mini" in capsys.readouterr().err


def test_an_existing_output_is_left_alone(bert_folder, texts_file, tmp_path, capsys):
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "mine.txt").write_text("mine")
    assert run("mirror", bert_folder, texts_file, "-o", tmp_path / "encoder", *SMALL) == 2
    assert "already exists: choose another name or give --overwrite" in capsys.readouterr().err
    assert (tmp_path / "encoder" / "mine.txt").read_text() == "mine"


def test_a_student_is_named_as_what_it_is(texts_file, tmp_path, capsys):
    (tmp_path / "student").mkdir()
    for name in ("student.onnx", "tain.json"):
        (tmp_path / "student" / name).write_text("{}")
    assert run("mirror", tmp_path / "student", texts_file, "-o", tmp_path / "encoder", *SMALL) == 2
    assert "is a student, which tain encode, evaluate, label and serve can run" in capsys.readouterr().err


def test_texts_that_no_step_reads_are_counted_and_few_steps_told(bert_folder, texts_file, tmp_path, capsys):
    small = dict(zip(SMALL[::2], SMALL[1::2], strict=True)) | {"--batch-texts": 32}
    assert run("mirror", bert_folder, texts_file, "-o", tmp_path / "encoder", *(part for pair in small.items() for part in pair)) == 0
    said = capsys.readouterr()
    assert "44 texts give only 1 steps of 32" in " ".join(said.err.split())
    assert "4 held out, 0 left over, 12 not read" in " ".join(said.out.split())
    assert "12 not in a full batch or not reached in time" in (tmp_path / "encoder" / "README.md").read_text()


def test_pairs_have_no_empty_form(capsys):
    assert run("mirror", "--help") == 0
    assert "empty-pairs" not in capsys.readouterr().out
