"""Train an encoder on positive pairs: batches, the gradient of a step, and the loop of one seed."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tain.batches.ahead import Ahead
from tain.batches.order import ShuffledOrder, step_seed
from tain.batches.packing import batches_by_tokens, pack
from tain.batches.types import PackedTexts
from tain.encoders.transformer import TransformerEncoder
from tain.foundation.probing import unchanged
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.recipes.mirror.config import ResolvedMirrorConfig
from tain.recipes.mirror.curve import Curve, WithBest
from tain.recipes.mirror.data import TrainingSet
from tain.recipes.mirror.objectives import StepVectors, total_loss
from tain.recipes.mirror.static import TokenVectors
from tain.recipes.mirror.views import Views, tokenise_pairs
from tain.training import distributed
from tain.training.gradcache import cached_gradients
from tain.training.loop import Saving, Trained, train
from tain.training.optimizer import MasterWeights, Optimizer, adamw, muon_and_adamw

FEWEST_STEPS = 16  # fewer steps teach little, so a small budget gets smaller batches


@dataclass(frozen=True)
class Plan:
    """Length of a run.

    Attributes:
        batch_texts: Pairs per step.
        steps: Steps, or an upper bound of them.
        enough: Called with the number of steps done; True ends the run. None: it ends after ``steps``.
    """

    batch_texts: int
    steps: int
    enough: Callable[[int], bool] | None = None


@dataclass(frozen=True)
class Batch:
    """Both views of a step's pairs, as this process encodes them.

    Attributes:
        parts: Micro-batches.
        rows: For each part, the indices of its texts among this process's.
        total: Views over all processes.
        is_same: Which pairs share a text; None if no two do.
        anchors: Token vectors of all processes' texts; None without an anchor.
    """

    parts: list[PackedTexts]
    rows: list[list[int]]
    total: int
    is_same: Tensor | None
    anchors: Tensor | None = None


class MirrorTrainer:
    """Trains an encoder on positive pairs.

    Args:
        encoder: The encoder, whose weights are trained in place.
        views: Makes the views of the pairs.
        config: The resolved settings.
        dtype: Data type of the computation; the weights that are stepped stay in float32.

    Attributes:
        anchors: Token vectors that the encoder is kept close to; None for none.
    """

    def __init__(
        self, encoder: TransformerEncoder, views: Views, config: ResolvedMirrorConfig, *, dtype: torch.dtype = torch.float32
    ) -> None:
        self.encoder, self.views, self.config, self.dtype = encoder, views, config, dtype
        self.anchors: TokenVectors | None = None
        self.weights = MasterWeights(encoder.model, dtype=torch.float32)  # until a seed makes its own

    def start(self) -> None:
        """Prepare the encoder for training: train mode, and weights in the data type of the computation."""
        self.weights = MasterWeights(self.encoder.model, dtype=self.dtype)
        self.encoder.train()

    def train(
        self, plan: Plan, *, seed: int, progress: Progress, name: str, saving: Saving | None = None, curve: Curve | None = None
    ) -> Trained:
        """Train one seed after ``start``; the encoder is in eval mode and float32 afterwards.

        Args:
            plan: Batch size and number of steps.
            seed: Seed of order, views and dropout.
            progress: Receives the loss of every step.
            name: Name of the run in the progress display.
            saving: Checkpoints; None keeps none.
            curve: Measures the encoder during training, and may end it or keep the best weights; None measures nothing.

        Raises:
            UserError: Some processes would have no texts, or the loss is not finite.
        """
        distributed.refuse_idle_processes(2 * plan.batch_texts, what="views")
        order = ShuffledOrder(len(self.views.data.left), batch_texts=plan.batch_texts, seed=seed)
        optimizer = self.optimizer()
        if curve is not None:
            curve.begin()
        # one thread, because tokenizers are not thread-safe; none on a CPU, where all cores are busy
        workers = 0 if self.encoder.device.type == "cpu" else 1
        with Ahead(lambda step: self.batch(order.batch(step), step=step, seed=seed), workers=workers) as coming:
            trained = train(
                lambda step: self.gradient_step(coming(step), step=step, seed=seed),
                optimizer if curve is None else WithBest(optimizer, curve),
                steps=plan.steps,
                progress=progress,
                name=name,
                saving=saving,
                enough=plan.enough if curve is None else lambda done: curve.enough(done) or (plan.enough is not None and plan.enough(done)),
                after_step=None if curve is None else curve.after_step,
                memory=None if curve is None else curve.memory,
            )
        if curve is not None:
            curve.finish(trained.steps)
        self.weights.restore(self.encoder.model)
        self.encoder.eval()
        return trained

    def batch(self, indices: np.ndarray, *, step: int, seed: int) -> Batch:
        """Sample the views of some pairs and pack them."""
        left, right = self.views(indices, step=step, seed=seed)
        ids = [ids for pair in zip(left, right, strict=True) for ids in pair]  # rows: left 0, right 0, left 1, right 1, ...
        mine = ids[distributed.share_of(len(ids))]
        rows = list(batches_by_tokens([len(text) for text in mine], batch_tokens=self.config.micro_batch_tokens))
        parts = [pack([mine[row] for row in part], share_rows=self.encoder.layout == "packed") for part in rows]
        anchors = None if self.anchors is None else self.anchors.encode(ids)
        return Batch(parts, rows, len(ids), self.views.pairs.is_same(indices), anchors)

    def gradient_step(self, batch: Batch, *, step: int, seed: int) -> float:
        """Compute the gradient of one batch, leave it in the model, and return the loss."""
        is_same = None if batch.is_same is None else batch.is_same.to(self.encoder.device)

        def embed(part: PackedTexts) -> Tensor:
            return self.encoder(part, drophead=self.config.drophead)

        def loss(vectors: Tensor) -> Tensor:
            return total_loss(StepVectors(vectors, batch.anchors, is_same), self.config)

        def reseed(part: int) -> None:
            torch.manual_seed(step_seed(seed, step, part * distributed.world_size() + distributed.rank()))

        take = self.weights.take_gradients  # sum parts and processes in float32: bfloat16 sums lose small terms
        value = cached_gradients(batch.parts, rows=batch.rows, embed=embed, loss=loss, reseed=reseed, total=batch.total, after_part=take)
        self.weights.sum_over_processes()
        return value

    def optimizer(self) -> Optimizer:
        """Build the optimizer of the current weights."""
        config, weights = self.config, self.weights
        if config.matrix_learning_rate is None:  # it is set for Muon only
            return adamw(weights, learning_rate=config.learning_rate, weight_decay=config.weight_decay)
        return muon_and_adamw(
            weights,
            matrix_learning_rate=config.matrix_learning_rate,
            embedding_learning_rate=config.learning_rate,
            other_learning_rate=config.learning_rate,
            embeddings=[name for name in weights.names if "embedding" in name],
            weight_decay=config.weight_decay,
        )

    def measure_text_s(self, seed: int) -> float:
        """Time gradient steps on a few pairs, in seconds per pair; weights, gradients and random state are unchanged."""
        indices = np.arange(min(len(self.views.data.left), 2 * FEWEST_STEPS))
        taken_s = []
        with unchanged(self.encoder, masters=self.weights.masters):
            for trial in range(3):
                began_s = time.monotonic()
                self.gradient_step(self.batch(indices, step=trial, seed=seed), step=trial, seed=seed)
                taken_s.append(time.monotonic() - began_s)
        return min(taken_s[1:]) / len(indices)


def trainer_for(
    embedder: Embedder, data: TrainingSet, config: ResolvedMirrorConfig, *, dtype: torch.dtype = torch.float32
) -> MirrorTrainer:
    """Tokenise the pairs and build the trainer of an embedder's encoder.

    Raises:
        UserError: All texts have the same tokens, or spans are to be erased and the tokenizer has no mask token.
    """
    pairs = tokenise_pairs(data, embedder.tokenizer, max_tokens=config.max_tokens)
    return MirrorTrainer(embedder.encoder, Views(data, pairs, embedder.tokenizer, config), config, dtype=dtype)
