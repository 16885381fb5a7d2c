"""Figures of ranked lists: closed forms, ties by expectation, lists that cannot be made, rankers side by side."""

import itertools
import zlib

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from tain.evaluation import baselines as evaluation_baselines
from tain.evaluation.baselines import BaselineRanker, Lexical, Static
from tain.foundation.errors import UserError
from tain.models.embedder import Embedder
from tain.models.input_embeddings import InputEmbeddings
from tain.models.rankers import CrossRanker, Ranker
from tain.ranking.evaluation import (
    CandidateLists,
    average_precision,
    evaluate_rankers,
    first_place_chances,
    given_lists,
    latencies,
    list_figures,
    list_scores,
    sampled_lists,
    whole_pool,
)
from tain.text.records import RankingExample


@pytest.fixture
def examples():
    return [RankingExample(f"question {number}", (f"answer {number}",), (f"wrong {number}", f"worse {number}")) for number in range(30)]


def marks(*right, of):
    return np.isin(np.arange(of), right)


def figures(scores, is_right):
    """Figures of lists whose texts do not matter."""
    texts = tuple(tuple(map(str, range(len(row)))) for row in scores)
    return list_figures(scores, CandidateLists(("",) * len(scores), texts, tuple(map(np.flatnonzero, is_right)), "listed"))


# ---- one list


def test_constant_scores_give_one_in_c(rng):
    found = figures([np.zeros(20)] * 3, [marks(0, of=20)] * 3)
    assert found["R@1"].tolist() == pytest.approx([1 / 20] * 3)
    assert found["R@10"].tolist() == pytest.approx([10 / 20] * 3)
    assert found["MRR"].tolist() == pytest.approx([sum(1 / position for position in range(1, 21)) / 20] * 3)


def test_recall_at_1_of_20_is_not_hits_among_20():
    scores, right = np.arange(20.0)[::-1], marks(5, of=20)  # the right one comes sixth
    found = figures([scores], [right])
    assert (found["R@1"][0], found["R@5"][0], found["R@10"][0]) == (0.0, 0.0, 1.0)
    assert found["MRR"][0] == pytest.approx(1 / 6)


@pytest.mark.parametrize("right", [(0,), (0, 1), (2, 4), (1, 2, 5)])
def test_ties_are_the_mean_over_all_orders_of_equal_scores(right):
    scores, is_right = np.array([2.0, 1.0, 1.0, 1.0, 0.0, 0.0]), marks(*right, of=6)
    orders = [order for order in itertools.permutations(range(6)) if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))]
    firsts = [next(position for position, item in enumerate(order) if is_right[item]) for order in orders]
    better, chances = first_place_chances(scores, is_right)
    expected = [np.mean([first == better + step for first in firsts]) for step in range(len(chances))]
    np.testing.assert_allclose(chances, expected, atol=1e-12)

    def precision(order):
        hits = np.cumsum([is_right[item] for item in order])
        return np.mean([hits[position] / (position + 1) for position, item in enumerate(order) if is_right[item]])

    assert average_precision(scores, is_right) == pytest.approx(np.mean([precision(order) for order in orders]))


def test_average_precision_is_the_known_one_without_ties(rng):
    for _ in range(20):
        scores, is_right = rng.permutation(12).astype(float), rng.random(12) < 0.4
        is_right[0] = True
        assert average_precision(scores, is_right) == pytest.approx(average_precision_score(is_right, scores))


def test_map_is_given_where_lists_have_several_right_answers_alone():
    assert "MAP" not in figures([np.arange(3.0)], [marks(0, of=3)])
    assert figures([np.array([3.0, 2.0, 1.0])], [marks(0, 1, of=3)])["MAP"][0] == 1.0


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(UserError, match="a score of nan or infinity"):
        figures([np.array([1.0, np.nan])], [marks(0, of=2)])


# ---- making lists


def test_sampled_lists_hold_the_right_answer_once_and_no_other_right_one(rng):
    examples = [RankingExample(str(number), (f"a{number}", f"b{number}")) for number in range(10)]
    lists = sampled_lists(examples, size=12, rng=rng)
    assert len(lists) == 20
    for context, listed, right in zip(lists.contexts, lists.lists, lists.right, strict=True):
        assert len(set(listed)) == 12
        assert sum(text in (f"a{context}", f"b{context}") for text in listed) == 1
        assert list(right) == [0]
    same = sampled_lists(examples, size=12, rng=np.random.default_rng(13))
    assert same.lists == sampled_lists(examples, size=12, rng=np.random.default_rng(13)).lists


