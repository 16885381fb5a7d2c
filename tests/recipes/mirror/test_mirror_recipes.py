"""The recipes of mirroring and their parts: positives, token weights, whitening, and what the paper's recipe stands for."""

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tain.foundation.errors import UserError
from tain.models.correction import LinearCorrection
from tain.models.embedder import Embedder
from tain.recipes.correct.recipe import correct
from tain.recipes.mirror import recipe
from tain.recipes.mirror.config import MirrorConfig, MirrorTextsConfig
from tain.recipes.mirror.data import CROPS, IDENTITY, PAIR, training_set
from tain.recipes.mirror.finishing import StaticShare, choose_static_share, leak_free
from tain.recipes.mirror.model_card import published_figure
from tain.recipes.mirror.preparing import set_limits, weight_rms
from tain.recipes.mirror.recipe import mirror
from tain.recipes.mirror.trainer import trainer_for
from tain.text.records import Sentence

SMALL: dict[str, Any] = {"batch_texts": 8, "max_tokens": 40, "dtype": "float32", "device": "cpu", "held_out": 8}


@pytest.fixture(scope="module")
def texts(sentences):
    words = sorted({word for sentence in sentences for word in sentence.replace(",", "").split()})
    rng = np.random.default_rng(3)
    return [" ".join(rng.choice(words, size=rng.integers(5, 12))) for _ in range(120)]


@pytest.fixture(scope="module")
def documents(texts):
    return [texts[start : start + 4] for start in range(0, len(texts), 4)]


def lines_of(documents):
    return [Sentence(line, index == 0) for document in documents for index, line in enumerate(document)]


def settings(**given: Any) -> MirrorTextsConfig:
    return MirrorConfig(**SMALL | given).for_texts(has_documents=False)


# ---- the paper's recipe


@pytest.mark.parametrize(
    ("model_type", "level", "expected"),
    [
        ("bert", "sentence", {"pooling": "mean-with-padding", "temperature": 0.04, "epochs": 1, "max_tokens": 50, "erased_chars": 5}),
        ("roberta", "sentence", {"pooling": "cls", "temperature": 0.04, "epochs": 1, "max_tokens": 50, "erased_chars": 5}),
        ("bert", "word", {"pooling": "cls", "temperature": 0.2, "epochs": 2, "max_tokens": 25, "erased_chars": 0}),
        ("roberta", "word", {"pooling": "cls", "temperature": 0.2, "epochs": 2, "max_tokens": 25, "erased_chars": 0}),
        ("bert", "phrase", {"pooling": "cls", "temperature": 0.04, "epochs": 2, "max_tokens": 25, "erased_chars": 2}),
    ],
)
def test_the_papers_recipe_has_the_released_values(model_type, level, expected):
    config = MirrorConfig(recipe="paper", level=level).for_texts(has_documents=True)
    filled = config.resolved(width=312, weight_rms=0.5, suggested={"learning_rate": 3e-4, "dropout": 0.05}, model_type=model_type)
    everywhere = {
        "learning_rate": 2e-5,
        "weight_decay": 0.01,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "batch_texts": 200,
        "erase_min_chars": 30,
        "keep_duplicates": True,
        "held_out": 0,
        "max_texts": 10_000,
        "positives": "identity",
        "optimizer": "adamw",
        "token_weights": "none",
        "whiten": 0.0,
    }
    for name, value in {**everywhere, **expected}.items():
        assert getattr(filled, name) == value, name


@pytest.mark.parametrize(("level", "steps"), [("sentence", 50), ("word", 100)])
def test_ten_thousand_texts_with_repeats_are_the_papers_steps(level, steps):
    given = [f"text {index % 9_000}" for index in range(10_000)]
    config = MirrorConfig(recipe="paper", level=level).for_texts(has_documents=False).resolved(width=768, weight_rms=0.04)
    assert len(training_set(given, config).left) // config.batch_texts * config.epochs == steps


def test_drophead_in_the_papers_recipe_replaces_dropout_and_pools_real_tokens():
    config = MirrorConfig(recipe="paper", drophead=0.2).for_texts(has_documents=False)
    filled = config.resolved(width=768, weight_rms=0.04, model_type="bert")
    assert (filled.dropout, filled.attention_dropout, filled.pooling) == (0.0, 0.0, "mean")


