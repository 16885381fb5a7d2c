"""Exact scores of many cached candidates in NumPy, for rankers that run without torch; ``scanning`` is the faster one in torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Best:
    """A context's best candidates, best first; equal scores in the order of rows.

    Attributes:
        rows: Their places.
        scores: Their scores.
    """

    rows: np.ndarray
    scores: np.ndarray


def plain_scan_best(
    candidates: Float[np.ndarray, "candidates dim"],
    contexts: Sequence[Float[np.ndarray, "_ dim"]],
    *,
    k: int,
    is_deleted: np.ndarray | None = None,
) -> list[Best]:
    """Find the ``k`` best candidates of each context, as ``scanning.scan_best`` does.

    Args:
        candidates: Cached vectors, float32; may be memory-mapped.
        contexts: The vectors of each context.
        k: How many.
        is_deleted: True where a candidate must not be found.
    """
    return [_best(plain_scan_all(candidates, context), k, is_deleted) for context in contexts]


def plain_scan_all(
    candidates: Float[np.ndarray, "candidates dim"], context: Float[np.ndarray, "vectors dim"]
) -> Float[np.ndarray, " candidates"]:
    """Score every candidate for one context: its similarities to the context's vectors, mixed by their own softmax."""
    scores = np.empty(len(candidates), dtype=np.float32)
    for start in range(0, len(candidates), _BLOCK_ROWS):
        similarities = context @ np.asarray(candidates[start : start + _BLOCK_ROWS]).T  # (own, block)
        if len(similarities) > 1:
            weights = np.exp(similarities - similarities.max(axis=0))
            similarities = ((weights * similarities).sum(axis=0) / weights.sum(axis=0))[None]
        scores[start : start + _BLOCK_ROWS] = similarities[0]
    return scores


def _best(scores: np.ndarray, k: int, is_deleted: np.ndarray | None) -> Best:
    rows = np.arange(len(scores)) if is_deleted is None else np.flatnonzero(~is_deleted)
    if len(rows) > k > 0:
        lowest = -np.partition(-scores[rows], k - 1)[k - 1]
        rows = rows[scores[rows] >= lowest]  # with all that equal the last: the first of these come
    rows = rows[np.argsort(-scores[rows], kind="stable")][: max(k, 0)]
    return Best(rows, scores[rows])
