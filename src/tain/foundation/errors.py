"""Exceptions raised by tain."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class UserError(Exception):
    """Invalid user input.

    The message is one line: what was given, why it cannot work, what to give. The command line prints it and exits with 2.
    """


class NotFiniteError(UserError):
    """A model gave NaN or infinity: its weights are damaged, or its numbers overflow the data type."""


class BudgetError(UserError):
    """A time budget is too short for this machine.

    Attributes:
        needed_s: The shortest budget in seconds that would do.
    """

    def __init__(self, message: str, *, needed_s: float) -> None:
        super().__init__(message)
        self.needed_s = needed_s


class ShapeError(ValueError):
    """A tensor has a shape for which the computation is undefined."""


def refuse_not_finite(numbers: "np.ndarray", name: str) -> None:
    """Refuse model outputs, vectors or scores, with NaN or infinity.

    Raises:
        NotFiniteError: There are such values; the first row is named.
    """
    import numpy as np

    is_bad = ~np.isfinite(numbers).all(axis=tuple(range(1, numbers.ndim)))
    if is_bad.any():
        raise NotFiniteError(
            f"model {name!r} gave numbers that are not finite for {int(is_bad.sum()):,} of {len(numbers):,} texts (text {int(is_bad.argmax())} first): "
            "compute in float32, or give another copy of the model"
        )


def refuse_all(problems: list[str]) -> None:
    """Raise one ``UserError`` that lists all problems, or return if there are none."""
    if problems:
        raise UserError("; ".join(problems))
