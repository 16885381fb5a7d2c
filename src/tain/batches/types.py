"""What batches hand to encoders: texts as token ids, packed end to end or padded."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, Int32, Int64
from torch import Tensor


@runtime_checkable
class TokenIds(Protocol):
    """A long run of token ids that is read in slices: an array, or shards on disk."""

    def __len__(self) -> int: ...
    def __getitem__(self, indices: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class TokenisedTexts:
    """Token ids of many texts, special tokens included, in the order the texts were given."""

    ids: list[list[int]]
    truncated: int  # texts that lost tokens to the length limit

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class KeptTexts:
    """Token ids of many texts in the least memory, to be asked for again and again.

    Attributes:
        ids: All texts' tokens, one text behind the other.
        starts: Where each text begins in ``ids``, and where the last one ends.
        truncated: Texts that lost tokens to the length limit.
    """

    ids: Int32[np.ndarray, " tokens"]
    starts: Int64[np.ndarray, " texts_and_one"]
    truncated: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[list[int]]:
        return (self[text] for text in range(len(self)))

    def __getitem__(self, text: int) -> list[int]:
        return self.ids[self.starts[text] : self.starts[text + 1]].tolist()


@dataclass(frozen=True)
class PackedTexts:
    """Texts of one batch laid end to end, so that attention runs on plain views of the same memory.

    Two ways, in this order of memory. Short texts may share rows of equal length, several to a row, the few places left over
    filled with tokens that nobody sees. All others lie side by side with those of their own length, shortest first, without
    any padding.

    Attributes:
        ids: Token ids, fillers included (id 0).
        lengths: Tokens of each text, in packed order.
        order: ``order[k]`` tells which of the caller's texts lies at place k.
        shared: Shared rows as (rows, tokens a row); (0, 0) without any.
        sharing: Texts in them, which come first.
        starts: Where each text begins in ``ids``.
        positions: Each token's place in its own text, from 0; fillers have 0.
        owners: The packed place of the text that each token belongs to; fillers belong to ``len(lengths)``, which is nobody.
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
        """Runs of equal rows as (rows, tokens a row), in memory order; the shared rows, if any, are the first."""
        rows, row_tokens = self.shared
        runs = tuple((len(list(run)), length) for length, run in groupby(self.lengths[self.sharing :]))
        return ((rows, row_tokens), *runs) if rows else runs

    @cached_property
    def shared_owners(self) -> Int[Tensor, "rows row_tokens"] | None:
        """``owners`` of the shared rows; None without any."""
        rows, row_tokens = self.shared
        return self.owners[: rows * row_tokens].view(rows, row_tokens) if rows else None

    @property
    def texts(self) -> int:
        return len(self.lengths)

    def length_tensor(self) -> Int[Tensor, " texts"]:
        return torch.tensor(self.lengths, device=self.ids.device)

    def to(self, device: torch.device) -> "PackedTexts":
        if self.ids.device == device:
            return self
        tensors = {name: getattr(self, name).to(device, non_blocking=True) for name in ("ids", "order", "starts", "positions", "owners")}
        return replace(self, **tensors)


@dataclass(frozen=True)
class ConditionalBatch:
    """Corrupted texts, and the neighbours whose vectors help to restore them.

    Attributes:
        conditions: One whole text a condition and target: all targets' first neighbours, then all their second ones.
        texts: The corrupted targets.
        indices: Where to predict, as flat places into ``texts.ids``.
        targets: The true ids there.
    """

    conditions: PackedTexts
    texts: PackedTexts
    indices: Int[Tensor, " masked"]
    targets: Int[Tensor, " masked"]

    @property
    def tokens(self) -> int:
        """Tokens that pass through the encoder, pseudo-tokens not counted."""
        return len(self.conditions.ids) + len(self.texts.ids)

    def to(self, device: torch.device) -> "ConditionalBatch":
        return ConditionalBatch(self.conditions.to(device), self.texts.to(device), self.indices.to(device), self.targets.to(device))
