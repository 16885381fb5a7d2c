"""Makes the coming steps' batches on other threads while a GPU computes."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Made = TypeVar("Made")

_WORKERS = 3
_STEPS_AHEAD = 6


class Ahead(Generic[Made]):
    """A function of a step's number whose next values are made in advance.

    Args:
        make: A pure function of the step's number that can run on several threads at once.
    """

    def __init__(self, make: Callable[[int], Made]) -> None:
        self._make = make
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="ahead")
        self._coming: dict[int, Future[Made]] = {}

    def __call__(self, step: int) -> Made:
        """Wait for the value of ``step``, and have those of the steps behind it made meanwhile."""
        wanted = range(step, step + 1 + _STEPS_AHEAD)
        for number in [number for number in self._coming if number not in wanted]:
            self._coming.pop(number).cancel()
        for number in wanted:
            if number not in self._coming:
                self._coming[number] = self._workers.submit(self._make, number)
        return self._coming.pop(step).result()
