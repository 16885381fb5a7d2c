"""Types passed from batches to encoders: token ids, packed texts, conditional batches."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, Int32, Int64
from torch import Tensor


@runtime_checkable
class TokenIds(Protocol):
    """Protocol of a long sequence of token ids that is read in slices: an array, or shards on disk."""

    def __len__(self) -> int: ...
    def __getitem__(self, indices: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class TokenisedTexts:
    """Token ids of many texts, including special tokens, in the given order."""

    ids: list[list[int]]
    truncated: int  # number of texts truncated at the length limit

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class KeptTexts:
    """Token ids of many texts in compact arrays, for repeated access.

    Attributes:
        ids: Concatenated tokens of all texts.
        starts: Start of each text in ``ids``, followed by the end of the last one.
        truncated: Number of texts truncated at the length limit.
    """

    ids: Int32[np.ndarray, " tokens"]
    starts: Int64[np.ndarray, " texts_and_one"]
    truncated: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[list[int]]:
        return (self[text] for text in range(len(self)))

    def arrays(self) -> Iterator[Int32[np.ndarray, " tokens"]]:
        """Token ids of each text, as views."""
        return (self.ids[start:end] for start, end in pairwise(self.starts.tolist()))

    def __getitem__(self, text: int) -> list[int]:
        return self.ids[self.starts[text] : self.starts[text + 1]].tolist()


@dataclass(frozen=True)
class PackedTexts:
    """Concatenated texts of one batch, laid out so that attention runs on views of the same memory.

    Memory order: first, short texts may share rows of equal length, several per row, with remaining positions filled by tokens
    that no text attends to. All other texts follow, grouped by equal length, shortest first, without padding.

    Attributes:
        ids: Token ids, including fillers (id 0).
        lengths: Tokens per text, in packed order.
        order: ``order[k]`` is the caller's index of the text at packed position k.
        shared: Shared rows as (rows, tokens per row); (0, 0) if there are none.
        sharing: Number of texts in shared rows, which come first.
        starts: Start of each text in ``ids``.
        positions: Position of each token in its text, from 0; 0 for fillers.
        owners: Packed text index of each token; ``len(lengths)`` for fillers.
    """

    ids: Int[Tensor, " tokens"]
    lengths: tuple[int, ...]
    order: Int[Tensor, " texts"]
    shared: tuple[int, int]
    sharing: int
    starts: Int[Tensor, " texts"]
    positions: Int[Tensor, " tokens"]
    owners: Int[Tensor, " tokens"]

    @cached_property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """Runs of equal rows as (rows, tokens per row), in memory order; shared rows, if any, come first."""
        rows, row_tokens = self.shared
        runs = tuple((len(list(run)), length) for length, run in groupby(self.lengths[self.sharing :]))
        return ((rows, row_tokens), *runs) if rows else runs

    @cached_property
    def shared_owners(self) -> Int[Tensor, "rows row_tokens"] | None:
        """``owners`` of the shared rows; None if there are none."""
        rows, row_tokens = self.shared
        return self.owners[: rows * row_tokens].view(rows, row_tokens) if rows else None

    @property
    def texts(self) -> int:
        return len(self.lengths)

    def length_tensor(self) -> Int[Tensor, " texts"]:
        return torch.tensor(self.lengths, device=self.ids.device)

    def unpacked(self) -> list[Int[Tensor, " text_tokens"]]:
        """Token ids of each text, in the order of the texts given to ``pack``."""
        found = [self.ids[start : start + length] for start, length in zip(self.starts.tolist(), self.lengths, strict=True)]
        return [found[number] for number in self.order.argsort().tolist()]

    def to(self, device: torch.device) -> "PackedTexts":
        if self.ids.device == device:
            return self
        tensors = {name: getattr(self, name).to(device, non_blocking=True) for name in ("ids", "order", "starts", "positions", "owners")}
        return replace(self, **tensors)


@dataclass(frozen=True)
class ConditionalBatch:
    """Masked texts together with the neighbours whose vectors help to predict them.

    Attributes:
        conditions: One complete text per condition and target: first neighbours of all targets, then second neighbours.
        texts: The masked targets.
        indices: Positions to predict, as flat indices into ``texts.ids``.
        targets: The original ids at these positions.
    """

    conditions: PackedTexts
    texts: PackedTexts
    indices: Int[Tensor, " masked"]
    targets: Int[Tensor, " masked"]

    @property
    def tokens(self) -> int:
        """Tokens that pass through the encoder, excluding pseudo-tokens."""
        return len(self.conditions.ids) + len(self.texts.ids)

    def to(self, device: torch.device) -> "ConditionalBatch":
        return ConditionalBatch(self.conditions.to(device), self.texts.to(device), self.indices.to(device), self.targets.to(device))
