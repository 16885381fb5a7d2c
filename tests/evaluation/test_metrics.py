import numpy as np
import pytest
from scipy import stats

from tain.evaluation.metrics import (
    Interval,
    Sorted,
    average_ranks,
    bootstrap_means,
    bootstrap_spearman,
    cosine_rows,
    gold_ranks,
    pearson,
    percentile_interval,
    reciprocal_rank_fusion,
    resample_counts,
    spearman,
    spearman_of_counts,
)
from tain.foundation.errors import ShapeError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scipy_spearman(left: np.ndarray, right: np.ndarray) -> float:
    return np.asarray(stats.spearmanr(left, right))[0]


def test_ranks_of_ties_are_averaged_as_scipy_does():
    values = rng().integers(0, 7, size=100).astype(float)
    np.testing.assert_array_equal(average_ranks(values), stats.rankdata(values))


@pytest.mark.parametrize("levels", [3, 20, None], ids=["heavy ties", "some ties", "no ties"])
def test_correlations_agree_with_scipy(levels: int | None):
    left = rng(1).normal(size=300)
    right = left + rng(2).normal(size=300)
    if levels is not None:
        left, right = np.round(left * levels / 6), np.round(right * levels / 6)
    assert spearman(left, right) == pytest.approx(scipy_spearman(left, right), abs=1e-12)
    assert pearson(left, right) == pytest.approx(stats.pearsonr(left, right)[0], abs=1e-12)


def test_a_constant_series_has_no_correlation_rather_than_none_at_all():
    steady = np.full(50, 0.1)
    assert np.isnan(spearman(steady, rng().normal(size=50)))
    assert np.isnan(pearson(rng().normal(size=50), steady))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_gives_no_correlation(bad: float):
    assert np.isnan(spearman(np.array([1.0, 2.0, bad]), np.array([1.0, 2.0, 3.0])))


def test_series_of_different_length_are_refused():
    with pytest.raises(ShapeError, match="equal length"):
        spearman(np.ones(3), np.ones(4))


def test_tiny_and_huge_values_correlate_like_any_others():
    left, right = rng(1).normal(size=40), rng(2).normal(size=40)
    assert pearson(left * 1e-170, right * 1e150) == pytest.approx(pearson(left, right), abs=1e-12)


def test_cosines_are_row_by_row_and_zero_rows_give_zero():
    left = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 0.0]], dtype=np.float32)
    right = np.array([[0.0, 2.0], [30.0, 40.0], [1.0, 1.0]], dtype=np.float32)
    np.testing.assert_allclose(cosine_rows(left, right), [0.0, 1.0, 0.0], atol=1e-12)


def test_counted_spearman_equals_scipy_on_the_pairs_written_out():
    gold = np.round(rng(1).uniform(0, 5, size=60), 0)  # heavy ties
    scores = np.stack([gold + rng(2).normal(size=60), np.round(rng(3).normal(size=60), 1)])
    (counts,) = resample_counts(60, resamples=25, rng=rng(4))
    ours = spearman_of_counts(counts, Sorted(gold), [Sorted(row) for row in scores])
    for b, row in enumerate(counts.astype(int)):
        drawn = np.repeat(np.arange(60), row)
        for model in range(2):
            assert ours[model, b] == pytest.approx(scipy_spearman(gold[drawn], scores[model][drawn]), abs=1e-12)


