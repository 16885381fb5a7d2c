"""Fusion of two rankings of the same candidates: sums of standard scores, or of reciprocal ranks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FUSION_K = 60  # of Cormack, Clarke and Buettcher 2009
EQUAL = 0.5  # weight of the words: both sides count alike


def joined(*rankings: Sequence[int], k: int, fusion_k: int = FUSION_K) -> list[tuple[int, float]]:
    """Reciprocal rank fusion of rankings: the sum of 1 / (fusion_k + rank) over those that name an item.

    Cormack, Clarke and Buettcher 2009. Unlike ``metrics.reciprocal_rank_fusion``, it takes rankings that are cut at some depth.

    Args:
        rankings: Items, best first, each once.
        k: Number of items to keep.
        fusion_k: Larger values reduce the weight of the first ranks.

    Returns:
        Items and sums, best first; ties in the order of the items.
    """
    sums: dict[int, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, start=1):
            sums[item] = sums.get(item, 0.0) + 1 / (fusion_k + rank)
    return sorted(sums.items(), key=lambda pair: (-pair[1], pair[0]))[:k]


def joined_scores(vector_scores: np.ndarray, word_scores: np.ndarray, *, weight: float = EQUAL) -> np.ndarray:
    """Weighted sum of two standard scores: (1 - weight) times that of the vectors, and weight times that of the words.

    Args:
        vector_scores: Standard scores (candidates,), as ``Spread.standard`` gives them.
        word_scores: Likewise, of BM25.
        weight: Weight of the words, 0 to 1.
    """
    return (1 - weight) * vector_scores + weight * word_scores


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a query's scores over all candidates.

    They make two kinds of scores comparable: a candidate that is far above the others by one kind counts more than one that is just
    first, which reciprocal ranks cannot tell apart.
    """

    mean: float
    deviation: float

    @classmethod
    def of(cls, scores: np.ndarray) -> "Spread":
        return cls(float(scores.mean()), float(scores.std()))

    def standard(self, scores: np.ndarray) -> np.ndarray:
        """Scores as standard deviations above the mean; 0 where all candidates score alike."""
        return (scores - self.mean) / self.deviation if self.deviation > 0 else np.zeros_like(scores)
