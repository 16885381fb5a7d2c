import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf
from sklearn.feature_extraction.text import TfidfVectorizer

from tain.evaluation.baselines import Lexical, Static, fit_whitening, lexical_tokens
from tain.evaluation.encoding import EncodedOnce
from tain.evaluation.label_free import label_free_report
from tain.evaluation.metrics import cosine_rows, gold_ranks, unit_rows
from tain.evaluation.report import evaluate
from tain.evaluation.suites.pairs import read_scored_table
from tain.foundation.errors import ShapeError, UserError
from tain.models.input_embeddings import InputEmbeddings

CORPUS = [
    "the cat sat on the mat",
    "a cat and a dog",
    "the dog ate the cat's food",
    "mirrors are made of glass",
    "glass is made of sand, and the sand of the sea",
    "the sea the sea the sea",
]


def numbered(texts: list[str]) -> list[list[int]]:
    """Words ``w3`` are token 3 of a table."""
    return [[int(word[1:]) for word in text.split()] for text in texts]


def table_of(rows: int = 30, dim: int = 8, seed: int = 0) -> InputEmbeddings:
    table = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return InputEmbeddings(table, numbered)


def texts_of(count: int, *, words: int = 4, seed: int = 1, vocabulary: int = 30) -> list[str]:
    drawn = np.random.default_rng(seed).integers(vocabulary, size=(count, words))
    return [" ".join(f"w{number}" for number in row) for row in drawn]


# ---- tokens


def test_tokens_are_lower_cased_pieces_and_unknown_words_stay_whole():
    assert lexical_tokens(["The GLASS", "ሰላም glass ПРИВЕТ", ""]) == [
        ["the", "glass"],
        ["glass", "ሰላም", "привет", "<пр", "при", "рив", "иве", "вет", "ет>"],
        [],
    ]


def test_forms_of_one_letter_are_one_token():
    for form, same in (
        ("ＮＨＫ １２３", "NHK 123"),
        ("naïve", normalize("NFD", "naïve")),
        ("می‌خواهم", "میخواهم"),
        ("한국어", normalize("NFD", "한국어")),
    ):
        assert lexical_tokens([form]) == lexical_tokens([same])
    for form in ("naïve", "한국어", "Øresund é"):
        texts = [form, normalize("NFD", form), "another text", "more"]
        assert Lexical.of_characters(texts).pair_cosines(texts[:1], texts[1:2])[0] == pytest.approx(1.0)


def test_half_a_character_is_refused_in_one_line():
    with pytest.raises(UserError, match="half"):
        lexical_tokens(["whole", "half \ud800"])


# ---- SIF overlap, closed forms


def test_two_texts_that_share_one_of_two_words_have_the_cosine_of_its_weight():
    # cat 2 of 4 tokens, dog and sea 1 of 4 each
    shared, other = 1e-3 / (1e-3 + 0.5), 1e-3 / (1e-3 + 0.25)
    (cosine,) = Lexical(["cat dog", "cat sea"]).pair_cosines(["cat dog"], ["cat sea"])
    assert cosine == pytest.approx(shared**2 / (shared**2 + other**2), rel=1e-12)


def test_a_token_that_was_never_seen_has_weight_one():
    # of the fitted texts every token is a cat: p = 1
    cat = 1e-3 / (1e-3 + 1)
    (cosine,) = Lexical(["cat"]).pair_cosines(["cat dog"], ["dog sea"])
    assert cosine == pytest.approx(1 / (math.sqrt(cat**2 + 1) * math.sqrt(2)), rel=1e-12)


def test_counts_count():
    # one token of weight w throughout: (2, 1) against (1, 0), both words equally frequent
    lexical = Lexical(["cat dog"])
    (cosine,) = lexical.pair_cosines(["cat cat dog"], ["cat"])
    assert cosine == pytest.approx(2 / math.sqrt(5), rel=1e-12)


def test_order_case_and_repetition_of_the_whole_change_nothing():
    lexical = Lexical(CORPUS)
    left = ["the cat sat on the mat"] * 3
    found = lexical.pair_cosines(left, ["mat the on sat cat the", "The CAT sat on THE mat", " ".join([left[0]] * 3)])
    np.testing.assert_allclose(found, 1.0, rtol=1e-12)


def test_texts_without_a_shared_token_or_any_token_have_cosine_zero():
    assert Lexical(CORPUS).pair_cosines(["cat", "", "cat"], ["glass", "cat", ""]).tolist() == [0.0, 0.0, 0.0]


def test_rarer_words_count_more():
    lexical = Lexical(CORPUS)  # "the" is everywhere, "glass" is rare
    frequent, rare = lexical.pair_cosines(["the food", "glass food"], ["the mat", "glass mat"])
    assert frequent < 0.1 < rare


