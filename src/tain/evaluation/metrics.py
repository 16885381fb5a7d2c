"""The figures and their intervals, in plain numpy: correlations, the bootstrap, retrieval, cosines."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tain.foundation.errors import ShapeError

_CELLS_AT_ONCE = 4_000_000  # resamples times pairs held in memory at a time: 32 MB as float64


@dataclass(frozen=True)
class Interval:
    """From where to where a figure may lie, in the figure's own unit."""

    low: float
    high: float

    def excludes_zero(self) -> bool:
        """True where both ends are on the same side of 0, so that a difference is not explained by the choice of pairs."""
        return self.low > 0 or self.high < 0


# ---- correlations


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Rank ``values`` (n,) from 1 up as float64 (n,); equal values share the mean of their places."""
    _, rank, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[rank]


def pearson(left: np.ndarray, right: np.ndarray) -> float:
    """Pearson's correlation of two series (n,), from -1 to 1.

    Returns:
        ``nan`` where the correlation is undefined: fewer than two values, a series whose values are all the same,
        or a value that is not finite. It means "no answer", which 0 ("no relation") would hide.

    Raises:
        ShapeError: The series are not one-dimensional or differ in length.
    """
    left, right = _two_series(left, right)
    if len(left) < 2 or not (np.isfinite(left).all() and np.isfinite(right).all()):
        return float("nan")
    if np.ptp(left) == 0 or np.ptp(right) == 0:  # asked before centring: the mean of equal values can be off by a rounding
        return float("nan")
    left, right = left - left.mean(), right - right.mean()
    # brought to size 1 before anything is squared: squares of very small values would all be 0
    left, right = left / np.abs(left).max(), right / np.abs(right).max()
    return float(np.clip(left @ right / np.sqrt((left @ left) * (right @ right)), -1.0, 1.0))


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman's rank correlation of two series (n,), from -1 to 1, ties at their average rank.

    Returns:
        ``nan`` where it is undefined, as in ``pearson``.

    Raises:
        ShapeError: The series are not one-dimensional or differ in length.
    """
    left, right = _two_series(left, right)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return float("nan")
    return pearson(average_ranks(left), average_ranks(right))


