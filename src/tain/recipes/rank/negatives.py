"""Wrong candidates of the training pairs: mined by another ranker, scored by a teacher, or sampled at each step."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.rankers import DualRanker, Ranker
from tain.recipes.rank.config import RankPairsConfig
from tain.recipes.rank.data import RankingData, mine_negatives
from tain.training import distributed


@dataclass(frozen=True)
class TaughtLists:
    """One list of candidates for each pair, scored by a teacher.

    Attributes:
        negatives: Wrong candidates of each pair (pairs, negatives).
        scores: The teacher's scores (pairs, 1 + negatives), the correct answer first.
    """

    negatives: np.ndarray
    scores: Tensor


@dataclass(frozen=True)
class Negatives:
    """Chooses the wrong candidates of each step.

    Attributes:
        data: The pairs, with mined candidates if there are any.
        count: Wrong candidates per context.
        taught: Fixed lists; None if negatives are sampled at each step.
    """

    data: RankingData
    count: int
    taught: TaughtLists | None = None

    def draw(self, indices: np.ndarray, *, step: int, seed: int) -> tuple[np.ndarray, Tensor | None]:
        """Wrong candidates of some pairs (batch, negatives), and their teacher's scores; equal seeds and steps give equal ones."""
        if self.taught is not None:
            return self.taught.negatives[indices], self.taught.scores[torch.from_numpy(indices)]
        return _drawn(self.data, self.data.pairs[indices, 0], self.count, rng=np.random.default_rng([seed, 3, step])), None


def prepare_negatives(data: RankingData, config: RankPairsConfig, *, device: torch.device, progress: Progress) -> Negatives:
    """Mine hard negatives, and score every pair's list with the teacher, once for all seeds.

    Raises:
        UserError: The miner has no vectors, or one of the two models cannot be loaded.
    """

    def load(name: str) -> Ranker:
        return Ranker.load(name, device=str(device), dtype=config.dtype, trust_remote_code=config.trust_remote_code)

    if (name := config.mine_with) is not None:
        found = distributed.from_first(lambda: mine_negatives(_miner(load(name), name), data, count=config.mining_pool))
        data = replace(data, hard=[tuple(near) for near in found])
    if (teacher := config.teacher) is None:
        return Negatives(data, config.negatives)
    negatives = _drawn(data, data.pairs[:, 0], config.negatives, rng=np.random.default_rng([config.seed, 4]))

    def taught() -> list[list[float]]:
        texts = data.candidates
        lists = [[texts[answer], *(texts[wrong] for wrong in row)] for (_, answer), row in zip(data.pairs, negatives, strict=True)]
        contexts = [data.contexts[context] for context, _ in data.pairs]
        return [row.tolist() for row in load(teacher).score_lists(contexts, lists, progress=progress)]

    return Negatives(data, config.negatives, TaughtLists(negatives, torch.tensor(distributed.from_first(taught))))


def _miner(ranker: Ranker, name: str) -> DualRanker:
    if (searchable := ranker.searchable) is None:
        raise UserError(f"mine_with is {name!r}, a cross-encoder, which would take hours: give a bi- or poly-encoder")
    return searchable


def _drawn(data: RankingData, contexts: np.ndarray, count: int, *, rng: np.random.Generator) -> np.ndarray:
    drawn = [data.draw_negatives(context, count, rng=rng) for context in contexts.tolist()]
    return np.array(drawn, dtype=np.int64).reshape(len(contexts), count)
