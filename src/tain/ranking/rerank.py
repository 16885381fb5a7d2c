"""Search an index for the best candidates of contexts, and rerank them with a slower ranker."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.plain_scanning import Best, plain_scan_best
from tain.ranking.approximate import ShortLists
from tain.ranking.index import CandidateIndex, digest_of
from tain.text.collections import each_text, list_texts

BATCH_TEXTS = 2048  # encoded and written together; an interrupted call loses at most these


@runtime_checkable
class ScoresLists(Protocol):
    """Anything that scores each context's own list of candidates: a ranker in torch, or an exported one."""

    def score_lists(self, contexts: Iterable[str], lists: Iterable[Iterable[str]], *, progress: Progress | None = None) -> list[Any]: ...


@runtime_checkable
class EncodesCandidates(Protocol):
    """A bi- or poly-encoder: ``models.rankers.DualRanker``, or ``exported.rankers.ExportedDual``, which needs no torch."""

    name: str
    truncated_candidates: int

    @property
    def fingerprint(self) -> str: ...
    def encode_candidates(self, texts: Iterable[str], *, progress: Progress | None = None) -> np.ndarray: ...
    def windows(self, contexts: Iterable[str]) -> Iterator[tuple[int, Any]]: ...


@dataclass(frozen=True)
class Hit:
    """A candidate found by a search.

    Attributes:
        text: Its text.
        row: Its row in the index.
        score: Score of the last ranker.
    """

    text: str
    row: int
    score: float


def search(
    ranker: EncodesCandidates,
    index: CandidateIndex,
    contexts: Iterable[str],
    *,
    k: int,
    probes: int | None = None,
    progress: Progress | None = None,
) -> list[list[Hit]]:
    """Find each context's ``k`` best candidates; exact unless ``probes`` is given.

    Args:
        ranker: The bi- or poly-encoder that made the index.
        index: The candidates.
        contexts: Query texts.
        k: Number of hits; a smaller index gives fewer.
        probes: Search only a FAISS short list, with this number of lists probed; default: score every candidate.
        progress: Receives progress updates.

    Raises:
        UserError: The index was made by another model, is incomplete or empty, ``k`` or ``probes`` is below 1, or FAISS is not installed.
    """
    contexts = list_texts(contexts, what="context")
    index.refuse_other_model(ranker.fingerprint, ranker.name)
    index.refuse_unfinished()
    if k < 1:
        raise UserError(f"k is {k}, but a search needs at least 1: give 1 or more")
    if not index.live:
        raise UserError(f"index {str(index.folder)!r} holds no candidates: give --candidates FILE with --update")
    if probes is not None and probes < 1:
        raise UserError(f"probes is {probes}, but at least one list must be searched: give 1 or more")
    short = None if probes is None else ShortLists.of(index, progress=progress)
    if short is None:
        index.refuse_damaged_vectors()
    is_deleted = index.is_deleted if index.is_deleted.any() else None
    hits = []
    with (progress or Progress.silent()).task("search", len(contexts)) as task:
        for _, window in ranker.windows(contexts):
            asked = [window.of(position) for position in range(len(window))]
            if short is None:
                bests = _best_of_all(index, asked, k=k, is_deleted=is_deleted)
            else:
                bests = [_best_of(index, context, short.rows(context, k=k, probes=probes or 1), k=k) for context in asked]
            for best in bests:
                found = zip(best.rows.tolist(), best.scores.tolist(), strict=True)
                hits.append([Hit(index.text(row), row, score) for row, score in found])
            task.advance(len(window))
    return hits


def _best_of_all(index: CandidateIndex, contexts: list[Any], *, k: int, is_deleted: np.ndarray | None) -> list[Best]:
    """The best of all rows for contexts whose vectors are torch's or NumPy's."""
    if all(isinstance(context, np.ndarray) for context in contexts):
        return plain_scan_best(index.vectors, contexts, k=k, is_deleted=is_deleted)
    from tain.models.scanning import scan_best

    return scan_best(index.vectors, contexts, k=k, is_deleted=is_deleted, squares=index.squares)


