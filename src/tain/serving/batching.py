"""Scheduler that computes requests of all models in one thread, in small batches, with constant-time admission."""

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from tain.foundation.errors import NotFiniteError, UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_WAIT_S = 5.0
_BATCH_S = 0.25  # target duration of a batch: other requests wait this long for a large one
_FIRST_BATCH_TOKENS = 2048  # until the speed is known
_BATCH_TOKENS = (256, 65_536)  # minimum and maximum
_OVERHEAD_TOKENS = 32  # fixed cost of a batch, in tokens
_MEMORY = 0.8  # weight of earlier batches in the moving average of the speed
_PROBE_S = 5.0  # seconds between probes of a failing model

_log = logging.getLogger("tain.serving")


class TooBusyError(Exception):
    """The queued work takes longer than a new request may wait.

    Attributes:
        retry_after_s: Whole seconds until the next attempt, 1 or more.
    """

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"about {wait_s:.1f} s of work are queued")
        self.retry_after_s = max(1, math.ceil(wait_s))


class StoppingError(Exception):
    """The scheduler stops, or its thread has ended: this request is not computed."""


class ComputeError(RuntimeError):
    """The model failed for a reason other than its input."""


class Computation(Future[list[Result]], Generic[Result]):
    """Future of a request's results.

    Attributes:
        waited_s: Seconds from ``submit`` until its first batch began; 0 before that.
    """

    waited_s = 0.0

    def __init__(self) -> None:
        super().__init__()
        self._submitted_s = time.perf_counter()

    def begin(self) -> None:
        """Note that its first batch begins."""
        self.waited_s = time.perf_counter() - self._submitted_s


@dataclass(eq=False)
class _Job(Generic[Item, Result]):
    """A request in the queue.

    Attributes:
        items: What to compute.
        tokens: Approximate tokens of each item.
        future: Future of the results.
        next_item: Items before this one have been computed, or are in the current batch.
        waiting_tokens: Tokens of the remaining items.
        round_tokens: How many of these are computed before it is the next request's turn.
        results: Of the items computed so far, in order.
    """

    items: Sequence[Item]
    tokens: Sequence[int]
    future: Computation[Result]
    next_item: int = 0
    waiting_tokens: int = field(init=False)
    round_tokens: int = 0
    results: list[Result] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.waiting_tokens = sum(self.tokens)


@dataclass(frozen=True)
class _Part(Generic[Item, Result]):
    """Consecutive items of one request, computed in one batch."""

    job: _Job[Item, Result]
    start: int
    end: int
    tokens: int

    @property
    def items(self) -> Sequence[Item]:
        return self.job.items[self.start : self.end]


class _Speed:
    """Seconds per token, from the last batches."""

    def __init__(self) -> None:
        self._seconds = self._tokens = 0.0
        self._has_begun = False

    def learn(self, tokens: int, seconds: float) -> None:
        if not self._has_begun:  # the first batch includes one-time setup
            self._has_begun = True
            return
        self._seconds = _MEMORY * self._seconds + seconds
        self._tokens = _MEMORY * self._tokens + tokens + _OVERHEAD_TOKENS

    @property
    def seconds_per_token(self) -> float:
        """0 until a second batch has been timed."""
        return self._seconds / self._tokens if self._tokens else 0.0

    @property
    def batch_tokens(self) -> int:
        if not self._tokens:
            return _FIRST_BATCH_TOKENS
        least, most = _BATCH_TOKENS
        return int(min(max(_BATCH_S / max(self.seconds_per_token, 1e-12), least), most))