def test_published_figures_are_the_papers_and_named_for_its_models_alone():
    paper = MirrorConfig(recipe="paper")
    assert "0.743" in published_figure(paper, "models/bert-base-uncased")
    assert "0.764" in published_figure(MirrorConfig(recipe="paper", drophead=0.05), "roberta-base")
    assert published_figure(paper, "tain-mini") == published_figure(MirrorConfig(), "bert-base-uncased") == ""


def test_our_defaults_are_another_recipe():
    filled = MirrorConfig().for_texts(has_documents=True).resolved(width=768, weight_rms=0.043, model_type="roberta")
    assert (filled.positives, filled.pooling, filled.keep_duplicates, filled.held_out, filled.whiten) == (
        "identity",
        "mean",
        False,
        500,
        0.0,
    )


@pytest.mark.parametrize(("model_type", "joins"), [("modernbert", True), ("bert", False)])
@pytest.mark.parametrize("has_documents", [True, False])
def test_best_pairs_single_words_with_themselves_and_joins_token_vectors(model_type: str, joins: bool, has_documents: bool):
    config = MirrorConfig(recipe="best", level="word").for_texts(has_documents=has_documents)
    filled = config.resolved(width=384, weight_rms=0.1, model_type=model_type)
    assert (filled.positives, filled.anchor, filled.join) == ("identity", 0.0, joins)
    assert (filled.token_weights, filled.whiten, filled.pooling) == ("none", 0.5 if joins else 0.0, "mean")
    assert (filled.temperature, filled.optimizer) == (0.2, "adamw")


@pytest.mark.parametrize(("has_documents", "power"), [(False, 0.5), (True, 0.0)])
def test_fast_whitens_words_unless_their_vectors_are_trained(has_documents: bool, power: float):
    config = MirrorConfig(recipe="fast", level="word").for_texts(has_documents=has_documents)
    filled = config.resolved(width=384, weight_rms=0.1, model_type="bert")
    assert (filled.whiten, filled.token_weights, filled.join) == (power, "none", False)


def test_other_positives_or_an_anchor_turn_the_recipe_for_words_off():
    for given in ({"positives": "neighbours"}, {"anchor": 20.0}):
        config = MirrorConfig(recipe="best", level="word", **given).for_texts(has_documents=True)
        filled = config.resolved(width=384, weight_rms=0.1, model_type="modernbert")
        assert (filled.positives, filled.anchor, filled.join) == ("neighbours", 20.0, False)


# ---- positives


def test_neighbours_are_sentences_that_follow_each_other_in_a_document(documents):
    made = training_set(lines_of(documents), settings(positives="neighbours", held_out=0))
    assert (made.kinds == PAIR).all() and not made.is_paired
    following = {(left, right) for document in documents for left, right in pairwise(document)}
    assert set(zip(made.left, made.right, strict=True)) == following


def test_paragraphs_are_split_into_sentences():
    lines = [Sentence(f"The {word} is here today. It was there before. All is well now.", True) for word in "abcdefghij"]
    made = training_set(lines, settings(positives="neighbours", held_out=0))
    assert Counter(made.right) == {"It was there before.": 10, "All is well now.": 10}
    assert "The a is here today." in made.own_texts and len(made.own_texts) == 12  # two sentences are in all documents


def test_held_out_sentences_are_in_no_pair(documents):
    made = training_set(lines_of(documents), settings(positives="neighbours"))
    assert len(made.held_left) == 8
    assert not set(made.held_left) & {*made.left, *made.right, *made.own_texts}


def test_documents_apart_give_neighbours_and_the_texts_stay_the_users(documents, texts):
    own = [f"{text} mine" for text in texts[:40]]
    made = training_set(own, settings(positives="neighbours+identity", held_out=0), documents)
    assert Counter(made.kinds.tolist()) == {PAIR: 90, IDENTITY: 40}
    assert sorted(made.own_texts) == sorted(own)
    assert training_set(own, settings(positives="neighbours", held_out=0), lines_of(documents)).counts["neighbours"] == 90


def test_no_more_pairs_than_asked_for_are_drawn_and_each_as_often():
    lines = [Sentence(f"first one {index} here", False) for index in range(60)]
    drawn = Counter()
    for seed in range(300):
        made = training_set(lines, settings(positives="neighbours", max_pairs=10, batch_texts=4, held_out=0, seed=seed))
        assert (len(made.left), made.counts["neighbours"]) == (10, 59)
        drawn.update(made.left)
    counts = np.array([drawn[line.text] for line in lines[:-1]])
    assert counts.min() > 20 and counts.max() < 90  # 51 expected, standard deviation 6.5