def test_a_pool_smaller_than_a_list_is_refused(examples, rng):
    with pytest.raises(UserError, match=r"the pool holds 30 different candidates .*fewer than the 31 of a list: give --candidates 30"):
        sampled_lists(examples, size=31, rng=rng)
    with pytest.raises(UserError, match="candidates per query is 1, but ranking needs at least 2"):
        sampled_lists(examples, size=1, rng=rng)


def test_given_lists_are_the_tables_own(examples):
    lists = given_lists([*examples[:2], RankingExample("alone", ("x",))])
    assert lists.contexts == ("question 0", "question 1")
    assert lists.lists[0] == ("answer 0", "wrong 0", "worse 0")
    with pytest.raises(UserError, match="no context has negatives"):
        given_lists([RankingExample("alone", ("x",))])


def test_the_whole_pool_is_every_text_for_every_context(examples):
    lists = whole_pool(examples)
    assert len(lists.lists[0]) == 90
    assert [lists.lists[0][int(right[0])] for right in lists.right] == [f"answer {number}" for number in range(30)]
    with pytest.raises(UserError, match="the whole pool has one candidate"):
        whole_pool([RankingExample("a", ("x",)), RankingExample("b", ("x",))])


def test_texts_that_differ_in_case_and_space_alone_are_one_candidate(rng):
    examples = [RankingExample("a", ("Ok, thanks.", "ok,  thanks."), ("OK, thanks.", "no")), RankingExample("b", ("ok, thanks.",), ("No",))]
    listed = given_lists(examples)
    assert listed.lists == (("Ok, thanks.", "no"), ("ok, thanks.", "No"))
    pool = whole_pool(examples)
    assert pool.lists[0] == ("Ok, thanks.", "no")
    assert [right.tolist() for right in pool.right] == [[0], [0]]
    others = [RankingExample(f"c{number}", (f"other {number}",)) for number in range(3)]
    for _ in range(5):
        sampled = sampled_lists([*examples, *others], size=4, rng=rng)
        assert len(sampled) == 5
        assert all(len({text.lower() for text in listed}) == 4 for listed in sampled.lists)
    with pytest.raises(UserError, match=r"no context has negatives.*name their column with --negatives-column or --label"):
        given_lists([RankingExample("a", ("Yes",), ("yes",))])


# ---- side by side


def test_rankers_are_compared_on_the_same_lists_with_what_a_query_costs(bert_folder, sentences, rng):
    examples = [RankingExample(text, (text,)) for text in sentences]  # an encoder finds a text by itself
    lists = sampled_lists(examples, size=6, rng=rng)
    ranker = Ranker.load(bert_folder, device="cpu", dtype="float32")
    report = evaluate_rankers([ranker, ranker], lists, sizes=(10, 3000), resamples=50)
    first, second = report.rankers
    assert first.figures["R@1"].value > 50
    assert second.figures["R@1"].difference == 0
    assert [time.candidates for time in first.latencies] == [10, 3000]
    assert all(time.ms > 0 and not time.is_extrapolated for time in first.latencies)
    assert report.to_dict()["kind"] == "6 sampled"
    pool = evaluate_rankers([ranker], whole_pool(examples), sizes=(), resamples=10)
    assert pool.rankers[0].figures["MRR"].value > 30


@pytest.mark.parametrize("type", ["bi", "cross"])
def test_the_whole_pool_is_scored_block_by_block_and_every_cut_text_counted(bert_folder, sentences, monkeypatch, type):
    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32")
    limits = {"context_tokens": 20, "candidate_tokens": 16}
    ranker = Ranker.load(bert_folder, device="cpu", dtype="float32")
    if type == "cross":
        ranker = CrossRanker.start(embedder, **limits, generator=torch.Generator().manual_seed(1))
    long = [f"{letter} " * 45 for letter in "abcd"]
    examples = [RankingExample(text, (text,)) for text in [*long, *sentences[:3]]]
    lists = whole_pool(examples)
    whole = list(list_scores(ranker, lists))
    cut = (ranker.truncated_contexts, ranker.truncated_candidates)
    assert min(cut) >= 4
    monkeypatch.setattr(ranker, "scores_at_once", 2 * 7)
    blocks = list(list_scores(ranker, lists))
    assert (ranker.truncated_contexts, ranker.truncated_candidates) == cut
    np.testing.assert_allclose(blocks, whole, atol=1e-4)


