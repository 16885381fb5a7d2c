"""Training step of bi- and poly-encoders: every context ranks all candidates of the batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tain.batches.packing import batches_by_tokens, pack
from tain.encoders.heads import PAPER_SCALE, poly_scores
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.models.rankers import DualRanker
from tain.objectives.ranking import candidate_cross_entropy, listwise_distillation
from tain.recipes.rank.config import ResolvedRankConfig
from tain.recipes.rank.frozen import FrozenTower
from tain.recipes.rank.trainer import RankTrainer
from tain.training import distributed
from tain.training.async_loss import backward
from tain.training.gradcache import cached_gradients

_START_SCORE = 20.0  # score of a vector with itself under a learned scale: cosines times twenty
_SAMPLE = 64  # texts to fit the scale and the codes to
_SIMILARITIES = 2**24  # similarities of context vectors and candidates in memory at once: 64 MB, about four times that with gradients


@dataclass(frozen=True)
class _Part:
    """A micro-batch: tokenised texts of both sides, and the indices of their vectors."""

    contexts: list[list[int]]
    candidates: list[list[int]]
    rows: list[int]


class DualTrainer(RankTrainer[DualRanker]):
    """Trains a bi- or poly-encoder."""

    frozen: FrozenTower | None = None

    @classmethod
    def build(cls, embedder: Embedder, config: ResolvedRankConfig) -> DualRanker:
        return DualRanker.start(
            embedder,
            kind="pooled" if config.codes is None else config.code_kind,
            codes=config.codes or 1,
            scale=PAPER_SCALE,
            is_scale_learned=not config.paper_scaling,
            normalize=config.similarity == "cosine",
            is_shared=config.shared_towers,
            context_tokens=config.context_tokens,
            candidate_tokens=config.candidate_tokens,
            generator=torch.Generator().manual_seed(config.seed),
        )

    @torch.no_grad()
    def start_head(self, seed: int) -> None:
        """Fit a learned scale and codes to the untrained encoder's outputs, or draw codes as the paper does."""
        generator, head = torch.Generator().manual_seed(seed), self.ranker.head
        self.ranker.module.eval()
        if self.config.paper_scaling:
            if head.codes is not None:
                head.codes.copy_(torch.rand(head.codes.shape, generator=generator))
            return
        head.log_scale.zero_()
        squares = self.ranker.candidate_vectors(self.pairs.candidates[:_SAMPLE]).square().sum(1).mean()
        head.log_scale.copy_((_START_SCORE / squares).log() / 2)
        if head.codes is not None:
            tokens = self.ranker.context.encoder.tokens(pack(self.pairs.contexts[:_SAMPLE]))
            head.draw_codes(token_length=float(tokens.float().square().sum(1).mean().sqrt()), generator=generator)

    def freeze(self, *, folder: Path | None, progress: Progress) -> None:
        super().freeze(folder=folder, progress=progress)
        if self.config.freeze == "encoder":
            for tower in self.ranker.towers:
                tower.encoder.requires_grad_(False)
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            self.frozen = FrozenTower(self.ranker, self.pairs.contexts, self.pairs.candidates, folder=folder, progress=progress)

    def step_loss(self, pairs: np.ndarray, negatives: np.ndarray, teacher: Tensor | None, *, step: int, seed: int) -> float:
        ranker = self.ranker
        candidates = np.concatenate([pairs[:, 1], negatives.reshape(-1)])
        targets, is_excluded = columns_of(candidates, [self.data.right[context] for context in pairs[:, 0]])
        targets, is_excluded = targets.to(self.device), is_excluded.to(self.device)
        lengths = torch.tensor([len(self.pairs.contexts[context]) for context in pairs[:, 0]], device=self.device)
        is_vector = None if ranker.head.kind == "pooled" else ranker.head.is_vector(lengths)
        batch, count = negatives.shape
        vectors = ranker.head.vectors
        own = torch.cat([torch.arange(batch)[:, None], batch + torch.arange(batch * count).view(batch, count)], dim=1).to(self.device)

        def ranking_loss(contexts: Tensor, candidates: Tensor) -> Tensor:
            scores = _scores_in_parts(contexts, candidates, is_vector)
            loss = candidate_cross_entropy(scores, targets, is_excluded=is_excluded)
            if teacher is None:
                return loss
            taught = listwise_distillation(scores.gather(1, own), teacher.to(self.device), temperature=self.config.teacher_temperature)
            return (1 - self.config.teacher_weight) * loss + self.config.teacher_weight * taught

        if self.frozen is not None:
            return self._frozen_step(self.frozen, pairs[:, 0], candidates, ranking_loss)

        def loss(rows: Tensor) -> Tensor:
            items = rows.view(batch, vectors + 1 + count, ranker.dim)
            wrong = items[:, vectors + 1 :].reshape(-1, ranker.dim)
            return ranking_loss(items[:, :vectors], torch.cat([items[:, vectors], wrong]))

        parts = self._parts(pairs, negatives, vectors)
        value = cached_gradients(
            parts,
            rows=[part.rows for part in parts],
            embed=self._embed,
            loss=loss,
            reseed=lambda part: self._reseed(part, step=step, seed=seed),
            total=batch,
            rows_each=vectors + 1 + count,
            after_part=self.weights.take_gradients,
        )
        self.weights.sum_over_processes()
        return value

    def _embed(self, part: _Part) -> Tensor:
        found = []
        if part.contexts:
            found.append(self.ranker.context_vectors(part.contexts, share_rows=True).reshape(-1, self.ranker.dim))
        if part.candidates:
            found.append(self.ranker.candidate_vectors(part.candidates, share_rows=True))
        return torch.cat(found)

    def _parts(self, pairs: np.ndarray, negatives: np.ndarray, vectors: int) -> list[_Part]:
        """Split this process's share of the batch into micro-batches; an item's rows are context vectors, answer and negatives."""
        share = distributed.share_of(len(pairs))
        pairs, negatives = pairs[share], negatives[share]
        each = vectors + 1 + negatives.shape[1]
        contexts = [self.pairs.contexts[context] for context in pairs[:, 0]]
        candidates = [self.pairs.candidates[one] for one in np.concatenate([pairs[:, 1:], negatives], axis=1).reshape(-1)]
        context_rows = [[item * each + index for index in range(vectors)] for item in range(len(pairs))]
        candidate_rows = [item * each + index for item in range(len(pairs)) for index in range(vectors, each)]
        tokens = sum(map(len, contexts)) + sum(map(len, candidates))
        if tokens <= self.config.micro_batch_tokens:
            return [_Part(contexts, candidates, [*(row for rows in context_rows for row in rows), *candidate_rows])]
        parts = []
        for chosen in batches_by_tokens([len(ids) for ids in contexts], batch_tokens=self.config.micro_batch_tokens):
            parts.append(_Part([contexts[item] for item in chosen], [], [row for item in chosen for row in context_rows[item]]))
        for chosen in batches_by_tokens([len(ids) for ids in candidates], batch_tokens=self.config.micro_batch_tokens):
            parts.append(_Part([], [candidates[item] for item in chosen], [candidate_rows[item] for item in chosen]))
        return parts

    def _frozen_step(
        self, frozen: FrozenTower, contexts: np.ndarray, candidates: np.ndarray, ranking_loss: Callable[[Tensor, Tensor], Tensor]
    ) -> float:
        """Train codes and scale on the cached encoder outputs; every process computes the whole batch."""
        head = self.ranker.head
        tokens, is_token = frozen.tokens(contexts)
        return backward(ranking_loss(head.contexts(tokens, is_token), head.candidates(frozen.candidates(candidates))))()


