"""Requests that come while the model computes are computed together next: no timer, so a lone request never waits."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class TooBusyError(Exception):
    """More is waiting than the server takes on."""


@dataclass(frozen=True)
class _Job(Generic[Item, Result]):
    """A request: its items, how many texts these are, and where its results go."""

    items: list[Item]
    texts: int
    future: "Future[list[Result]]"


class Batcher(Generic[Item, Result]):
    """Hands requests to a function of many items, from a thread of its own.

    Args:
        compute: Results of many items, in order.
        turn: Held while computing. Shared by all models of a server: two that compute at once slow each other down.
        most_texts: Texts of several requests computed together; one request may have more.
        most_waiting: Texts that may wait; more are refused.
    """

    def __init__(
        self, compute: Callable[[list[Item]], Sequence[Result]], *, turn: threading.Lock, most_texts: int = 256, most_waiting: int = 8192
    ) -> None:
        self._compute, self._turn = compute, turn
        self._most_texts, self._most_waiting = most_texts, most_waiting
        self._jobs: deque[_Job[Item, Result]] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, items: list[Item], *, texts: int | None = None) -> "Future[list[Result]]":
        """Queue a request.

        Args:
            items: What to compute.
            texts: How many texts these are; default: one an item.

        Raises:
            TooBusyError: Too much is waiting. A request of any size is taken where nothing waits.
        """
        job = _Job[Item, Result](items, len(items) if texts is None else texts, Future())
        with self._changed:
            self._jobs = deque(one for one in self._jobs if not one.future.cancelled())
            waiting = sum(one.texts for one in self._jobs)
            if self._is_closed or (waiting and waiting + job.texts > self._most_waiting):
                raise TooBusyError
            self._jobs.append(job)
            self._changed.notify()
        return job.future

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

    def _taken(self) -> "list[_Job[Item, Result]]":
        jobs, texts = [], 0
        with self._changed:
            while self._jobs and (not jobs or texts + self._jobs[0].texts <= self._most_texts):
                job = self._jobs.popleft()
                if job.future.set_running_or_notify_cancel():  # False: the client went away
                    jobs.append(job)
                    texts += job.texts
        return jobs

    def _run(self, jobs: "list[_Job[Item, Result]]") -> None:
        try:
            found = list(self._compute([item for job in jobs for item in job.items]))
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            for job in jobs:  # one request's error is no other's
                self._run([job])
            return
        start = 0
        for job in jobs:
            job.future.set_result(found[start : start + len(job.items)])
            start += len(job.items)
