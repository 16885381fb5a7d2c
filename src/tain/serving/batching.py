"""Scheduler that computes requests of all models in small batches, with constant-time admission."""

import logging
import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from tain.foundation.errors import NotFiniteError, UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_WAIT_S = 5.0
_BATCH_S = 0.25  # target duration of a batch: other requests wait this long for a large one
_FIRST_BATCH_TOKENS = 2048  # until the speed is known
_BATCH_TOKENS = (256, 65_536)  # minimum and maximum
_LEAST_SHARE_TOKENS = 128  # of a batch on one core
_LONGER = 2  # how many times as long a batch on one core may take: another core is free before it ends
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
        next_item: Items before this one have been computed, or are in a batch that runs.
        waiting_tokens: Tokens of the remaining items.
        round_tokens: How many of these are computed before it is the next request's turn.
        results: Of the items computed so far, each in its place.
        missing: How many results are not there yet.
    """

    items: Sequence[Item]
    tokens: Sequence[int]
    future: Computation[Result]
    next_item: int = 0
    waiting_tokens: int = field(init=False)
    round_tokens: int = 0
    results: list[Any] = field(init=False)
    missing: int = field(init=False)

    def __post_init__(self) -> None:
        self.waiting_tokens = sum(self.tokens)
        self.missing = len(self.items)
        self.results = [None] * self.missing


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
        self._batches: Counter[float] = Counter()

    def learn(self, tokens: int, seconds: float, share: float = 1.0) -> None:
        """Note a batch that took ``seconds`` on a share of the machine."""
        self._batches[share] += 1
        if self._batches[share] * share <= 1:  # the first batch of each worker includes one-time setup
            return
        self._seconds = _MEMORY * self._seconds + seconds * share
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

    def __init__(
        self,
        scheduler: "Scheduler",
        name: str,
        compute: Callable[[list[Item]], Sequence[Result]],
        probe: list[Item],
        on_one_core: Callable[[list[Item]], Sequence[Result]] | None,
    ) -> None:
        self.name = name
        self._scheduler, self._compute, self._probe, self._on_one_core = scheduler, compute, probe, on_one_core
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

    @property
    def _next_tokens(self) -> int:
        """Tokens of the first item."""
        job = next(iter(self._jobs.values()))
        return job.tokens[job.next_item]

    def _add(self, job: _Job[Item, Result], *, round_tokens: int | None = None) -> None:
        """Append a job, or the rest of it; with ``round_tokens``, the number of its tokens to compute now, put it in front."""
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

    def _take(self, room: int) -> list[_Part[Item, Result]]:
        """Take a batch of about ``room`` tokens from the front.

        A request's turn is as long as a batch. If only a part of it fits, the next batch continues with it. What is left of a request after
        its turn goes to the end, so that others get theirs.
        """
        parts: list[_Part[Item, Result]] = []
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

    def _run(self, batch: "_Batch") -> None:
        """Compute a batch and set its results; called without the scheduler's lock."""
        began_s = time.perf_counter()
        parts = batch.parts
        try:
            found = list(batch.compute([item for part in parts for item in part.items]))
        except (KeyboardInterrupt, SystemExit):
            raise  # the thread ends and logs it
        except BaseException as error:
            # BaseException: a panic in a tokenizer's native code (pyo3_runtime.PanicException) is not an Exception
            if len(parts) == 1:
                self._fail(parts[0], error, batch.compute)
                return
            for part in parts:  # retry each request alone: an error of one does not affect the others
                self._run(replace(batch, parts=[part]))
            return
        self._is_failing = False
        complete: list[_Job[Item, Result]] = []
        with self._scheduler._changed:
            self._speed.learn(sum(part.tokens for part in parts), time.perf_counter() - began_s, batch.share)
            start = 0
            for part in parts:
                count = part.end - part.start
                part.job.results[part.start : part.end] = found[start : start + count]
                part.job.missing -= count
                start += count
                if not part.job.missing:
                    complete.append(part.job)
        for job in complete:
            _settle(job.future, job.results)

    def _fail(self, part: _Part[Item, Result], error: BaseException, compute: Callable[[list[Item]], Sequence[Result]]) -> None:
        if isinstance(error, UserError):
            failure = type(error)(f"{error} (texts are counted from input {part.start})") if part.start else error
            if isinstance(error, NotFiniteError):  # caused by the model, perhaps on every text
                self._is_failing = not self._works(compute)
        else:
            failure = ComputeError(f"{type(error).__name__}: {error}")
            failure.__cause__ = error
            self._is_failing = not self._works(compute)
        _settle(part.job.future, failure)

    def _works(self, compute: Callable[[list[Item]], Sequence[Result]]) -> bool:
        """Test the model with the probe."""
        try:
            compute(self._probe)
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


