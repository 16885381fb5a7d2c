"""Metrics and intervals in plain numpy: correlations, bootstrap, retrieval, cosines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tain.foundation.errors import ShapeError

SPEARMAN_UNIT = "Spearman x 100"
_CELLS_AT_ONCE = 500_000  # resamples times pairs held in memory at a time: 4 MB as float64; larger blocks do not fit into the cache


@dataclass(frozen=True)
class Interval:
    """An interval of a figure, in the figure's unit."""

    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Whether both ends have the same sign, so that a difference is not explained by the choice of pairs."""
        return self.low > 0 or self.high < 0


# ---- correlations


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Rank ``values`` (n,) from 1 as float64 (n,); ties share the mean of their ranks."""
    _, rank, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[rank]


def pearson(left: np.ndarray, right: np.ndarray) -> float:
    """Pearson correlation of two series (n,), from -1 to 1.

    Returns:
        ``nan`` if undefined: fewer than two values, a constant series, or a value that is not finite. 0 would wrongly
            mean "no relation".

    Raises:
        ShapeError: The series are not one-dimensional or differ in length.
    """
    left, right = _two_series(left, right)
    if len(left) < 2 or not (np.isfinite(left).all() and np.isfinite(right).all()):
        return float("nan")
    if np.ptp(left) == 0 or np.ptp(right) == 0:  # before centring, since the mean of equal values can have a rounding error
        return float("nan")
    left, right = left - left.mean(), right - right.mean()
    # scaled to size 1 before squaring: squares of very small values would all be 0
    left, right = left / np.abs(left).max(), right / np.abs(right).max()
    return float(np.clip(left @ right / np.sqrt((left @ left) * (right @ right)), -1.0, 1.0))


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman rank correlation of two series (n,), from -1 to 1, with average ranks for ties.

    Returns:
        ``nan`` if undefined, as in ``pearson``.

    Raises:
        ShapeError: The series are not one-dimensional or differ in length.
    """
    left, right = _two_series(left, right)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return float("nan")
    return pearson(average_ranks(left), average_ranks(right))


def cosine_rows(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosines of corresponding rows of ``left`` and ``right`` (n, dim), as float64 (n,); 0 for a zero row.

    Raises:
        ShapeError: The two shapes differ.
    """
    if left.ndim != 2 or left.shape != right.shape:
        raise ShapeError(f"cosine_rows needs two tables of equal shape, got {left.shape} and {right.shape}")
    return np.einsum("nd,nd->n", unit_rows(left), unit_rows(right))


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Scale every row of ``vectors`` (n, dim) to length 1, as float64; zero rows stay zero."""
    vectors = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def _two_series(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    left, right = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if left.ndim != 1 or left.shape != right.shape:
        raise ShapeError(f"a correlation needs two series of equal length, got {left.shape} and {right.shape}")
    return left, right


# ---- bootstrap


def resample_counts(items: int, *, resamples: int, rng: np.random.Generator, cells: int = _CELLS_AT_ONCE) -> Iterator[np.ndarray]:
    """Draw ``items`` items with replacement, ``resamples`` times, and count the occurrences; a block has at most ``cells`` numbers, or a row.

    Yields:
        Blocks of float64 counts (some resamples, items), in total ``resamples`` rows that each sum to ``items``. The draws
            depend only on the two numbers and ``rng``, so two calls with equal ``rng`` give paired resamples.
    """
    at_once = max(1, cells // max(items, 1))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = rng.integers(items, size=(rows, items)) + np.arange(rows)[:, None] * items
        yield np.bincount(drawn.ravel(), minlength=rows * items).reshape(rows, items).astype(np.float64)


def bootstrap_spearman(gold: np.ndarray, scores: np.ndarray, *, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Spearman correlation of ``gold`` (n,) with each row of ``scores`` (models, n) on resampled pairs.

    All rows share the same resamples, so the difference of two result rows is a paired bootstrap.

    Returns:
        Correlations (models, resamples); ``nan`` for a resample that is constant.
    """
    sorted_gold, *sorted_scores = (Sorted(values) for values in (gold, *np.atleast_2d(scores)))
    blocks = resample_counts(len(gold), resamples=resamples, rng=rng)
    return np.concatenate([spearman_of_counts(counts, sorted_gold, sorted_scores) for counts in blocks], axis=1)


def spearman_of_counts(counts: np.ndarray, gold: "Sorted", scores: Sequence["Sorted"]) -> np.ndarray:
    """Spearman correlation with pair i repeated ``counts[b, i]`` times, without materializing repeats or sorting again.

    Args:
        counts: Occurrences of each pair (resamples, n), integers as float64.
        gold: Human scores (n,).
        scores: Scores of each model (n,).

    Returns:
        Correlations (models, resamples); ``nan`` if a series is constant.
    """
    ranked_gold, gold_variance = gold.ranks(counts)
    weighted_gold = counts * ranked_gold
    rows = []
    for row in scores:
        ranks, variance = row.ranks(counts)
        covariance = np.einsum("bn,bn->b", weighted_gold, ranks)
        spread = np.sqrt(gold_variance * variance)
        rows.append(np.divide(covariance, spread, out=np.full(len(spread), np.nan), where=spread > 0))
    return np.clip(np.stack(rows), -1.0, 1.0)


