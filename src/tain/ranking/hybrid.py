"""Hybrid search: BM25 beside vectors, joined by reciprocal ranks."""

import importlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.ranking.index import CandidateIndex
from tain.ranking.rerank import EncodesCandidates, Hit, search
from tain.text.cleaning import same_text_key
from tain.text.collections import list_texts

DEPTH = 100  # hits of each side that are joined
FUSION_K = 60  # of Cormack, Clarke and Buettcher 2009
_WORD = re.compile(r"\w+")
_K1, _B = 1.5, 0.75


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
        scores = self.scores(text)
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


def hybrid_search(
    ranker: EncodesCandidates,
    index: CandidateIndex,
    contexts: Iterable[str],
    *,
    k: int,
    depth: int = DEPTH,
    probes: int | None = None,
    progress: Progress | None = None,
) -> list[list[Hit]]:
    """Find candidates by vectors and by BM25, and join both rankings by reciprocal ranks.

    Args:
        ranker: The bi- or poly-encoder that made the index.
        index: The candidates; their words are counted at each call.
        contexts: Query texts.
        k: Number of hits.
        depth: Hits of each side that are joined; at least ``k`` are.
        probes: As in ``search``, for the vectors.
        progress: Receives progress updates.

    Returns:
        Hits of each context, with the sum of reciprocal ranks as score.

    Raises:
        UserError: As ``search``; bm25s is not installed, or no candidate has a word.
    """
    refuse_missing_bm25()
    contexts = list_texts(contexts, what="context")
    depth = max(k, depth)
    by_vectors = search(ranker, index, contexts, k=depth, probes=probes, progress=progress)
    rows, texts = zip(*index.live_texts(), strict=True)
    lexical = Bm25(texts, progress=progress)
    hits = []
    for context, found in zip(contexts, by_vectors, strict=True):
        by_words = [rows[position] for position, _ in lexical.best(context, k=depth)]
        hits.append([Hit(index.text(row), row, score) for row, score in joined([hit.row for hit in found], by_words, k=k)])
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