class Queue(Generic[Item, Result]):
    """Queue of requests for one function of one model; made by ``Scheduler.queue``."""

    def __init__(self, scheduler: "Scheduler", name: str, compute: Callable[[list[Item]], Sequence[Result]], probe: list[Item]) -> None:
        self.name = name
        self._scheduler, self._compute, self._probe = scheduler, compute, probe
        self._jobs: OrderedDict[int, _Job[Item, Result]] = OrderedDict()
        self._speed = _Speed()
        self._is_failing = False
        self._waiting_tokens = self._round_tokens = 0  # sums over the jobs, kept up to date with each change

    def submit(self, items: Sequence[Item], *, tokens: Sequence[int] | None = None) -> Computation[Result]:
        """Queue a request, in constant time.

        Args:
            items: What to compute, 1 or more.
            tokens: Approximate tokens of each item; default: one.

        Returns:
            Future of the results, in order. Cancelling it removes the request from the queue; batches not yet started are skipped.

        Raises:
            TooBusyError: It would wait too long. If the queue is empty, a request of any size is accepted.
            StoppingError: The scheduler has been stopped, or its thread has ended.
        """
        return self._scheduler._submit(self, _Job(items, tokens or [1] * len(items), Computation()))

    # ---- called by the scheduler, which holds its lock

    @property
    def wait_s(self) -> float:
        """Seconds until all queued work here is computed."""
        return self._waiting_tokens * self._speed.seconds_per_token

    @property
    def round_s(self) -> float:
        """Seconds until each queued request here has had one batch."""
        return self._round_tokens * self._speed.seconds_per_token

    def _add(self, job: _Job[Item, Result], *, round_tokens: int | None = None) -> None:
        """Append a job, or the rest of it; with ``round_tokens``, of which so many have their turn now, put it in front."""
        job.round_tokens = min(job.waiting_tokens, self._speed.batch_tokens if round_tokens is None else round_tokens)
        self._waiting_tokens += job.waiting_tokens
        self._round_tokens += job.round_tokens
        self._jobs[id(job)] = job
        if round_tokens is not None:
            self._jobs.move_to_end(id(job), last=False)

    def _remove(self, job: _Job[Item, Result]) -> None:
        if self._jobs.pop(id(job), None) is not None:
            self._waiting_tokens -= job.waiting_tokens
            self._round_tokens -= job.round_tokens

    def _take(self) -> list[_Part[Item, Result]]:
        """Take a batch from the front.

        A request's turn is as long as a batch. If only a part of it fits, the next batch continues with it. What is left of a request after
        its turn goes to the end, so that others get theirs.
        """
        parts: list[_Part[Item, Result]] = []
        room = self._speed.batch_tokens
        while self._jobs and room > 0:
            job = next(iter(self._jobs.values()))
            start, tokens = job.next_item, 0
            end, most = start, room if len(self._jobs) == 1 else min(room, job.round_tokens)
            while end < len(job.items) and (end == start or tokens + job.tokens[end] <= most):
                tokens += job.tokens[end]
                end += 1
            if parts and (tokens > room or any(part.job is job for part in parts)):
                break
            turn_tokens = job.round_tokens - tokens
            self._remove(job)
            if not start:
                job.future.begin()
            job.next_item = end
            job.waiting_tokens -= tokens
            parts.append(_Part(job, start, end, tokens))
            room -= tokens
            if end < len(job.items):
                is_turn_over = turn_tokens < job.tokens[end]
                self._add(job, round_tokens=None if is_turn_over else turn_tokens)
                if not is_turn_over:
                    break
        return parts

    def _run(self, parts: list[_Part[Item, Result]]) -> None:
        """Compute a batch and set its results; called without the scheduler's lock."""
        began_s = time.perf_counter()
        try:
            found = list(self._compute([item for part in parts for item in part.items]))
        except (KeyboardInterrupt, SystemExit):
            raise  # the thread ends and logs it
        except BaseException as error:
            # BaseException: a panic in a tokenizer's native code (pyo3_runtime.PanicException) is not an Exception
            if len(parts) == 1:
                self._fail(parts[0], error)
                return
            for part in parts:  # retry each request alone: an error of one does not affect the others
                self._run([part])
            return
        self._speed.learn(sum(part.tokens for part in parts), time.perf_counter() - began_s)
        self._is_failing = False
        start = 0
        for part in parts:
            count = part.end - part.start
            part.job.results += found[start : start + count]
            start += count
            if part.end == len(part.job.items):
                _settle(part.job.future, part.job.results)

    def _fail(self, part: _Part[Item, Result], error: BaseException) -> None:
        if isinstance(error, UserError):
            failure = type(error)(f"{error} (texts are counted from input {part.start})") if part.start else error
            if isinstance(error, NotFiniteError):  # caused by the model, perhaps on every text
                self._is_failing = not self._works()
        else:
            failure = ComputeError(f"{type(error).__name__}: {error}")
            failure.__cause__ = error
            self._is_failing = not self._works()
        _settle(part.job.future, failure)

    def _works(self) -> bool:
        """Test the model with the probe."""
        try:
            self._compute(self._probe)
        except (KeyboardInterrupt, SystemExit):
            raise
        except NotFiniteError:
            return False
        except UserError:
            return True
        except BaseException as error:
            _log.error("model %s fails: %s: %s", self.name, type(error).__name__, error)
            return False
        return True


