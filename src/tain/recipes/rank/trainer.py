"""Train a ranker on batches of pairs: the loop of one seed, which the trainer of each type of ranker fills with its step."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from tain.batches.order import ShuffledOrder, step_seed
from tain.foundation.machine import set_dtype
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.models.rankers import Ranker
from tain.recipes.rank.best_weights import BestWeights
from tain.recipes.rank.config import ResolvedRankConfig, plateau_factor
from tain.recipes.rank.negatives import Negatives
from tain.recipes.rank.pairs import TokenisedPairs
from tain.recipes.rank.validation import Validation, in_words
from tain.training import distributed
from tain.training.loop import Saving, Trained, train, warmup_then_linear
from tain.training.optimizer import MasterWeights, Optimizer, two_rates

Kind = TypeVar("Kind", bound=Ranker)


class RankTrainer(ABC, Generic[Kind]):
    """Trains a ranker on batches of pairs.

    Args:
        ranker: The ranker, whose weights are trained in place.
        pairs: The training pairs.
        negatives: Their wrong candidates.
        config: The resolved settings.
        dtype: Data type of the computation; the weights that are stepped stay in float32.
    """

    def __init__(
        self,
        ranker: Kind,
        pairs: TokenisedPairs,
        negatives: Negatives,
        config: ResolvedRankConfig,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.ranker, self.pairs, self.negatives, self.config, self.dtype = ranker, pairs, negatives, config, dtype
        self.data, self.device = negatives.data, ranker.device
        self.weights = MasterWeights(ranker.module, dtype=torch.float32)  # until a seed makes its own

    @classmethod
    @abstractmethod
    def build(cls, embedder: Embedder, config: ResolvedRankConfig) -> Kind:
        """Build the untrained ranker around an encoder."""

    @abstractmethod
    def start_head(self, seed: int) -> None:
        """Initialise the weights that the encoder does not have."""

    @abstractmethod
    def step_loss(self, pairs: np.ndarray, negatives: np.ndarray, teacher: Tensor | None, *, step: int, seed: int) -> float:
        """Compute the gradient of one batch, take it into the master weights, and return the loss.

        Args:
            pairs: Context and correct candidate of each pair (batch, 2).
            negatives: Wrong candidates (batch, negatives).
            teacher: A teacher's scores (batch, 1 + negatives); None without one.
            step: Number of the step.
            seed: Seed of the run.
        """

    def freeze(self, *, folder: Path | None, progress: Progress) -> None:
        """Freeze what the settings name, before a seed is trained.

        Args:
            folder: Folder for a temporary file; None: the system's temporary folder.
            progress: Shows the progress.
        """
        if self.config.freeze == "embeddings":
            for tower in self.ranker.towers:
                for parameter in tower.encoder.model.get_input_embeddings().parameters():
                    parameter.requires_grad_(False)

    @property
    def steps_per_epoch(self) -> int:
        return self._order(seed=0).steps_per_epoch

    @property
    def steps(self) -> int:
        """Steps of a run."""
        return self.steps_per_epoch * self.config.epochs

    def train(
        self,
        seed: int,
        *,
        progress: Progress,
        name: str,
        validation: Validation | None = None,
        best_weights: BestWeights | None = None,
        saving: Saving | None = None,
    ) -> tuple[Trained, list[tuple[int, float]]]:
        """Train one seed after ``start_head``; the ranker has the best validation's weights afterwards, in eval mode and float32.

        Args:
            seed: Seed of order, negatives and dropout.
            progress: Receives the loss of every step, and validations.
            name: Name of the run in the progress display.
            validation: Held-out contexts; None for none.
            best_weights: Keeps the weights of the best validation; default: in memory.
            saving: Checkpoints; None keeps none.

        Returns:
            Steps, losses and seconds; and step and MRR x 100 of each validation.

        Raises:
            UserError: Some processes would have no contexts, the loss is not finite, or kept weights are of another run.
        """
        module, best_weights = self.ranker.module, best_weights or BestWeights()
        # restore exact values of frozen weights and of the head, which stays in float32: a cast through bfloat16 rounds them
        exact = {
            name: parameter.detach().clone()
            for name, parameter in module.named_parameters()
            if name.startswith("head.") or not parameter.requires_grad
        }
        optimizer = self._start(exact)
        distributed.refuse_idle_processes(self.config.batch_contexts, what="contexts")
        order, steps = self._order(seed), self.steps
        memory: dict[str, Any] = {"misses": 0, "best": None, "validations": []}
        trained = train(
            lambda step: self.gradient_step(order.batch(step), step=step, seed=seed),
            optimizer,
            steps=steps,
            progress=progress,
            name=name,
            rate_factor=self.rate_factor(steps, memory),
            saving=saving,
            after_step=None if validation is None else self._validating(validation, memory, best_weights, progress),
            memory=memory,
        )
        if memory["best"] is not None:
            best_weights.load(self.weights, memory["best"])
        self.weights.restore(module)
        _put(module, {name: tensor for name, tensor in exact.items() if name not in self.weights.names})
        module.eval()
        return trained, [(int(step), float(figure)) for step, figure in memory["validations"]]

    def gradient_step(self, indices: np.ndarray, *, step: int, seed: int) -> float:
        """Compute the gradient of one batch of pairs, leave it in the model, and return the loss."""
        negatives, teacher = self.negatives.draw(indices, step=step, seed=seed)
        return self.step_loss(self.data.pairs[indices], negatives, teacher, step=step, seed=seed)

    def rate_factor(self, steps: int, memory: dict[str, Any]) -> Callable[[int], float]:
        """Factor on the learning rate at each step; ``memory`` counts the validations without a gain."""
        warmup = self.config.warmup_steps
        if self.config.schedule == "linear":
            return warmup_then_linear(steps, warmup_steps=warmup)
        return lambda step: min(1.0, (step + 1) / max(1, warmup)) * plateau_factor(memory["misses"])

    def _start(self, exact: dict[str, Tensor]) -> Optimizer:
        """Put the module into train mode and the data type of the computation, and build its optimizer."""
        config, module = self.config, self.ranker.module
        self.weights = MasterWeights(module, dtype=self.dtype)
        set_dtype(module["head"], torch.float32)  # type: ignore[index]
        _put(module, {name: tensor for name, tensor in exact.items() if name.startswith("head.")})
        module.train()
        return two_rates(
            self.weights,
            method=config.optimizer,
            learning_rate=config.learning_rate,
            head_learning_rate=config.head_learning_rate,
            head_prefix="head.",
            weight_decay=config.weight_decay,
        )

    def _order(self, seed: int) -> ShuffledOrder:
        return ShuffledOrder(len(self.data.pairs), batch_texts=self.config.batch_contexts, seed=seed)

    def _validating(
        self, validation: Validation, memory: dict[str, Any], best_weights: BestWeights, progress: Progress
    ) -> Callable[[int], None]:
        every, steps = max(1, self.steps_per_epoch // self.config.validations_per_epoch), self.steps

        def after_step(done: int) -> None:
            if not (done % every == 0 or done == steps):
                return
            figures = validation.measure(self.ranker)
            memory["validations"].append([done, figures["MRR"]])
            if memory["best"] is None or figures["MRR"] > memory["best"]:
                memory["best"] = figures["MRR"]
                best_weights.keep(self.weights, memory["best"])
            else:
                memory["misses"] += 1
            progress.note(f"after step {done}: {in_words(figures)}")

        return after_step

    def _reseed(self, part: int, *, step: int, seed: int) -> None:
        """Seed the dropout of a micro-batch."""
        torch.manual_seed(step_seed(seed, step, part * distributed.world_size() + distributed.rank()))


@torch.no_grad()
def _put(module: torch.nn.Module, values: dict[str, Tensor]) -> None:
    parameters = dict(module.named_parameters())
    for name, tensor in values.items():
        parameters[name].copy_(tensor)
