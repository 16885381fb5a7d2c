"""The two errors tain raises on purpose."""


class UserError(Exception):
    """Something the user gave cannot work.

    The message is one line: what was given, why it cannot work, what to give. The command line prints it and exits with 2.
    """


class ShapeError(ValueError):
    """A tensor has a shape the computation has no meaning for."""


def refuse_all(problems: list[str]) -> None:
    """Raise one ``UserError`` that names every problem, or return when there is none."""
    if problems:
        raise UserError("; ".join(problems))
