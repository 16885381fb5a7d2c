"""Choose batch size and number of steps: the preset's, or what fits a wall-clock budget on this machine."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from tain.foundation.errors import BudgetError, UserError
from tain.foundation.progress import Progress
from tain.recipes.mirror.config import ResolvedMirrorConfig
from tain.recipes.mirror.trainer import FEWEST_STEPS, MirrorTrainer, Plan
from tain.training import distributed


@dataclass(frozen=True)
class Budget:
    """A wall-clock budget.

    Attributes:
        limit_s: Its length in seconds.
        began_s: When it began, by ``clock``.
        clock: Returns the time in seconds.
    """

    limit_s: float
    began_s: float
    clock: Callable[[], float] = time.monotonic

    def elapsed_s(self) -> float:
        """Seconds since it began."""
        return self.clock() - self.began_s

    def refuse_over(self) -> None:
        """Refuse to begin when the budget is already used up.

        Raises:
            UserError: It is used up.
        """
        if (over_s := distributed.from_first(self.elapsed_s)) > self.limit_s:
            raise UserError(f"budget is {self.limit_s:g} s, and {over_s:.0f} s had passed when the model was loaded: give more")


def plan_of(config: ResolvedMirrorConfig, texts: int) -> Plan:
    """The settings' own batch size, and the steps of all epochs."""
    return Plan(config.batch_texts, (texts // config.batch_texts) * config.epochs)


def plan_for_budget(trainer: MirrorTrainer, budget: Budget, *, reserve_s: float, seed: int, progress: Progress) -> Plan:
    """Choose batch size and steps that fit a budget, by timing steps of a trainer after ``start``.

    Args:
        trainer: The trainer.
        budget: The budget.
        reserve_s: Seconds to reserve for the work after training.
        seed: Seed of the run.
        progress: Receives the estimate.

    Raises:
        BudgetError: Even a short run does not fit.
    """
    config, texts = trainer.config, len(trainer.views.data.left)
    text_s, update_s = trainer.measure_text_s(seed), trainer.measure_update_s()
    text_s, update_s, room_s = distributed.from_first(lambda: [text_s, update_s, budget.limit_s - budget.elapsed_s() - reserve_s])
    shortest_s = FEWEST_STEPS * (2 * text_s + update_s)
    if room_s < shortest_s:
        needed_s = budget.limit_s - room_s + shortest_s
        raise BudgetError(
            f"budget is {budget.limit_s:g} s, but this model needs {needed_s:.0f} s on this machine: give more time, or a smaller model",
            needed_s=needed_s,
        )
    texts_in_room = math.floor((room_s - FEWEST_STEPS * update_s) / text_s)
    batch_texts = min(config.batch_texts, max(2, min(texts_in_room, texts * config.epochs) // FEWEST_STEPS), texts)
    steps = texts // batch_texts * config.epochs  # an upper bound: the clock ends the run, the measurement only chooses the batch size
    expected = min(steps, math.floor(room_s / (batch_texts * text_s + update_s)))
    progress.note(
        f"budget {budget.limit_s:g} s: one text takes {1000 * text_s:.1f} ms on this machine and an update {1000 * update_s:.0f} ms,"
        f" so about {expected} steps of {batch_texts} texts fit"
    )
    return Plan(batch_texts, steps, _until(budget, deadline_s=budget.limit_s - reserve_s))


def saving_estimate_s(encoder: torch.nn.Module) -> float:
    """Seconds that saving an encoder takes."""
    bytes_written = 4 * sum(parameter.numel() for parameter in encoder.parameters())
    return 0.5 + bytes_written / 300e6


def _until(budget: Budget, *, deadline_s: float) -> Callable[[int], bool]:
    """Whether the next step would end after the deadline, as the first process measures."""
    step_s: list[float] = []
    last = [budget.elapsed_s()]

    def is_late() -> bool:
        now = budget.elapsed_s()
        step_s.append(now - last[0])
        last[0] = now
        return now + float(np.median(step_s[-5:])) > deadline_s

    return lambda done: distributed.from_first(is_late)
