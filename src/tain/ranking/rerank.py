"""Search an index for the best candidates of contexts, and rerank them with a slower ranker."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from dataclasses import replace as replaced
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.plain_scanning import Best, plain_scan_all, plain_scan_best
from tain.ranking.approximate import ShortLists
from tain.ranking.filters import Filter
from tain.ranking.index import CandidateIndex, digest_of, digest_of_candidates, encoded_metadata, refuse_unstorable
from tain.text.collections import each_text, list_texts
from tain.text.records import Candidate

BATCH_TEXTS = 2048  # encoded and written together; an interrupted call loses at most these
_GATHERED_SHARE, _GATHERED_NUMBERS = 0.25, 2**26  # of rows, and numbers: vectors of fewer matches are copied, then only they are scored


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
        id: Its id, if the index has ids and it has one.
        metadata: Its metadata; None if the index has none.
    """

    text: str
    row: int
    score: float
    id: str | None = None
    metadata: dict[str, Any] | None = None

    @classmethod
    def of(cls, index: CandidateIndex, row: int, score: float) -> "Hit":
        if not index.has_metadata:
            return cls(index.text(row), row, score)
        return cls(index.text(row), row, score, index.id(row), index.metadata(row))

    def to_dict(self) -> dict[str, Any]:
        """The hit as JSON; id and metadata only where the index has them."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def search(
    ranker: EncodesCandidates,
    index: CandidateIndex,
    contexts: Iterable[str],
    *,
    k: int,
    probes: int | None = None,
    filter: str | Filter | None = None,
    progress: Progress | None = None,
) -> list[list[Hit]]:
    """Find each context's ``k`` best candidates; exact unless ``probes`` is given without a filter.

    Args:
        ranker: The bi- or poly-encoder that made the index.
        index: The candidates.
        contexts: Query texts.
        k: Number of hits; a smaller index gives fewer.
        probes: Search only a FAISS short list, with this number of lists probed; default: score every candidate.
        filter: Search only candidates whose metadata match, as ``filters.parse_filter`` reads it. Every matching candidate is scored,
            so ``probes`` has no effect.
        progress: Receives progress updates.

    Raises:
        UserError: The index was made by another model, is incomplete or empty, ``k`` or ``probes`` is below 1, FAISS is not installed,
            the filter is invalid, or the index has no metadata.
    """
    among = None if filter is None else index.matching(filter)
    bests = [
        best for _, best in scan(ranker, index, list_texts(contexts, what="context"), k=k, probes=probes, among=among, progress=progress)
    ]
    return [[Hit.of(index, int(row), float(score)) for row, score in zip(best.rows, best.scores, strict=True)] for best in bests]


def refuse_unsearchable(ranker: EncodesCandidates, index: CandidateIndex, *, k: int, probes: int | None) -> None:
    """Refuse a search that cannot work, before any computation.

    Raises:
        UserError: As ``search``.
    """
    index.refuse_other_model(ranker.fingerprint, ranker.name)
    index.refuse_unfinished()
    if k < 1:
        raise UserError(f"k is {k}, but a search needs at least 1: give 1 or more")
    if not index.live:
        raise UserError(f"index {str(index.folder)!r} holds no candidates: {index.how_to_add}")
    if probes is not None and probes < 1:
        raise UserError(f"probes is {probes}, but at least one list must be searched: give 1 or more")


def scan(
    ranker: EncodesCandidates,
    index: CandidateIndex,
    contexts: Sequence[str],
    *,
    k: int,
    probes: int | None = None,
    among: np.ndarray | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[Any, Best]]:
    """Search like ``search``, and give each context's vectors with its best rows.

    Args:
        ranker: As in ``search``.
        index: As in ``search``.
        contexts: As in ``search``.
        k: As in ``search``.
        probes: As in ``search``; has no effect with ``among``.
        among: True for the rows to search (rows,); default: all live rows.
        progress: As in ``search``.

    Raises:
        UserError: As ``search``.
    """
    refuse_unsearchable(ranker, index, k=k, probes=probes)
    short = None if probes is None or among is not None else ShortLists.of(index, progress=progress)
    rows = None if among is None else _few_rows(index, among)
    if short is None:
        index.refuse_damaged_vectors(rows)
    skipped = index.is_deleted if among is None else ~among
    is_deleted = skipped if skipped.any() else None
    vectors = index.vectors if rows is None else index.vectors[rows]
    with (progress or Progress.silent()).task("search", len(contexts)) as task:
        for _, window in ranker.windows(contexts):
            asked = [window.of(position) for position in range(len(window))]
            if short is not None:
                bests = [_best_of(index, context, short.rows(context, k=k, probes=probes or 1), k=k) for context in asked]
            elif rows is not None:
                bests = [Best(rows[best.rows], best.scores) for best in _best_by_scores(vectors, asked, k=k)]
            else:
                bests = _best_of_all(index, asked, k=k, is_deleted=is_deleted)
            yield from zip(asked, bests, strict=True)
            task.advance(len(window))


def scores_of(index: CandidateIndex, context: Any, rows: np.ndarray) -> np.ndarray:
    """Exact scores of some rows for one context.

    Args:
        index: The candidates.
        context: The context's vectors (vectors, dim), of torch or NumPy.
        rows: Rows in increasing order.
    """
    index.refuse_damaged_vectors(rows)
    return scores_of_vectors(index.vectors[rows], context)


def scores_of_vectors(vectors: np.ndarray, context: Any) -> np.ndarray:
    """Scores of candidates' vectors (candidates, dim) for one context, whose vectors are torch's or NumPy's."""
    if isinstance(context, np.ndarray):
        return plain_scan_all(vectors, context)
    from tain.models.scanning import scan_all

    return scan_all(vectors, context)


