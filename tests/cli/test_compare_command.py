"""``tain compare`` as it is typed."""

import json

import numpy as np
import pytest
from command_line import run


@pytest.fixture
def texts_file(sentences, tmp_path):
    words = sorted({word for sentence in sentences for word in sentence.replace(",", "").split()})
    rng = np.random.default_rng(3)
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(" ".join(rng.choice(words, size=rng.integers(5, 12))) for _ in range(120)), encoding="utf-8")
    return path


SMALL = (
    "--candidates",
    "lexical+raw+fast",
    "--held-out",
    20,
    "--resamples",
    50,
    "--device",
    "cpu",
    "--dtype",
    "float32",
    "--max-tokens",
    40,
)


def test_the_table_and_the_advice_are_printed(bert_folder, texts_file, tmp_path, capsys):
    assert run("compare", bert_folder, texts_file, "-o", tmp_path / "out", *SMALL) == 0
    said = capsys.readouterr().out
    assert "MRR x 100" in said and "texts/s" in said and "not tried" not in said
    assert "Use " in said and "compare.html" in said
    assert (tmp_path / "out" / "modules.json").exists()


def test_json_is_one_object(bert_folder, texts_file, tmp_path, capsys):
    assert run("compare", bert_folder, texts_file, "-o", tmp_path / "out", "--json", *SMALL) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["winner"] in ("raw", "fast")
    assert found == json.loads((tmp_path / "out" / "compare.json").read_text())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--budget", "soon"), "error: 'soon' is not a duration: give one like 30s, 2m or 1h\n"),
        (("--candidates", "raw"), "error: candidates is 'raw', but a comparison needs at least 2: join several by +\n"),
    ],
)
def test_what_cannot_work_is_one_line_and_code_2(bert_folder, texts_file, tmp_path, capsys, more, message):
    assert run("compare", bert_folder, texts_file, "-o", tmp_path / "out", *more) == 2
    assert capsys.readouterr().err == message
    assert not (tmp_path / "out").exists()
