"""``tain gradients`` as it is typed, and ``tain pretrain --objective cmlm``: files, tables, exit codes."""

import json
from xml.etree import ElementTree

import pytest
from command_line import run

SMALL = ("--blocks", 8, "--block-tokens", 18, "--masking-rate", 0.25, "--device", "cpu", "--quiet")


@pytest.fixture
def texts_file(sentences, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join(f"{first} .\n{second} ." for first in sentences for second in sentences if first != second))
    return path


def test_figures_are_printed_written_and_drawn(bert_folder, texts_file, tmp_path, capsys):
    assert run("gradients", bert_folder, texts_file, "-o", tmp_path / "found.json", "--chart", tmp_path / "found.svg", *SMALL) == 0
    said = capsys.readouterr().out
    assert "choice of mask" in said
    assert "disjoint masks of a text" in " ".join(said.split())
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["texts"] == 8
    assert ElementTree.parse(tmp_path / "found.svg").getroot().tag.endswith("svg")


def test_json_on_stdout_is_the_same_object(bert_folder, texts_file, tmp_path, capsys):
    assert run("gradients", bert_folder, texts_file, "-o", tmp_path / "found.json", "--json", *SMALL) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "found.json").read_text())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--masking-rate", 0.8), "masking_rate is 0.8: give a share above 0 and up to 0.5"),
        (("--blocks", 10**6), "fewer than 1000000: give more text, or lower --blocks"),
        (("--masks", 7), "7 disjoint masks of 25% each are more than the whole text"),
    ],
)
def test_what_cannot_work_is_one_line_and_exit_code_2(more, message, bert_folder, texts_file, capsys):
    settings = dict(zip(SMALL[:-1:2], SMALL[1:-1:2], strict=True)) | {more[0]: more[1]}
    assert run("gradients", bert_folder, texts_file, "--quiet", *(part for pair in settings.items() for part in pair)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1


def test_an_existing_file_is_kept(bert_folder, texts_file, tmp_path, capsys):
    (tmp_path / "found.svg").write_text("mine")
    assert run("gradients", bert_folder, texts_file, "--chart", tmp_path / "found.svg", *SMALL) == 2
    assert "already exists" in capsys.readouterr().err
    assert (tmp_path / "found.svg").read_text() == "mine"


def test_a_missing_model_is_one_line(texts_file, capsys):
    assert run("gradients", "./nowhere", texts_file) == 2
    assert "does not exist" in capsys.readouterr().err


CMLM = ("--objective", "cmlm", "--optimizer", "adamw", "--block-tokens", 24, "--batch-blocks", 8, "--tokens", 1000, "--pseudo-tokens", 3)
CMLM = (*CMLM, "--device", "cpu", "--dtype", "float32", "--warmup-steps", 1)


def test_cmlm_runs_from_the_command_line_and_says_what_became_of_the_text(bert_folder, texts_file, tmp_path, capsys):
    assert run("pretrain", bert_folder, texts_file, "-o", tmp_path / "model", *CMLM, "--validation", texts_file, "--neighbour", "both") == 2
    assert "or at a document's edge" in capsys.readouterr().err  # documents of two sentences
    assert run("pretrain", bert_folder, texts_file, "-o", tmp_path / "model", *CMLM, "--validation", texts_file) == 0
    said = capsys.readouterr()
    assert "sentences: documents 132, lone documents 0" in said.err
    assert "loss with neighbour" in said.err
    assert "loss with neighbour" in said.out
    assert (tmp_path / "model" / "modules.json").exists()


def test_lines_without_empty_lines_between_are_refused(bert_folder, sentences, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("\n".join(sentences * 20))
    assert run("pretrain", bert_folder, tmp_path / "texts.txt", "-o", tmp_path / "model", *CMLM) == 2
    assert "no document breaks" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
