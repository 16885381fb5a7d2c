"""Neighbouring sentences of a document: which help to restore which, and in what order.

Yang et al. 2021 (CMLM), section 2, trains on consecutive sentences. What counts as a sentence, and which neighbours are too alike
to teach anything, is ours: see ``Neighbours``.
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

_SCAN_TOKENS = 1_000_000  # compared at a time; bounds memory, changes no figure


@dataclass(frozen=True)
class NeighbourCounts:
    """What became of a corpus.

    Attributes:
        documents: Documents.
        lone_documents: Of these, documents with a single sentence, which has no neighbour.
        sentences: Sentences as given.
        joined: Of these, sentences too short to stand alone, joined to the one behind or, at a document's end, before them.
        near_duplicates: Neighbours left out because they are too alike.
        cut: Sentences, short ones joined, that are longer than the limit.
        targets: Sentences that are masked and restored, once an epoch each.
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
    """The sentences of a corpus that have a neighbour to be restored from.

    - **Short sentences are joined**: within a document sentences are added up until they have ``min_tokens``; what is left over at
      the end goes to the last one. Nothing is thrown away, and neighbours stay neighbours.
    - **Near-duplicates are dropped**: two neighbours whose sets of tokens overlap by more than ``max_overlap`` (tokens in both, divided
      by tokens in either: Jaccard's index) are no pair. Boilerplate would let the model copy instead of understand.
    - **Long sentences are cut** at ``max_tokens``; the beginning stays, as it does when a text is encoded.

    Args:
        sentences: Token ids of sentence i, without special tokens.
        document_starts: Places of the sentences that documents begin with, ascending from 0.
        side: The neighbour that a sentence is restored from: the one to its left (before it), the one to its right, or both.
        first_id: Id put before each sentence (``[CLS]``).
        last_id: Id put behind each sentence (``[SEP]``).
        min_tokens: Shorter sentences are joined; special tokens not counted.
        max_tokens: Longer ones are cut; special tokens counted.
        max_overlap: 0 to 1; 1 drops nothing, not even repetitions.

    Raises:
        UserError: The corpus is one document only, all its documents have one sentence, or all neighbours are near-duplicates.
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
                f"the texts have no document breaks: all {len(sentences):,} sentences would be one document, and which are neighbours "
                "cannot be known: put an empty line between documents"
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
                "so no sentence has a neighbour: give documents of several sentences, an empty line between documents"
            )
        is_alike = is_pair & (self._overlaps() > max_overlap)
        is_pair &= ~is_alike
        has_left, has_right = np.append(False, is_pair), np.append(is_pair, False)
        chosen = {"left": has_left, "right": has_right, "both": has_left & has_right}[side]
        self.targets = chosen.nonzero()[0]
        if not len(self.targets):
            why = "near-duplicates of each other" if side != "both" else "near-duplicates of each other, or stand at a document's edge"
            raise UserError(
                f"no sentence is left to restore: all neighbours are {why} (token overlap above {max_overlap:g}): "
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
        """Neighbours a target."""
        return 2 if self.side == "both" else 1

    def mean_tokens(self, *, with_neighbours: bool) -> float:
        """Tokens that a target has on average, and its neighbours, special tokens counted."""
        kept = np.minimum(self._lengths + 2, self._max_tokens)
        return float(sum(kept[self.targets + step].mean() for step in (0, *(self._steps() if with_neighbours else ()))))

    def texts(self, targets: np.ndarray) -> list[list[int]]:
        """Token ids of these sentences, special tokens included."""
        return [self._unit(int(unit)) for unit in targets]

    def conditions_of(self, targets: np.ndarray) -> list[list[int]]:
        """Token ids of their neighbours: all left ones, then all right ones."""
        return [self._unit(int(unit) + step) for step in self._steps() for unit in targets]

    def documents_of(self, targets: np.ndarray) -> np.ndarray:
        """The document that each of these sentences is from."""
        return self._documents[targets]

    def _steps(self) -> tuple[int, ...]:
        return {"left": (-1,), "right": (1,), "both": (-1, 1)}[self.side]

    def _unit(self, unit: int) -> list[int]:
        parts = [self._sentences[index] for index in range(self._starts[unit], self._starts[unit + 1])]
        inner = [token for part in parts for token in part.tolist()][: self._max_tokens - 2]
        return [self._first_id, *inner, self._last_id]

    def _overlaps(self) -> np.ndarray:
        """Jaccard's index of the token sets of every two units side by side, documents' edges included."""
        found = [np.empty(0)]
        for first, last in self._scans():
            indices = range(self._starts[first], self._starts[last])
            tokens = np.concatenate([self._sentences[index] for index in indices]).astype(np.int64)
            owners = np.repeat(np.arange(last - first), self._lengths[first:last])
            span = int(tokens.max(initial=0)) + 1
            entries = np.unique(owners * span + tokens)  # each token of a unit once
            sizes = np.bincount(entries // span, minlength=last - first)
            shared = entries[np.isin(entries + span, entries)] // span  # tokens that the next unit has too
            common = np.bincount(shared, minlength=last - first)[:-1]
            found.append(common / np.maximum(sizes[:-1] + sizes[1:] - common, 1))
        return np.concatenate(found)

    def _scans(self) -> Iterator[tuple[int, int]]:
        """Ranges of units of bounded size; each begins with the unit that the last one ended with."""
        first, units = 0, len(self._lengths)
        ends = self._lengths.cumsum()
        while first < units - 1:
            limit = (ends[first - 1] if first else 0) + _SCAN_TOKENS
            last = min(units, max(first + 2, int(np.searchsorted(ends, limit, side="right"))))
            yield first, last
            first = last - 1


class NeighbourOrder:
    """Which sentences each step restores: a pure function of seed and step, so that a resumed run sees what an uninterrupted one sees.

    Args:
        neighbours: The corpus.
        batch_targets: Sentences restored a step.
        seed: Fixes the order of every epoch.

    Raises:
        UserError: There are fewer targets than a step takes.
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
        """The sentences of step ``step`` (from 0)."""
        return self.neighbours.targets[self._order.batch(step)]


