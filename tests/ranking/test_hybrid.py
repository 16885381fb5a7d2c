"""Hybrid search: BM25 by its formula, fusion by hand, and both sides in the result."""

import json
import math
import re
import unicodedata

import numpy as np
import pytest

from tain.foundation.errors import UserError
from tain.models.embedder import Embedder
from tain.models.rankers import DualRanker
from tain.ranking import weights
from tain.ranking.bm25 import Bm25, words_of
from tain.ranking.fusion import joined
from tain.ranking.hybrid import hybrid_search
from tain.ranking.index import CandidateIndex
from tain.ranking.rerank import add_candidates, search, upsert_candidates
from tain.ranking.weights import FoundWeight, found_weight, weight_of
from tain.text.records import Candidate

TEXTS = ["the sea is deep", "a deep, deep lake", "bread", "The SEA and the lake"]


def test_fusion_is_the_sum_of_reciprocal_ranks():
    # item 7 is first and third, 8 second and first, 9 only second on the other side
    found = joined([7, 8], [8, 9, 7], k=3, fusion_k=60)
    assert [item for item, _ in found] == [8, 7, 9]
    assert [score for _, score in found] == pytest.approx([1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 62])
    assert joined([2], [1], k=1)[0][0] == 1  # a tie: in the order of the items


