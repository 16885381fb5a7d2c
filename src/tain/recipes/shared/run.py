"""Run a recipe: check its output and checkpoints, train every seed, keep the best, and write the folder."""

import glob
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from tain.foundation.errors import UserError
from tain.foundation.files import refuse_existing, refuse_inputs, whole_folder
from tain.foundation.machine import choose_device, keep_freed_memory
from tain.foundation.progress import Progress
from tain.training import distributed
from tain.training.checkpoint import checkpoint_folder, drop_leftovers, dtype_of, refuse_nothing_to_resume, refuse_to_lose
from tain.training.loop import Saving

_FREE = {"resume", "seeds", "checkpoint_every_s", "device", "dtype", "refuse_worse"}  # settings that may change when a run is resumed


@runtime_checkable
class SeededConfig(Protocol):
    """Settings of a recipe that trains several seeds."""

    @property
    def seed(self) -> int: ...
    @property
    def seeds(self) -> int: ...
    @property
    def resume(self) -> bool: ...


@runtime_checkable
class SeedRun(Protocol):
    """Training result of one seed."""

    @property
    def seed(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def losses(self) -> list[float]: ...


Run = TypeVar("Run", bound=SeedRun)


# ---- before a run


@dataclass(frozen=True)
class RunOutput:
    """Output folder of a run and the checkpoints next to it.

    Attributes:
        folder: The output folder; None keeps the result in memory, without checkpoints.
        overwrite: Replace the folder if it exists, and, without ``resume``, the checkpoints.
        resume: Continue from the checkpoints.
        checkpoints: Checkpoint folder of each seed.
        seed: The first seed; None if a run has no seed of its own in the name of its checkpoint.
    """

    folder: Path | None
    overwrite: bool
    resume: bool
    checkpoints: tuple[Path, ...] = ()
    seed: int | None = None

    @classmethod
    def of_seeds(
        cls, output: str | Path | None, config: SeededConfig, *, overwrite: bool, inputs: Iterable[str | Path | None] = ()
    ) -> "RunOutput":
        """Output of a recipe with one checkpoint per seed, checked; arguments as in ``check``.

        Raises:
            UserError: As ``check``.
        """
        folder = None if output is None else Path(output)
        seeds = range(config.seed, config.seed + config.seeds)
        checkpoints = () if folder is None else tuple(checkpoint_folder(folder, seed) for seed in seeds)
        return cls(folder, overwrite, config.resume, checkpoints, config.seed).check(inputs)

    @classmethod
    def single(cls, output: str | Path | None, *, overwrite: bool, resume: bool, inputs: Iterable[str | Path | None] = ()) -> "RunOutput":
        """Output of a recipe with one run, checked; arguments as in ``check``.

        Raises:
            UserError: As ``check``.
        """
        folder = None if output is None else Path(output)
        return cls(folder, overwrite, resume, () if folder is None else (checkpoint_folder(folder),)).check(inputs)

    def check(self, inputs: Iterable[str | Path | None] = ()) -> "RunOutput":
        """Refuse an output that cannot be written, and checkpoints that are missing or would be lost.

        Args:
            inputs: Everything that the run reads; none of it may lie in what the run replaces or removes.

        Raises:
            UserError: The folder exists or holds an input, an earlier run's checkpoint would be lost, or there is nothing to resume.
        """
        if self.folder is None:
            if self.resume:
                raise UserError("resume continues from the checkpoint next to the output folder, but no output is given: give output")
            return self
        inputs = list(inputs)
        refuse_existing(self.folder, overwrite=self.overwrite, is_folder=True, inputs=inputs)
        for checkpoint in self.checkpoints:
            refuse_inputs(checkpoint, inputs)
        if not self.resume:
            refuse_to_lose(self.checkpoints, overwrite=self.overwrite)
        elif not any(each.exists() for each in self.checkpoints):
            if self.seed is not None:
                _refuse_other_seeds(self.folder, self.seed)
            refuse_nothing_to_resume(self.checkpoints[0])
        return self

    def dtype_begun_in(self, *, key: str = "number_type") -> str | None:
        """Data type of the run that is resumed; None if none is."""
        return dtype_of(self.checkpoints, key=key) if self.resume else None

    def saving(self, checkpoint: int, *, identity: dict[str, Any], every_s: float | None, **more: Any) -> Saving | None:
        """Checkpoint settings of one seed; None without an output folder.

        A seed without a checkpoint is trained again, with the same result.

        Args:
            checkpoint: Index in ``checkpoints``.
            identity: Settings that must not change between the runs.
            every_s: Seconds between checkpoints; None writes none during training.
            **more: Further fields of ``Saving``.
        """
        if self.folder is None:
            return None
        folder = self.checkpoints[checkpoint]
        every_s = every_s if distributed.rank() == 0 else None
        return Saving(folder, every_s, self.resume and folder.exists(), identity, **more)

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Folder to write the result into: becomes the output when the block ends; temporary without an output."""
        if self.folder is None:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder)
            return
        with whole_folder(self.folder, overwrite=self.overwrite, was_free=True) as folder:
            yield folder

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints once the result is saved."""
        for left in self.checkpoints:
            shutil.rmtree(left, ignore_errors=True)
            drop_leftovers(left)


def _refuse_other_seeds(output: Path, seed: int) -> None:
    """Name the seeds of an earlier run, if there are any."""
    others = sorted(output.parent.glob(f".{glob.escape(output.name)}.checkpoint-[0-9]*"))
    if others:
        seeds = ", ".join(folder.name.rpartition("-")[2] for folder in others)
        raise UserError(f"there is nothing to resume with seed {seed}, but a run with seed {seeds} can be resumed: give that --seed")


def join_processes(device: str | None, progress: Progress) -> Progress:
    """Join the processes that ``torchrun`` started; only the first one reports."""
    distributed.start_processes(device)
    return Progress.mute() if distributed.rank() > 0 else progress


def tell_negatives(progress: Progress, *, batch: int, what: str) -> None:
    """Report how many negatives a text has, if several processes share its batch.

    Args:
        progress: Receives the note.
        batch: Texts per step, over all processes.
        what: What they are.
    """
    if (processes := distributed.world_size()) > 1:
        progress.note(f"{processes} processes share each batch of {batch:,} {what}: each has the {batch - 1:,} others as negatives")


def run_device(asked: str | None) -> torch.device:
    """Choose the device of a run, and keep freed memory for reuse on a CPU."""
    device = choose_device(asked)
    if device.type == "cpu":
        keep_freed_memory()
    return device


# ---- seeds


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Copy of a module's state."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def train_seeds(
    train_one: Callable[[int], Run],
    module: nn.Module,
    config: SeededConfig,
    *,
    score: Callable[[Run], float],
    describe: Callable[[Run], str],
    progress: Progress,
    on_best: Callable[[], None] = lambda: None,
) -> tuple[list[Run], int]:
    """Train every seed from the same weights, and leave the best run's weights in the module.

    Args:
        train_one: Trains the module with a seed.
        module: The module; each seed starts from the state that it has now.
        config: ``seed`` is the first of ``seeds`` seeds.
        score: Figure of a run; the highest wins, the first one of equal runs.
        describe: A run's figures in words.
        progress: Receives them, if there are several seeds.
        on_best: Called after a run that is the best so far, to keep more than the module's state.

    Returns:
        All runs, and the index of the best.
    """
    is_choice = config.seeds > 1
    untouched = state_of(module) if is_choice else {}
    runs: list[Run] = []
    best, best_state = 0, {}
    for number in range(config.seeds):
        if number:
            module.load_state_dict(untouched)
        runs.append(train_one(config.seed + number))
        if is_choice:
            progress.note(f"seed {runs[-1].seed}: {describe(runs[-1])}")
        if number == 0 or score(runs[-1]) > score(runs[best]):
            best = number
            best_state = state_of(module) if is_choice else {}
            on_best()
    if is_choice:
        module.load_state_dict(best_state)
    return runs, best


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation (0 for a single value) over seeds; empty without values."""
    if not values:
        return {}
    return {"mean": float(np.mean(values)), "standard_deviation": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}


# ---- what is saved


def settings_identity(config: Any, *, free: set[str] = _FREE) -> dict[str, Any]:
    """Settings that must not change when a run is resumed."""
    return {name: value for name, value in asdict(config).items() if name not in free}


def seed_identity(config: Any, seed: int, *, model: str | Path, fingerprint: str, dtype: torch.dtype, **facts: Any) -> dict[str, Any]:
    """Identity of one seed's checkpoint: settings, model, data type, and facts about the data."""
    own = {"model": str(model), "content of the model": fingerprint, "seed": seed, "number_type": str(dtype)}
    return settings_identity(config) | own | facts


def seeds_record(
    config: Any, runs: Sequence[SeedRun], best: int, *, model: str | Path, dtype: torch.dtype, layout: str, counts: dict[str, int]
) -> dict[str, Any]:
    """Fields of ``tain.json`` that all recipes with seeds share."""
    run = runs[best]
    return {
        "base_model": str(model),
        "config": asdict(config),
        "counts": counts,
        "steps": run.steps,
        "seeds": [each.seed for each in runs],
        "best_seed": run.seed,
        "layout": layout,
        "number_type": str(dtype).removeprefix("torch."),
        "training_s": round(run.seconds, 2),
        "final_loss": run.losses[-1] if run.losses else None,
    }