def test_a_resample_of_one_level_has_no_correlation():
    counts = np.array([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    found = spearman_of_counts(counts, Sorted(np.array([1.0, 1.0, 2.0])), [Sorted(np.array([1.0, 2.0, 3.0]))])
    assert np.isnan(found).all()


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    gold, scores = rng(1).normal(size=80), rng(2).normal(size=(1, 80))
    first, again, other = (bootstrap_spearman(gold, scores, resamples=200, rng=rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_models_share_their_resamples_so_equal_models_never_differ():
    gold, scores = rng(1).normal(size=80), rng(2).normal(size=80)
    found = bootstrap_spearman(gold, np.stack([scores, scores * 3 + 1]), resamples=100, rng=rng())
    np.testing.assert_array_equal(found[0], found[1])


def test_interval_covers_the_true_correlation_about_95_times_in_100():
    covered = 0
    for seed in range(200):
        pair = rng(seed).multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=150)
        found = percentile_interval(bootstrap_spearman(pair[:, 0], pair[None, :, 1], resamples=400, rng=rng(seed))[0])
        covered += found.low <= 6 / np.pi * np.arcsin(0.3) <= found.high  # Spearman of a normal pair with Pearson 0.6
    assert 180 <= covered <= 198


def test_a_thousand_resamples_of_five_thousand_pairs_sort_each_series_once(monkeypatch: pytest.MonkeyPatch):
    gold, scores = np.round(rng(1).uniform(0, 5, size=5000), 1), rng(2).normal(size=(1, 5000))
    sorts, real = [], np.argsort
    monkeypatch.setattr(np, "argsort", lambda *given, **more: sorts.append(given) or real(*given, **more))
    bootstrap_spearman(gold, scores, resamples=1000, rng=rng())
    assert len(sorts) == 2  # each series once


def test_bootstrap_of_means_has_the_standard_error_of_a_mean():
    values = rng(1).normal(size=400)
    found = bootstrap_means(values, resamples=4000, rng=rng())
    assert found.shape == (1, 4000)
    assert found.std() == pytest.approx(values.std() / 20, rel=0.05)


def test_interval_leaves_out_resamples_without_an_answer():
    assert percentile_interval(np.array([np.nan, 1.0, 1.0])) == Interval(1.0, 1.0)
    assert np.isnan(percentile_interval(np.array([np.nan])).low)


def test_interval_says_whether_zero_is_out():
    assert Interval(0.1, 0.2).excludes_zero() and Interval(-0.2, -0.1).excludes_zero()
    assert not Interval(-0.1, 0.2).excludes_zero()


def test_equal_scores_give_chance_level():
    scores, gold = np.ones((3, 8)), np.array([0, 3, 7])
    assert gold_ranks(scores, gold).recall_at(1).mean() == pytest.approx(1 / 8)
    assert gold_ranks(scores, gold).recall_at(4).mean() == pytest.approx(4 / 8)
    assert gold_ranks(scores, gold).recall_at(99).mean() == 1.0
    assert gold_ranks(scores, gold).reciprocal_rank().mean() == pytest.approx(sum(1 / rank for rank in range(1, 9)) / 8)


def test_retrieval_agrees_with_shuffling_the_ties():
    scores = rng(1).integers(0, 4, size=(5, 12)).astype(float)
    gold = rng(2).integers(0, 12, size=5)
    shuffled = rng(3)
    ranks = np.empty((20_000, 5))
    for trial in range(len(ranks)):
        order = np.lexsort((shuffled.random((5, 12)), -scores), axis=1)
        ranks[trial] = (order == gold[:, None]).argmax(axis=1) + 1
    assert gold_ranks(scores, gold).recall_at(3).mean() == pytest.approx((ranks <= 3).mean(), abs=0.01)
    assert gold_ranks(scores, gold).reciprocal_rank().mean() == pytest.approx((1 / ranks).mean(), abs=0.01)


def test_a_tolerance_keeps_rounding_from_breaking_a_tie():
    scores = np.array([[0.5, 0.5 + 1e-9, 0.1]])
    assert gold_ranks(scores, np.array([0])).better.tolist() == [1]
    assert gold_ranks(scores, np.array([0]), tolerance=1e-6).tied.tolist() == [2]


def test_gold_must_name_one_column_for_each_query():
    with pytest.raises(ShapeError, match="gold column"):
        gold_ranks(np.ones((3, 4)), np.array([0, 1]))


# ---- fusion


def test_fusion_of_two_rankings_in_closed_form():
    first, second = np.array([[3.0, 2.0, 1.0]]), np.array([[1.0, 3.0, 2.0]])
    np.testing.assert_allclose(reciprocal_rank_fusion(first, second), [[1 / 61 + 1 / 63, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62]], rtol=1e-12)
    np.testing.assert_allclose(reciprocal_rank_fusion(first, k=0), [[1, 1 / 2, 1 / 3]])


def test_fusion_sees_places_only_and_ties_share_theirs():
    scores = np.random.default_rng(0).normal(size=(4, 9))
    np.testing.assert_array_equal(reciprocal_rank_fusion(scores, scores), reciprocal_rank_fusion(np.exp(scores), 5 * scores + 2))
    np.testing.assert_allclose(reciprocal_rank_fusion(np.zeros((1, 3))), [[1 / 62] * 3])


def test_fusion_of_tables_that_do_not_match_is_refused():
    with pytest.raises(ShapeError):
        reciprocal_rank_fusion(np.zeros((1, 3)), np.zeros((1, 4)))
    with pytest.raises(ShapeError):
        reciprocal_rank_fusion()
