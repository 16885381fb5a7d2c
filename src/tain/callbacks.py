"""Send losses and figures of a run to TensorBoard, Weights & Biases, MLflow or a file.

Every recipe reports to a ``Progress``; ``tracking`` makes one that also passes each report on to callbacks.
"""

import json
import math
import numbers
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import IO, Any, Protocol, SupportsFloat, runtime_checkable

from tain.foundation.files import refuse_existing
from tain.foundation.progress import Progress

_NOT_IN_MLFLOW = re.compile(r"[^\w.\- /]")  # characters that its names of metrics may not have on every system
_FIGURES = ("self_retrieval_mrr", "self_retrieval_recall_at_1", "alignment", "uniformity", "isotropy", "mean_cosine")


@runtime_checkable
class Callback(Protocol):
    """What receives the reports of a run. Write your own class with these three methods for another tracker."""

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Called once, before the run, with its settings: plain numbers and texts."""
        ...

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Called after each step of training, and for the result, with figures by name: ``mirror/loss``, ``after/uniformity``."""
        ...

    def end(self) -> None:
        """Called once, after the run, also after an error."""
        ...


class Tracked(Progress):
    """A progress that passes the figures of every step on to callbacks; made by ``tracking``."""

    def __init__(self, callbacks: Sequence[Callback], shown: Progress) -> None:
        super().__init__(shown.style)
        self._stream = shown._stream
        self.callbacks = tuple(callbacks)

    def log(self, figures: Mapping[str, SupportsFloat], *, step: int) -> None:
        self._log(_numbers(figures), step)

    def report(self, result: Any) -> None:
        """Log the figures of a recipe's result: before and after, and the learning curve, as far as it has them.

        Args:
            result: What ``tain.mirror`` or another recipe returned, or a mapping of numbers.
        """
        step = int(getattr(result, "steps", 0) or 0)
        if isinstance(result, Mapping):
            self._log(_numbers(result), step)
            return
        for side in ("before", "after", "lexical"):
            if is_dataclass(figures := getattr(result, side, None)) and not isinstance(figures, type):
                named = {name: value for name, value in asdict(figures).items() if name in _FIGURES}
                self._log({f"{side}/{name}": value for name, value in _numbers(named).items()}, step)
        runs, best = getattr(result, "runs", None), getattr(result, "best", None)
        curve = getattr(runs[best], "curve", None) if runs and isinstance(best, int) else None
        for at, value in curve.points if curve is not None else ():
            self._log({"curve/self_retrieval_mrr": value}, at)

    def _log(self, figures: Mapping[str, float], step: int) -> None:
        if figures:
            for callback in self.callbacks:
                callback.log(figures, step)


@contextmanager
def tracking(*callbacks: Callback, settings: Mapping[str, Any] | None = None, progress: Progress | bool | None = None) -> Iterator[Tracked]:
    """Begin callbacks, yield a progress for any recipe, and end them.

    Args:
        *callbacks: Where the figures go.
        settings: Settings of the run, for trackers that show them.
        progress: What is shown meanwhile, as in the recipes.

    Examples:
        >>> from tain.callbacks import JsonLines, tracking
        >>> with tracking(JsonLines("losses.jsonl")) as progress:
        ...     result = tain.mirror("tain-mini", texts, "encoder", progress=progress)
        ...     progress.report(result)
    """
    tracked = Tracked(callbacks, Progress.resolve(progress))
    begun = []
    try:
        for callback in callbacks:
            callback.begin(_plain(settings or {}))
            begun.append(callback)
        yield tracked
    finally:
        for callback in begun:
            callback.end()


class JsonLines:
    """Write one JSON object a step into a file; needs no package.

    Args:
        path: The file.
        overwrite: Replace it if it exists.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path, self.overwrite = Path(path), overwrite
        self._file: IO[str] | None = None

    def begin(self, settings: Mapping[str, Any]) -> None:
        refuse_existing(self.path, overwrite=self.overwrite)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("w", encoding="utf-8")
        self._write({"settings": dict(settings)})

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._write({"step": step, **figures})

    def end(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, content: Mapping[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(content, ensure_ascii=False) + "\n")
        self._file.flush()


class TensorBoard:
    """Write scalars for TensorBoard; needs the package tensorboard.

    Args:
        folder: Log folder of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._writer: Any = None

    def begin(self, settings: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard") from error
        self._writer = SummaryWriter(str(self.folder))
        if settings:
            self._writer.add_text("settings", json.dumps(dict(settings), indent=2, ensure_ascii=False))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def end(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases:
    """Log to Weights & Biases; needs the package wandb. ``WANDB_MODE=offline`` keeps everything on this machine.

    Args:
        **options: As ``wandb.init`` takes them: ``project``, ``name``, ``dir``, ``mode``.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self._run: Any = None

    def begin(self, settings: Mapping[str, Any]) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports] - no dependency of tain
        except ImportError as error:
            raise _missing("wandb") from error
        self._run = wandb.init(config=dict(settings), **self.options)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        # their own step only rises, but the curve and the result come after the last step
        self._run.log({**figures, "step": step})

    def end(self) -> None:
        if self._run is not None:
            self._run.finish()


class MlFlow:
    """Log to MLflow; needs the package mlflow or mlflow-skinny. ``MLFLOW_TRACKING_URI`` names the server or folder.

    Args:
        experiment: Name of the experiment; default: MLflow's own.
        run_name: Name of the run.
    """

    def __init__(self, experiment: str | None = None, *, run_name: str | None = None) -> None:
        self.experiment, self.run_name = experiment, run_name
        self._mlflow: Any = None

    def begin(self, settings: Mapping[str, Any]) -> None:
        try:
            import mlflow  # pyright: ignore[reportMissingImports] - no dependency of tain
        except ImportError as error:
            raise _missing("mlflow-skinny") from error
        if self.experiment is not None:
            mlflow.set_experiment(self.experiment)
        mlflow.start_run(run_name=self.run_name)
        self._mlflow = mlflow
        if settings:
            mlflow.log_params(dict(settings))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics({_NOT_IN_MLFLOW.sub("", name): value for name, value in figures.items()}, step=step)

    def end(self) -> None:
        if self._mlflow is not None:
            self._mlflow.end_run()


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    """Finite numbers by name; other values are left out."""
    found = {}
    for name, value in figures.items():
        if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
            found[name] = float(value)
    return found


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if isinstance(value, str | int | float | bool) else str(value) for name, value in settings.items()}


def _missing(package: str) -> ImportError:
    return ImportError(f'tain.callbacks needs {package} for this, which is not installed: run pip install "{package}"')
