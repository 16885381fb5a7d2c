"""Order of training texts: a pure function of seed and step, so that resumed runs repeat it exactly."""

from functools import lru_cache

import numpy as np


class ShuffledOrder:
    """Shuffles the texts in every epoch and splits them into batches; drops the last incomplete batch.

    Args:
        texts: Number of texts, at least ``batch_texts``.
        batch_texts: Texts per step.
        seed: Seed of every epoch's order.
    """

    def __init__(self, texts: int, *, batch_texts: int, seed: int) -> None:
        self.texts = texts
        self.batch_texts = batch_texts
        self.seed = seed
        self.steps_per_epoch = texts // batch_texts
        self._permutation = lru_cache(maxsize=2)(self._shuffle)

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.texts)

    def batch(self, step: int) -> np.ndarray:
        """Indices of the texts of step ``step`` (from 0)."""
        epoch, within = divmod(step, self.steps_per_epoch)
        return self._permutation(epoch)[within * self.batch_texts : (within + 1) * self.batch_texts]


def step_seed(seed: int, step: int, part: int = 0) -> int:
    """Derive the random seed of one step; ``part`` distinguishes micro-batches and processes."""
    return int(np.random.SeedSequence([seed, step, part]).generate_state(1, np.uint64)[0] >> np.uint64(1))
