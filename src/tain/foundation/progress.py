"""Progress reporting on stderr: as a bar, plain lines, or JSON events."""

import json
import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from io import TextIOBase
from typing import Any, Literal, SupportsFloat

Style = Literal["bar", "notebook", "lines", "json", "json-quiet", "quiet", "silent", "mute"]

_LINE_EVERY_S = 10.0  # interval of lines in plain logs
_DRAW_EVERY_S = 0.1


class Progress:
    """Receiver of progress reports. Results are not reported here; they go to stdout."""

    def __init__(self, style: Style, stream: TextIOBase | None = None) -> None:
        self.style: Style = style
        self._stream = stream if stream is not None else sys.stderr
        self._drawn = 0  # width of the bar on the current terminal line

    @classmethod
    def silent(cls) -> "Progress":
        """Report nothing; warnings go to ``warnings``. The default of the Python functions."""
        return cls("silent")

    @classmethod
    def mute(cls) -> "Progress":
        """Report nothing, not even warnings; for worker processes."""
        return cls("mute")

    @classmethod
    def for_terminal(cls, *, json: bool = False, quiet: bool = False) -> "Progress":
        """Choose by flags, then by the kind of stderr: a bar on a terminal, plain lines in a log."""
        if json:
            return cls("json-quiet" if quiet else "json")
        if quiet:
            return cls("quiet")
        return cls("bar" if sys.stderr.isatty() else "lines")

    @classmethod
    def resolve(cls, given: "Progress | bool | None") -> "Progress":
        """Convert a Python function's ``progress`` argument to a ``Progress``.

        Args:
            given: A ``Progress`` is returned unchanged. ``True`` shows a bar on a terminal or in a notebook, and lines elsewhere. ``False``
                shows nothing; warnings go to ``warnings``. ``None`` is ``True`` on a terminal or in a notebook, else ``False``.
        """
        if isinstance(given, Progress):
            return given
        is_interactive = _in_notebook() or sys.stderr.isatty()
        if given is False or (given is None and not is_interactive):
            return cls.silent()
        if _in_notebook() and find_spec("tqdm") is not None:
            return cls("notebook")
        return cls("bar" if is_interactive else "lines")

    def note(self, message: str) -> None:
        """Report information; omitted if quiet."""
        if self.style == "json":
            self._event("note", message=message)
        elif self.style in ("bar", "notebook", "lines"):
            self._line(message)

    def warn(self, message: str) -> None:
        """Report something the user should act on; also if quiet."""
        if self.style == "silent":
            import warnings

            warnings.warn(message, stacklevel=2)
        elif self.style in ("json", "json-quiet"):
            self._event("warning", message=message)
        elif self.style != "mute":
            self._line(f"warning: {message}")

    @contextmanager
    def task(self, name: str, total: int | None, *, already: int = 0) -> Iterator["Task"]:
        """Count ``total`` units of work (``None``: unknown) under ``name``; ``already`` were done by an earlier run."""
        task = Task(self, name, total, already)
        try:
            yield task
        finally:
            task.finish()

    def part(self, name: str, *, of: "Task") -> "Progress":
        """Make the progress of one part of a task: its counts are shown behind the task's own, and its warnings begin with ``name``."""
        return _Part(name, of)

    def log(self, figures: Mapping[str, SupportsFloat], *, step: int) -> None:
        """Pass figures on to trackers; others, as this one, have no use for them. See ``tain.callbacks``.

        Args:
            figures: By name, such as ``mirror/loss``.
            step: Number of the step, or of the part, that they belong to.
        """

    def close(self) -> None:
        """Clear the terminal line; reporting may continue afterwards."""
        self._wipe()

    def _line(self, text: str) -> None:
        self._wipe()
        print(text, file=self._stream, flush=True)

    def _event(self, kind: str, /, **fields: object) -> None:
        print(json.dumps({"event": kind, **fields}, ensure_ascii=False), file=self._stream, flush=True)

    def _draw(self, text: str) -> None:
        # a wrapped bar cannot be redrawn, since the carriage return goes back one terminal line only
        text = text[: shutil.get_terminal_size().columns - 1]
        print("\r" + text.ljust(self._drawn), end="", file=self._stream, flush=True)
        self._drawn = len(text)

    def _wipe(self) -> None:
        if self._drawn:
            print("\r" + " " * self._drawn + "\r", end="", file=self._stream, flush=True)
            self._drawn = 0


