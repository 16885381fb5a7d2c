"""Hybrid search: BM25 by its formula, fusion by hand, and both sides in the result."""

import json
import math

import numpy as np
import pytest

from tain.foundation.errors import UserError
from tain.models.embedder import Embedder
from tain.models.rankers import DualRanker
from tain.ranking.hybrid import Bm25, hybrid_search, joined, words_of
from tain.ranking.index import CandidateIndex
from tain.ranking.rerank import add_candidates, search

TEXTS = ["the sea is deep", "a deep, deep lake", "bread", "The SEA and the lake"]


def test_fusion_is_the_sum_of_reciprocal_ranks():
    # item 7 is first and third, 8 second and first, 9 only second on the other side
    found = joined([7, 8], [8, 9, 7], k=3, fusion_k=60)
    assert [item for item, _ in found] == [8, 7, 9]
    assert [score for _, score in found] == pytest.approx([1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 62])
    assert joined([2], [1], k=1)[0][0] == 1  # a tie: in the order of the items


def test_words_are_case_folded_without_punctuation():
    assert words_of("A Deep, deep LAKE! Straße") == ["a", "deep", "deep", "lake", "strasse"]


bm25s = pytest.importorskip("bm25s", reason="bm25s is not installed")


def naive(query, k1=1.5, b=0.75):
    """BM25 as Lucene scores it, term by term."""
    documents = [words_of(text) for text in TEXTS]
    mean = np.mean([len(document) for document in documents])
    scores = []
    for document in documents:
        score = 0.0
        for word in words_of(query):
            holding = sum(word in other for other in documents)
            if holding:
                idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
                count = document.count(word)
                score += idf * count / (count + k1 * (1 - b + b * len(document) / mean))
        scores.append(score)
    return scores


@pytest.mark.parametrize("query", ["deep sea", "the lake", "the the bread", "nothing known"])
def test_scores_are_those_of_the_formula(query):
    np.testing.assert_allclose(Bm25(TEXTS).scores(query), naive(query), rtol=1e-5, atol=1e-7)


def test_only_candidates_that_share_a_word_are_hits():
    lexical = Bm25(TEXTS)
    assert [row for row, _ in lexical.best("deep", k=4)] == [1, 0]
    assert lexical.best("unheard", k=4) == []
    assert [row for row, _ in Bm25(["same", "same", "same"]).best("same", k=2)] == [0, 1]  # ties in order


def test_texts_without_words_are_refused():
    with pytest.raises(UserError, match="no candidate has a word"):
        Bm25(["!", "?"])


@pytest.fixture
def ranker(bert_folder):
    return DualRanker.around(Embedder.load(bert_folder, device="cpu", dtype="float32"), name="local")


@pytest.fixture
def index(ranker, tmp_path, sentences):
    made = CandidateIndex.create(tmp_path / "index", dim=ranker.dim, fingerprint=ranker.fingerprint, model=ranker.name)
    add_candidates(ranker, made, sentences)
    return made


def test_a_hybrid_search_joins_both_rankings(ranker, index, sentences):
    index.delete_texts(sentences[3:4])
    (found,) = hybrid_search(ranker, index, ["mirror glass"], k=5)
    (by_vectors,) = search(ranker, index, ["mirror glass"], k=100)
    rows, texts = zip(*index.live_texts(), strict=True)
    by_words = [rows[position] for position, _ in Bm25(texts).best("mirror glass", k=100)]
    expected = joined([hit.row for hit in by_vectors], by_words, k=5)
    assert [(hit.row, hit.score) for hit in found] == expected
    assert all(hit.text == sentences[hit.row] for hit in found)
    assert sentences[3] not in [hit.text for hit in found]


def test_missing_bm25s_is_told_before_anything_is_encoded(ranker, index, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bm25s", None)
    monkeypatch.setattr(DualRanker, "windows", lambda *_: pytest.fail("encoded"))
    with pytest.raises(UserError, match=r'needs bm25s, which is not installed: run pip install "tain\[scale\]"'):
        hybrid_search(ranker, index, ["mirror"], k=3)


def test_the_command_has_a_flag_for_it(bert_folder, sentences, tmp_path, capsys):
    from tain.cli.main import main

    (tmp_path / "answers.txt").write_text("\n".join(sentences))
    (tmp_path / "questions.txt").write_text("bread in the market\n")
    where = ["--index", str(tmp_path / "index"), "--candidates", str(tmp_path / "answers.txt")]
    main(["rank", "search", str(bert_folder), str(tmp_path / "questions.txt"), *where, "--hybrid", "-k", "3", "--json"])
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert len(hits) == 3
    assert all(1 / 200 < hit["score"] <= 2 / 61 for hit in hits)  # sums of two reciprocal ranks, no cosines
