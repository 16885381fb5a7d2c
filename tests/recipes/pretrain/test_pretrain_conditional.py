"""CMLM end to end: it learns from neighbours, resumes exactly, saves an encoder that can be mirrored, and refuses what cannot work."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from tain.foundation.errors import UserError
from tain.models.embedder import Embedder, max_length
from tain.recipes.mirror.recipe import mirror
from tain.recipes.pretrain import conditional as recipe
from tain.recipes.pretrain.config import PretrainConfig
from tain.recipes.pretrain.recipe import pretrain

TINY: dict[str, Any] = {
    "objective": "cmlm",
    "block_tokens": 24,
    "batch_blocks": 16,
    "warmup_steps": 2,
    "pseudo_tokens": 3,
    "min_tokens": 1,
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "dtype": "float32",
    "device": "cpu",
    "tokens": 24.0 * 16 * 10,
}
# all single tokens of the tiny tokenizer, so that no piece of a word gives away the rest of it
TOPICS = {"glass": "sea sand rivers deep", "stars": "planets morning far away", "letter": "books child house reads"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Documents of three sentences, an empty line between: words of a topic, the topic's name alone, words of the topic."""
    path = tmp_path_factory.mktemp("corpus") / "texts.txt"
    rng = np.random.default_rng(0)
    documents = []
    for topic in rng.choice(list(TOPICS), size=250):
        words = TOPICS[str(topic)].split()
        documents.append("\n".join([f"{' '.join(rng.choice(words, size=3))} .", f"{topic} .", f"{' '.join(rng.choice(words, size=3))} ."]))
    path.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("changes", [{}, {"neighbour": "both", "skip_connection": True}, {"neighbour": "right", "pseudo_tokens": 1}])
def test_a_masked_lm_goes_on_with_neighbours_and_becomes_an_encoder(modernbert_folder, corpus, tmp_path, changes):
    result = pretrain(modernbert_folder, [corpus], tmp_path / "model", **{**TINY, "tokens": 24.0 * 16 * 40, **changes})
    assert result.finished
    assert np.mean(result.losses[-5:]) < 0.8 * np.mean(result.losses[:5])
    saved = AutoModelForMaskedLM.from_pretrained(tmp_path / "model")
    before = AutoModelForMaskedLM.from_pretrained(modernbert_folder)
    assert saved.state_dict().keys() == before.state_dict().keys()  # the conditioning stays behind
    for name, parameter in result.model.state_dict().items():
        assert torch.equal(saved.state_dict()[name], parameter), name
    encoder = Embedder.load(tmp_path / "model", dtype="float32")
    assert encoder.encoder.pooling == "mean"
    record = json.loads((tmp_path / "model" / "tain.json").read_text())
    assert record["kind"] == "masked language model"
    assert record["pooling"] == "mean"
    assert record["sentences"]["documents"] == 250
    assert record["step_sentences"] >= 1
    assert "11,769,011" in (tmp_path / "model" / "README.md").read_text()


def test_the_result_can_be_mirrored_and_pretrained_on(bert_folder, corpus, tmp_path, sentences):
    pretrain(bert_folder, [corpus], tmp_path / "model", **TINY)
    mirror(tmp_path / "model", sentences, tmp_path / "mirrored", batch_texts=4, max_tokens=40, device="cpu", dtype="float32")
    assert Embedder.load(tmp_path / "mirrored", dtype="float32").encode(["a red house"]).shape == (1, 32)
    plain = {name: value for name, value in TINY.items() if name not in ("objective", "pseudo_tokens", "min_tokens")}
    again = pretrain(tmp_path / "model", [corpus], tmp_path / "again", **plain)
    assert again.finished


def test_the_vector_of_the_neighbour_helps_more_than_anothers_and_both_are_reported(bert_folder, corpus, tmp_path):
    settings = {**TINY, "tokens": 24.0 * 16 * 150, "validation": (corpus,), "validate_every_tokens": 24.0 * 16 * 75}
    result = pretrain(bert_folder, [corpus], tmp_path / "model", **settings)
    assert [tokens for tokens, _ in result.held_out] == [tokens for tokens, _ in result.validation]
    figures = result.held_out[-1][1]
    assert figures["loss_with_neighbour"] < figures["loss_with_another"] - 0.1
    assert figures["loss_with_neighbour"] < figures["loss_without"] - 0.1
    record = json.loads((tmp_path / "model" / "tain.json").read_text())
    assert record["held_out"][-1][1] == figures
    log = [json.loads(line) for line in (tmp_path / ".model.pretrain" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss_with_another"] == figures["loss_with_another"]


def test_an_interrupted_run_resumes_bit_for_bit(bert_folder, corpus, tmp_path):
    settings = {**TINY, "decay_share": 0.0, "neighbour": "both", "skip_connection": True}
    whole = pretrain(bert_folder, [corpus], tmp_path / "whole", **settings)
    longer = {**settings, "tokens": 24.0 * 16 * 100, "minutes": 1e-9, "checkpoint_every_s": 0.0}
    cut = pretrain(bert_folder, [corpus], tmp_path / "cut", **longer)
    assert not cut.finished
    resumed = pretrain(bert_folder, [corpus], tmp_path / "cut", **settings, resume=True)
    assert resumed.losses == whole.losses
    for name, parameter in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], parameter), name