def _in_notebook() -> bool:
    """Whether this is a Jupyter kernel, where a carriage return redraws the line although stderr is not a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config


class Task:
    """A counted piece of work, created by ``Progress.task``."""

    def __init__(self, progress: Progress, name: str, total: int | None, already: int = 0) -> None:
        self._progress = self._logger = progress
        self._name = self._logged_as = name
        self._total = total
        self._done = self._already = already
        self._figures: dict[str, SupportsFloat] = {}
        self._detail = ""
        self._bar: Any = None
        if progress.style == "notebook":
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, initial=already, desc=name)
        self._began_s = self._shown_s = time.monotonic()

    def advance(self, amount: int = 1, **figures: SupportsFloat) -> None:
        """Report that ``amount`` more units are done; ``figures`` (such as ``loss``) are shown beside the count."""
        self._done += amount
        self._figures.update(figures)
        if figures:
            self._logger.log({f"{self._logged_as}/{name}": value for name, value in figures.items()}, step=self._done)
        self._show_at_times()

    def describe(self, detail: str) -> None:
        """Show ``detail`` behind the count: what is being done at present."""
        self._detail = detail
        if self._progress.style != "json":
            self._show_at_times()

    def _show_at_times(self) -> None:
        if self._bar is not None:
            self._bar.update(self._done - self._bar.n)
            shown = {name: f"{float(value):.4g}" for name, value in self._figures.items()}
            self._bar.set_postfix(shown | ({"part": self._detail} if self._detail else {}), refresh=False)
            return
        pause = {"bar": _DRAW_EVERY_S, "lines": _LINE_EVERY_S, "json": 1.0}.get(self._progress.style)
        now = time.monotonic()
        if pause is not None and now - self._shown_s >= pause:
            self._shown_s = now
            self._show(last=False)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._progress._wipe()
        if self._progress.style in ("bar", "lines", "json") and self._done:
            self._show(last=True)

    def _show(self, *, last: bool) -> None:
        elapsed_s = time.monotonic() - self._began_s
        if self._progress.style == "json":
            counted = {"task": self._name, "done": self._done, "total": self._total, "elapsed_s": round(elapsed_s, 2)}
            self._progress._event("progress", **{**self._numbers(), **counted})
            return
        count = f"{self._done:,}" if self._total is None else f"{self._done:,}/{self._total:,}"
        text = f"{self._name}: {count} in {elapsed_s:.1f} s"
        done_here = self._done - self._already
        if not last and self._total and done_here and not self._detail:  # parts of a task differ in length
            text += f", {elapsed_s / done_here * (self._total - self._done):.0f} s left"
        text += "".join(f", {name} {float(value):.4g}" for name, value in self._figures.items())
        if self._detail and not last:
            text += f" ({self._detail})"
        if last or self._progress.style == "lines":
            self._progress._line(text)
        else:
            self._progress._draw(text)

    def _numbers(self) -> dict[str, float | None]:
        """Figures as JSON values: JSON has no infinity or nan, and no NumPy types."""
        plain = {name: float(value) for name, value in self._figures.items()}
        return {name: value if math.isfinite(value) else None for name, value in plain.items()}


class _Part(Progress):
    """Progress of one part of a task, created by ``Progress.part``."""

    def __init__(self, name: str, whole: Task) -> None:
        super().__init__(whole._progress.style)
        self._stream = whole._progress._stream
        self._name, self._whole = name, whole
        whole.describe(name)

    def note(self, message: str) -> None:
        if self.style == "json":
            super().note(f"{self._name}: {message}")

    def warn(self, message: str) -> None:
        self._whole._progress.warn(f"{self._name}: {message}")

    def log(self, figures: Mapping[str, SupportsFloat], *, step: int) -> None:
        self._whole._progress.log({f"{self._name}/{name}": value for name, value in figures.items()}, step=step)

    @contextmanager
    def task(self, name: str, total: int | None, *, already: int = 0) -> Iterator[Task]:
        if self.style == "json":
            with super().task(f"{self._name}: {name}", total, already=already) as task:
                task._logged_as = name
                yield task
        else:
            yield _PartTask(self, self._whole, name, total, already)


class _PartTask(Task):
    """A counted piece of work that is shown as the detail of another."""

    def __init__(self, part: _Part, whole: Task, name: str, total: int | None, already: int) -> None:
        super().__init__(Progress.mute(), f"{part._name}: {name}", total, already)
        self._logger, self._whole, self._logged_as = part, whole, name

    def advance(self, amount: int = 1, **figures: SupportsFloat) -> None:
        super().advance(amount, **figures)
        self._whole.describe(f"{self._name} {self._done:,}" if self._total is None else f"{self._name} {self._done:,}/{self._total:,}")
