"""Training step of cross-encoders: each context ranks its own list of candidates."""

import numpy as np
import torch
from torch import Tensor

from tain.batches.packing import batches_by_tokens
from tain.models.embedder import Embedder
from tain.models.rankers import CrossRanker
from tain.objectives.ranking import candidate_cross_entropy
from tain.recipes.rank.config import ResolvedRankConfig
from tain.recipes.rank.trainer import RankTrainer
from tain.training import distributed
from tain.training.async_loss import backward

_HEAD_SCALE = 0.02  # standard deviation of the new head's weights


class CrossTrainer(RankTrainer[CrossRanker]):
    """Trains a cross-encoder. The loss is a sum over contexts, so micro-batches need no second pass."""

    @classmethod
    def build(cls, embedder: Embedder, config: ResolvedRankConfig) -> CrossRanker:
        generator = torch.Generator().manual_seed(config.seed)
        limits = {"context_tokens": config.context_tokens, "candidate_tokens": config.candidate_tokens}
        return CrossRanker.start(embedder, **limits, generator=generator)

    @torch.no_grad()
    def start_head(self, seed: int) -> None:
        weight = self.ranker.head.weight
        weight.copy_(_HEAD_SCALE * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))

    def step_loss(self, pairs: np.ndarray, negatives: np.ndarray, teacher: Tensor | None, *, step: int, seed: int) -> float:
        share = distributed.share_of(len(pairs))
        lists = np.concatenate([pairs[:, 1:], negatives], axis=1)
        joined = [
            [self.ranker.pair_ids(self.pairs.contexts[context], self.pairs.candidates[one]) for one in row]
            for context, row in zip(pairs[share, 0], lists[share], strict=True)
        ]
        read = []
        tokens = [sum(len(ids) for ids, _ in row) for row in joined]
        for part, chosen in enumerate(batches_by_tokens(tokens, batch_tokens=self.config.micro_batch_tokens)):
            self._reseed(part, step=step, seed=seed)
            scores = self.ranker.pair_scores([pair for item in chosen for pair in joined[item]], share_rows=True).view(len(chosen), -1)
            targets = torch.zeros(len(chosen), dtype=torch.long, device=self.device)
            loss = candidate_cross_entropy(scores, targets) * (len(chosen) / len(pairs))
            read.append(backward(loss))
            self.weights.take_gradients()
        self.weights.sum_over_processes()
        return distributed.summed(sum(each() for each in read))
