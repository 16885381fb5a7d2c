"""Training loop over a step function, with an optimizer and checkpoints."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

import torch
from torch import Tensor

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

StepFunction = Callable[[int], float]


@runtime_checkable
class Stepped(Protocol):
    """What the loop needs of an optimizer."""

    def step(self, *, rate_factor: float = 1.0) -> None: ...

    def state(self) -> dict[str, Tensor]: ...

    def load_state(self, tensors: dict[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class Saving:
    """Checkpoint settings of a run.

    Attributes:
        folder: The checkpoint's folder.
        every_s: Seconds between checkpoints; None writes none during training.
        resume: Continue from the folder's checkpoint.
        identity: Settings that must not change between the runs.
        defaults: Values of settings that are missing in older checkpoints.
    """

    folder: Path
    every_s: float | None
    resume: bool
    identity: dict[str, Any]
    defaults: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """Result of a training run.

    Attributes:
        steps: Total steps, including those before a resume.
        losses: Loss of each step.
        seconds: Time in the loop, including the time before a resume.
    """

    steps: int
    losses: list[float]
    seconds: float


def train(
    step: StepFunction,
    optimizer: Stepped,
    *,
    steps: int,
    progress: Progress,
    name: str = "train",
    rate_factor: Callable[[int], float] = lambda step: 1.0,
    saving: Saving | None = None,
    after_step: Callable[[int], None] | None = None,
    enough: Callable[[int], bool] | None = None,
    memory: dict[str, Any] | None = None,
    keeps_unfinished: bool = False,
) -> Trained:
    """Run the training loop until ``steps`` are done or ``enough`` returns True.

    Args:
        step: Computes the gradient of step n (from 0) into the model's parameters and returns the loss.
            All randomness must derive from n, so that a resumed run repeats an uninterrupted one.
        optimizer: Applies the gradient.
        steps: Number of steps of the whole run.
        progress: Receives the loss of every step.
        name: Name of the run in the progress display.
        rate_factor: Factor on all learning rates at a step.
        saving: Checkpoints; None keeps none.
        after_step: Called after each step with the number of steps done.
        enough: Called after each step with the number of steps done; True ends the run early.
        keeps_unfinished: Also save a checkpoint if ``enough`` ends the run early.
        memory: JSON-compatible state of ``after_step`` and ``rate_factor``; saved in checkpoints and restored in place on resume.

    Raises:
        UserError: The loss is not finite. The optimizer has not applied that step, and with ``saving`` the last good state is on disk.
    """
    losses: list[float] = []
    first, earlier_s = 0, 0.0
    if saving is not None and saving.resume:
        checkpoint, tensors = load_checkpoint(saving.folder, identity=saving.identity, defaults=saving.defaults)
        optimizer.load_state(tensors)
        first, losses = checkpoint.step, list(checkpoint.figures["losses"])
        earlier_s = checkpoint.figures.get("seconds", 0.0)
        if memory is not None:
            memory.update(checkpoint.figures.get("memory", {}))
    began_s = saved_s = time.monotonic()

    def keep(done: int) -> None:
        """Write a checkpoint, unless the weights are not finite; then the previous one is kept."""
        assert saving is not None
        state = optimizer.state()
        if not _is_finite(state):
            return
        figures: dict[str, Any] = {"losses": losses, "seconds": earlier_s + time.monotonic() - began_s}
        if memory is not None:
            figures["memory"] = memory
        save_checkpoint(saving.folder, Checkpoint(done, saving.identity, figures), state)

    def stop(reason: str) -> NoReturn:
        is_kept = saving is not None and saving.every_s is not None and (saving.folder / "state.json").exists()
        kept = f"; the last good state is kept in {str(saving.folder)!r}" if saving is not None and is_kept else ""
        anew = "start over with --overwrite and" if kept else "start again with"
        raise UserError(f"{reason}, so training stopped{kept}: {anew} a lower learning rate, or in float32")

    done = first
    with progress.task(name, steps, already=first) as task:
        while done < steps:
            loss = step(done)
            if not math.isfinite(loss):
                if saving is not None and saving.every_s is not None:
                    keep(done)
                stop(f"the loss became {loss} at step {done + 1}")
            optimizer.step(rate_factor=rate_factor(done))
            losses.append(loss)
            done += 1
            task.advance(loss=loss)
            if after_step is not None:
                after_step(done)
            if saving is not None and saving.every_s is not None and time.monotonic() - saved_s >= saving.every_s and done < steps:
                keep(done)
                saved_s = time.monotonic()
            if enough is not None and enough(done):
                if keeps_unfinished and saving is not None and saving.every_s is not None and done < steps:
                    keep(done)
                break
    if done > first and not _is_finite(optimizer.state()):  # the last gradient may have damaged them, and no further loss would show it
        stop(f"the weights are not finite after step {done}")
    return Trained(done, losses, earlier_s + time.monotonic() - began_s)


def _is_finite(state: Mapping[str, Tensor]) -> bool:
    extremes: dict[torch.device, list[Tensor]] = {}
    for tensor in state.values():
        if tensor.numel():  # one pass, where isfinite takes ten times as long; nan propagates to the extremes
            extremes.setdefault(tensor.device, []).extend(each.float() for each in torch.aminmax(tensor))
    return all(bool(torch.stack(each).isfinite().all()) for each in extremes.values())  # synchronize with a GPU once, not per tensor


def warmup_then_linear(steps: int, *, warmup_steps: int, decay_share: float = 1.0) -> Callable[[int], float]:
    """Build a learning rate factor with linear warm-up over ``warmup_steps``, a constant phase, and linear decay over the last ``decay_share``."""

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / max(1, warmup_steps))
        fall = min(1.0, (steps - step) / max(1.0, decay_share * steps))
        return rise * fall

    return factor
