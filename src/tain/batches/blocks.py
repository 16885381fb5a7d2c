"""A long run of text as blocks of equal length, for pretraining without padding."""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tain.batches.types import TokenIds


class BlockOrder:
    """Cut a stream of token ids into blocks, shuffled anew each epoch with a new phase, so that cuts fall elsewhere.

    A pure function of seed and step: a resumed run sees what an uninterrupted one sees.

    Args:
        stream: Token ids of all texts one after the other, a separator behind each.
        block_tokens: Length of a block, its first and last special token included.
        batch_blocks: Blocks a step.
        first_id: Id put before each block (``[CLS]``).
        last_id: Id put behind each block (``[SEP]``).
        seed: Fixes phase and order of every epoch.
        phase_epochs: Epochs in a row that keep their cuts, and so their blocks, and change the order only.
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
        self.blocks = len(stream) // self.inner - 1  # the last one is room for the phase
        self.steps_per_epoch = self.blocks // batch_blocks
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def _draw_epoch(self, epoch: int) -> tuple[int, np.ndarray]:
        first = epoch - epoch % self.phase_epochs
        rng = np.random.default_rng([self.seed, 11, first])
        phase = int(rng.integers(self.inner))
        order = rng.permutation(self.blocks)[: self.steps_per_epoch * self.batch_blocks]
        # later epochs of the same cuts shuffle the same blocks: what the first left out is left out by all
        return phase, order if epoch == first else np.random.default_rng([self.seed, 11, epoch]).permutation(order)

    def epoch(self, step: int) -> int:
        """The pass over the text that step ``step`` (from 0) belongs to, from 0."""
        return step // self.steps_per_epoch

    def starts(self, step: int) -> np.ndarray:
        """Where the blocks of step ``step`` begin in the stream."""
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
