"""The guard against texts that a tokenizer does not know."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tain
from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.models.unknown_tokens import REFUSE_FROM, WARN_FROM, check_known, unknown_share

CHINESE = [f"第{number}句中文的话" for number in range(40)]
FEW = {"batch_texts": 8, "epochs": 1, "held_out": 0, "device": "cpu"}


class Model:
    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.name = tokenizer, "tiny"


@pytest.fixture
def model(tiny_tokenizer: Callable[..., Any]) -> Model:
    return Model(tiny_tokenizer())


def test_the_share_is_that_of_unknown_tokens(model: Model, sentences: list[str]):
    assert unknown_share(model.tokenizer, sentences) == 0
    assert unknown_share(model.tokenizer, ["世 界 a b"]) == 0.5
    assert unknown_share(model.tokenizer, ["世", " ", ""]) == 1  # blank texts do not count
    assert unknown_share(model.tokenizer, []) == 0
    assert unknown_share(model.tokenizer, ["\u200b"]) == 1  # a text that leaves no token is unknown


def test_a_tokenizer_of_bytes_knows_everything(tiny_tokenizer: Callable[..., Any]):
    tokenizer = tiny_tokenizer()
    tokenizer.unk_token = None
    assert unknown_share(tokenizer, ["a b"]) == 0


def test_long_lists_are_sampled_over_their_whole_length(model: Model):
    texts = ["a b c"] * 1000 + ["世 界"] * 1000
    assert unknown_share(model.tokenizer, texts, sample=10) == pytest.approx(2 / 5)


def test_it_warns_from_a_fifth_and_refuses_to_train_from_four_fifths(model: Model):
    def of(unknown: int) -> list[str]:
        return [" ".join(["世"] * unknown + ["a"] * (100 - unknown))]

    assert (WARN_FROM, REFUSE_FROM) == (0.2, 0.8)
    with warnings.catch_warnings(action="error"):
        assert check_known(model, of(19), progress=Progress.silent()) == 0.19
    with pytest.warns(UserWarning, match="the tokenizer of 'tiny' does not know 20% of the texts' tokens"):
        check_known(model, of(20), progress=Progress.silent())
    with pytest.warns(UserWarning, match="does not know 79%"):
        check_known(model, of(79), progress=Progress.silent(), is_training=True)
    with pytest.raises(UserError, match="does not know 80% of the texts' tokens, so nothing can be learned: give a model"):
        check_known(model, of(80), progress=Progress.silent(), is_training=True)
    with pytest.warns(UserWarning, match="does not know 100%"):
        check_known(model, of(100), progress=Progress.silent())


def test_what_has_no_tokenizer_reads_characters():
    assert check_known(object(), CHINESE, progress=Progress.silent(), is_training=True) == 0


@pytest.mark.parametrize("train", ["mirror", "rank", "distil", "correct"])
def test_nothing_is_trained_on_a_script_that_the_model_does_not_know(train: str, bert_folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match=f"the tokenizer of {str(bert_folder)!r} does not know 100% of the texts' tokens"):
        if train == "mirror":
            tain.mirror(bert_folder, CHINESE, tmp_path / "out", **FEW)
        elif train == "rank":
            tain.rank(bert_folder, list(zip(CHINESE, CHINESE[::-1], strict=True)), tmp_path / "out", batch_contexts=8, device="cpu")
        elif train == "distil":
            tain.distil(bert_folder, CHINESE, tmp_path / "out", batch_texts=8, device="cpu")
        else:
            tain.correct(bert_folder, CHINESE, tmp_path / "out", method="whiten", device="cpu")
    assert not (tmp_path / "out").exists()


def test_encoding_to_a_file_and_evaluating_warn_once(bert_folder: Path, tmp_path: Path):
    from tain.evaluation.encoding import EncodedOnce
    from tain.models.encode_to_file import encode_to_file

    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32")
    with pytest.warns(UserWarning, match="does not know 100%") as said:
        encode_to_file(embedder, CHINESE, tmp_path / "vectors.npy", window_texts=10)
    assert len(said) == 1
    once = EncodedOnce(embedder)
    with pytest.warns(UserWarning, match="does not know 100%") as said:
        once.encode(CHINESE[:4])
        once.encode(CHINESE[4:])
    assert len(said) == 1


def test_a_server_warns_once(bert_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    from tain.serving import served as serving
    from tain.serving.served import Query, Text, load_served

    monkeypatch.setattr(serving, "_LOOK_S", 0.0)
    served = load_served("x", str(bert_folder), progress=Progress("lines"), device="cpu", dtype="float32", trust_remote_code=False)
    for _ in range(2):
        served.embed([Text("a thin layer")])
        assert "does not know" not in capsys.readouterr().err
    served.embed([Text(text) for text in CHINESE[:3]])
    served.rerank([(Query(CHINESE[0]), CHINESE[1])])
    assert capsys.readouterr().err.count("does not know 100% of the texts' tokens") == 1
