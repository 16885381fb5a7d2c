"""Neighbouring sentences for CMLM training: pairing, filtering and order.

Yang et al. 2021 (CMLM), section 2, trains on consecutive sentences. The definition of a sentence and the near-duplicate filter are
ours: see ``Neighbours``.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from tain.batches.masking import MaskedTokens
from tain.batches.order import ShuffledOrder
from tain.batches.packing import pack
from tain.batches.types import ConditionalBatch
from tain.foundation.errors import UserError

Side = Literal["left", "right", "both"]
SIDES: tuple[str, ...] = get_args(Side)

_SCAN_TOKENS = 1_000_000  # tokens compared at a time; bounds memory only


@dataclass(frozen=True)
class NeighbourCounts:
    """Statistics of a corpus prepared for CMLM.

    Attributes:
        documents: Number of documents.
        lone_documents: Documents with a single sentence, which has no neighbour.
        sentences: Sentences in the input.
        joined: Short sentences that were joined to the next or, at a document's end, the previous one.
        near_duplicates: Neighbours dropped for being too similar.
        cut: Sentences (after joining) longer than the limit.
        targets: Sentences that are masked and predicted, once per epoch.
    """

    documents: int
    lone_documents: int
    sentences: int
    joined: int
    near_duplicates: int
    cut: int
    targets: int

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


class Neighbours:
    """Sentences of a corpus together with the neighbours they are predicted from.

    - **Short sentences are joined**: within a document, consecutive sentences are joined until they have ``min_tokens``; a remainder at
        the end joins the last one. Nothing is dropped, and neighbours stay neighbours.
    - **Near-duplicates are dropped**: two neighbours whose token sets overlap by more than ``max_overlap`` (Jaccard index) are not used
        as a pair. Otherwise the model could copy boilerplate.
    - **Long sentences are cut** at ``max_tokens``; the beginning is kept, as in encoding.

    Args:
        sentences: Token ids per sentence, without special tokens.
        document_starts: Indices of the first sentence of each document, ascending from 0.
        side: Neighbour used for prediction: the left (previous) one, the right (next) one, or both.
        first_id: Id put before each sentence (``[CLS]``).
        last_id: Id put after each sentence (``[SEP]``).
        min_tokens: Shorter sentences are joined; excludes special tokens.
        max_tokens: Longer sentences are cut; includes special tokens.
        max_overlap: 0 to 1; 1 keeps everything, even repetitions.

    Raises:
        UserError: The corpus is a single document, all its documents have one sentence, or all neighbours are near-duplicates.
    """

    def __init__(
        self,
        sentences: Sequence[np.ndarray],
        document_starts: np.ndarray,
        *,
        side: Side = "left",
        first_id: int,
        last_id: int,
        min_tokens: int = 8,
        max_tokens: int = 128,
        max_overlap: float = 0.7,
    ) -> None:
        if side not in SIDES:
            raise UserError(f"side is {side!r}: give one of {', '.join(SIDES)}")
        if len(document_starts) < 2:
            raise UserError(
                f"the texts have no document breaks: all {len(sentences):,} sentences would be one document, so neighbours "
                "are unknown: put an empty line between documents"
            )
        self._sentences = sentences
        self.side: Side = side
        self._first_id, self._last_id, self._max_tokens = first_id, last_id, max_tokens
        sizes = np.fromiter((len(sentence) for sentence in sentences), dtype=np.int64, count=len(sentences))
        self._starts, self._documents = _joined_units(sizes, document_starts, min_tokens)
        self._lengths = np.diff(np.append(0, sizes.cumsum())[self._starts])
        is_pair = self._documents[1:] == self._documents[:-1]  # unit u and unit u + 1
        if not is_pair.any():
            raise UserError(
                f"each of the {len(document_starts):,} documents has a single sentence (shorter ones than {min_tokens} tokens are joined), "
                "so no sentence has a neighbour: give documents of several sentences, with an empty line between documents"
            )
        is_alike = is_pair & (self._overlaps() > max_overlap)
        is_pair &= ~is_alike
        has_left, has_right = np.append(False, is_pair), np.append(is_pair, False)
        chosen = {"left": has_left, "right": has_right, "both": has_left & has_right}[side]
        self.targets = chosen.nonzero()[0]
        if not len(self.targets):
            why = "near-duplicates of each other" if side != "both" else "near-duplicates of each other, or at a document's edge"
            raise UserError(
                f"no sentence is left to predict: all neighbours are {why} (token overlap above {max_overlap:g}): "
                "give other text, or a higher --max-overlap"
            )
        self.counts = NeighbourCounts(
            documents=len(document_starts),
            lone_documents=int((np.unique(self._documents, return_counts=True)[1] == 1).sum()),
            sentences=len(sentences),
            joined=len(sentences) - len(self._documents),
            near_duplicates=int(is_alike.sum()),
            cut=int((self._lengths > max_tokens - 2).sum()),
            targets=len(self.targets),
        )

    @property
    def conditions(self) -> int:
        """Neighbours per target."""
        return 2 if self.side == "both" else 1

    def mean_tokens(self, *, with_neighbours: bool) -> float:
        """Mean number of tokens per target, and of its neighbours if requested, including special tokens."""
        kept = np.minimum(self._lengths + 2, self._max_tokens)
        return float(sum(kept[self.targets + step].mean() for step in (0, *(self._steps() if with_neighbours else ()))))

    def texts(self, targets: np.ndarray) -> list[list[int]]:
        """Token ids of these sentences, including special tokens."""
        return [self._unit(int(unit)) for unit in targets]

    def conditions_of(self, targets: np.ndarray) -> list[list[int]]:
        """Token ids of their neighbours: all left ones, then all right ones."""
        return [self._unit(int(unit) + step) for step in self._steps() for unit in targets]

    def documents_of(self, targets: np.ndarray) -> np.ndarray:
        """Document index of each of these sentences."""
        return self._documents[targets]

    def _steps(self) -> tuple[int, ...]:
        return {"left": (-1,), "right": (1,), "both": (-1, 1)}[self.side]

    def _unit(self, unit: int) -> list[int]:
        parts = [self._sentences[index] for index in range(self._starts[unit], self._starts[unit + 1])]
        inner = [token for part in parts for token in part.tolist()][: self._max_tokens - 2]
        return [self._first_id, *inner, self._last_id]

    def _overlaps(self) -> np.ndarray:
        """Jaccard index of the token sets of all consecutive units, also across document boundaries."""
        found = [np.empty(0)]
        for first, last in self._scans():
            indices = range(self._starts[first], self._starts[last])
            tokens = np.concatenate([self._sentences[index] for index in indices]).astype(np.int64)
            owners = np.repeat(np.arange(last - first), self._lengths[first:last])
            span = int(tokens.max(initial=0)) + 1
            entries = np.unique(owners * span + tokens)  # each distinct token of a unit
            sizes = np.bincount(entries // span, minlength=last - first)
            shared = entries[np.isin(entries + span, entries)] // span  # tokens that also occur in the next unit
            common = np.bincount(shared, minlength=last - first)[:-1]
            found.append(common / np.maximum(sizes[:-1] + sizes[1:] - common, 1))
        return np.concatenate(found)

    def _scans(self) -> Iterator[tuple[int, int]]:
        """Ranges of units of bounded size; consecutive ranges share one unit."""
        first, units = 0, len(self._lengths)
        ends = self._lengths.cumsum()
        while first < units - 1:
            limit = (ends[first - 1] if first else 0) + _SCAN_TOKENS
            last = min(units, max(first + 2, int(np.searchsorted(ends, limit, side="right"))))
            yield first, last
            first = last - 1


class NeighbourOrder:
    """Training order of the sentences: a pure function of seed and step, so that resumed runs repeat it exactly.

    Args:
        neighbours: The corpus.
        batch_targets: Sentences predicted per step.
        seed: Seed of the order of every epoch.

    Raises:
        UserError: There are fewer targets than one step needs.
    """

    def __init__(self, neighbours: Neighbours, *, batch_targets: int, seed: int) -> None:
        if len(neighbours.targets) < batch_targets:
            raise UserError(
                f"the texts have {len(neighbours.targets):,} sentences with a neighbour, fewer than one step takes ({batch_targets:,}): "
                "give more text, or fewer --batch-blocks"
            )
        self.neighbours = neighbours
        self._order = ShuffledOrder(len(neighbours.targets), batch_texts=batch_targets, seed=seed)

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps_per_epoch

    def targets(self, step: int) -> np.ndarray:
        """Sentences of step ``step`` (from 0)."""
        return self.neighbours.targets[self._order.batch(step)]


def conditional_batch(neighbours: Neighbours, targets: np.ndarray, *, mask: Callable[[Tensor, Tensor], MaskedTokens]) -> ConditionalBatch:
    """Pack sentences, masked by ``mask``, together with their complete neighbours.

    Args:
        neighbours: The corpus.
        targets: Sentences to predict.
        mask: Masks packed token ids (tokens,), given the sentence index of each token (tokens,).
    """
    texts = pack(neighbours.texts(targets))
    masked = mask(texts.ids, texts.owners)
    corrupted = replace(texts, ids=masked.ids)
    return ConditionalBatch(pack(neighbours.conditions_of(targets)), corrupted, masked.indices, masked.targets)


def conditional_share(batch: ConditionalBatch, share: slice) -> ConditionalBatch:
    """Consecutive sentences of a batch with the same masks, for a process that computes a share of it.

    Args:
        batch: The batch, as ``conditional_batch`` packs it.
        share: Indices of the sentences among the targets, with both ends given.
    """
    texts, conditions = batch.texts.unpacked(), batch.conditions.unpacked()
    own = pack([ids.tolist() for ids in texts[share]])
    first_of_side = range(0, len(conditions), len(texts))
    neighbours = pack([ids.tolist() for first in first_of_side for ids in conditions[first + share.start : first + share.stop]])
    owners = batch.texts.order[batch.texts.owners[batch.indices]]  # index of each masked token's text among all targets
    is_here = (owners >= share.start) & (owners < share.stop)
    starts = own.starts[own.order.argsort()]  # in the order of the share
    indices = starts[owners[is_here] - share.start] + batch.texts.positions[batch.indices[is_here]]
    order = indices.argsort()
    return ConditionalBatch(neighbours, own, indices[order], batch.targets[is_here][order])


def _joined_units(sizes: np.ndarray, document_starts: np.ndarray, min_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Join short sentences within their documents.

    Args:
        sizes: Tokens per sentence.
        document_starts: As in ``Neighbours``.
        min_tokens: As in ``Neighbours``.

    Returns:
        Sentence index at which each unit begins, followed by the number of sentences; and the document index of each unit.
    """
    starts, documents = [], []
    tokens = sizes.tolist()
    for document, (begin, end) in enumerate(pairwise([*document_starts.tolist(), len(tokens)])):
        collected = min_tokens  # the first sentence starts a unit
        for index in range(begin, end):
            if collected >= min_tokens:
                starts.append(index)
                documents.append(document)
                collected = 0
            collected += tokens[index]
        if collected < min_tokens and len(documents) > 1 and documents[-2] == document:
            starts.pop()  # too short for a document's end: join it to the previous unit
            documents.pop()
    return np.array([*starts, len(tokens)], dtype=np.int64), np.array(documents, dtype=np.int64)