def test_pairs_index_and_dense_vectors_agree():
    lexical = Lexical(CORPUS)
    asked = ["the sea of glass", "a dog", "cat cat", "the"]
    table = lexical.index(CORPUS).cosines(asked)
    dense = unit_rows(lexical.encode(asked)) @ unit_rows(lexical.encode(CORPUS)).T
    np.testing.assert_allclose(table, dense, atol=1e-6)
    for column, candidate in enumerate(CORPUS):
        np.testing.assert_allclose(lexical.pair_cosines(asked, [candidate] * 4), table[:, column], atol=1e-12)


def test_many_pairs_equal_one_at_a_time(monkeypatch: pytest.MonkeyPatch):
    left, right = texts_of(50, seed=1), texts_of(50, seed=2)
    whole = Lexical(left + right).pair_cosines(left, right)
    monkeypatch.setattr("tain.evaluation.baselines._TEXTS_AT_ONCE", 7)
    np.testing.assert_array_equal(Lexical(left + right).pair_cosines(left, right), whole)


def test_tokens_that_come_after_the_index_was_made_are_in_no_candidate():
    lexical = Lexical(["cat dog"])
    index = lexical.index(["cat dog"])
    assert 0 < index.cosines(["cat zebra"])[0, 0] < index.cosines(["cat"])[0, 0]


# ---- TF-IDF


def test_tf_idf_is_that_of_scikit_learn():
    queries = ["the cat's mat", "sea and sand and sand and sand", "an unseen zebra on the mat", "zebra"]
    theirs = TfidfVectorizer(analyzer=lambda text: lexical_tokens([text])[0], sublinear_tf=True).fit(CORPUS)
    expected = theirs.transform(queries) @ theirs.transform(CORPUS).T
    mine = Lexical(CORPUS, weighting="tf-idf")
    np.testing.assert_allclose(mine.index(CORPUS).cosines(queries), expected.toarray(), atol=1e-12)


# ---- when it is fitted


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text(alphabet="aABß éİı.,'\t\u3000我爱ক্ষ", max_size=14), min_size=1, max_size=6), st.text(alphabet="aBß éx我", max_size=9)
)
def test_character_ngrams_are_those_of_scikit_learn(texts: list[str], other: str):
    texts, other = [normalize("NFC", text) for text in texts], normalize("NFC", other)
    fitted = list(dict.fromkeys([*texts, "b"]))  # each counts once, and scikit-learn refuses texts without any n-gram
    theirs = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True).fit(fitted)
    ours, table = Lexical.of_characters([*texts, "b"]), theirs.transform(texts)
    assert ours.index(texts).cosines([other]) == pytest.approx((theirs.transform([other]) @ table.T).toarray(), abs=1e-9)
    assert ours.pair_cosines(texts, texts[::-1]) == pytest.approx((table @ table.T).toarray()[::-1].diagonal(), abs=1e-9)
    assert ours.name == "characters" and ours.ranks_by == "tf-idf"


def test_the_texts_at_hand_count_only_where_none_were_given():
    given, free = Lexical(CORPUS), Lexical()
    for lexical in (given, free):
        lexical.fit_at_hand(["cat dog", "cat sea"])
    pair = ["cat dog"], ["cat sea"]
    assert given.pair_cosines(*pair) == Lexical(CORPUS).pair_cosines(*pair)
    assert free.pair_cosines(*pair) == Lexical(["cat dog", "cat sea"]).pair_cosines(*pair)
    free.fit_at_hand(CORPUS)  # a second call replaces the first
    assert free.pair_cosines(*pair) == pytest.approx(given.pair_cosines(*pair), rel=1e-12)


def test_equal_texts_are_fitted_once():
    pair = ["cat dog"], ["cat sea"]
    assert Lexical(["cat dog", "cat sea", "cat dog"]).pair_cosines(*pair) == Lexical(["cat dog", "cat sea"]).pair_cosines(*pair)


@pytest.mark.parametrize("make", [Lexical, lambda: Static(table_of(), name="static:x")])
def test_nothing_is_compared_before_anything_is_fitted(make: Callable[[], Any]):
    with pytest.raises(UserError, match="first: give some"):
        make().index(["w1 w2"])


def test_too_few_texts_to_fit_are_refused():
    with pytest.raises(UserError, match="there are none"):
        Lexical([])
    with pytest.raises(UserError, match="1 different ones"):
        Static(table_of(), ["w1 w2", "w1 w2"], name="static:x")
    with pytest.raises(ShapeError):
        Lexical(CORPUS).pair_cosines(["a"], [])


# ---- whitening