def test_a_new_model_is_trained_from_scratch_in_bfloat16(corpus, tmp_path):
    shape = {"vocab_size": 300, "hidden_size": 32, "heads": 2, "intermediate_size": 48, "layers": 2}
    settings = {**TINY, **shape, "optimizer": "muon", "dtype": "bfloat16", "tokens": 24.0 * 16 * 30, "dropout": 0.1}
    result = pretrain("scratch", [corpus], tmp_path / "model", **settings)
    assert np.mean(result.losses[-5:]) < np.mean(result.losses[:5])
    assert {parameter.dtype for parameter in result.model.parameters()} == {torch.float32}


def test_a_step_costs_about_what_the_settings_say(bert_folder, corpus, tmp_path):
    result = pretrain(bert_folder, [corpus], tmp_path / "model", **TINY)
    assert result.tokens / result.steps == pytest.approx(24 * 16, rel=0.1)


def test_without_pseudo_tokens_no_neighbour_is_reported(bert_folder, corpus, tmp_path):
    settings = {**TINY, "pseudo_tokens": 0, "validation": (corpus,)}
    result = pretrain(bert_folder, [corpus], tmp_path / "model", **settings)
    assert result.held_out == []
    assert result.tokens / result.steps == pytest.approx(24 * 16, rel=0.1)  # neighbours are neither read nor counted


def test_another_vector_is_always_of_another_document(rng):
    for sizes in ([5, 1], [3, 3, 3], [40, 2, 1], [1, 1]):
        documents = np.repeat(np.arange(len(sizes)) * 7, sizes)
        for _ in range(5):
            others = recipe._of_other_documents(documents)
            assert (documents[others] != documents).all()
    assert recipe._of_other_documents(np.zeros(4, dtype=int)) is None


def test_with_one_document_there_is_no_other_vector(bert_folder, corpus, tmp_path, sentences):
    (tmp_path / "one.txt").write_text("\n".join([*sentences, "", "alone"]), encoding="utf-8")
    settings = {**TINY, "validation": (tmp_path / "one.txt",)}
    (_, figures), *_ = pretrain(bert_folder, [corpus], tmp_path / "model", **settings).held_out
    assert set(figures) == {"loss_with_neighbour", "loss_without"}


def test_resuming_with_more_pseudo_tokens_names_it(bert_folder, corpus, tmp_path):
    pretrain(bert_folder, [corpus], tmp_path / "model", **TINY, minutes=1e-9, checkpoint_every_s=0.0)
    with pytest.raises(UserError, match=r"pseudo_tokens was 3 and is 5"):
        pretrain(bert_folder, [corpus], tmp_path / "model", **{**TINY, "pseudo_tokens": 5}, resume=True)


@pytest.mark.parametrize(
    ("joined_by", "message"), [("\n", "the texts have no document breaks"), ("\n\n", "each of the 250 documents has a single sentence")]
)
def test_texts_without_neighbours_are_refused(bert_folder, corpus, tmp_path, joined_by, message):
    lines = corpus.read_text().split("\n\n")
    (tmp_path / "texts.txt").write_text(joined_by.join(line.splitlines()[0] for line in lines), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        pretrain(bert_folder, [tmp_path / "texts.txt"], tmp_path / "model", **TINY)
    assert not (tmp_path / "model").exists()


def test_validation_without_neighbours_is_refused_before_training(bert_folder, corpus, tmp_path):
    (tmp_path / "held.txt").write_text("the red glass .\n" * 20, encoding="utf-8")
    with pytest.raises(
        UserError, match=r"validation files cannot be used to measure the effect of neighbours: the texts have no document breaks"
    ):
        pretrain(bert_folder, [corpus], tmp_path / "model", **TINY, validation=(tmp_path / "held.txt",))


def test_sentences_that_leave_no_room_for_their_neighbours_are_refused(bert_folder, corpus, tmp_path):
    longest = max_length(AutoModelForMaskedLM.from_pretrained(bert_folder), AutoTokenizer.from_pretrained(bert_folder))
    with pytest.raises(UserError, match=rf"reads {longest} tokens including 6 pseudo-tokens at most: give {longest - 6} or fewer"):
        pretrain(bert_folder, [corpus], tmp_path / "model", **{**TINY, "neighbour": "both", "pseudo_tokens": 3, "block_tokens": longest})


def test_a_model_that_cannot_be_conditioned_is_refused(save_masked_lm, corpus, tmp_path):
    with pytest.raises(UserError, match="AlbertForMaskedLM has word embeddings of width 16"):
        pretrain(save_masked_lm("albert"), [corpus], tmp_path / "model", **TINY)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "random", "neighbour": "both"}, "neighbour only applies to objective cmlm, but objective is 'random'"),
        ({"pseudo_tokens": -1}, "pseudo_tokens is -1: give 0"),
        ({"min_tokens": 0}, "min_tokens is 0: give 1 or more"),
        ({"max_overlap": 0.0}, r"max_overlap is 0.0: give a share above 0, up to 1 \(0.7\)"),
        ({"compile": True}, "compile needs batches of one shape"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message, unchecked):
    with pytest.raises(UserError, match=message):
        PretrainConfig(**{"objective": "cmlm", **settings})


def test_a_tokenizer_of_the_saved_folder_is_the_old_one(bert_folder, corpus, tmp_path):
    pretrain(bert_folder, [corpus], tmp_path / "model", **TINY)
    before, after = AutoTokenizer.from_pretrained(bert_folder), AutoTokenizer.from_pretrained(tmp_path / "model")
    assert after("a red house")["input_ids"] == before("a red house")["input_ids"]
