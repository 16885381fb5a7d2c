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
from tain.students.torch.static import StaticStudent
from tain.text.tags import tokens_of
from tain.training.async_loss import backward
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
            UserError: The loss is not finite.
        """
        config, steps = self.config, self.steps
        weights = MasterWeights(self.module, dtype=torch.float32)
        optimizer = adamw(
            weights, learning_rate=config.learning_rate, weight_decay=config.weight_decay, buffers=dict(self.module.named_buffers())
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
        """Compute the gradient of one batch, leave it in the student, and return the loss."""
        torch.manual_seed(step_seed(self.config.seed, step))
        texts = [self.data.train.examples[index].text for index in indices]
        text, tokens = self.reader.outputs(self.module, texts, np.random.default_rng([self.config.seed, 3, step]))
        loss = torch.zeros((), device=self.device)
        if text is not None:
            loss = loss + (self._vector_loss(text, indices) if self.config.task == "embed" else self._label_loss(text, indices))
        if tokens is not None:
            loss = loss + self._tag_loss(tokens, indices)
        return backward(loss)()

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
        return labelled_cross_entropy(logits, labels) if taught is None else self._mixed(logits, taught[indices], labels)

    def _tag_loss(self, logits: Tensor, indices: np.ndarray) -> Tensor:
        """Loss over all tokens that the student and the teacher have read, or that have a given tag."""
        train = self.data.train
        lengths = [min(len(tokens_of(train.examples[index].text)), logits.shape[1], self.config.max_tokens) for index in indices]
        flat = torch.cat([logits[row, :length] for row, length in enumerate(lengths)])
        given = [train.tags[index] for index in indices]
        numbers = [np.full(length, -1) if tags is None else tags[:length] for tags, length in zip(given, lengths, strict=True)]
        labels = torch.from_numpy(np.concatenate(numbers)).to(self.device)
        if train.taught.tokens is None:
            return labelled_cross_entropy(flat, labels)
        taught = np.concatenate([train.taught.tokens[index][:length] for index, length in zip(indices, lengths, strict=True)])
        return self._mixed(flat, taught, labels)

    def _mixed(self, logits: Tensor, taught: np.ndarray, labels: Tensor) -> Tensor:
        is_taught = np.isfinite(taught[:, 0])
        return mixed_cross_entropy(
            logits,
            torch.from_numpy(np.where(is_taught[:, None], taught, np.float32(0))).to(self.device),
            labels,
            scale=self.config.logit_scale,
            label_weight=self.config.label_weight,
            is_taught=torch.from_numpy(is_taught).to(self.device),
        )