def test_whitening_gives_the_identity_as_covariance():
    vectors = np.random.default_rng(0).normal(size=(200, 6)) @ np.random.default_rng(1).normal(size=(6, 6)) + 3
    white = fit_whitening(vectors, shrinkage=0.0).apply(vectors)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(6), atol=1e-10)


@pytest.mark.parametrize("count", [5, 40, 3000])
def test_the_shrinkage_is_that_of_scikit_learn(count: int):
    vectors = np.random.default_rng(0).normal(size=(count, 12)) * np.arange(1, 13)
    theirs = LedoitWolf().fit(vectors)
    mine = fit_whitening(vectors)
    assert mine.shrinkage == pytest.approx(theirs.shrinkage_, abs=1e-9)
    np.testing.assert_allclose(mine.matrix.T @ theirs.covariance_ @ mine.matrix, np.eye(12), atol=1e-8)


def test_with_many_vectors_the_default_nearly_is_plain_whitening():
    vectors = np.random.default_rng(0).normal(size=(20_000, 6)) * [1, 2, 3, 4, 5, 6]
    white = fit_whitening(vectors).apply(vectors)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(6), atol=0.02)


def test_few_vectors_are_not_made_equally_far_apart():
    vectors = np.random.default_rng(0).normal(size=(5, 50)) * np.geomspace(10, 0.1, 50)
    plain, shrunk = (unit_rows(fit_whitening(vectors, shrinkage=s).apply(vectors)) for s in (0.0, None))
    pairs = np.triu_indices(5, 1)
    assert np.ptp((plain @ plain.T)[pairs]) < 1e-6  # all cosines are -1/4: nothing is told apart
    assert np.ptp((shrunk @ shrunk.T)[pairs]) > 0.05


def test_vectors_that_are_all_the_same_become_zeros():
    np.testing.assert_array_equal(fit_whitening(np.ones((4, 3))).apply(np.ones((2, 3))), np.zeros((2, 3)).astype(float)[:, :0])


def test_one_vector_cannot_be_whitened():
    with pytest.raises(ShapeError):
        fit_whitening(np.ones((1, 3)))


# ---- input embeddings


def test_single_words_have_their_layer_normed_row():
    embeddings = table_of()
    static = Static(embeddings, [f"w{number}" for number in range(10)], name="static:x")
    row = embeddings.table[3].astype(np.float64)
    np.testing.assert_allclose(static.encode(["w3"])[0], (row - row.mean()) / row.std(), rtol=1e-4)
    pair = static.encode(["w3 w4"])[0]
    np.testing.assert_allclose(pair, static.encode(["w3", "w4"]).mean(axis=0), rtol=1e-4, atol=1e-6)


def test_sentences_are_whitened_means():
    texts = texts_of(3000)
    vectors = Static(table_of(), texts, name="static:x").encode(texts)
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=1e-3)
    variances = np.linalg.eigvalsh(np.cov(vectors.T, bias=True))
    np.testing.assert_allclose(variances, [0, *[1] * 7], atol=0.05)  # every row of the table has mean 0: one direction is empty


def test_neither_the_scale_nor_the_shift_of_a_row_counts():
    embeddings = table_of()
    scales = np.random.default_rng(3).uniform(0.5, 4, size=(30, 1)).astype(np.float32)
    moved = InputEmbeddings(embeddings.table * scales + scales, numbered)
    texts = texts_of(200)
    cosines = [unit_rows(Static(each, texts, name="static:x").encode(texts)) for each in (embeddings, moved)]
    np.testing.assert_allclose(cosines[0] @ cosines[0].T, cosines[1] @ cosines[1].T, atol=1e-3)


def test_a_text_without_tokens_has_a_vector_of_zeros():
    static = Static(table_of(), texts_of(50), name="static:x")
    assert not static.encode([""]).any()


def test_the_table_of_zeros_of_a_padding_token_stays_finite():
    embeddings = table_of()
    embeddings.table[0] = 0.0
    static = Static(embeddings, texts_of(50), name="static:x")
    assert np.isfinite(static.encode(["w0 w0"])).all()


# ---- in an evaluation


def test_each_suite_is_fitted_on_its_own_texts(small_data: Path):
    def sts_figure(*suites: str) -> float:
        report = evaluate([Lexical()], suites, small_data, resamples=1)
        return next(suite for suite in report.suites if suite.name == "sts").groups[0].mean.figures[0].value

    assert sts_figure("sts") == sts_figure("sts", "words") == sts_figure("words", "sts")


