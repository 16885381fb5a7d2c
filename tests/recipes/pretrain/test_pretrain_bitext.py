"""CMLM with translations: both losses add up, held-out translations are found, runs resume, and what is no table of pairs is refused."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from tain.batches.shards import Sources, tokenised
from tain.encoders.masked_lm import MaskedLanguageModel
from tain.foundation.errors import UserError
from tain.objectives.bitext import bitext_retrieval
from tain.recipes.pretrain.bitext import Translations, read_translations
from tain.recipes.pretrain.conditional import ConditionalSentences, conditional_model
from tain.recipes.pretrain.config import PretrainConfig
from tain.recipes.pretrain.objectives import MaskingContext
from tain.recipes.pretrain.recipe import pretrain
from tain.training.optimizer import MasterWeights

TINY: dict[str, Any] = {
    "objective": "cmlm",
    "block_tokens": 24,
    "batch_blocks": 4,
    "warmup_steps": 2,
    "pseudo_tokens": 3,
    "min_tokens": 1,
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "dtype": "float32",
    "device": "cpu",
    "bitext_pairs": 16,
    "bitext_weight": 1.0,
}
# two languages of words that the tiny tokenizer has whole; word i of one means word i of the other
HERE = "glass sand sea stars child house letter mirror".split()  # noqa: SIM905 - read as a sentence
THERE = "deep far books brown fox dog bread metal".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def bitext(tmp_path_factory):
    """Four words in one language, and the same in the other one, in another order."""
    path = tmp_path_factory.mktemp("bitext") / "pairs.tsv"
    rng = np.random.default_rng(0)
    lines = ["here\tthere"]
    for _ in range(400):
        words = rng.choice(8, size=4, replace=False)
        lines.append(f"{' '.join(HERE[word] for word in words)}\t{' '.join(THERE[word] for word in rng.permutation(words))}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def corpus(sentences, tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "texts.txt"
    path.write_text("\n\n".join("\n".join(sentences[start : start + 3]) for start in (0, 3, 6, 9)) + "\n", encoding="utf-8")
    return path


def steps(number: int) -> dict[str, float]:
    return {"tokens": 300.0 * number}


def test_held_out_translations_are_found_after_training_and_both_figures_are_saved(bert_folder, corpus, bitext, tmp_path):
    result = pretrain(bert_folder, [corpus], tmp_path / "model", **TINY, **steps(200), bitext=bitext)
    record = json.loads((tmp_path / "model" / "tain.json").read_text())
    before, after = record["translation_accuracy_before"], result.held_out[-1][1]["translation_accuracy"]
    assert record["translations"]["held_out"] > 20
    assert after > before + 0.15
    assert record["held_out"][-1][1]["translation_accuracy"] == after
    assert result.validation == []  # no texts were given for it


def test_loss_and_gradient_are_the_weighted_sum_of_both(tiny_masked_lm, tiny_tokenizer, corpus, bitext, tmp_path):
    config = PretrainConfig(**TINY | {"bitext_weight": 0.5}, bitext=bitext)
    shards = tokenised(tmp_path / "shards", Sources((str(corpus),)), tiny_tokenizer())

    def objective(config: PretrainConfig) -> tuple[ConditionalSentences, MasterWeights]:
        model = tiny_masked_lm("bert").eval()
        torch.manual_seed(7)
        conditional = conditional_model(model, config).eval()
        weights = MasterWeights(conditional, dtype=torch.float32)
        context = MaskingContext(MaskedLanguageModel(model), weights, tiny_tokenizer(), shards, config, torch.device("cpu"), conditional)
        return ConditionalSentences(context), weights

    joint, weights = objective(config)
    found = joint.gradient(3)
    plain, other = objective(PretrainConfig(**{name: value for name, value in TINY.items() if not name.startswith("bitext")}))
    expected = plain.gradient(3)
    assert joint.translations is not None
    left, right = plain.conditional.encode(joint.translations.batch(3)).chunk(2)
    retrieval = bitext_retrieval(left, right, margin=0.3, scale=20.0)
    (0.5 * retrieval).backward()
    assert found == pytest.approx(expected + 0.5 * retrieval.item(), rel=1e-5)
    for name, mine, theirs in zip(weights.names, weights.masters, other.masters, strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4, msg=name)
    assert joint.step_tokens == plain.step_tokens + round(joint.translations.step_tokens)


def test_a_batch_has_each_pair_at_the_same_place_of_both_halves(tiny_tokenizer, bitext):
    config = PretrainConfig(**TINY, bitext=bitext)
    tokenizer = tiny_tokenizer()
    packed = Translations(bitext, tokenizer, config).batch(0)
    assert packed.texts == 32
    texts: list[list[str]] = [[] for _ in range(32)]
    for index, (start, length) in enumerate(zip(packed.starts.tolist(), packed.lengths, strict=True)):
        texts[packed.order[index]] = tokenizer.convert_ids_to_tokens(packed.ids[start + 1 : start + length - 1].tolist())
    for left, right in zip(texts[:16], texts[16:], strict=True):
        assert sorted(THERE[HERE.index(word)] for word in left) == sorted(right)


def test_held_out_pairs_are_never_trained_on(tiny_tokenizer, bitext):
    found = Translations(bitext, tiny_tokenizer(), PretrainConfig(**TINY, bitext=bitext))
    assert not {tuple(left) for left, _ in found._held} & {tuple(left) for left, _ in found._pairs}
    assert found.facts["pairs"] == len(found._pairs)


def test_accuracy_is_that_of_the_nearest_in_both_directions_and_ties_share(tiny_tokenizer, bitext):
    found = Translations(bitext, tiny_tokenizer(), PretrainConfig(**TINY, bitext=bitext))
    number = len(found._held)

    def by_content(packed):  # the bag of words, in numbers that both languages share
        table = dict(zip(tiny_tokenizer().convert_tokens_to_ids([*HERE, *THERE]), [*range(8), *range(8)], strict=True))
        rows = torch.zeros(packed.texts, 8)
        for index, (start, length) in enumerate(zip(packed.starts.tolist(), packed.lengths, strict=True)):
            for token in packed.ids[start : start + length].tolist():
                if token in table:
                    rows[packed.order[index], table[token]] += 1
        return rows

    bags = [frozenset(left[1:-1]) for left, _ in found._held]
    expected = np.mean([1 / bags.count(bag) for bag in bags])  # texts of the same words share the first place
    assert found.accuracy(by_content) == pytest.approx(expected)
    assert found.accuracy(lambda packed: torch.ones(packed.texts, 3)) == pytest.approx(1 / number)


def test_a_run_with_translations_resumes_bit_for_bit_and_not_with_others(bert_folder, corpus, bitext, tmp_path):
    mine = tmp_path / "pairs.tsv"
    mine.write_bytes(bitext.read_bytes())
    settings = {**TINY, "decay_share": 0.0, "bitext": mine}
    whole = pretrain(bert_folder, [corpus], tmp_path / "whole", **settings, **steps(6))
    pretrain(bert_folder, [corpus], tmp_path / "cut", **settings, **steps(60), minutes=1e-9, checkpoint_every_s=0.0)
    mine.write_bytes(bitext.read_bytes() + b"one more\tpair\n")
    with pytest.raises(UserError, match="content of the translations was"):
        pretrain(bert_folder, [corpus], tmp_path / "cut", **settings, **steps(6), resume=True)
    mine.write_bytes(bitext.read_bytes())
    assert pretrain(bert_folder, [corpus], tmp_path / "cut", **settings, **steps(6), resume=True).losses == whole.losses


def test_texts_that_an_earlier_pair_has_on_the_same_side_are_left_out(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("de\ten\neins\tone\nzwei\ttwo\nEins\tuno\ndrei\ttwo\n \tthree\nvier\tfour\n", encoding="utf-8")
    assert read_translations(path) == ([("eins", "one"), ("zwei", "two"), ("vier", "four")], 3)


def test_what_is_no_table_of_pairs_is_refused_before_the_model_is_loaded(bert_folder, corpus, tmp_path):
    three = tmp_path / "three.tsv"
    three.write_text("de\ten\tfr\neins\tone\tun\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"has 3 columns \(de, en, fr\), but translations come in pairs: give a table of two columns"):
        pretrain(tmp_path / "nowhere", [corpus], tmp_path / "model", **TINY, bitext=three)
    few = tmp_path / "few.tsv"
    few.write_text("de\ten\neins\tone\nzwei\ttwo\n", encoding="utf-8")
    with pytest.raises(UserError, match="has 2 different pairs, 0 of them held out, fewer than the 16 of a step"):
        pretrain(bert_folder, [corpus], tmp_path / "model", **TINY, **steps(6), bitext=few)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bitext": "pairs.tsv"}, "bitext only applies to objective cmlm, but objective is 'random'"),
        ({"objective": "cmlm", "bitext_weight": 0.3}, "bitext_weight only applies to translations, but there are none"),
        ({"objective": "cmlm", "bitext": "pairs.tsv", "bitext_pairs": 1}, "bitext_pairs is 1, but a translation needs others"),
        ({"objective": "cmlm", "bitext": "pairs.tsv", "bitext_margin": -0.1}, "bitext_margin is -0.1, but it is subtracted from a cosine"),
        ({"objective": "cmlm", "bitext": "pairs.tsv", "bitext_weight": 0.0}, "bitext_weight is 0.0: give a number above 0"),
        ({"objective": "cmlm", "bitext": "pairs.tsv", "bitext_scale": float("inf")}, "bitext_scale is inf: give a number above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message, tmp_path):
    if "bitext" in settings:
        settings = settings | {"bitext": tmp_path / settings["bitext"]}
    with pytest.raises(UserError, match=message):
        PretrainConfig(**settings)
