"""Requests that come while the model computes are computed together next: no timer, so a lone request never waits."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class TooBusyError(Exception):
    """More is waiting than the server takes on."""


class Batcher(Generic[Item, Result]):
    """Hands requests to a function of many items, from a thread of its own.

    Args:
        compute: Results of many items, in order.
        turn: Held while computing. Shared by all models of a server: two that compute at once slow each other down.
        most_items: Items of several requests computed together; one request may have more.
        most_waiting: Items that may wait; more are refused.
    """

    def __init__(
        self, compute: Callable[[list[Item]], Sequence[Result]], *, turn: threading.Lock, most_items: int = 256, most_waiting: int = 8192
    ) -> None:
        self._compute, self._turn = compute, turn
        self._most_items, self._most_waiting = most_items, most_waiting
        self._jobs: deque[tuple[list[Item], Future[list[Result]]]] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, items: list[Item]) -> "Future[list[Result]]":
        """Queue a request.

        Raises:
            TooBusyError: Too much is waiting. A request of any size is taken where nothing waits.
        """
        future: Future[list[Result]] = Future()
        with self._changed:
            waiting = sum(len(job) for job, _ in self._jobs)
            if self._is_closed or (waiting and waiting + len(items) > self._most_waiting):
                raise TooBusyError
            self._jobs.append((items, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Finish what is waiting, then stop."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._is_closed)
                if not self._jobs:
                    return
            with self._turn:  # what comes while another model computes joins the batch
                if jobs := self._taken():
                    self._run(jobs)

    def _taken(self) -> "list[tuple[list[Item], Future[list[Result]]]]":
        jobs, items = [], 0
        with self._changed:
            while self._jobs and (not jobs or items + len(self._jobs[0][0]) <= self._most_items):
                job = self._jobs.popleft()
                if job[1].set_running_or_notify_cancel():  # False: the client went away
                    jobs.append(job)
                    items += len(job[0])
        return jobs

    def _run(self, jobs: "list[tuple[list[Item], Future[list[Result]]]]") -> None:
        try:
            found = list(self._compute([item for items, _ in jobs for item in items]))
        except Exception as error:
            if len(jobs) == 1:
                jobs[0][1].set_exception(error)
                return
            for job in jobs:  # one request's error is no other's
                self._run([job])
            return
        start = 0
        for items, future in jobs:
            future.set_result(found[start : start + len(items)])
            start += len(items)
