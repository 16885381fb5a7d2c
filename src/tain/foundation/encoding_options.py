"""Options that every ``encode`` takes: two spellings of normalize, and a largest number of texts per batch."""

from collections.abc import Iterator
from typing import Any

from tain.foundation.errors import UserError


def either_spelling(normalize: bool | None, normalise: bool | None) -> bool | None:
    """Read ``normalize`` in either spelling; None where neither is given.

    Raises:
        UserError: Both are given and differ.
    """
    if normalize is not None and normalise is not None and normalize != normalise:
        raise UserError(f"normalize is {normalize} and normalise is {normalise}, but they are two spellings of one option: give one")
    return normalise if normalize is None else normalize


def in_slices(batch: Any, size: int | None) -> Iterator[Any]:
    """Cut a batch, a list or an array, into slices of at most ``size`` items; None leaves it whole.

    Raises:
        UserError: ``size`` is below 1.
    """
    if size is None:
        yield batch
        return
    if size < 1:
        raise UserError(f"batch_size is {size}: give 1 or more")
    for start in range(0, len(batch), size):
        yield batch[start : start + size]