def test_crops_are_two_spans_of_one_text_between_its_special_tokens(bert_folder, texts):
    made = trainer(bert_folder, texts, positives="crops")
    left, right = made.views(np.arange(40), step=0, seed=1)
    whole = [made.views.pairs.left[index] for index in range(40)]
    for view in (left, right):
        for ids, text in zip(view, whole, strict=True):
            assert (ids[0], ids[-1]) == (text[0], text[-1])
            inner = ids[1:-1]
            assert any(inner == text[start : start + len(inner)] for start in range(1, len(text) - len(inner)))
            assert 0.3 * (len(text) - 2) <= len(inner) <= 0.9 * (len(text) - 2) + 1
    assert sum(one != other for one, other in zip(left, right, strict=True)) > 30
    assert made.views(np.arange(40), step=0, seed=1) == (left, right)  # a resumed run draws the same


def test_kinds_can_be_mixed_in_one_batch(bert_folder, texts, documents):
    made = trainer(bert_folder, texts[:16], documents, positives="neighbours+identity+crops")
    kinds = made.views.data.kinds
    assert set(kinds.tolist()) == {PAIR, IDENTITY, CROPS}
    left, right = made.views(np.arange(len(kinds)), step=0, seed=1)
    for index in np.flatnonzero(kinds == PAIR).tolist():
        assert (left[index], right[index]) == (made.views.pairs.left[index], made.views.pairs.right[index])


def trainer(folder, texts, documents=None, **given: Any):
    config = settings(held_out=0, **given)
    data = training_set(texts, config, documents)
    embedder = Embedder.load(folder, dtype="float32", device="cpu")
    return trainer_for(embedder, data, config.resolved(width=embedder.dim, weight_rms=weight_rms(embedder.encoder)))


@pytest.mark.parametrize(
    ("given", "documents", "message"),
    [
        ({"positives": "siblings"}, None, "positives is 'siblings': give identity, neighbours, crops"),
        ({"positives": "neighbours"}, None, "the documents have 0 pairs of neighbouring sentences, fewer than 8: .*or --positives crops"),
        ({}, [["one line here", "another line there"]], "documents only apply to neighbouring sentences: give --positives neighbours"),
        ({"positives": "neighbours"}, ["one string", "another"], "document number 1 is 'one string': give each document as a list"),
        ({"recipe": "fast", "dropout": 0.1}, None, "recipe fast takes no training step, so dropout would have no effect"),
        ({"recipe": "fast", "seeds": 3}, None, "it has one result: remove --seeds"),
        ({"recipe": "paper", "positives": "crops"}, None, "the paper's recipe only has identity"),
        ({"whiten": 2.0}, None, "whiten is 2.0, but it is an exponent of the variances"),
        ({"token_weights": "sif", "pooling": "cls"}, None, "only a mean can be weighted"),
        ({"matrix_learning_rate": 0.01}, None, "matrix_learning_rate only applies to Muon"),
        ({"sif_smoothing": 0.0}, None, "sif_smoothing is 0.0"),
    ],
)
def test_what_cannot_work_is_refused(given, documents, message, bert_folder, texts):
    with pytest.raises(UserError, match=message):
        mirror(bert_folder, texts, documents=documents, **SMALL | given)


def test_too_few_texts_to_whiten_by_are_refused_before_training(bert_folder, texts, documents, monkeypatch):
    monkeypatch.setattr(recipe, "trainer_for", lambda *_, **__: pytest.fail("begun"))
    with pytest.raises(
        UserError, match=r"there are 30 texts to fit the whitening to, but vectors of 32 dimensions need more: .*or --whiten 0"
    ):
        mirror(bert_folder, texts[:30], documents=documents, recipe="best", **SMALL | {"held_out": 0})


def test_pairs_are_positives_themselves(bert_folder, texts):
    with pytest.raises(UserError, match="the texts are pairs, which already are positives"):
        mirror(bert_folder, list(zip(texts, reversed(texts), strict=True)), positives="crops", **SMALL)


# ---- token weights, whitening, no training


