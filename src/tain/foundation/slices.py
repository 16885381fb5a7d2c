"""An option that every ``encode`` takes: a largest number of texts per batch."""

from collections.abc import Iterator
from typing import Any

from tain.foundation.errors import UserError


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
