"""Hybrid search: BM25 beside vectors, joined by their scores or by reciprocal ranks."""

import importlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tain.foundation.choices import Fusion
from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.ranking.filters import Filter
from tain.ranking.index import CandidateIndex
from tain.ranking.rerank import EncodesCandidates, Hit, refuse_unsearchable, scan, scores_of
from tain.text.cleaning import same_text_key
from tain.text.collections import list_texts

DEPTH = 100  # hits of each side that are joined
EQUAL = 0.5  # weight of the words: both sides count alike
FUSION_K = 60  # of Cormack, Clarke and Buettcher 2009
_WORD = re.compile(r"\w+")
_K1, _B = 1.5, 0.75
_SPREAD_ROWS = 4096  # candidates from which the mean and deviation of a query's scores are estimated


def words_of(text: str) -> list[str]:
    """Split a text into words, case folded; no stop words are removed and nothing is stemmed, so that it works in any language with spaces."""
    return _WORD.findall(same_text_key(text))


class Bm25:
    """BM25 over texts (Robertson et al. 1994, with the frequency of Lucene), by the package bm25s.

    Args:
        texts: The candidates, at least one.
        progress: Receives progress updates.

    Raises:
        UserError: bm25s is not installed, or no text has a word.
    """

    def __init__(self, texts: Sequence[str], *, progress: Progress | None = None) -> None:
        self._ids: dict[str, int] = {}
        with (progress or Progress.silent()).task("words", len(texts)) as task:
            tokens = []
            for text in texts:
                tokens.append([self._ids.setdefault(word, len(self._ids)) for word in words_of(text)])
                task.advance()
        if not self._ids:
            raise UserError("no candidate has a word, so there is nothing to compare by BM25: leave --hybrid out")
        self._scorer = _bm25s().BM25(k1=_K1, b=_B, method="lucene")
        self._scorer.index((tokens, self._ids), show_progress=False, create_empty_token=False)

    def scores(self, text: str) -> np.ndarray:
        """Score of every candidate (candidates,); 0 where no word is shared."""
        known = [number for word in words_of(text) if (number := self._ids.get(word)) is not None]
        return np.asarray(self._scorer.get_scores_from_ids(known))

    def best(self, text: str, *, k: int) -> list[tuple[int, float]]:
        """The ``k`` best candidates that share a word, best first: position and score."""
        return best_words(self.scores(text), k=k)


def best_words(scores: np.ndarray, *, k: int) -> list[tuple[int, float]]:
    """The ``k`` best candidates with a BM25 score above 0 of (candidates,), best first: position and score."""
    count = min(k, int((scores > 0).sum()))
    if not count:
        return []
    chosen = np.argpartition(-scores, count - 1)[:count]
    # at the edge of the partition, ties would be kept by chance: the first of them are kept
    edge = scores[chosen].min()
    above, level = np.flatnonzero(scores > edge), np.flatnonzero(scores == edge)
    chosen = np.concatenate([above, level[: count - len(above)]])
    return [(int(row), float(scores[row])) for row in chosen[np.argsort(-scores[chosen], kind="stable")]]


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
        UserError: As ``search``; bm25s is not installed, or no candidate has a word.
    """
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
        from tain.ranking.weights import weight_of

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


def refuse_missing_bm25() -> None:
    """Refuse a hybrid search without bm25s, before any computation.

    Raises:
        UserError: bm25s is not installed.
    """
    _bm25s()


def _bm25s() -> Any:
    try:
        return importlib.import_module("bm25s")
    except ImportError:
        raise UserError(
            'a hybrid search needs bm25s, which is not installed: run pip install "tain[scale]", or leave --hybrid out'
        ) from None