def test_token_weights_are_those_of_the_texts_trained_on(bert_folder, texts):
    result = mirror(bert_folder, texts, token_weights="sif", sif_smoothing=0.05, **SMALL)
    embedder = result.embedder
    rest = [text for text in texts if text in set(training_set(texts, result.config).own_texts)]
    ids = [token for text in rest for token in embedder.tokenizer(text)["input_ids"]]
    counts = np.bincount(ids, minlength=embedder.encoder.model.config.vocab_size)
    expected = 0.05 / (0.05 + counts / counts.sum())
    np.testing.assert_allclose(embedder.encoder.token_weights.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("chosen", ["fast", "best"])
def test_a_saved_recipe_gives_the_same_vectors_in_sentence_transformers(chosen, bert_folder, documents, texts, tmp_path):
    from sentence_transformers import SentenceTransformer

    more = {} if chosen == "fast" else {"documents": documents}
    result = mirror(bert_folder, texts, tmp_path / "encoder", recipe=chosen, **more, **SMALL)
    assert result.config.positives == ("identity" if chosen == "fast" else "neighbours")
    theirs = SentenceTransformer(str(tmp_path / "encoder"), device="cpu").encode(texts)
    ours = Embedder.load(tmp_path / "encoder", dtype="float32", device="cpu").encode(texts)
    scale = np.linalg.norm(ours, axis=1).mean()
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-5)
    np.testing.assert_allclose(result.embedder.encode(texts) / scale, ours / scale, atol=1e-5)
    kinds = [module["type"].rpartition(".")[2] for module in json.loads((tmp_path / "encoder" / "modules.json").read_text())]
    assert kinds == ["Transformer", "WordWeights", "Pooling", "Dense"]


def test_best_joins_the_encoder_and_its_token_vectors_where_the_layout_allows(modernbert_folder, documents, texts, tmp_path):
    from sentence_transformers import SentenceTransformer

    result = mirror(modernbert_folder, texts, tmp_path / "encoder", documents=documents, recipe="best", seeds=2, **SMALL)
    assert result.config.join and not mirror(modernbert_folder, texts, documents=documents, recipe="best", join=False, **SMALL).config.join
    ours = Embedder.load(tmp_path / "encoder", dtype="float32", device="cpu")
    assert (ours.encoder.dim, ours.dim) == (64, 64)
    vectors = ours.encode(texts)
    scale = np.linalg.norm(vectors, axis=1).mean()
    theirs = SentenceTransformer(str(tmp_path / "encoder"), device="cpu").encode(texts)
    np.testing.assert_allclose(vectors / scale, theirs / scale, atol=1e-4)
    np.testing.assert_allclose(result.embedder.encode(texts) / scale, vectors / scale, atol=1e-4)
    figures = [run.after.self_retrieval_mrr for run in result.runs if run.after]
    assert figures[result.best] == max(figures)


# ---- the share of the token vectors


def weighted_halves(share: float, width: int = 16) -> LinearCorrection:
    weights = np.repeat([np.sqrt(1 - share), np.sqrt(share)], width)
    return LinearCorrection(np.diag(weights).astype(np.float32), np.zeros(2 * width, dtype=np.float32))


@pytest.mark.parametrize(("noise_of_layers", "noise_of_tokens", "expected"), [(3.0, 0.5, 1.0), (0.5, 3.0, 0.5), (1.0, 1.0, 0.5)])
def test_the_share_of_the_token_vectors_grows_only_where_neighbours_gain_by_it(noise_of_layers, noise_of_tokens, expected):
    rng = np.random.default_rng(1)
    left = rng.normal(size=(300, 32))
    noise = rng.normal(size=(300, 32)) * np.repeat([noise_of_layers, noise_of_tokens], 16)
    found = choose_static_share(
        left.astype(np.float32), (left + noise).astype(np.float32), {share: weighted_halves(share) for share in (0.5, 0.7, 1.0)}
    )
    assert found.share == expected
    assert list(found.mrr) == [0.5, 0.7, 1.0] and all(0 < mrr <= 1 for mrr in found.mrr.values())


def test_pairs_of_neighbours_are_held_out_in_blocks_to_choose_the_share():
    lines = [Sentence(f"sentence number {number} of a long text", number % 100 == 0) for number in range(5000)]
    made = training_set(lines, settings(recipe="best", positives="neighbours", held_out=0))
    trained, held = ({(pair.left, pair.right) for pair in pairs} for pairs in (made.pool, made.held_neighbours))
    assert len(held) == 100 and not trained & held
    assert len(trained) + len(held) == 5000 - 50  # one pair fewer than sentences in each document
    numbers = sorted(int(left.split()[2]) for left, _ in held)
    assert sum(after - before == 1 for before, after in pairwise(numbers)) >= 96  # two blocks
    for given in ({"static_share": 0.5}, {"budget_s": 60.0}, {"join": False}, {"level": "word", "anchor": 20.0}):
        assert training_set(lines, settings(**{"recipe": "best", "positives": "neighbours", "held_out": 0} | given)).held_neighbours == []


