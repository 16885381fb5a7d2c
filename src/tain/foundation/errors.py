"""The errors that tain raises on purpose."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class UserError(Exception):
    """Something the user gave cannot work.

    The message is one line: what was given, why it cannot work, what to give. The command line prints it and exits with 2.
    """


class NotFiniteError(UserError):
    """A model gave NaN or infinity: its weights are damaged, or its numbers too large for the number type."""


class ShapeError(ValueError):
    """A tensor has a shape the computation has no meaning for."""


def refuse_not_finite(numbers: "np.ndarray", name: str) -> None:
    """Refuse what a model gave, vectors or scores, when it holds NaN or infinity.

    Raises:
        NotFiniteError: It does; the first such row is named.
    """
    import numpy as np

    is_bad = ~np.isfinite(numbers).all(axis=tuple(range(1, numbers.ndim)))
    if is_bad.any():
        raise NotFiniteError(
            f"model {name!r} gave numbers that are not finite for {int(is_bad.sum()):,} of {len(numbers):,} texts (text {int(is_bad.argmax())} first): "
            "compute in float32, or give another copy of the model"
        )


def refuse_all(problems: list[str]) -> None:
    """Raise one ``UserError`` that names every problem, or return when there is none."""
    if problems:
        raise UserError("; ".join(problems))
