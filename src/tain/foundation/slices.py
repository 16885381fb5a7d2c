"""Split batches by the ``batch_size`` option of ``encode``."""

from collections.abc import Iterator
from typing import Any

from tain.foundation.errors import UserError


def in_slices(batch: Any, size: int | None) -> Iterator[Any]:
    """Split a batch, a list or an array, into slices of at most ``size`` items; None keeps it whole.

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