def test_the_share_is_chosen_recorded_and_part_of_the_saved_encoder(modernbert_folder, documents, texts, tmp_path, monkeypatch, capsys):
    from sentence_transformers import SentenceTransformer

    monkeypatch.setattr("tain.recipes.mirror.data._HELD_BLOCK", 2)
    monkeypatch.setattr("tain.recipes.mirror.data._HELD_EVERY", 4)
    monkeypatch.setattr("tain.recipes.mirror.finishing._FEWEST_HELD_PAIRS", 10)
    result = mirror(modernbert_folder, texts, tmp_path / "encoder", documents=documents, recipe="best", **SMALL)
    chosen = result.runs[0].static_share
    assert chosen is not None and (chosen.chosen_by, list(chosen.mrr)) == ("neighbours", [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    recorded = json.loads((tmp_path / "encoder" / "tain.json").read_text())["static_share"]
    assert recorded["share"] == chosen.share and recorded["mrr"]["0.5"] == chosen.mrr[0.5]
    assert f"share of the token vectors in the similarity: {chosen.share:g}" in (tmp_path / "encoder" / "README.md").read_text()
    given = {
        share: mirror(modernbert_folder, texts, documents=documents, recipe="best", static_share=share, **SMALL).embedder.encode(texts)
        for share in (0.0, 1.0)
    }
    assert np.abs(given[0.0] - given[1.0]).max() > 0.01
    vectors = Embedder.load(tmp_path / "encoder", dtype="float32", device="cpu").encode(texts)
    theirs = SentenceTransformer(str(tmp_path / "encoder"), device="cpu").encode(texts)
    scale = np.linalg.norm(vectors, axis=1).mean()
    np.testing.assert_allclose(vectors / scale, theirs / scale, atol=1e-4)


def test_without_neighbours_the_share_is_chosen_by_copies_of_held_out_texts_or_by_the_users_pairs(modernbert_folder, texts, monkeypatch):
    monkeypatch.setattr("tain.recipes.mirror.finishing._FEWEST_HELD_PAIRS", 5)
    pairs = [(text, f"{text} again") for text in texts]
    for given, by in ((texts, "copies"), (pairs, "pairs")):
        chosen = mirror(modernbert_folder, given, recipe="best", **SMALL).runs[0].static_share
        assert chosen is not None and chosen.chosen_by == by
        assert list(chosen.mrr) == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0] and chosen.share in chosen.mrr
    fixed = mirror(modernbert_folder, texts, recipe="best", static_share=0.3, **SMALL).runs[0].static_share
    assert fixed == StaticShare(0.3)
    few = mirror(modernbert_folder, texts, recipe="best", **SMALL | {"held_out": 3}).runs[0].static_share
    assert few == StaticShare(0.5)


# ---- fast, joined


@pytest.mark.parametrize("has_documents", [False, True])
def test_fast_can_join_the_whitened_layers_with_its_token_vectors(modernbert_folder, documents, texts, tmp_path, has_documents):
    from sentence_transformers import SentenceTransformer

    given = {"documents": documents} if has_documents else {}
    more = {"max_tokens": 40, "held_out": 20, "batch_texts": 8}
    result = mirror(modernbert_folder, texts, tmp_path / "encoder", recipe="fast", join=True, static_share=0.0, **given, **more)
    assert result.config.join and not result.config.trains and result.runs[0].steps == 0
    white = correct(modernbert_folder, texts, method="whiten", power=0.5).embedder
    found, layers = result.embedder.encode(texts), white.encode(texts)
    own = np.corrcoef(pair_cosines(found), pair_cosines(layers))[0, 1]
    assert own > 0.95
    both = mirror(modernbert_folder, texts, tmp_path / "both", recipe="fast", join=True, static_share=0.5, **given, **more).embedder
    assert np.corrcoef(pair_cosines(both.encode(texts)), pair_cosines(layers))[0, 1] < own
    theirs = SentenceTransformer(str(tmp_path / "both"), device="cpu").encode(texts)
    scale = np.linalg.norm(theirs, axis=1).mean()
    np.testing.assert_allclose(Embedder.load(tmp_path / "both", dtype="float32").encode(texts) / scale, theirs / scale, atol=1e-4)
    card = (tmp_path / "both" / "README.md").read_text()
    assert "layers are not trained" in card and "share of the token vectors in the similarity: 0.5" in card


def pair_cosines(vectors: np.ndarray) -> np.ndarray:
    return cosines(vectors)[np.triu_indices(len(vectors), 1)]


def test_fast_joins_no_words_and_no_other_layout(bert_folder, modernbert_folder, texts):
    with pytest.raises(UserError, match="joins vectors of sentences, not of words: leave out --join, or give --recipe best"):
        mirror(modernbert_folder, texts, recipe="fast", join=True, level="word")
    with pytest.raises(UserError, match=r"but whiten is 0: leave out --join, or give --whiten 0\.5"):
        mirror(modernbert_folder, texts, recipe="fast", join=True, whiten=0.0)
    with pytest.raises(UserError, match="BertModel cannot be joined with token vectors"):
        mirror(bert_folder, texts, recipe="fast", join=True, max_tokens=40)
    with pytest.raises(UserError, match="static_share only applies to a joined encoder"):
        mirror(modernbert_folder, texts, recipe="fast", static_share=0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"recipe": "best", "static_share": 1.5}, "static_share is 1.5, but it is a share: give 0 to 1"),
        ({"static_share": 0.5}, "static_share only applies to a joined encoder: give --recipe best or --join"),
        ({"recipe": "best", "join": False, "static_share": 0.5}, "static_share only applies to a joined encoder"),
    ],
)
def test_a_share_that_cannot_work_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        MirrorConfig(**given)