@dataclass(frozen=True)
class _Batch:
    """What a worker computes next.

    Attributes:
        queue: Whose requests they are.
        parts: Of these requests; empty: the model is tested.
        compute: The function that computes them.
        share: The share of the machine that it uses.
        began_s: When the worker took it.
    """

    queue: Queue[Any, Any]
    parts: list[_Part[Any, Any]]
    compute: Callable[[list[Any]], Sequence[Any]]
    share: float
    began_s: float = field(default_factory=time.monotonic)

    @property
    def is_whole(self) -> bool:
        return self.share == 1.0


class Scheduler:
    """Computes the requests of several queues in small batches.

    A batch takes about a quarter of a second, whatever the size of the requests: a large one is computed in slices, with other requests in
    between. There is no timer, so a single request never waits for others to fill its batch.

    If one batch holds all that waits, it uses all cores. If more waits, models that can run on one core compute several batches at once,
    each on a core of its own and for up to half a second: no core then waits for the others at the end of a batch. Other models, and
    items that would take longer than that on one core, are computed in one batch at a time on all cores, and while such work waits,
    everything is.

    Args:
        max_wait_s: A request is refused if it would wait for others longer than this, and longer than its own computation takes. A request
            of one batch waits until each earlier request has had one batch. A larger one waits for as many such rounds as it has batches,
            and at most for all queued work.
        workers: Threads that compute batches; one for each core.
    """

    def __init__(self, *, max_wait_s: float = MAX_WAIT_S, workers: int = 1) -> None:
        self._max_wait_s = max_wait_s
        self._queues: list[Queue[Any, Any]] = []
        self._next_queue = 0
        self._running: dict[int, _Batch] = {}  # by worker
        self._next_probe_s, self._probes = 0.0, 0
        self._changed = threading.Condition()
        self._is_stopping = self._has_crashed = False
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), name=f"tain-compute-{worker}", daemon=True) for worker in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def queue(
        self,
        name: str,
        compute: Callable[[list[Item]], Sequence[Result]],
        *,
        probe: list[Item],
        on_one_core: Callable[[list[Item]], Sequence[Result]] | None = None,
    ) -> Queue[Item, Result]:
        """Make a queue.

        Args:
            name: Name in the log and in ``failing``.
            compute: Computes the results of a list of items, in order. Nothing else is computed meanwhile.
            probe: Items that a working model can compute. They are tried after an error that the request did not cause.
            on_one_core: As ``compute``, on one core; several threads may call it at once. None: the model cannot do that.
        """
        made = Queue(self, name, compute, probe, on_one_core)
        with self._changed:
            self._queues.append(made)
        return made

    @property
    def is_alive(self) -> bool:
        """Whether requests are computed, or the running ones finished."""
        return not self._has_crashed and any(thread.is_alive() for thread in self._threads)

    @property
    def is_stopping(self) -> bool:
        return self._is_stopping

    @property
    def failing(self) -> list[str]:
        """Names of queues with a model that failed on its probe; they are retried every few seconds."""
        return [queue.name for queue in self._queues if queue._is_failing]

    @property
    def busy_s(self) -> float:
        """Seconds that the oldest running batch has been running; 0 without one."""
        with self._changed:
            began_s = min((batch.began_s for batch in self._running.values()), default=None)
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
        """Stop, and also refuse started requests. Running batches cannot be interrupted; their results are lost."""
        self.stop()
        with self._changed:
            jobs = [job for queue in self._queues for job in queue._jobs.values()]
            jobs += [part.job for batch in self._running.values() for part in batch.parts]
        for job in jobs:
            _settle(job.future, StoppingError())

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads to end after ``stop``; returns whether they have."""
        until_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _submit(self, queue: Queue[Item, Result], job: _Job[Item, Result]) -> Computation[Result]:
        with self._changed:
            if self._is_stopping or not self.is_alive:
                raise StoppingError
            batches = max(1, math.ceil(job.waiting_tokens / queue._speed.batch_tokens))
            wait_s = min(sum(one.wait_s for one in self._queues), batches * sum(one.round_s for one in self._queues))
            own_s = job.waiting_tokens * queue._speed.seconds_per_token
            if wait_s > max(self._max_wait_s, own_s):
                raise TooBusyError(wait_s)
            queue._add(job)
            self._changed.notify()
        # a cancelled or failed future removes its job from any position in the queue
        job.future.add_done_callback(lambda _: self._drop(queue, job))
        return job.future

    def _drop(self, queue: Queue[Any, Any], job: _Job[Any, Any]) -> None:
        with self._changed:
            queue._remove(job)
            if not queue._jobs:
                self._changed.notify()  # another queue may be next now

    def _work(self, worker: int) -> None:
        try:
            while self._computed_next(worker):  # a call for each batch, so that no worker holds one while it waits
                pass
        except BaseException as error:
            _log.critical("a computing thread has ended: %s: %s", type(error).__name__, error)
            self._has_crashed = True
            self.abandon()
            with self._changed:
                self._running.pop(worker, None)
                self._changed.notify_all()  # the others end
            raise

    def _computed_next(self, worker: int) -> bool:
        """Wait for a batch and compute it; False means stop."""
        if (batch := self._next(worker)) is None:
            return False
        if batch.parts:
            batch.queue._run(batch)
        else:
            batch.queue._is_failing = not batch.queue._works(batch.compute)
        return True

    def _next(self, worker: int) -> _Batch | None:
        """Wait for work that a worker can begin now, and take it. None means stop."""
        with self._changed:
            if self._running.pop(worker, None) is not None and not self._running:
                self._changed.notify_all()  # others may wait for the whole machine, or for the end
            while True:
                if (batch := self._taken()) is not None:
                    self._running[worker] = batch
                    if not batch.is_whole:
                        self._changed.notify()  # there may be work for another worker
                    return batch
                if self._is_stopping and not any(queue._jobs for queue in self._queues):
                    return None
                self._changed.wait(_PROBE_S if any(queue._is_failing for queue in self._queues) else None)

    def _taken(self) -> _Batch | None:
        """Take a batch from each queue in turn, or test a failing model; None if nothing waits, or it cannot begin now."""
        is_idle = not self._running
        if any(batch.is_whole for batch in self._running.values()):
            return None
        failing = [queue for queue in self._queues if queue._is_failing]
        if failing and time.monotonic() >= self._next_probe_s and not self._is_stopping:
            if not is_idle:
                return None  # the probe needs the whole machine
            self._next_probe_s = time.monotonic() + _PROBE_S
            self._probes += 1
            queue = failing[self._probes % len(failing)]
            return _Batch(queue, [], queue._compute, 1.0)
        with_work = [(index, queue) for index, queue in enumerate(self._queues) if queue._jobs]
        if not with_work:
            return None
        index, queue = min(with_work, key=lambda each: (each[0] < self._next_queue, each[0]))
        workers, most = len(self._threads), queue._speed.batch_tokens
        longest = _LONGER * most // workers  # tokens of a batch on one core
        needs_all = (
            workers == 1
            or any(each._on_one_core is None for _, each in with_work)  # taking turns with it would leave other cores idle
            or not _LEAST_SHARE_TOKENS <= longest >= queue._next_tokens
        )
        holds_all = len(with_work) == 1 and queue._waiting_tokens <= most
        if needs_all and not is_idle:
            return None  # the others finish first
        self._next_queue = index + 1
        if queue._on_one_core is None or needs_all or (is_idle and holds_all):
            return _Batch(queue, queue._take(most), queue._compute, 1.0)
        # what waits is shared among the workers, so that none of them is left with the last large batch
        room = max(_LEAST_SHARE_TOKENS, min(longest * workers, queue._waiting_tokens) // workers)
        return _Batch(queue, queue._take(room), queue._on_one_core, 1 / workers)


def _settle(future: "Future[Any]", outcome: Any) -> None:
    """Set a future's result or exception, unless it is cancelled or done."""
    try:
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except InvalidStateError:
        pass