def _best_of(index: CandidateIndex, context: Any, rows: np.ndarray, *, k: int) -> Best:
    """The best of some rows, scored exactly."""
    index.refuse_damaged_vectors(rows)
    if isinstance(context, np.ndarray):
        (best,) = plain_scan_best(index.vectors[rows], [context], k=k)
        return Best(rows[best.rows], best.scores)
    from tain.models.scanning import scan_best

    (best,) = scan_best(index.vectors[rows], [context], k=k)
    return Best(rows[best.rows], best.scores)


def rerank(
    reranker: ScoresLists, contexts: Iterable[str], hits: Sequence[Sequence[Hit]], *, k: int, progress: Progress | None = None
) -> list[list[Hit]]:
    """Rescore hits with another ranker and keep the ``k`` best of each context.

    Args:
        reranker: A poly- or cross-encoder, or any other.
        contexts: The query texts.
        hits: Hits of ``search``, more than ``k`` per context.
        k: Number of hits to keep.
        progress: Receives progress updates.
    """
    scores = reranker.score_lists(contexts, [[hit.text for hit in found] for found in hits], progress=progress)
    ordered = []
    for found, theirs in zip(hits, scores, strict=True):
        rescored = [Hit(hit.text, hit.row, float(score)) for hit, score in zip(found, theirs, strict=True)]
        ordered.append(sorted(rescored, key=lambda hit: (-hit.score, hit.row))[:k])
    return ordered


def add_candidates(
    ranker: EncodesCandidates,
    index: CandidateIndex,
    texts: Iterable[str],
    *,
    batch_texts: int = BATCH_TEXTS,
    progress: Progress | None = None,
) -> int:
    """Encode and append the texts that an index lacks, in batches; appended batches persist if the call is interrupted.

    Returns:
        Number of added texts; ``ranker.truncated_candidates`` is the number of truncated ones among them.

    Raises:
        UserError: The index was made by another model.
    """
    index.refuse_other_model(ranker.fingerprint, ranker.name)
    index.refresh()
    distinct = list(dict.fromkeys(each_text(texts, what="candidate")))
    new = [text for text, row in zip(distinct, index.rows_of(distinct), strict=True) if row is None]
    added = cut = 0
    with (progress or Progress.silent()).task("encode candidates", len(new)) as task:
        for start in range(0, len(new), batch_texts):
            batch = new[start : start + batch_texts]
            vectors = ranker.encode_candidates(batch)
            cut += ranker.truncated_candidates
            added += len(index.append(batch, vectors, only_new=True))
            task.advance(len(batch))
    ranker.truncated_candidates = cut
    return added


def sync_index(
    ranker: EncodesCandidates,
    index: CandidateIndex,
    texts: Iterable[str],
    *,
    name: str,
    batch_texts: int = BATCH_TEXTS,
    progress: Progress | None = None,
) -> tuple[int, int]:
    """Make an index hold exactly the given texts: add new ones, delete others. The index records whether that was completed.

    Args:
        ranker: The ranker that made the index.
        index: The index.
        texts: All candidates it should hold.
        name: Name of their source, for messages.
        batch_texts: Texts encoded and written together.
        progress: Receives progress updates.

    Returns:
        Numbers of added and deleted texts.

    Raises:
        UserError: The index was made by another model.
    """
    texts = list_texts(texts, what="candidate")
    index.refuse_other_model(ranker.fingerprint, ranker.name)
    digest = digest_of(texts)
    with index.updating():
        index.tell_source(name=name, digest=digest, is_complete=False)
        added = add_candidates(ranker, index, texts, batch_texts=batch_texts, progress=progress)
        wanted = set(texts)
        stale = [row for row, text in index.live_texts() if text not in wanted]
        deleted = index.delete(stale) if stale else 0
        index.tell_source(name=name, digest=digest, is_complete=True)
    return added, deleted