def test_a_share_is_refused_where_the_model_cannot_be_joined(bert_folder, texts, documents):
    with pytest.raises(
        UserError, match=r"static_share is 0\.7, but the encoder is not joined with token vectors, .* \(the model's is 'bert'\)"
    ):
        mirror(bert_folder, texts, documents=documents, recipe="best", static_share=0.7, **SMALL)


def test_best_for_words_joins_the_mirrored_encoder_with_the_vectors_of_fast(modernbert_folder, documents, texts, tmp_path):
    from sentence_transformers import SentenceTransformer

    words = sorted({word for text in texts for word in text.split()})
    words += [f"{left}{right}" for left, right in pairwise(words)]
    of_words = SMALL | {"level": "word", "pooling": "mean"}
    best = mirror(modernbert_folder, words, tmp_path / "best", documents=documents, recipe="best", **of_words)
    assert best.config.join and best.counts["neighbours"] > 0
    ours = Embedder.load(tmp_path / "best", dtype="float32", device="cpu")
    assert (ours.encoder.dim, ours.dim) == (64, 64)
    vectors = ours.encode(words)
    theirs = SentenceTransformer(str(tmp_path / "best"), device="cpu").encode(words)
    scale = np.linalg.norm(vectors, axis=1).mean()
    np.testing.assert_allclose(vectors / scale, theirs / scale, atol=1e-4)
    default = mirror(modernbert_folder, words, **of_words).embedder
    alone = mirror(modernbert_folder, words, documents=documents, recipe="best", join=False, **of_words).embedder
    np.testing.assert_array_equal(alone.encode(words), default.encode(words))  # the same training
    fast = mirror(modernbert_folder, words, documents=documents, recipe="fast", **of_words).embedder

    ours.correction = None
    raw = ours.encode(words, normalize=False)
    np.testing.assert_allclose(cosines(raw[:, :32]), cosines(default.encode(words)), atol=0.02)
    of_fast = cosines(fast.encode(words)).ravel()
    with_leak, without = (np.corrcoef(cosines(each[:, 32:]).ravel(), of_fast)[0, 1] for each in (raw, raw @ leak_free(32)))
    assert without > 0.95 and without > with_leak


