"""Train a student on the teacher's outputs and given labels: the gradient of a step, and the loop."""

import numpy as np
import torch
from torch import Tensor

from tain.batches.order import ShuffledOrder, step_seed
from tain.foundation.progress import Progress
from tain.objectives.distillation import (
    contrastive_distillation,
    labelled_cross_entropy,
    mixed_cross_entropy,
    similarity_matching,
    vector_matching,
)
from tain.recipes.distil.config import ResolvedDistilConfig
from tain.recipes.distil.data import DistillationData
from tain.recipes.distil.readers import Reader
from tain.students.torch.qrnn import PQRNN
from tain.students.torch.quantisation import MovingRange, SharedBatch, TokenBatchNorm
from tain.students.torch.static import StaticStudent
from tain.text.tags import tokens_of
from tain.training import distributed
from tain.training.async_loss import backward
from tain.training.gradcache import cached_gradients
from tain.training.loop import Saving, Trained, train, warmup_then_linear
from tain.training.optimizer import MasterWeights, adamw


class DistilTrainer:
    """Trains a student.

    Args:
        module: The student, whose weights are trained in place.
        reader: Turns texts into its inputs.
        data: Texts with their targets.
        same: For vectors: texts with equal numbers are not negatives of each other.
        config: The resolved settings.
    """

    def __init__(
        self, module: PQRNN | StaticStudent, reader: Reader, data: DistillationData, same: np.ndarray, config: ResolvedDistilConfig
    ) -> None:
        self.module, self.reader, self.data, self.same, self.config = module, reader, data, same, config
        self.device = next(module.parameters()).device
        self.order = ShuffledOrder(len(data.train), batch_texts=config.batch_texts, seed=config.seed)
        self.weights = MasterWeights(module, dtype=torch.float32)

    @property
    def steps(self) -> int:
        """Steps of a run."""
        return self.order.steps_per_epoch * self.config.epochs

    def train(self, *, progress: Progress, saving: Saving | None = None) -> Trained:
        """Train the student; it is in eval mode afterwards.

        Args:
            progress: Receives the loss of every step.
            saving: Checkpoints; None keeps none.

        Raises:
            UserError: Some processes would have no texts, or the loss is not finite.
        """
        config, steps = self.config, self.steps
        distributed.refuse_idle_processes(config.batch_texts, what="texts")
        distributed.copy_from_first([*self.module.parameters(), *self.module.buffers()])
        share_batches(self.module)
        optimizer = adamw(
            self.weights, learning_rate=config.learning_rate, weight_decay=config.weight_decay, buffers=dict(self.module.named_buffers())
        )
        self.module.train()
        trained = train(
            lambda step: self.gradient_step(self.order.batch(step), step=step),
            optimizer,
            steps=steps,
            progress=progress,
            name="distil",
            rate_factor=warmup_then_linear(steps, warmup_steps=max(1, steps // 20)),
            saving=saving,
        )
        self.module.eval()
        return trained

    def gradient_step(self, indices: np.ndarray, *, step: int) -> float:
        """Compute the gradient of one batch, leave it in the student, and return the loss.

        Several processes compute the outputs of a share of the texts each; the loss, the statistics of norms and the ranges of activations
        are those of the whole batch. Misspellings and zoneout are drawn by each process.
        """
        seed, process = self.config.seed, distributed.rank()
        torch.manual_seed(step_seed(seed, step, process))
        rng = np.random.default_rng([seed, 3, step, process] if process else [seed, 3, step])
        own = indices[distributed.share_of(len(indices))]
        loss = self._vector_step(indices, own, rng) if self.config.task == "embed" else self._label_step(own, rng)
        self.weights.sum_over_processes()
        return loss

    def _vector_step(self, indices: np.ndarray, own: np.ndarray, rng: np.random.Generator) -> float:
        """Accumulate this process's part of the gradient of a loss that compares all texts of the batch."""

        def embed(share: np.ndarray) -> Tensor:
            text, _ = self._outputs(share, rng)
            assert text is not None, "a student for vectors has a head for texts"
            return text

        return cached_gradients(
            [own],
            rows=[range(len(own))],
            embed=embed,
            loss=lambda vectors: self._vector_loss(vectors, indices),
            reseed=lambda part: None,  # one part runs once
            total=len(indices),
        )

    def _label_step(self, own: np.ndarray, rng: np.random.Generator) -> float:
        """Accumulate this process's part of the gradient of the mean loss over labelled texts and tokens."""
        text, tokens = self._outputs(own, rng)
        loss = torch.zeros((), device=self.device)
        if text is not None:
            loss = loss + self._label_loss(text, own)
        if tokens is not None:
            loss = loss + self._tag_loss(tokens, own)
        return distributed.summed(backward(loss)())

    def _outputs(self, indices: np.ndarray, rng: np.random.Generator) -> tuple[Tensor | None, Tensor | None]:
        return self.reader.outputs(self.module, [self.data.train.examples[index].text for index in indices], rng)

    def _vector_loss(self, vectors: Tensor, indices: np.ndarray) -> Tensor:
        taught = self.data.train.taught.text
        assert taught is not None
        teacher = torch.from_numpy(taught[indices]).to(self.device)
        own = self.same[indices]
        is_same = torch.from_numpy(own[:, None] == own).to(self.device)
        loss = contrastive_distillation(vectors, teacher, temperature=self.config.temperature, is_same=is_same)
        if self.config.similarity_weight:
            loss = loss + self.config.similarity_weight * similarity_matching(vectors, teacher)
        if self.config.vector_weight:
            loss = loss + self.config.vector_weight * vector_matching(vectors, teacher)
        return loss

    def _label_loss(self, logits: Tensor, indices: np.ndarray) -> Tensor:
        taught = self.data.train.taught.text
        labels = torch.from_numpy(self.data.train.labels[indices]).to(self.device)
        return self._labelled(logits, labels) if taught is None else self._mixed(logits, taught[indices], labels)

    def _tag_loss(self, logits: Tensor, indices: np.ndarray) -> Tensor:
        """Loss over all tokens that the student and the teacher have read, or that have a given tag."""
        train = self.data.train
        lengths = [min(len(tokens_of(train.examples[index].text)), logits.shape[1], self.config.max_tokens) for index in indices]
        flat = torch.cat([logits[row, :length] for row, length in enumerate(lengths)])
        given = [train.tags[index] for index in indices]
        numbers = [np.full(length, -1) if tags is None else tags[:length] for tags, length in zip(given, lengths, strict=True)]
        labels = torch.from_numpy(np.concatenate(numbers)).to(self.device)
        if train.taught.tokens is None:
            return self._labelled(flat, labels)
        taught = np.concatenate([train.taught.tokens[index][:length] for index, length in zip(indices, lengths, strict=True)])
        return self._mixed(flat, taught, labels)

    def _labelled(self, logits: Tensor, labels: Tensor) -> Tensor:
        return labelled_cross_entropy(logits, labels) * _part(int((labels >= 0).sum()))

    def _mixed(self, logits: Tensor, taught: np.ndarray, labels: Tensor) -> Tensor:
        is_taught = np.isfinite(taught[:, 0])
        loss = mixed_cross_entropy(
            logits,
            torch.from_numpy(np.where(is_taught[:, None], taught, np.float32(0))).to(self.device),
            labels,
            scale=self.config.logit_scale,
            label_weight=self.config.label_weight,
            is_taught=torch.from_numpy(is_taught).to(self.device),
        )
        return loss * _part(int(((labels >= 0).cpu().numpy() | is_taught).sum()))


def share_batches(module: PQRNN | StaticStudent) -> None:
    """Make the student's statistics over a batch those of all processes that share it."""
    shared = SharedBatch(distributed.total, distributed.highest) if distributed.world_size() > 1 else None
    for part in module.modules():
        if isinstance(part, TokenBatchNorm | MovingRange):
            part.shared = shared


def _part(rows: int) -> float:
    """This process's part of the rows of all processes, which weights its mean loss."""
    return 1.0 if distributed.world_size() == 1 else rows / max(1.0, distributed.summed(rows))
