"""Which texts each training step sees: a pure function of seed and step, so that a resumed run sees the same."""

from functools import lru_cache

import numpy as np


class ShuffledOrder:
    """Shuffle the texts anew each epoch and cut them into batches; the last incomplete batch of an epoch is left out.

    Args:
        texts: How many texts there are, at least ``batch_texts``.
        batch_texts: Texts a step.
        seed: Fixes every epoch's order.
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
        """Places of the texts that step ``step`` (from 0) trains on."""
        epoch, within = divmod(step, self.steps_per_epoch)
        return self._permutation(epoch)[within * self.batch_texts : (within + 1) * self.batch_texts]


def step_seed(seed: int, step: int, part: int = 0) -> int:
    """Derive the seed of one step's random draws; ``part`` tells micro-batches and processes apart."""
    return int(np.random.SeedSequence([seed, step, part]).generate_state(1, np.uint64)[0] >> np.uint64(1))
