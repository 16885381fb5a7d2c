"""Retrieval task without annotation: find the rest of a docstring from its first sentence.

Every documented function gives a query (its first sentence) and an answer (the following prose); all answers are candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tain.demo.docstrings import FunctionDocstring
from tain.evaluation.encoding import ComparesTexts, FitsAtHand
from tain.evaluation.metrics import (
    GoldRanks,
    Interval,
    bootstrap_means,
    gold_ranks,
    percentile_interval,
    reciprocal_rank_fusion,
    unit_rows,
)
from tain.foundation.errors import ShapeError, UserError
from tain.models.text_encoder import TextEncoder

_SAME_COSINE = 1e-6  # cosines of float32 vectors closer than this are a tie
_SAME_FUSED = 1e-12  # sums of reciprocal ranks closer than this are a tie


@dataclass(frozen=True)
class DescriptionRetrieval:
    """Scores and ranks of one encoder on the task.

    Attributes:
        cosines: Cosine of each description with each rest, (functions, functions), or another score where higher is better; the
            correct answers are on the diagonal.
        ranks: Rank of each correct answer, with ties kept.
    """

    cosines: np.ndarray
    ranks: GoldRanks

    def nearest(self, function: int, *, count: int) -> list[int]:
        """Return the ``count`` functions nearest to a description, best first."""
        return [int(other) for other in np.argsort(-self.cosines[function], kind="stable")[:count]]

    def rank_of_right(self, function: int) -> int:
        """Rank of the correct answer, from 1; the last rank of a tie."""
        return int(self.ranks.better[function] + self.ranks.tied[function])


@dataclass(frozen=True, kw_only=True)
class Change:
    """A figure before and after (0 to 1, higher is better) with 95% bootstrap intervals over the functions.

    Attributes:
        name: Name in tables.
        finding: Sentence part about an encoder with this figure; ``{}`` is replaced by the figure.
        is_share: Whether it is a share of the functions, shown in per cent.
        difference: Interval of after - before on the same resampled functions (a paired bootstrap).
    """

    name: str
    finding: str
    is_share: bool
    before: float
    after: float
    before_interval: Interval
    after_interval: Interval
    difference: Interval

    @property
    def direction(self) -> int:
        """1 for better, -1 for worse, 0 if the interval of the difference contains 0."""
        if not self.difference.excludes_zero():
            return 0
        return 1 if self.difference.low > 0 else -1


def retrieve_by_description(encoder: TextEncoder, functions: Sequence[FunctionDocstring]) -> DescriptionRetrieval:
    """Rank all docstring rests for every description, by cosine.

    Encoders that need fitting are fitted on the candidates, the rests.

    Raises:
        UserError: Fewer than two functions, or an encoder without a finite vector for each text.
    """
    if len(functions) < 2:
        raise UserError(f"{len(functions)} documented functions, but retrieval needs several candidates: give at least 2")
    descriptions = [function.description for function in functions]
    rests = [function.rest for function in functions]
    if isinstance(encoder, FitsAtHand):
        encoder.fit_at_hand(rests)
    if isinstance(encoder, ComparesTexts):
        return _retrieval(encoder.index(rests).cosines(descriptions), tolerance=_SAME_COSINE)
    vectors = np.asarray(encoder.encode([*descriptions, *rests]), dtype=np.float64)  # in one call, so that batches are full
    if vectors.ndim != 2 or len(vectors) != 2 * len(functions) or not np.isfinite(vectors).all():
        raise UserError(f"model {encoder.name!r} gave no finite vector for each of {2 * len(functions)} texts: check its weights")
    units = unit_rows(vectors)
    return _retrieval(units[: len(functions)] @ units[len(functions) :].T, tolerance=_SAME_COSINE)


def fuse(*retrievals: DescriptionRetrieval) -> DescriptionRetrieval:
    """Combine the rankings of several methods by reciprocal rank fusion.

    Raises:
        ShapeError: They have different numbers of functions.
    """
    rounded = (np.round(retrieval.cosines / _SAME_COSINE) for retrieval in retrievals)  # keeps the ties of the original scores
    return _retrieval(reciprocal_rank_fusion(*rounded), tolerance=_SAME_FUSED)


def _retrieval(scores: np.ndarray, *, tolerance: float) -> DescriptionRetrieval:
    return DescriptionRetrieval(scores, gold_ranks(scores, np.arange(len(scores)), tolerance=tolerance))


def compare_retrieval(
    before: DescriptionRetrieval, after: DescriptionRetrieval, *, resamples: int = 2000, rng: np.random.Generator
) -> list[Change]:
    """Compare R@1, R@10 and MRR of two encoders on the same functions, with ties by expectation and bootstrap intervals.

    Raises:
        ShapeError: They have different numbers of functions.
    """
    if before.cosines.shape != after.cosines.shape:
        raise ShapeError(f"two retrievals are only comparable on the same functions, got {before.cosines.shape} and {after.cosines.shape}")
    figures = [
        ("R@1", "finds the right docstring first for {} of functions", True, lambda ranks: ranks.recall_at(1)),
        ("R@10", "has the right docstring among its first ten for {} of functions", True, lambda ranks: ranks.recall_at(10)),
        ("MRR", "reaches a mean reciprocal rank of {}", False, GoldRanks.reciprocal_rank),
    ]
    values = np.stack([figure(retrieval.ranks) for *_, figure in figures for retrieval in (before, after)])
    replicates = bootstrap_means(values, resamples=resamples, rng=rng)
    changes = []
    for row, (name, finding, is_share, _) in enumerate(figures):
        old, new = replicates[2 * row], replicates[2 * row + 1]
        changes.append(
            Change(
                name=name,
                finding=finding,
                is_share=is_share,
                before=float(values[2 * row].mean()),
                after=float(values[2 * row + 1].mean()),
                before_interval=percentile_interval(old),
                after_interval=percentile_interval(new),
                difference=percentile_interval(new - old),
            )
        )
    return changes
