"""Train a masked language model on an objective: the optimizer, the loop and its measurements."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from tain.encoders.masked_lm import MaskedLanguageModel, tied_names
from tain.foundation.progress import Progress
from tain.recipes.pretrain.config import PretrainConfig
from tain.recipes.pretrain.objectives import Objective
from tain.recipes.pretrain.validation import HeldOut
from tain.training import distributed
from tain.training.loop import Saving, Trained, train, warmup_then_linear
from tain.training.optimizer import MasterWeights, Optimizer, adamw, muon_and_adamw


class PretrainTrainer:
    """Trains a masked language model.

    Args:
        network: The model, whose weights are trained in place.
        trained: The module with all trained parameters: the model, or the model with its conditioning.
        weights: Its master weights.
        objective: Computes gradients.
        held: Validation texts.
        config: All settings.

    Attributes:
        measured: Measurements of the validation loss and of the objective's own figures, as (tokens, value); stored in checkpoints.
    """

    def __init__(
        self,
        network: MaskedLanguageModel,
        trained: Any,
        weights: MasterWeights,
        objective: Objective,
        held: HeldOut,
        config: PretrainConfig,
        *,
        device: torch.device,
    ) -> None:
        self.network, self.trained, self.weights, self.objective, self.held = network, trained, weights, objective, held
        self.config, self.device = config, device
        self.steps = max(1, round(config.tokens / objective.step_tokens))
        self.measured: dict[str, list[Any]] = {"validation": [], "held_out": []}

    def train(
        self,
        *,
        progress: Progress,
        saving: Saving,
        on_figures: Callable[[int, int, dict[str, float]], None],
        on_mark: Callable[[Optimizer, int], None],
    ) -> Trained:
        """Train until all steps are done or the minutes are over.

        Args:
            progress: Receives the loss of every step.
            saving: Checkpoints.
            on_figures: Called after a measurement with steps, tokens and figures.
            on_mark: Called at 1, 2, 4, ... million tokens with the optimizer and tokens, if snapshots are asked for.

        Raises:
            UserError: The loss is not finite.
        """
        config, step_tokens, steps = self.config, self.objective.step_tokens, self.steps
        optimizer = self._optimizer()
        self.network.train()
        every = max(1, round(config.validate_every_tokens / step_tokens))
        marks = doubling_steps(step_tokens) if config.snapshots else set()

        def after_step(done: int) -> None:
            tokens = done * step_tokens
            if (done % every == 0 or done == steps) and (figures := self._measure(tokens)):
                on_figures(done, tokens, figures)
            if done in marks and distributed.rank() == 0:
                on_mark(optimizer, tokens)

        began_s = time.monotonic()
        out_of_time: Callable[[int], bool] | None = None
        if config.minutes is not None:
            limit_s = 60 * config.minutes
            out_of_time = lambda done: distributed.from_first(lambda: time.monotonic() - began_s > limit_s)  # noqa: E731
        return train(
            self.objective.gradient,
            optimizer,
            steps=steps,
            progress=progress,
            name="pretrain",
            rate_factor=warmup_then_linear(steps, warmup_steps=config.warmup_steps, decay_share=config.decay_share),
            saving=saving,
            after_step=after_step,
            enough=out_of_time,
            keeps_unfinished=True,
            memory=self.measured,
        )

    def _measure(self, tokens: int) -> dict[str, float]:
        """Measure the validation loss and the objective's own figures on process 0, and keep them."""
        figures = distributed.from_first(self.objective.held_out)
        if figures:
            self.measured["held_out"].append([tokens, figures])
        if self.held.batches:
            loss = distributed.from_first(lambda: round(self.held.loss(self.network, self.device), 4))
            self.measured["validation"].append([tokens, loss])
            figures = {"validation_loss": loss, **figures}
        return figures

    def _optimizer(self) -> Optimizer:
        config, weights = self.config, self.weights
        if config.optimizer == "adamw":
            return adamw(weights, learning_rate=config.learning_rate, weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm)
        return muon_and_adamw(
            weights,
            matrix_learning_rate=config.matrix_learning_rate,
            embedding_learning_rate=config.embedding_learning_rate,
            other_learning_rate=config.learning_rate,
            embeddings=[*tied_names(self.trained), *(name for name in weights.names if "embedding" in name)],
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
        )


def doubling_steps(step_tokens: int) -> set[int]:
    """Steps at which 1, 2, 4, ... million tokens are done."""
    return {math.ceil(2**power * 1e6 / step_tokens) for power in range(16)}
