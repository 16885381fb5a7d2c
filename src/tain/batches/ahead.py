"""Makes the coming steps' batches on other threads while a GPU computes."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Made = TypeVar("Made")

_STEPS_AHEAD = 6


class Ahead(Generic[Made]):
    """A function of a step's number whose next values are made in advance.

    Used in a ``with`` block, no thread is left behind it.

    Args:
        make: A pure function of the step's number; with several workers it runs on as many threads at once.
        workers: Threads; 0 makes each value when it is asked for.
    """

    def __init__(self, make: Callable[[int], Made], *, workers: int) -> None:
        self._make = make
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="ahead") if workers else None
        self._coming: dict[int, Future[Made]] = {}

    def __call__(self, step: int) -> Made:
        """Wait for the value of ``step``, and have those of the steps behind it made meanwhile."""
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