def test_words_are_case_folded_without_punctuation():
    assert words_of("A Deep, deep LAKE! Straße") == ["a", "deep", "deep", "lake", "strasse"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("मैं हिन्दी पढ़ता हूँ।", ["मैं", "हिन्दी", "पढ़ता", "हूँ"]),
        ("நான் தமிழ் பேசுகிறேன்.", ["நான்", "தமிழ்", "பேசுகிறேன்"]),
        ("שָׁלוֹם עולם", ["שלום", "עולם"]),
        ("مُحَمَّد ﻣﺮﺣﺒﺎ", ["محمد", "مرحبا"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("İstanbul istanbul", ["istanbul", "istanbul"]),
        ("Donau\u00addampf", ["donaudampf"]),
        ("ΟΔΟΣ οδος", ["οδοσ", "οδοσ"]),
        ("e\u0301te\u0301 \u00e9t\u00e9", ["\u00e9t\u00e9", "\u00e9t\u00e9"]),
        ("繁體字。", ["繁", "體", "字", "繁體", "體字"]),
        ("ที่นี่", ["ที่", "นี่", "ที่นี่"]),
        ("我有 iPhone", ["我", "有", "我有", "iphone"]),
        ("한국어 \u1112\u1161\u11ab", ["한국어", "한"]),
    ],
)
def test_words_keep_their_vowel_signs_and_scripts_without_blanks_are_split(text, words):
    assert words_of(text) == [unicodedata.normalize("NFKC", word) for word in words]


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
    (found,) = hybrid_search(ranker, index, ["mirror glass"], k=5, fusion="ranks")
    (by_vectors,) = search(ranker, index, ["mirror glass"], k=100)
    rows, texts = zip(*index.live_texts(), strict=True)
    by_words = [rows[position] for position, _ in Bm25(texts).best("mirror glass", k=100)]
    expected = joined([hit.row for hit in by_vectors], by_words, k=5)
    assert [(hit.row, hit.score) for hit in found] == expected
    assert all(hit.text == sentences[hit.row] for hit in found)
    assert sentences[3] not in [hit.text for hit in found]


@pytest.mark.parametrize("fusion", ["scores", "weighted"])  # too few texts for a weight: both sides count alike
def test_standard_scores_of_both_sides_are_added(ranker, index, sentences, fusion):
    index.delete_texts(sentences[3:4])
    (found,) = hybrid_search(ranker, index, ["mirror glass"], k=5, fusion=fusion)
    rows, texts = zip(*index.live_texts(), strict=True)
    vectors, words = ranker.score(["mirror glass"], texts)[0].astype(np.float64), Bm25(texts).scores("mirror glass")
    sums = ((vectors - vectors.mean()) / vectors.std() + (words - words.mean()) / words.std()) / 2
    order = np.argsort(-sums, kind="stable")[:5]
    assert [hit.row for hit in found] == [rows[place] for place in order]
    np.testing.assert_allclose([hit.score for hit in found], sums[order], atol=1e-3)


def test_a_query_without_known_words_keeps_the_order_of_the_vectors(ranker, index, sentences):
    (found,) = hybrid_search(ranker, index, ["zzz"], k=5)
    (by_vectors,) = search(ranker, index, ["zzz"], k=5)
    assert [hit.row for hit in found] == [hit.row for hit in by_vectors]


def test_a_hybrid_search_keeps_to_a_filter(ranker, tmp_path, sentences):
    made = CandidateIndex.create(tmp_path / "tagged", dim=ranker.dim, fingerprint=ranker.fingerprint, model=ranker.name, has_metadata=True)
    upsert_candidates(ranker, made, [Candidate(text, str(place), {"place": place}) for place, text in enumerate(sentences)])
    for fusion in ("scores", "ranks"):
        (hits,) = hybrid_search(ranker, made, [sentences[2]], k=100, fusion=fusion, filter="place>2 and place<7")
        assert sorted(hit.row for hit in hits) == [3, 4, 5, 6]
        assert all(hit.id == str(hit.row) for hit in hits)
    assert hybrid_search(ranker, made, [sentences[2]], k=3, filter="place>100") == [[]]


# ---- a weight without labels


class Halves:
    """Encodes a text as the number in it, or at random."""

    name = fingerprint = "halves"

    def __init__(self, knows):
        self.knows, self.truncated_candidates = knows, 0

    def encode_candidates(self, texts, **_):
        rng = np.random.default_rng(len(texts))
        found = np.zeros((len(texts), 80), np.float32)
        for row, text in enumerate(texts):
            found[row, int(re.findall(r"\d+", text)[0]) if self.knows else rng.integers(80)] = 1
        return found

    def windows(self, contexts):
        yield 0, Window(row[None] for row in self.encode_candidates(contexts))


class Window(list):
    def of(self, place):
        return self[place]


@pytest.mark.parametrize(("knows", "shared_word", "low", "high"), [(True, False, 0, 0.5), (False, True, 0.5, 1)])
def test_the_weight_goes_to_the_side_that_finds_halves(knows, shared_word, low, high):
    numbers = range(80)
    # the number is spelled differently in each half unless words are to find it
    texts = [f"head n{n:03} of it tail {'n' if shared_word else 'm'}{n:03} of it" for n in numbers]
    ranker = Halves(knows)
    found = found_weight(ranker, texts, ranker.encode_candidates(texts))
    assert found.is_found and found.queries == 80
    assert low <= found.weight <= high
    better, worse = (found.vectors_mrr, found.words_mrr) if knows else (found.words_mrr, found.vectors_mrr)
    assert better is not None and worse is not None
    assert better > 95 > worse


def test_halves_that_do_not_find_each_other_leave_both_sides_alike(monkeypatch):
    texts = [f"head a{n:03} x{n} y{n} tail b{n:03} v{n} w{n}" for n in range(80)]
    ranker = Halves(knows=False)
    monkeypatch.setattr(Halves, "windows", lambda self, asked: iter([(0, Window(-row[None] for row in self.encode_candidates(asked)))]))
    found = found_weight(ranker, texts, ranker.encode_candidates(texts))
    assert not found.is_found and found.weight == 0.5 and (found.best_mrr or 100) < 10
    assert found_weight(ranker, texts[:20], ranker.encode_candidates(texts[:20])).best_mrr is None


def test_a_weight_is_kept_until_the_index_changes(ranker, index, sentences, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(weights, "found_weight", lambda *_, **__: calls.append(1) or FoundWeight(0.3, 60, 40.0, 20.0, 30.0))
    first = weight_of(ranker, index)
    assert weight_of(ranker, CandidateIndex.open(index.folder)) == first and len(calls) == 1
    index.delete([0])
    assert weight_of(ranker, index) == first and len(calls) == 2
    (index.folder / "fusion.json").write_text('{"version": 1, "weight": 7}')
    with pytest.raises(UserError, match=r"has a damaged fusion\.json: remove that file.*weight is 7, more than 1"):
        weight_of(ranker, index)
    (index.folder / "fusion.json").unlink()
    (index.folder / "fusion.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="links inside such a folder are not followed"):
        weight_of(ranker, index)


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
    main(
        ["rank", "search", str(bert_folder), str(tmp_path / "questions.txt"), *where, "--hybrid", "--fusion", "ranks", "-k", "3", "--json"]
    )
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert len(hits) == 3
    assert all(1 / 200 < hit["score"] <= 2 / 61 for hit in hits)  # sums of two reciprocal ranks, no cosines


def test_a_misspelled_fusion_is_refused(ranker, index, sentences, unchecked):
    with pytest.raises(UserError, match="fusion is 'score', which is none: give scores, weighted, ranks"):
        hybrid_search(ranker, index, sentences[:1], k=3, fusion="score")