def columns_of(candidates: np.ndarray, right: Sequence[frozenset[int]]) -> tuple[Tensor, Tensor]:
    """Targets (batch,), and a mask (batch, candidates) of candidates that are not negatives of a context.

    Only the first column of a repeated candidate counts, so the loss equals that of the batch without repeats. Other correct answers of
    the same context are masked out of the softmax.

    Args:
        candidates: The batch's candidates: the correct answer of each context, then negatives.
        right: All correct candidates of each context.
    """
    first: dict[int, int] = {}
    for column, candidate in enumerate(candidates.tolist()):
        first.setdefault(candidate, column)
    is_repeat = np.array([first[candidate] != column for column, candidate in enumerate(candidates.tolist())])
    is_excluded = np.tile(is_repeat, (len(right), 1))
    for row, answers in enumerate(right):
        is_excluded[row, [first[answer] for answer in answers if answer in first]] = True
    targets = [first[candidate] for candidate in candidates[: len(right)].tolist()]
    return torch.tensor(targets), torch.from_numpy(is_excluded)


def _scores_in_parts(contexts: Tensor, candidates: Tensor, is_vector: Tensor | None) -> Tensor:
    """``poly_scores`` in chunks of contexts that fit in memory; the backward pass recomputes them."""
    at_once = max(1, _SIMILARITIES // (contexts.shape[1] * len(candidates)))
    if at_once >= len(contexts):
        return poly_scores(contexts, candidates, is_vector=is_vector)
    parts = contexts.split(at_once)
    are_vectors = [None] * len(parts) if is_vector is None else is_vector.split(at_once)
    return torch.cat(
        [
            checkpoint(poly_scores, part, candidates, is_vector=is_there, use_reentrant=False, preserve_rng_state=False)
            for part, is_there in zip(parts, are_vectors, strict=True)
        ]
    )