def _best_of_all(index: CandidateIndex, contexts: list[Any], *, k: int, is_deleted: np.ndarray | None) -> list[Best]:
    """The best of all rows for contexts whose vectors are torch's or NumPy's."""
    if all(isinstance(context, np.ndarray) for context in contexts):
        return plain_scan_best(index.vectors, contexts, k=k, is_deleted=is_deleted)
    from tain.models.scanning import scan_best

    return scan_best(index.vectors, contexts, k=k, is_deleted=is_deleted, squares=index.squares)


def _few_rows(index: CandidateIndex, among: np.ndarray) -> np.ndarray | None:
    """Rows to score alone, if they are few enough to copy their vectors; None: score all and skip the others."""
    rows = np.flatnonzero(among)
    return rows if len(rows) <= _GATHERED_SHARE * len(among) and len(rows) * index.dim <= _GATHERED_NUMBERS else None


def _best_of(index: CandidateIndex, context: Any, rows: np.ndarray, *, k: int) -> Best:
    """The best of some rows, scored exactly."""
    index.refuse_damaged_vectors(rows)
    (best,) = _best_by_scores(index.vectors[rows], [context], k=k)
    return Best(rows[best.rows], best.scores)


def _best_by_scores(vectors: np.ndarray, contexts: list[Any], *, k: int) -> list[Best]:
    if all(isinstance(context, np.ndarray) for context in contexts):
        return plain_scan_best(vectors, contexts, k=k)
    from tain.models.scanning import scan_best

    return scan_best(vectors, contexts, k=k)


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
        rescored = [replaced(hit, score=float(score)) for hit, score in zip(found, theirs, strict=True)]
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


class Upserted(NamedTuple):
    """What an update of an index with ids changed, in numbers of candidates."""

    added: int
    replaced: int
    unchanged: int
    deleted: int


