"""Split a long token stream into blocks of equal length, for pretraining without padding."""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tain.batches.types import TokenIds


class BlockOrder:
    """Splits a token stream into blocks and shuffles them in every epoch, with a new offset each time so that splits vary.

    A pure function of seed and step, so that resumed runs repeat it exactly.

    Args:
        stream: Concatenated token ids of all texts, with a separator after each.
        block_tokens: Length of a block, including its first and last special token.
        batch_blocks: Blocks per step.
        first_id: Id put before each block (``[CLS]``).
        last_id: Id put after each block (``[SEP]``).
        seed: Seed of offset and order of every epoch.
        phase_epochs: Number of consecutive epochs that keep the same splits and change only the order.
    """

    def __init__(
        self,
        stream: TokenIds,
        *,
        block_tokens: int,
        batch_blocks: int,
        first_id: int,
        last_id: int,
        seed: int,
        phase_epochs: int = 1,
    ) -> None:
        self.stream = stream
        self.inner = block_tokens - 2
        self.batch_blocks = batch_blocks
        self.first_id, self.last_id = first_id, last_id
        self.seed = seed
        self.phase_epochs = phase_epochs
        self.blocks = len(stream) // self.inner - 1  # the last one leaves room for the offset
        self.steps_per_epoch = self.blocks // batch_blocks
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def _draw_epoch(self, epoch: int) -> tuple[int, np.ndarray]:
        first = epoch - epoch % self.phase_epochs
        rng = np.random.default_rng([self.seed, 11, first])
        phase = int(rng.integers(self.inner))
        order = rng.permutation(self.blocks)[: self.steps_per_epoch * self.batch_blocks]
        # later epochs with the same splits shuffle the same blocks, so blocks dropped in the first one are dropped in all
        return phase, order if epoch == first else np.random.default_rng([self.seed, 11, epoch]).permutation(order)

    def epoch(self, step: int) -> int:
        """Epoch of step ``step``, both from 0."""
        return step // self.steps_per_epoch

    def starts(self, step: int) -> np.ndarray:
        """Start of each block of step ``step`` in the stream."""
        epoch, within = divmod(step, self.steps_per_epoch)
        phase, order = self._epoch(epoch)
        return phase + order[within * self.batch_blocks : (within + 1) * self.batch_blocks] * self.inner

    def batch(self, step: int) -> Int[Tensor, "blocks tokens"]:
        """Token ids of step ``step`` (from 0)."""
        return self.blocks_at(self.starts(step))

    def blocks_at(self, starts: np.ndarray) -> Int[Tensor, "blocks tokens"]:
        rows = np.empty((len(starts), self.inner + 2), dtype=np.int64)
        rows[:, 0], rows[:, -1] = self.first_id, self.last_id
        for row, start in zip(rows, starts, strict=True):
            row[1:-1] = self.stream[start : start + self.inner]
        return torch.from_numpy(rows)
