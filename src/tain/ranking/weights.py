"""Weight of words beside vectors in a hybrid search, found on the indexed texts without labels.

The first half of a text is a query, its second half the answer among the other texts. Halves share few words, unlike crops of a text
that stays whole, which BM25 would find by the words alone. Where halves hardly find each other (single sentences, messages of a chat),
they say little about real queries, and both sides count alike.
"""

import json
from dataclasses import asdict, dataclass

import numpy as np

from tain.evaluation.label_free import halves
from tain.foundation.errors import UserError
from tain.foundation.files import refuse_link, whole_file
from tain.foundation.json_files import Field, read_object
from tain.foundation.progress import Progress
from tain.ranking.bm25 import Bm25
from tain.ranking.fusion import EQUAL, Spread, joined_scores
from tain.ranking.index import FOUND_WEIGHT, CandidateIndex
from tain.ranking.rerank import EncodesCandidates, scores_of_vectors

WEIGHTS = np.linspace(0, 1, 21)
QUERIES = 400  # texts that are halved
LEAST_MRR = 10.0  # x 100, of the best weight; below, halves hardly find each other

_POOL = 20_000  # texts that a half is searched in
_FEWEST_QUERIES = 50
_RECORD = {
    "version": Field(kind=int, least=0),
    "weight": Field(kind=float, least=0, most=1),
    "queries": Field(kind=int, least=0),
    "best_mrr": Field(kind=float, may_be_null=True),
    "vectors_mrr": Field(kind=float, may_be_null=True),
    "words_mrr": Field(kind=float, may_be_null=True),
}


@dataclass(frozen=True)
class FoundWeight:
    """A weight, and how well halves of texts find each other with it.

    Attributes:
        weight: Weight of the words, 0 to 1.
        queries: Number of halves that were searched with.
        best_mrr: MRR x 100 of the best weight; None if there were too few texts.
        vectors_mrr: MRR x 100 of the vectors alone.
        words_mrr: MRR x 100 of BM25 alone.
    """

    weight: float
    queries: int
    best_mrr: float | None = None
    vectors_mrr: float | None = None
    words_mrr: float | None = None

    @property
    def is_found(self) -> bool:
        """False if both sides count alike because the halves say too little."""
        return self.best_mrr is not None and self.best_mrr >= LEAST_MRR


def weight_of(ranker: EncodesCandidates, index: CandidateIndex, *, progress: Progress | None = None) -> FoundWeight:
    """Weight for an index, from its folder if it was found for this state of the index before.

    Args:
        ranker: The ranker that made the index.
        index: The index.
        progress: Receives progress updates, and notes the weight.

    Raises:
        UserError: The folder's record is damaged or a link.
    """
    progress = progress or Progress.silent()
    path = index.folder / FOUND_WEIGHT
    refuse_link(path)
    found = None
    if path.exists():
        damaged = f"index {str(index.folder)!r} has a damaged {FOUND_WEIGHT}"
        record = read_object(path, _RECORD, damaged=damaged, advice="remove that file, and the next search writes it again")
        if record["version"] == index.version:
            found = FoundWeight(**{name: record[name] for name in _RECORD if name != "version"})
    if found is None:
        rows = np.flatnonzero(~index.is_deleted)
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:_POOL])
        index.refuse_damaged_vectors(rows)
        found = found_weight(ranker, [index.text(int(row)) for row in rows], np.array(index.vectors[rows]), progress=progress)
        try:
            with whole_file(path, overwrite=True, follow=False) as partial:
                partial.write_text(json.dumps({"version": index.version, **asdict(found)}) + "\n", encoding="utf-8")
        except (OSError, UserError) as error:
            progress.warn(f"the weight cannot be saved, so every search will look for it again: {error}")
    if found.is_found:
        progress.note(f"weight of words {found.weight:.2f}, found on {found.queries:,} halves of texts (MRR {found.best_mrr:.1f})")
    else:
        progress.warn("the halves of the indexed texts hardly find each other, so no weight is found: words and vectors count alike")
    return found


def found_weight(
    ranker: EncodesCandidates,
    texts: list[str],
    vectors: np.ndarray,
    *,
    queries: int = QUERIES,
    rng: np.random.Generator | None = None,
    progress: Progress | None = None,
) -> FoundWeight:
    """Find the weight with which halves of texts find each other best.

    Args:
        ranker: The ranker whose vectors these are.
        texts: The texts.
        vectors: Their vectors (texts, dim).
        queries: At most this many texts are halved.
        rng: Chooses the texts.
        progress: Receives progress updates.
    """
    order = (rng or np.random.default_rng(0)).permutation(len(texts))
    cut = {}
    for place in order.tolist():
        pair = halves(texts[place], level="sentence")
        if pair is not None:
            cut[place] = pair
        if len(cut) == queries:
            break
    if len(cut) < _FEWEST_QUERIES:
        return FoundWeight(EQUAL, len(cut))
    texts, vectors = list(texts), np.array(vectors, dtype=np.float32)
    places = list(cut)
    vectors[places] = ranker.encode_candidates([cut[place][1] for place in places])
    for place in places:
        texts[place] = cut[place][1]
    lexical = Bm25(texts, progress=progress)
    asked = [cut[place][0] for place in places]
    sums = np.zeros(len(WEIGHTS))
    contexts = (window.of(position) for _, window in ranker.windows(asked) for position in range(len(window)))
    for place, text, context in zip(places, asked, contexts, strict=True):
        scores, words = scores_of_vectors(vectors, context), lexical.scores(text)
        standard = Spread.of(scores).standard(scores), Spread.of(words).standard(words)
        sums += [_reciprocal_rank(joined_scores(*standard, weight=weight), place) for weight in WEIGHTS]
    mrr = 100 * sums / len(places)
    best = np.flatnonzero(mrr >= mrr.max() - 1e-9)
    found = FoundWeight(
        round(float(WEIGHTS[best[len(best) // 2]]), 2), len(places), *(round(float(value), 2) for value in (mrr.max(), mrr[0], mrr[-1]))
    )
    return found if found.is_found else FoundWeight(EQUAL, *list(asdict(found).values())[1:])


def _reciprocal_rank(scores: np.ndarray, place: int) -> float:
    """1 / rank of one candidate; half of its ties rank before it."""
    return 1 / (1 + float((scores > scores[place]).sum()) + (float((scores == scores[place]).sum()) - 1) / 2)