def upsert_candidates(
    ranker: EncodesCandidates,
    index: CandidateIndex,
    candidates: Iterable[Candidate],
    *,
    name: str = "candidates",
    vectors: np.ndarray | None = None,
    delete_missing: bool = False,
    batch_texts: int = BATCH_TEXTS,
    progress: Progress | None = None,
) -> Upserted:
    """Add candidates with ids and metadata to an index, and replace those whose ids it holds.

    Unchanged candidates are skipped; where only the metadata changed, the vector is kept. Candidates are written in batches that persist
    if the call is interrupted; the same call then continues. An index that was never complete is not searched until then.

    Args:
        ranker: The ranker that made the index.
        index: An index with metadata.
        candidates: The candidates; those without an id are identified by their text.
        name: Name of their source, for messages.
        vectors: Their vectors, if they were computed before (candidates, dim).
        delete_missing: Also delete all candidates of the index that are not given.
        batch_texts: Candidates encoded and written together.
        progress: Receives progress updates.

    Returns:
        Numbers of added, replaced, unchanged and deleted candidates; ``ranker.truncated_candidates`` is the number of truncated texts.

    Raises:
        UserError: The index was made by another model or has no metadata, an id occurs twice, or metadata are no JSON; or the index holds a
            part of other candidates, whose first build was interrupted, and ``delete_missing`` is off.
    """
    candidates, progress = list(candidates), progress or Progress.silent()
    index.refuse_other_model(ranker.fingerprint, ranker.name)
    index.refuse_without_metadata()  # all checks come before the index is marked as changing
    refuse_unstorable(candidates)
    if vectors is not None and len(vectors) != len(candidates):
        raise UserError(f"{len(candidates):,} candidates were given with {len(vectors):,} vectors: give one per candidate")
    if vectors is not None:
        vectors = index.storable(vectors, len(candidates))
    digest = digest_of_candidates(candidates)
    added = changed = cut = 0
    with index.updating():
        index.refresh()
        if not delete_missing:
            index.refuse_half_built(digest=digest)
        if index.is_searchable and not index.is_complete and index.source["digest"] != digest:
            left = index.source["name"]
            progress.warn(
                f"an update of index {index.folder} to {left!r} was interrupted, and this one does not finish it: run that one again"
            )
        index.tell_source(name=name, digest=digest, is_complete=False)
        with progress.task("encode candidates", len(candidates)) as task:
            for start in range(0, len(candidates), batch_texts):
                batch = candidates[start : start + batch_texts]
                known = None if vectors is None else vectors[start : start + batch_texts]
                new, theirs = _changed(ranker, index, batch, known)
                if new:
                    more, others = index.upsert(new, theirs)
                    added, changed, cut = added + more, changed + others, cut + ranker.truncated_candidates
                task.advance(len(batch))
        deleted = _delete_missing(index, candidates) if delete_missing else 0
        index.tell_source(name=name, digest=digest, is_complete=True)
    ranker.truncated_candidates = cut
    return Upserted(added, changed, len(candidates) - added - changed, deleted)


def _changed(
    ranker: EncodesCandidates, index: CandidateIndex, batch: list[Candidate], known: np.ndarray | None
) -> tuple[list[Candidate], np.ndarray]:
    """The candidates of a batch that the index lacks or holds differently, with their vectors."""
    ranker.truncated_candidates = 0
    places, same_text = [], {}  # changed candidates, and the rows of those whose vector can be kept
    for place, (each, row) in enumerate(zip(batch, index.rows_of_ids([each.identity for each in batch]), strict=True)):
        held = None if row is None else index.candidate(row)
        if held is not None and (held.text, held.id, encoded_metadata(held)) == (each.text, each.id, encoded_metadata(each)):
            continue
        places.append(place)
        if held is not None and held.text == each.text:
            same_text[place] = row
    new = [batch[place] for place in places]
    if known is not None:
        return new, known[places]
    index.refuse_damaged_vectors(np.array(sorted(same_text.values()), dtype=np.int64))
    asked = [batch[place].text for place in places if place not in same_text]
    encoded = iter(ranker.encode_candidates(asked) if asked else ())
    vectors = [np.asarray(index.vectors[same_text[place]] if place in same_text else next(encoded)) for place in places]
    return new, np.stack(vectors) if vectors else np.empty((0, index.dim), np.float32)


def _delete_missing(index: CandidateIndex, candidates: list[Candidate]) -> int:
    wanted = {each.identity for each in candidates}
    stale = [row for row, text in index.live_texts() if (index.id(row) or text) not in wanted]
    return index.delete(stale) if stale else 0