class Sorted:
    """A series (n,), sorted once for all resamples."""

    def __init__(self, values: np.ndarray) -> None:
        self._order = np.argsort(values, kind="stable")
        in_order = values[self._order]
        self._starts = np.flatnonzero(np.r_[True, in_order[1:] != in_order[:-1]])  # of each level: equal values share one
        self._level = np.empty(len(values), dtype=np.intp)
        self._level[self._order] = np.repeat(np.arange(len(self._starts)), np.diff(np.r_[self._starts, len(values)]))

    def ranks(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centred average ranks of each item per resample (resamples, n), and the sum of their squares (resamples,)."""
        in_level = counts[:, self._order]
        if len(self._starts) < len(self._level):
            in_level = np.add.reduceat(in_level, self._starts, axis=1)  # (resamples, levels): equal values are adjacent
        middle = (counts.sum(axis=1, keepdims=True) + 1) / 2
        ranks = np.cumsum(in_level, axis=1) - in_level + (in_level + 1) / 2 - middle
        # a resample with a single level has rank sum exactly 0 there: ranks are multiples of one half
        return np.take(ranks, self._level, axis=1), np.einsum("bl,bl,bl->b", in_level, ranks, ranks)


def bootstrap_means(values: np.ndarray, *, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means (models, resamples) of each row of ``values`` (models, n) on resampled items, shared by all rows."""
    values = np.atleast_2d(values)
    n = values.shape[1]
    return np.concatenate([values @ counts.T / n for counts in resample_counts(n, resamples=resamples, rng=rng)], axis=1)


def percentile_interval(replicates: np.ndarray, *, share: float = 0.95) -> Interval:
    """Percentile interval: the middle ``share`` of a figure's bootstrap values (resamples,).

    ``nan`` values (undefined resamples) are dropped; if none are left, both ends are ``nan``.
    """
    known = replicates[~np.isnan(replicates)]
    if len(known) == 0:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - share) / 2, (1 + share) / 2])
    return Interval(float(low), float(high))


# ---- retrieval


@dataclass(frozen=True)
class GoldRanks:
    """Rank of each query's correct candidate among all candidates, with ties kept.

    Attributes:
        better: Number of candidates scored above the correct one, int (queries,).
        tied: Number of candidates with the same score, including the correct one, int (queries,), 1 or more.
    """

    better: np.ndarray
    tied: np.ndarray

    def recall_at(self, k: int) -> np.ndarray:
        """Probability (queries,) that the correct candidate is in the top ``k``, with ties in random order."""
        return np.clip((k - self.better) / self.tied, 0.0, 1.0)

    def reciprocal_rank(self) -> np.ndarray:
        """Expected reciprocal rank (queries,), with ties in random order."""
        harmonic = np.r_[0.0, np.cumsum(1.0 / np.arange(1, (self.better + self.tied).max(initial=1) + 1))]
        return (harmonic[self.better + self.tied] - harmonic[self.better]) / self.tied


def gold_ranks(scores: np.ndarray, gold: np.ndarray, *, tolerance: float = 0.0) -> GoldRanks:
    """Count the candidates scored above and equal to the correct candidate of each query.

    Args:
        scores: Finite scores (queries, candidates), higher is better.
        gold: Column of the correct candidate per query, int (queries,).
        tolerance: Scores this close to the correct one's count as equal, so that rounding does not break ties.

    Raises:
        ShapeError: ``gold`` does not have one column per row.
    """
    if scores.ndim != 2 or np.shape(gold) != scores.shape[:1]:
        raise ShapeError(
            f"gold_ranks needs scores (queries, candidates) and one gold column per query, got {scores.shape}, {np.shape(gold)}"
        )
    above_gold = scores - scores[np.arange(len(scores)), gold][:, None]
    return GoldRanks(better=(above_gold > tolerance).sum(axis=1), tied=(np.abs(above_gold) <= tolerance).sum(axis=1))


def reciprocal_rank_fusion(*scores: np.ndarray, k: int = 60) -> np.ndarray:
    """Reciprocal rank fusion of several score tables: sum over methods of 1 / (k + rank), higher is better.

    Cormack, Clarke and Buettcher 2009, with their k of 60. Ties share the mean of their ranks.

    Args:
        scores: One table (queries, candidates) per method, higher is better.
        k: Larger values reduce the weight of the top ranks.

    Raises:
        ShapeError: The shapes of the tables differ.
    """
    if len({table.shape for table in scores}) != 1:
        raise ShapeError(f"fusion needs tables of equal shape, got {', '.join(str(table.shape) for table in scores) or 'none'}")
    ranks = (np.stack([average_ranks(-row) for row in table]) for table in scores)
    return np.sum([1 / (k + rank) for rank in ranks], axis=0)
