"""``tain inspect`` as it is typed: tables, files, refusals."""

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from command_line import run

SMALL = ("--device", "cpu", "--quiet")


@pytest.fixture
def texts_file(sentences: list[str], tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join(sentences))
    return path


def test_the_readme_example_prints_and_writes_everything(
    bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], sentences: list[str]
):
    names = [tmp_path / f"look.{kind}" for kind in ("html", "svg", "csv", "json")]
    assert (
        run("inspect", bert_folder, *sentences[:2], "--page", names[0], "--svg", names[1], "--csv", names[2], "-o", names[3], *SMALL) == 0
    )
    said = capsys.readouterr().out
    assert "share of a token's vector that comes from other tokens" in " ".join(said.split())
    assert "Texts 1 and 2: cosine" in said
    found = json.loads(names[3].read_text())
    assert f"{found['statistics']['overall'][4]:.1%} of a token's vector" in said
    assert "<!doctype html>" in names[0].read_text()[:20]
    assert ElementTree.parse(names[1]).getroot().tag.endswith("svg")
    rows = list(csv.DictReader(names[2].open()))
    assert float(rows[0]["mixing_ratio"]) == pytest.approx(found["texts"][0]["ratios"][0][0][0], abs=1e-6)
    assert "norms" not in found["texts"][0]


def test_a_file_of_texts_is_read_and_blank_lines_are_told(
    bert_folder: Path, texts_file: Path, sentences: list[str], capsys: pytest.CaptureFixture[str]
):
    assert run("inspect", bert_folder, "--texts", texts_file, "--json", "--shown", 1, "--matrices", "--device", "cpu") == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["statistics"]["texts"] == len(sentences)
    assert len(found["texts"]) == 1
    assert "AttnResLn-N" in found["texts"][0]["norms"]
    assert f"{len(sentences) - 1} blank lines were skipped" in said.err


def test_two_models_are_told_apart(
    bert_folder: Path, modernbert_folder: Path, texts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    page, picture = tmp_path / "both.html", tmp_path / "both.svg"
    assert run("inspect", bert_folder, "--against", modernbert_folder, "--texts", texts_file, "--page", page, "--svg", picture, *SMALL) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "vectors of these texts" in said
    assert "of other tokens than" in said
    assert page.read_text().count('role="application"') == 2
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")


def test_cut_texts_are_told_with_how_many_tokens_were_lost(bert_folder: Path, sentences: list[str], capsys: pytest.CaptureFixture[str]):
    assert run("inspect", bert_folder, sentences[0], "--max-tokens", 6, *SMALL) == 0
    assert "texts cut at 6 tokens: 1, " in capsys.readouterr().err


def test_another_method_can_be_drawn(bert_folder: Path, sentences: list[str], tmp_path: Path):
    picture = tmp_path / "layer.svg"
    assert run("inspect", bert_folder, sentences[0], "--whole-layer", "--method", "Layer-N", "--svg", picture, *SMALL) == 0
    assert "Layer-N of" in picture.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no text is given: give one or more in quotation marks"),
        (("glass", "--texts", "texts.txt"), "give one of the two"),
        (("glass", ""), "text 2 is empty"),
        (("[CLS]",), "has only special tokens"),
        (("--texts", "./nowhere.txt"), "does not exist"),
        (("glass", "--against", "./nowhere"), "does not exist"),
        (("glass", "--method", "Layer-N"), "needs --whole-layer"),
        (("glass", "--csv", "look.csv", "--shown", 0), "the CSV file holds the shown texts"),
        (("glass", "--masking-rate", 1), "masking_rate is 1.0"),
        (("glass", "--max-tokens", 9000), "accepts 3 to 40"),
        (("glass", "--column", "text"), "--column names"),
    ],
)
def test_what_cannot_work_is_one_line_and_exit_code_2(
    arguments: tuple[object, ...],
    message: str,
    bert_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert run("inspect", bert_folder, *arguments, *SMALL) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "look.csv").exists()


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [("mpnet", "MPNetModel has no layers built like"), ("deberta-v2", "DebertaV2Model has no layers built like")],
)
def test_an_architecture_that_cannot_be_taken_apart_is_named(
    architecture: str, reason: str, save_masked_lm, capsys: pytest.CaptureFixture[str]
):
    assert run("inspect", save_masked_lm(architecture), "a mirror", *SMALL) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert len(said.strip().splitlines()) == 1


def test_a_decoder_is_refused_by_name(tiny_tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import transformers

    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=120, n_positions=40)
    transformers.GPT2Model(config).save_pretrained(tmp_path / "gpt")
    tiny_tokenizer().save_pretrained(tmp_path / "gpt")
    assert run("inspect", tmp_path / "gpt", "a mirror", *SMALL) == 2
    assert "GPT2Model is a decoder" in capsys.readouterr().err


def test_an_existing_file_is_kept(bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "look.html").write_text("mine")
    assert run("inspect", bert_folder, "a mirror", "--page", tmp_path / "look.html", *SMALL) == 2
    assert "already exists" in capsys.readouterr().err
    assert (tmp_path / "look.html").read_text() == "mine"


def test_a_text_that_is_also_a_files_name_is_told(bert_folder: Path, texts_file: Path, capsys: pytest.CaptureFixture[str]):
    assert run("inspect", bert_folder, texts_file, "--device", "cpu", "--quiet") == 0
    assert f"is also the name of a file, but is used as text: to read the file, give --texts {texts_file}" in " ".join(
        capsys.readouterr().err.split()
    )


def test_more_json_than_is_asked_for_is_refused(bert_folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run("inspect", bert_folder, "a text", "--matrices", *SMALL) == 2
    assert "--matrices adds to the JSON, but no JSON is written" in capsys.readouterr().err