def cosines(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


def test_best_for_words_needs_no_documents(modernbert_folder, texts, tmp_path):
    words = sorted({word for text in texts for word in text.split()})
    words += [f"{left}{right}" for left, right in pairwise(words)]
    lines = [Sentence(word, index == 0) for index, word in enumerate(words)]  # as files are read
    made = training_set(lines, settings(recipe="best", level="word"))
    assert made.is_identity and not made.pool and "neighbours" not in made.counts
    result = mirror(modernbert_folder, words, tmp_path / "best", recipe="best", level="word", **SMALL)
    assert result.config.join
    assert Embedder.load(tmp_path / "best").encode(words[:3]).shape == (3, 64)


def test_fast_takes_the_common_part_out_of_word_vectors(modernbert_folder, texts, tmp_path):
    words = sorted({word for text in texts for word in text.split()})
    words += [f"{left}{right}" for left, right in pairwise(words)]
    # a table with a large common part, as trained models have: all its rows are alike
    model = transformers.AutoModelForMaskedLM.from_pretrained(modernbert_folder)
    model.get_input_embeddings().weight.data += 10 * torch.randn(model.config.hidden_size)
    model.save_pretrained(tmp_path / "model")
    transformers.AutoTokenizer.from_pretrained(modernbert_folder).save_pretrained(tmp_path / "model")
    mirror(tmp_path / "model", words, tmp_path / "fast", recipe="fast", level="word", **SMALL | {"held_out": 0})
    assert pair_cosines(Embedder.load(tmp_path / "model", dtype="float32", pooling="mean").encode(words)).mean() > 0.9
    assert abs(pair_cosines(Embedder.load(tmp_path / "fast", dtype="float32").encode(words)).mean()) < 0.05


def test_documents_without_effect_are_named(bert_folder, documents, texts):
    with pytest.warns(UserWarning, match="the documents are not used"):
        mirror(bert_folder, texts, documents=documents, recipe="best", level="word", **SMALL)


def test_every_seed_of_a_joined_encoder_is_trained(modernbert_folder, documents, texts):
    def second_losses(rate: float) -> list[float]:
        rates = {"learning_rate": rate, "matrix_learning_rate": rate}
        return mirror(modernbert_folder, texts, documents=documents, recipe="best", seeds=2, **rates, **SMALL).runs[1].losses

    slow, fast = second_losses(1e-9), second_losses(1e-3)
    assert slow[0] == pytest.approx(fast[0], rel=1e-4)
    assert slow[1:] != pytest.approx(fast[1:], rel=1e-4)


def test_joining_other_models_is_refused(bert_folder, documents, texts):
    with pytest.raises(UserError, match="needs the ModernBERT architecture: remove --join"):
        mirror(bert_folder, texts, documents=documents, recipe="best", join=True, **SMALL)


def test_fast_with_documents_trains_token_vectors(modernbert_folder, documents, texts, tmp_path):
    result = mirror(modernbert_folder, texts, tmp_path / "fast", documents=documents, recipe="fast", whiten=0.0, **SMALL)
    assert (result.config.positives, result.steps) == ("neighbours", 0)
    encoder = Embedder.load(tmp_path / "fast", dtype="float32", device="cpu")
    words = texts[0].split()
    one, other = encoder.encode([" ".join(words), " ".join(reversed(words))])
    np.testing.assert_allclose(one, other, atol=1e-4)
    weights = encoder.encoder.token_weights
    assert weights is not None and (weights[encoder.tokenizer.all_special_ids[1:3]] == 0).any()


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", "distilbert", "electra"])
def test_without_training_a_token_keeps_its_vector_whatever_is_around_it(architecture, save_masked_lm, texts, tmp_path):
    folder = save_masked_lm(architecture)
    mirror(folder, texts, tmp_path / "fast", recipe="fast", **SMALL | {"max_tokens": 32})
    encoder = Embedder.load(tmp_path / "fast", dtype="float32", device="cpu")
    words = texts[0].split()
    one, other = encoder.encode([" ".join(words), " ".join(reversed(words))])
    if architecture != "roberta":  # whose first word has a token of its own
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert not np.allclose(one, encoder.encode([texts[1]])[0], atol=1e-2)


def test_models_whose_layers_cannot_be_left_out_are_refused(save_masked_lm, texts):
    with pytest.raises(UserError, match="the layers of AlbertModel cannot be removed: give --recipe best"):
        mirror(save_masked_lm("albert"), texts, recipe="fast", **SMALL)


def test_whitening_is_fitted_to_the_texts_trained_on(bert_folder, texts):
    result = mirror(bert_folder, texts, whiten=1.0, **SMALL)
    assert result.embedder.correction is not None
    vectors = result.embedder.encode(training_set(texts, result.config).own_texts).astype(np.float64)
    variances = np.linalg.eigvalsh(np.cov(vectors.T))[::-1]
    varied = variances[variances > 1e-3]
    np.testing.assert_allclose(varied, 1, atol=2e-2)
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=1e-2)