def cosine_rows(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosine of row i of ``left`` (n, dim) with row i of ``right`` (n, dim), as float64 (n,); 0 where a row is all zeros.

    Raises:
        ShapeError: The two are not tables of the same shape.
    """
    if left.ndim != 2 or left.shape != right.shape:
        raise ShapeError(f"cosine_rows needs two tables of one shape, got {left.shape} and {right.shape}")
    return np.einsum("nd,nd->n", unit_rows(left), unit_rows(right))


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Bring every row of ``vectors`` (n, dim) to length 1, as float64; a row of zeros stays as it is."""
    vectors = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def _two_series(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    left, right = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if left.ndim != 1 or left.shape != right.shape:
        raise ShapeError(f"a correlation needs two series of one length, got {left.shape} and {right.shape}")
    return left, right


# ---- the bootstrap


def resample_counts(items: int, *, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Draw ``items`` things with replacement ``resamples`` times and count how often each came.

    Yields:
        Blocks of float64 counts (some resamples, items), together ``resamples`` rows that each sum to ``items``. The draws
        depend on the two numbers and ``rng`` alone, so that two calls from equal ``rng`` give paired resamples.
    """
    at_once = max(1, _CELLS_AT_ONCE // max(items, 1))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = rng.integers(items, size=(rows, items)) + np.arange(rows)[:, None] * items
        yield np.bincount(drawn.ravel(), minlength=rows * items).reshape(rows, items).astype(np.float64)


def bootstrap_spearman(gold: np.ndarray, scores: np.ndarray, *, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Spearman's correlation of ``gold`` (n,) with each row of ``scores`` (models, n) on resampled pairs.

    All rows see the same resamples, so that the difference of two rows of the result is a paired bootstrap.

    Returns:
        Correlations (models, resamples); ``nan`` for a resample that is constant.
    """
    scores = np.atleast_2d(scores)
    blocks = resample_counts(len(gold), resamples=resamples, rng=rng)
    return np.concatenate([spearman_of_counts(counts, gold, scores) for counts in blocks], axis=1)


def spearman_of_counts(counts: np.ndarray, gold: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Spearman's correlation where pair i occurs ``counts[b, i]`` times, without writing the repeats out or sorting again.

    Args:
        counts: How often each pair occurs (resamples, n), whole numbers as float64.
        gold: The human scores (n,).
        scores: The models' scores (models, n).

    Returns:
        Correlations (models, resamples); ``nan`` where a series is constant.
    """
    ranked_gold, gold_variance = _counted_ranks(counts, gold)
    weighted_gold = counts * ranked_gold
    rows = []
    for row in scores:
        ranks, variance = _counted_ranks(counts, row)
        covariance = np.einsum("bn,bn->b", weighted_gold, ranks)
        spread = np.sqrt(gold_variance * variance)
        rows.append(np.divide(covariance, spread, out=np.full(len(spread), np.nan), where=spread > 0))
    return np.clip(np.stack(rows), -1.0, 1.0)


def _counted_ranks(counts: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average ranks around 0 of each item in each resample (resamples, n), and the sum of their squares (resamples,)."""
    order = np.argsort(values, kind="stable")
    in_order = values[order]
    starts = np.flatnonzero(np.r_[True, in_order[1:] != in_order[:-1]])
    level_of_sorted = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(values)]))
    level = np.empty(len(values), dtype=np.intp)
    level[order] = level_of_sorted
    in_level = counts[:, order]
    if len(starts) < len(values):
        in_level = np.add.reduceat(in_level, starts, axis=1)  # (resamples, levels): equal values stand together
    middle = (counts.sum(axis=1, keepdims=True) + 1) / 2
    ranks = np.cumsum(in_level, axis=1) - in_level + (in_level + 1) / 2 - middle
    # a resample that holds one level only has rank sum exactly 0 there: ranks are halves of whole numbers
    return np.take(ranks, level, axis=1), np.einsum("bl,bl,bl->b", in_level, ranks, ranks)


def bootstrap_means(values: np.ndarray, *, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means (models, resamples) of each row of ``values`` (models, n) on resampled items, the same items for every row."""
    values = np.atleast_2d(values)
    n = values.shape[1]
    return np.concatenate([values @ counts.T / n for counts in resample_counts(n, resamples=resamples, rng=rng)], axis=1)


def percentile_interval(replicates: np.ndarray, *, share: float = 0.95) -> Interval:
    """The middle ``share`` of a figure's bootstrap values (resamples,): the percentile interval.

    Values that are ``nan`` (a resample without an answer) are left out; with none left both ends are ``nan``.
    """
    known = replicates[~np.isnan(replicates)]
    if len(known) == 0:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - share) / 2, (1 + share) / 2])
    return Interval(float(low), float(high))


# ---- retrieval


@dataclass(frozen=True)
class GoldRanks:
    """Where each query's right candidate stands among all candidates, ties kept open.

    Attributes:
        better: How many candidates score above the right one, int (queries,).
        tied: How many score the same, the right one included, int (queries,), 1 or more.
    """

    better: np.ndarray
    tied: np.ndarray

    def recall_at(self, k: int) -> np.ndarray:
        """Chance (queries,) that the right candidate is among the first ``k`` when ties fall in random order."""
        return np.clip((k - self.better) / self.tied, 0.0, 1.0)

    def reciprocal_rank(self) -> np.ndarray:
        """Expected 1 / place (queries,) when ties fall in random order."""
        harmonic = np.r_[0.0, np.cumsum(1.0 / np.arange(1, (self.better + self.tied).max(initial=1) + 1))]
        return (harmonic[self.better + self.tied] - harmonic[self.better]) / self.tied


def gold_ranks(scores: np.ndarray, gold: np.ndarray, *, tolerance: float = 0.0) -> GoldRanks:
    """Count what stands above and level with the right candidate of each query.

    Args:
        scores: Finite scores (queries, candidates), higher is better.
        gold: The right candidate's column for each query, int (queries,).
        tolerance: Scores closer than this to the right one's count as equal: rounding must not break a tie.

    Raises:
        ShapeError: ``gold`` does not name one column for each row.
    """
    if scores.ndim != 2 or np.shape(gold) != scores.shape[:1]:
        raise ShapeError(
            f"gold_places needs scores (queries, candidates) and one gold column a query, got {scores.shape}, {np.shape(gold)}"
        )
    above_gold = scores - scores[np.arange(len(scores)), gold][:, None]
    return GoldRanks(better=(above_gold > tolerance).sum(axis=1), tied=(np.abs(above_gold) <= tolerance).sum(axis=1))


def reciprocal_rank_fusion(*scores: np.ndarray, k: int = 60) -> np.ndarray:
    """Join several methods' scores by the places that they give: sum over methods of 1 / (k + place), higher is better.

    Cormack, Clarke and Buettcher 2009, with their k of 60. Equal scores share the mean of their places.

    Args:
        scores: One table (queries, candidates) a method, higher is better.
        k: How little the first places count more than the others.

    Raises:
        ShapeError: The tables are not of one shape.
    """
    if len({table.shape for table in scores}) != 1:
        raise ShapeError(f"fusion needs tables of one shape, got {', '.join(str(table.shape) for table in scores) or 'none'}")
    ranks = (np.stack([average_ranks(-row) for row in table]) for table in scores)
    return np.sum([1 / (k + rank) for rank in ranks], axis=0)
