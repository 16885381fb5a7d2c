"""What batches hand to encoders: texts as token ids, packed end to end or padded."""

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


@runtime_checkable
class TokenIds(Protocol):
    """A long run of token ids that is read in slices: an array, or shards on disk."""

    def __len__(self) -> int: ...
    def __getitem__(self, places: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class TokenisedTexts:
    """Token ids of many texts, special tokens included, in the order the texts were given."""

    ids: list[list[int]]
    truncated: int  # texts that lost tokens to the length limit

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class PackedTexts:
    """Texts of one batch laid end to end without padding, shortest first.

    Sorting puts texts of equal length side by side, so that attention runs on plain views of the same memory.
    """

    ids: Int[Tensor, " tokens"]
    lengths: tuple[int, ...]  # tokens of each text, ascending
    order: Int[Tensor, " texts"]  # order[k]: which of the caller's texts lies at place k

    @cached_property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """Runs of equal length as (texts, tokens a text), in memory order."""
        return tuple((len(list(run)), length) for length, run in groupby(self.lengths))

    @property
    def texts(self) -> int:
        return len(self.lengths)

    def positions(self) -> Int[Tensor, " tokens"]:
        """Each token's place in its own text, from 0."""
        steps = torch.arange(len(self.ids), device=self.ids.device)
        return steps - self.starts().repeat_interleave(self.length_tensor(), output_size=len(self.ids))

    def starts(self) -> Int[Tensor, " texts"]:
        """Where each text begins in ``ids``."""
        lengths = self.length_tensor()
        return lengths.cumsum(0) - lengths

    def length_tensor(self) -> Int[Tensor, " texts"]:
        return torch.tensor(self.lengths, device=self.ids.device)

    def to(self, device: torch.device) -> "PackedTexts":
        if self.ids.device == device:
            return self
        return PackedTexts(self.ids.to(device, non_blocking=True), self.lengths, self.order.to(device, non_blocking=True))


@dataclass(frozen=True)
class ConditionalBatch:
    """Corrupted texts, and the neighbours whose vectors help to restore them.

    Attributes:
        conditions: One whole text a condition and target: all targets' first neighbours, then all their second ones.
        texts: The corrupted targets.
        places: Where to predict, as flat places into ``texts.ids``.
        targets: The true ids there.
    """

    conditions: PackedTexts
    texts: PackedTexts
    places: Int[Tensor, " masked"]
    targets: Int[Tensor, " masked"]

    @property
    def tokens(self) -> int:
        """Tokens that pass through the encoder, pseudo-tokens not counted."""
        return len(self.conditions.ids) + len(self.texts.ids)

    def to(self, device: torch.device) -> "ConditionalBatch":
        return ConditionalBatch(self.conditions.to(device), self.texts.to(device), self.places.to(device), self.targets.to(device))
