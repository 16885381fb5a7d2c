"""Prepare upcoming batches in background threads while a GPU computes."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Made = TypeVar("Made")

_STEPS_AHEAD = 6


class Ahead(Generic[Made]):
    """Prefetching wrapper of a function of the step number.

    In a ``with`` block, all threads end with the block.

    Args:
        make: A pure function of the step number; with several workers it runs in several threads at once.
        workers: Number of threads; 0 computes each value on request.
    """

    def __init__(self, make: Callable[[int], Made], *, workers: int) -> None:
        self._make = make
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="ahead") if workers else None
        self._coming: dict[int, Future[Made]] = {}

    def __call__(self, step: int) -> Made:
        """Wait for the value of ``step``, and schedule those of the following steps."""
        if self._workers is None:
            return self._make(step)
        wanted = range(step, step + 1 + _STEPS_AHEAD)
        for number in [number for number in self._coming if number not in wanted]:
            self._coming.pop(number).cancel()
        for number in wanted:
            if number not in self._coming:
                self._coming[number] = self._workers.submit(self._make, number)
        return self._coming.pop(step).result()

    def __enter__(self) -> "Ahead[Made]":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._workers is not None:
            self._workers.shutdown(cancel_futures=True)
