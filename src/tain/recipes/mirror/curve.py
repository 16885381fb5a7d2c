"""Learning curve of mirroring: self-retrieval on held-out texts during training, the plateau, and the best weights."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tain.evaluation.label_free import Level, dropped_copies, self_retrieval
from tain.foundation.errors import NotFiniteError, UserError
from tain.models.embedder import Embedder
from tain.recipes.mirror.config import ResolvedMirrorConfig
from tain.training import distributed
from tain.training.loop import Stepped
from tain.training.optimizer import MasterWeights

_MAX_TEXTS = 500
_POINTS = 20  # of a whole run
_FEWEST_STEPS = 10
_COST = 0.1  # of the training time at most: a training step encodes both views and goes back, about six texts a text
_TEXTS_A_TEXT = 6
_RISE = 0.002  # of MRR: smaller rises are noise on a few hundred texts
_BEST = "best/"  # prefix of the best weights in a checkpoint


@dataclass(frozen=True)
class CurveRecord:
    """A run's learning curve.

    Attributes:
        every: Steps between measurements.
        points: Steps done and self-retrieval MRR of the vectors as trained, before any whitening; the first is the untouched model.
        kept_step: Step whose weights were kept.
        stopped_early: Whether a plateau ended the run.
    """

    every: int
    points: list[tuple[int, float]]
    kept_step: int
    stopped_early: bool

    def to_dict(self) -> dict[str, Any]:
        points = [[step, round(value, 5)] for step, value in self.points]
        return {"figure": "self-retrieval MRR", "every": self.every, "points": points} | {
            "kept_step": self.kept_step,
            "stopped_early": self.stopped_early,
        }


def steps_between(steps: int, *, batch_texts: int, held_texts: int) -> int:
    """Choose the steps between two measurements: a twentieth of the run, at least 10, and at most a tenth of the training time.

    Args:
        steps: Steps of the run.
        batch_texts: Texts of a step.
        held_texts: Held-out texts.
    """
    affordable = math.ceil(held_texts / (_COST * _TEXTS_A_TEXT * batch_texts))
    return max(_FEWEST_STEPS, steps // _POINTS, affordable)


class Curve:
    """Measures during training, finds the plateau, and keeps the best weights if asked to.

    Args:
        texts: Held-out texts; those too short for copies are left out.
        level: Kind of text; see ``label_free.dropped_copies``.
        encode: Encodes texts with the current weights, in eval mode.
        every: Steps between measurements.
        weights: The weights in training.
        keeps_best: Keep a copy of the weights with the highest figure.
        patience: End the run after this many measurements without a rise; 0 never ends it.

    Attributes:
        record: The whole curve, after ``finish``.
    """

    def __init__(
        self,
        texts: Sequence[str],
        *,
        level: Level,
        encode: Callable[[list[str]], np.ndarray],
        every: int,
        weights: MasterWeights,
        keeps_best: bool = False,
        patience: int = 0,
    ) -> None:
        cut = [pair for text in texts if (pair := dropped_copies(text, level=level)) is not None]
        self.first, self.second = ([pair[side] for pair in cut] for side in (0, 1))
        self.every, self.weights, self.keeps_best, self.patience = every, weights, keeps_best, patience
        self._encode = encode
        self.memory: dict[str, Any] = {"points": [], "best": None}  # saved in checkpoints
        self.best: dict[str, Tensor] = {}
        self._stopped = False
        self.record: CurveRecord | None = None

    @property
    def can_measure(self) -> bool:
        """Whether there are two texts to compare."""
        return len(self.first) > 1

    def begin(self) -> None:
        """Measure the untouched model; before a resume, which restores the measurements."""
        self._add(0)

    def after_step(self, done: int) -> None:
        if done % self.every == 0:
            self._add(done)

    def enough(self, done: int) -> bool:
        """Whether the last ``patience`` measurements have not risen above the earlier ones."""
        values = [value for step, value in self.memory["points"] if step > 0]
        if self.patience and done % self.every == 0 and len(values) > self.patience:
            self._stopped = max(values[-self.patience :]) <= max(values[: -self.patience]) + _RISE
        return self._stopped

    def finish(self, done: int) -> CurveRecord:
        """Measure the last step, and load the best weights if they are kept."""
        if self.memory["points"][-1][0] != done:
            self._add(done)
        kept = done
        if self.keeps_best and self.memory["best"] not in (None, done):
            kept = self.memory["best"]
            self.weights.load_state(self.best)
        points = [(int(step), float(value)) for step, value in self.memory["points"]]
        self.record = CurveRecord(self.every, points, kept, self._stopped)
        return self.record

    def _add(self, done: int) -> None:
        value = distributed.from_first(self._measure)
        earlier = [each for step, each in self.memory["points"] if step > 0]
        self.memory["points"].append([done, value])
        if self.keeps_best and done > 0 and value > max(earlier, default=-1.0):
            self.memory["best"] = done
            self.best = {name: tensor.clone() for name, tensor in self.weights.state().items()}

    def _measure(self) -> float:
        try:
            vectors = self._encode([*self.first, *self.second])
        except NotFiniteError:  # the loop stops at the next step, with the last good state; such vectors find nothing
            return 0.0
        middle = len(self.first)
        return float(self_retrieval(vectors[:middle], vectors[middle:]).reciprocal_rank().mean())


def curve_for(
    embedder: Embedder, held_out: Sequence[str], config: ResolvedMirrorConfig, *, steps: int, batch_texts: int, weights: MasterWeights
) -> Curve | None:
    """Build the learning curve of a run; None if it is off, or there is nothing to measure on.

    Args:
        embedder: Holds the encoder in training.
        held_out: Held-out texts; the first 500 are measured.
        config: The resolved settings.
        steps: Steps of the run.
        batch_texts: Texts of a step.
        weights: The weights in training.

    Raises:
        UserError: Stopping early or keeping the best is asked for, and there is nothing to measure on.
    """
    if config.curve_steps == 0:
        return None
    held = held_out[:_MAX_TEXTS]
    curve = Curve(
        held,
        level=config.level,
        encode=lambda texts: embedder.encode(texts, normalize=True),
        every=config.curve_steps or steps_between(steps, batch_texts=batch_texts, held_texts=len(held)),
        weights=weights,
        keeps_best=config.keep_best,
        patience=config.patience if config.stop_early else 0,
    )
    if not curve.can_measure and (config.stop_early or config.keep_best):
        raise UserError(
            "stop_early and keep_best need two held-out texts of four words (a single word: four letters) or more: give more or longer texts, or leave them out"
        )
    return curve if curve.can_measure else None


class WithBest:
    """An optimizer whose state includes the best weights of a curve, so that a resumed run still has them."""

    def __init__(self, optimizer: Stepped, curve: Curve) -> None:
        self._optimizer, self._curve = optimizer, curve

    def step(self, *, rate_factor: float = 1.0) -> None:
        self._optimizer.step(rate_factor=rate_factor)

    def state(self) -> dict[str, Tensor]:
        return self._optimizer.state() | {f"{_BEST}{name}": tensor for name, tensor in self._curve.best.items()}

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        best = {name: tensor for name, tensor in tensors.items() if name.startswith(_BEST)}
        self._optimizer.load_state({name: tensor for name, tensor in tensors.items() if name not in best})
        device = self._curve.weights.masters[0].device
        self._curve.best = {name.removeprefix(_BEST): tensor.to(device) for name, tensor in best.items()}