class Scheduler:
    """Computes the requests of several queues in one thread, because models that compute at once slow each other down.

    A batch takes about a quarter of a second, whatever the size of the requests: a large one is computed in slices, with other requests in
    between. There is no timer, so a single request never waits for others to fill its batch.

    Args:
        max_wait_s: A request is refused if it would wait for others longer than this, and longer than its own computation takes. A request
            of one batch waits until each earlier request has had one batch. A larger one waits for as many such rounds as it has batches,
            and at most for all queued work.
    """

    def __init__(self, *, max_wait_s: float = MAX_WAIT_S) -> None:
        self._max_wait_s = max_wait_s
        self._queues: list[Queue[Any, Any]] = []
        self._next_queue = 0
        self._running: list[_Part[Any, Any]] = []
        self._batch_began_s: float | None = None
        self._next_probe_s, self._probes = 0.0, 0
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._work, name="tain-compute", daemon=True)
        self._thread.start()

    def queue(self, name: str, compute: Callable[[list[Item]], Sequence[Result]], *, probe: list[Item]) -> Queue[Item, Result]:
        """Make a queue.

        Args:
            name: Name in the log and in ``failing``.
            compute: Computes the results of a list of items, in order.
            probe: Items that a working model can compute. They are tried after an error that the request did not cause.
        """
        made = Queue(self, name, compute, probe)
        with self._changed:
            self._queues.append(made)
        return made

    @property
    def is_alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    @property
    def is_stopping(self) -> bool:
        return self._is_stopping

    @property
    def failing(self) -> list[str]:
        """Names of queues with a model that failed on its probe; they are retried every few seconds."""
        return [queue.name for queue in self._queues if queue._is_failing]

    @property
    def busy_s(self) -> float:
        """Seconds that the current batch has been running; 0 without one."""
        began_s = self._batch_began_s
        return 0.0 if began_s is None else time.monotonic() - began_s

    @property
    def wait_s(self) -> float:
        """Seconds of queued work."""
        with self._changed:
            return sum(queue.wait_s for queue in self._queues)

    def refusal_s(self, most_tokens: int) -> float | None:
        """Whether any request of at most this many tokens would be refused now.

        Returns:
            Seconds of queued work if ``submit`` would raise ``TooBusyError`` for every queue; else None.
        """
        with self._changed:
            wait_s = min(sum(one.wait_s for one in self._queues), sum(one.round_s for one in self._queues))
            own_s = most_tokens * max((one._speed.seconds_per_token for one in self._queues), default=0.0)
        return wait_s if wait_s > max(self._max_wait_s, own_s) and not self._is_stopping else None

    def stop(self) -> None:
        """Accept no new requests, refuse those not started, and finish the others."""
        with self._changed:
            self._is_stopping = True
            waiting = [job for queue in self._queues for job in queue._jobs.values() if not job.next_item]
            self._changed.notify_all()
        for job in waiting:
            _settle(job.future, StoppingError())

    def abandon(self) -> None:
        """Stop, and also refuse started requests. The current batch cannot be interrupted; its results are lost."""
        self.stop()
        with self._changed:
            jobs = [job for queue in self._queues for job in queue._jobs.values()]
            jobs += [part.job for part in self._running]
        for job in jobs:
            _settle(job.future, StoppingError())

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end after ``stop``; returns whether it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _submit(self, queue: Queue[Item, Result], job: _Job[Item, Result]) -> Computation[Result]:
        with self._changed:
            if self._is_stopping or not self._thread.is_alive():
                raise StoppingError
            batches = max(1, math.ceil(job.waiting_tokens / queue._speed.batch_tokens))
            wait_s = min(sum(one.wait_s for one in self._queues), batches * sum(one.round_s for one in self._queues))
            own_s = job.waiting_tokens * queue._speed.seconds_per_token
            if wait_s > max(self._max_wait_s, own_s):
                raise TooBusyError(wait_s)
            queue._add(job)
            self._changed.notify_all()
        # a cancelled or failed future removes its job from any position in the queue
        job.future.add_done_callback(lambda _: self._drop(queue, job))
        return job.future

    def _drop(self, queue: Queue[Any, Any], job: _Job[Any, Any]) -> None:
        with self._changed:
            queue._remove(job)

    def _work(self) -> None:
        try:
            while (queue := self._next()) is not None:
                if self._running:
                    queue._run(self._running)
                else:
                    queue._is_failing = not queue._works()
                self._running, self._batch_began_s = [], None
        except BaseException as error:
            _log.critical("the computing thread has ended: %s: %s", type(error).__name__, error)
            self._batch_began_s = None
            self.abandon()
            raise

    def _next(self) -> Queue[Any, Any] | None:
        """Wait for work and take a batch, from each queue in turn; a queue without a batch must be probed. None means stop."""
        with self._changed:
            while True:
                failing = [queue for queue in self._queues if queue._is_failing]
                if failing and time.monotonic() >= self._next_probe_s and not self._is_stopping:
                    self._next_probe_s = time.monotonic() + _PROBE_S
                    self._batch_began_s = time.monotonic()
                    self._probes += 1
                    return failing[self._probes % len(failing)]
                for step in range(len(self._queues)):
                    index = (self._next_queue + step) % len(self._queues)
                    if parts := self._queues[index]._take():
                        self._next_queue = index + 1
                        self._running, self._batch_began_s = parts, time.monotonic()
                        return self._queues[index]
                if self._is_stopping:
                    return None
                self._changed.wait(_PROBE_S if failing else None)


def _settle(future: "Future[Any]", outcome: Any) -> None:
    """Set a future's result or exception, unless it is cancelled or done."""
    try:
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except InvalidStateError:
        pass
