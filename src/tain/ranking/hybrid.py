"""Hybrid search: BM25 beside vectors, joined by their scores or by reciprocal ranks."""

from collections.abc import Iterable
from typing import get_args

import numpy as np

from tain.foundation.choices import Fusion
from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.ranking.bm25 import Bm25, best_words, refuse_missing_bm25
from tain.ranking.filters import Filter
from tain.ranking.fusion import EQUAL, Spread, joined, joined_scores
from tain.ranking.index import CandidateIndex
from tain.ranking.rerank import EncodesCandidates, Hit, refuse_unsearchable, scan, scores_of
from tain.ranking.weights import weight_of
from tain.text.collections import list_texts

DEPTH = 100  # hits of each side that are joined
_SPREAD_ROWS = 4096  # candidates from which the mean and deviation of a query's scores are estimated


def hybrid_search(
    ranker: EncodesCandidates,
    index: CandidateIndex,
    contexts: Iterable[str],
    *,
    k: int,
    depth: int = DEPTH,
    fusion: Fusion = "scores",
    probes: int | None = None,
    filter: str | Filter | None = None,
    progress: Progress | None = None,
) -> list[list[Hit]]:
    """Find candidates by vectors and by BM25, and join both.

    Args:
        ranker: The bi- or poly-encoder that made the index.
        index: The candidates; their words are counted at each call.
        contexts: Query texts.
        k: Number of hits.
        depth: Hits of each side that are joined; at least ``k`` are.
        fusion: ``scores``: the mean of both standard scores. ``weighted``: the same with a weight that ``weights.found_weight`` finds
            on the index, without labels. ``ranks``: reciprocal ranks (``joined``).
        probes: As in ``search``, for the vectors.
        filter: As in ``search``; frequencies of words and the spread of scores are those of all candidates.
        progress: Receives progress updates.

    Returns:
        Hits of each context; their score is the joined one.

    Raises:
        UserError: As ``search``; ``fusion`` is none of these, bm25s is not installed, or no candidate has a word.
    """
    if fusion not in get_args(Fusion):
        raise UserError(f"fusion is {fusion!r}, which is none: give {', '.join(get_args(Fusion))}")
    refuse_missing_bm25()
    contexts = list_texts(contexts, what="context")
    depth = max(k, depth)
    refuse_unsearchable(ranker, index, k=k, probes=probes)
    among = None if filter is None else index.matching(filter)
    rows, texts = zip(*index.live_texts(), strict=True)
    rows = np.array(rows)
    lexical = Bm25(texts, progress=progress)
    weight = EQUAL
    if fusion == "weighted":
        weight = weight_of(ranker, index, progress=progress).weight
    sample = np.sort(np.random.default_rng(0).permutation(rows)[:_SPREAD_ROWS])
    hits = []
    for text, (context, best) in zip(
        contexts, scan(ranker, index, contexts, k=depth, probes=probes, among=among, progress=progress), strict=True
    ):
        by_words = lexical.scores(text)  # (live,)
        allowed = by_words if among is None else np.where(among[rows], by_words, 0)
        nearest = rows[[position for position, _ in best_words(allowed, k=depth)]] if allowed.any() else np.empty(0, np.int64)
        if fusion == "ranks":
            found = joined(best.rows.tolist(), nearest.tolist(), k=k)
        else:
            union = np.union1d(best.rows, nearest).astype(np.int64)
            vectors = Spread.of(scores_of(index, context, sample)).standard(scores_of(index, context, union))
            words = Spread.of(by_words).standard(by_words[np.searchsorted(rows, union)])
            sums = joined_scores(vectors, words, weight=weight)
            found = [(int(union[place]), float(sums[place])) for place in np.argsort(-sums, kind="stable")[:k]]
        hits.append([Hit.of(index, row, score) for row, score in found])
    return hits