def test_a_constant_ranker_gets_chance_level(rng, examples):
    class Constant(Ranker):
        type = "cross"

        @property
        def module(self):
            return torch.nn.Module()

        @property
        def towers(self):
            return ()

        def _fingerprinted(self):
            return ""

        def score(self, contexts, candidates, *, progress=None):
            return np.zeros((len(contexts), len(candidates)), dtype=np.float32)

        def score_lists(self, contexts, lists, *, progress=None):
            return [np.zeros(len(listed), dtype=np.float32) for listed in lists]

        def count_tokens(self, contexts, lists):
            return [0] * len(contexts)

        def save(self, folder, *, record, card): ...

    lists = sampled_lists(examples, size=20, rng=rng)
    (result,) = evaluate_rankers([Constant(name="constant")], lists, sizes=(100,), resamples=20).rankers
    assert result.figures["R@1"].value == pytest.approx(5.0)
    assert result.figures["R@1"].interval.low == pytest.approx(5.0)
    assert result.latencies[0].is_extrapolated


def test_no_ranker_is_refused(examples, rng):
    with pytest.raises(UserError, match="no ranker was given"):
        evaluate_rankers([], sampled_lists(examples, size=5, rng=rng))


def test_the_lists_of_all_queries_need_not_be_of_one_length(bert_folder):
    lists = CandidateLists(("a", "b"), (("x", "y", "z"), ("x", "y")), (np.array([0]), np.array([1])), "listed")
    ranker = Ranker.load(bert_folder, device="cpu", dtype="float32")
    (result,) = evaluate_rankers([ranker], lists, sizes=(), resamples=10).rankers
    assert set(result.figures) == {"R@1", "R@2", "MRR"}
    assert [time.candidates for time in latencies(ranker, ["a"], ["x"], sizes=(4,), queries=1)] == [4]


# ---- baselines


class _Words:
    """A table and a tokenizer of numbered words for ``Static``."""

    @staticmethod
    def embeddings() -> InputEmbeddings:
        table = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
        return InputEmbeddings(table, lambda texts: [[hash_of(word) for word in text.split()] for text in texts])


def hash_of(word: str) -> int:
    return zlib.crc32(word.encode()) % 200


def baselines() -> list[BaselineRanker]:
    return [BaselineRanker(Lexical(weighting="tf-idf")), BaselineRanker(Static(_Words.embeddings(), name="static:x"))]


@pytest.fixture
def overlapping():
    """Each answer shares a rare word with its context, and common words with all."""
    return [RankingExample(f"where is the rare{n} thing", (f"the rare{n} is here",), (f"the rare{n + 1} was there",)) for n in range(40)]


def test_baselines_rank_sampled_listed_and_pooled_candidates(overlapping, rng):
    for lists in (sampled_lists(overlapping, size=5, rng=rng), given_lists(overlapping), whole_pool(overlapping)):
        report = evaluate_rankers(baselines(), lists, sizes=(), resamples=5)
        assert [(ranker.name, ranker.type, ranker.vectors) for ranker in report.rankers] == [
            ("lexical", "tf-idf", 0),
            ("static:x", "static", 1),
        ]
        lexical, static = (ranker.figures["MRR"].value for ranker in report.rankers)
        assert lexical > 90 and static > 25  # guessing: 46 of 5, 11 of the pool; random vectors of 200 words collide


def test_a_shared_pool_and_lists_of_their_own_give_the_same_scores(overlapping):
    shared = whole_pool(overlapping)
    own = CandidateLists(shared.contexts, tuple((*listed,) for listed in shared.lists), shared.right, "own")
    for first, second in zip(baselines(), baselines(), strict=True):
        for left, right in zip(list_scores(first, shared), list_scores(second, own), strict=True):
            np.testing.assert_allclose(left, right, atol=1e-9)


def test_blocks_of_lists_change_nothing(overlapping, monkeypatch, rng):
    lists = sampled_lists(overlapping, size=5, rng=rng)
    whole = [list(list_scores(ranker, lists)) for ranker in baselines()]
    monkeypatch.setattr(evaluation_baselines, "_LISTS_AT_ONCE", 7)
    for ranker, expected in zip(baselines(), whole, strict=True):
        np.testing.assert_allclose(np.array(list(list_scores(ranker, lists))), np.array(expected), atol=1e-9)


def test_lexical_ranks_by_tf_idf_over_the_candidates(overlapping):
    lists = whole_pool(overlapping)
    expected = Lexical(lists.lists[0], weighting="tf-idf").index(lists.lists[0]).cosines(lists.contexts)
    np.testing.assert_allclose(np.array(list(list_scores(baselines()[0], lists))), expected)


def test_what_a_baseline_costs_is_measured_with_cached_candidates(overlapping):
    lists = whole_pool(overlapping)
    report = evaluate_rankers(baselines(), lists, sizes=(10, 300), resamples=2)
    for ranker in report.rankers:
        assert [(each.candidates, each.is_extrapolated) for each in ranker.latencies] == [(10, False), (300, False)]
        assert all(each.ms > 0 for each in ranker.latencies)