def test_texts_of_its_own_are_used_for_every_suite(small_data: Path):
    figures = [
        evaluate([Lexical(texts)], ("stsb_dev",), small_data, resamples=1).suites[0].groups[0].rows[0].figures[0].value
        for texts in (None, CORPUS, ["red red red red green", "blue"])
    ]
    assert len(set(figures)) > 1


def test_both_are_measured_like_any_model(small_data: Path, bag: Callable[..., Any]):
    words = ["red", "green", "blue", "small", "large", "old", "new", "house", "tree", "car", "road", "dog", "cat", "sings", "runs"]

    def tokenise(texts: list[str]) -> list[list[int]]:
        return [[words.index(word) for word in text.split() if word in words] for text in texts]

    static = Static(InputEmbeddings(table_of(15).table, tokenise), name="static:x")
    report = evaluate([bag(dim=512), Lexical(), static], ("sts", "label-free"), small_data, resamples=5)
    assert [model.name for model in report.models] == ["bag", "lexical", "static:x"]
    assert len({model.texts for model in report.models}) == 1
    (sts,) = (suite for suite in report.suites if suite.name == "sts")
    for row in sts.groups[0].rows:
        assert all(math.isfinite(figure.value) for figure in row.figures)
    assert all(math.isfinite(each.self_retrieval_mrr) for each in report.geometry)


@pytest.mark.parametrize("suite", ["transfer", "bli"])
def test_suites_that_lexical_has_no_vectors_for_are_refused_before_anything_is_read(suite: str, tmp_path: Path):
    (tmp_path / "transfer").mkdir()
    (tmp_path / "transfer" / "mr.tsv").write_text("label\ttext\n" + "".join(f"{n % 2}\ttext {n}\n" for n in range(30)))
    (tmp_path / "bli").mkdir()
    for part in ("train", "test"):
        (tmp_path / "bli" / f"en-de.{part}.tsv").write_text("en\tde\n" + "".join(f"e{n}\td{n}\n" for n in range(20)))
    with pytest.raises(UserError, match=f"'lexical' cannot be evaluated on suite {suite}"):
        evaluate([Lexical()], (suite,), tmp_path)


def test_encoded_once_gives_the_cosines_of_its_encoder_either_way(bag: Callable[..., Any]):
    left, right = ["the cat sat", "glass of sand"], ["a cat", "the sea of sand"]
    plain = EncodedOnce(bag())
    np.testing.assert_allclose(plain.pair_cosines(left, right), cosine_rows(bag().encode(left), bag().encode(right)))
    np.testing.assert_allclose(
        np.concatenate(list(plain.cosine_blocks(left, right))), unit_rows(bag().encode(left)) @ unit_rows(bag().encode(right)).T, atol=1e-6
    )
    fitted = Lexical(left + right)
    np.testing.assert_allclose(EncodedOnce(Lexical()).pair_cosines(left, right), fitted.pair_cosines(left, right))
    np.testing.assert_allclose(np.concatenate(list(EncodedOnce(Lexical()).cosine_blocks(left, right))), fitted.index(right).cosines(left))


def test_copies_find_each_other_by_the_words_they_share():
    texts = [f"glass{n} is here and glass{n} is there" for n in range(20)]
    report = label_free_report(Lexical(), texts, rng=np.random.default_rng(0))
    assert report.self_retrieval_recall_at_1 == 1.0
    assert math.isfinite(report.isotropy) and report.mean_cosine > 0


# ---- on real data


@pytest.mark.real_data
def test_the_figures_of_the_shipped_model_on_sts_b(shared_data: Path):
    report = evaluate([Lexical(), Static.load("tain-mini")], ("stsb_dev", "simlex999"), shared_data, resamples=1)
    figures = {row.key: [figure.value for figure in row.figures] for suite in report.suites for row in suite.groups[0].rows}
    assert figures["stsb_dev"] == pytest.approx([78.0, 78.4], abs=0.3)
    assert figures["simlex999"] == pytest.approx([5.0, 29.7], abs=0.3)


@pytest.mark.real_data
def test_tf_idf_ranks_real_sentences_as_scikit_learn_does(shared_data: Path):
    left, right, _ = read_scored_table(shared_data / "stsb" / "stsb_dev.tsv")
    pairs = dict(zip(right[:300], left[:300], strict=True))  # each text is counted once, here and there
    left, right = list(pairs.values()), list(pairs)
    theirs = TfidfVectorizer(analyzer=lambda text: lexical_tokens([text])[0], sublinear_tf=True).fit(right)
    mine = Lexical(right, weighting="tf-idf").index(right).cosines(left)
    np.testing.assert_allclose(mine, (theirs.transform(left) @ theirs.transform(right).T).toarray(), atol=1e-12)
    assert gold_ranks(mine, np.arange(len(pairs))).recall_at(1).mean() > 0.3