def test_each_seed_has_its_own_whitening_and_the_best_one_is_kept(bert_folder, texts, tmp_path):
    result = mirror(bert_folder, texts, tmp_path / "encoder", whiten=0.5, seeds=2, **SMALL)
    kept = result.config.seed + result.best
    alone = mirror(bert_folder, texts, whiten=0.5, **SMALL | {"seed": kept})
    # texts to train on are drawn by the first seed
    if kept == result.config.seed:
        np.testing.assert_allclose(alone.embedder.encode(texts), result.embedder.encode(texts), atol=1e-4)
    saved = Embedder.load(tmp_path / "encoder", dtype="float32", device="cpu")
    np.testing.assert_allclose(saved.encode(texts), result.embedder.encode(texts), atol=1e-5)


def test_an_encoder_without_training_can_be_trained_on(bert_folder, texts, tmp_path):
    mirror(bert_folder, texts, tmp_path / "fast", recipe="fast", **SMALL)
    with pytest.warns(UserWarning, match="the correction of .* is dropped|token weights of .* are dropped"):
        result = mirror(tmp_path / "fast", texts, **SMALL)
    assert result.embedder.encoder.token_weights is None and result.embedder.correction is None


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_best_steps_matrices_with_muon_and_the_rest_with_adamw(bert_folder, texts, documents):
    made = trainer(bert_folder, texts, documents, recipe="best", positives="neighbours")
    made.start()
    weights = made.weights
    muon, _ = made.optimizer().parts
    assert isinstance(muon, torch.optim.Muon)
    of_muon = {id(each) for group in muon.param_groups for each in group["params"]}
    names = {name for name, master in zip(weights.names, weights.masters, strict=True) if id(master) in of_muon}
    assert names and not any("embedding" in name or "norm" in name.lower() for name in names)


# ---- the released recipe, written naively


@pytest.mark.parametrize(("architecture", "pooling"), [("bert", "mean-with-padding"), ("bert", "cls"), ("roberta", "cls")])
def test_a_training_step_is_that_of_the_released_recipe(architecture, pooling, save_masked_lm, texts):
    """Padded rows, one forward pass a view, NT-Xent text by text: the loss and the gradient of every weight, dropout aside."""
    import transformers

    folder = save_masked_lm(architecture)
    given = {"pooling": pooling, "dropout": 0.0, "max_tokens": 32, "erase_min_chars": 10, "recipe": "paper", "held_out": 0}
    config = MirrorConfig(**SMALL | given).for_texts(has_documents=False)
    embedder = Embedder.load(folder, dtype="float32", device="cpu")
    config = config.resolved(width=32, weight_rms=0.2, model_type=architecture)
    set_limits(embedder.encoder, config)
    made = trainer_for(embedder, training_set(texts, config), config)
    indices = np.arange(8)
    loss = made.gradient_step(made.batch(indices, step=0, seed=1), step=0, seed=1)
    ours = {name: parameter.grad for name, parameter in embedder.encoder.model.named_parameters() if parameter.grad is not None}

    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    views = made.views(indices, step=0, seed=1)
    assert views[0] != views[1]  # spans were erased
    vectors = []
    for view in views:
        ids = torch.tensor([ids + [embedder.tokenizer.pad_token_id] * (32 - len(ids)) for ids in view])
        mask = torch.tensor([[1] * len(ids) + [0] * (32 - len(ids)) for ids in view])
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        vectors.append(hidden[:, 0] if pooling == "cls" else hidden.mean(dim=1))
    units = torch.nn.functional.normalize(torch.cat(vectors), dim=1)
    total = torch.zeros(())
    for anchor in range(16):
        twin = (anchor + 8) % 16
        terms = [torch.exp(units[anchor] @ units[other] / 0.04) for other in range(16) if other != anchor]
        total = total - torch.log(torch.exp(units[anchor] @ units[twin] / 0.04) / torch.stack(terms).sum())
    (total / 16).backward()
    assert loss == pytest.approx(float(total.detach() / 16), rel=1e-4)
    theirs = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert set(ours) >= {name for name in theirs if "pooler" not in name}
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-4 * largest, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")
