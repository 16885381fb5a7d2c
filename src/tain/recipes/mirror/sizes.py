"""Quality by vector length: self-retrieval of prefixes of an encoder's vectors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tain.evaluation.encoding import EncodedOnce
from tain.evaluation.label_free import Level, dropped_copies, self_retrieval
from tain.models.text_encoder import TextEncoder


@dataclass(frozen=True)
class SizeFigures:
    """Self-retrieval of vectors cut to a length.

    Attributes:
        dim: The length.
        self_retrieval_mrr: Mean reciprocal rank of the other copy of a text.
        self_retrieval_recall_at_1: Share of copies with the other copy of the same text as nearest neighbour.
        before: MRR of the untouched model's vectors at this length; None if not measured.
    """

    dim: int
    self_retrieval_mrr: float
    self_retrieval_recall_at_1: float
    before: float | None = None

    def with_before(self, untouched: "SizeFigures") -> "SizeFigures":
        return replace(self, before=untouched.self_retrieval_mrr)


def figures_by_size(encoder: TextEncoder, texts: Sequence[str], dims: Iterable[int], *, level: Level = "sentence") -> list[SizeFigures]:
    """Measure vectors cut to each of ``dims``; every text is encoded once.

    Args:
        encoder: Encoder to measure.
        texts: Texts; those too short for copies are left out.
        dims: Lengths of the prefixes.
        level: Kind of text; see ``label_free.dropped_copies``.

    Returns:
        One entry per length; empty if fewer than two texts are long enough.
    """
    cut = [pair for text in texts if (pair := dropped_copies(text, level=level)) is not None]
    if len(cut) < 2:
        return []
    once = EncodedOnce(encoder)
    first, second = (np.asarray(once.encode([pair[side] for pair in cut])) for side in (0, 1))
    found = []
    for dim in dims:
        ranks = self_retrieval(first[:, :dim], second[:, :dim])
        found.append(SizeFigures(dim, float(ranks.reciprocal_rank().mean()), float(ranks.recall_at(1).mean())))
    return found