def conditional_batch(neighbours: Neighbours, targets: np.ndarray, *, mask: Callable[[Tensor, Tensor], MaskedTokens]) -> ConditionalBatch:
    """Pack sentences, corrupted by ``mask``, and their whole neighbours.

    Args:
        neighbours: The corpus.
        targets: The sentences to restore.
        mask: Corrupts packed token ids (tokens,), given with the sentence that each token belongs to (tokens,).
    """
    texts = pack(neighbours.texts(targets))
    masked = mask(texts.ids, texts.owners)
    corrupted = replace(texts, ids=masked.ids)
    return ConditionalBatch(pack(neighbours.conditions_of(targets)), corrupted, masked.indices, masked.targets)


def _joined_units(sizes: np.ndarray, document_starts: np.ndarray, min_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Join short sentences within their document.

    Args:
        sizes: Tokens of each sentence.
        document_starts: As ``Neighbours`` takes them.
        min_tokens: As ``Neighbours`` takes it.

    Returns:
        Where each unit begins among the sentences, with their number at the end; and each unit's document.
    """
    starts, documents = [], []
    tokens = sizes.tolist()
    for document, (begin, end) in enumerate(pairwise([*document_starts.tolist(), len(tokens)])):
        collected = min_tokens  # the first sentence begins a unit
        for index in range(begin, end):
            if collected >= min_tokens:
                starts.append(index)
                documents.append(document)
                collected = 0
            collected += tokens[index]
        if collected < min_tokens and len(documents) > 1 and documents[-2] == document:
            starts.pop()  # too short for the end of a document: part of the unit before it
            documents.pop()
    return np.array([*starts, len(tokens)], dtype=np.int64), np.array(documents, dtype=np.int64)
