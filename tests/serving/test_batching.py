"""Requests that pile up are computed together, large ones in slices; admission costs the same whatever waits; errors stay with their request."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tain.foundation.errors import UserError
from tain.serving import batching
from tain.serving.batching import ComputeError, Scheduler, StoppingError, TooBusyError


class PanicError(BaseException):
    """As pyo3's PanicException: no Exception."""


class Doubling:
    """Doubles numbers, once it is let; remembers its batches. 13 is an error, 666 a panic, 99 ends the thread."""

    def __init__(self):
        self.batches, self.is_let, self.has_begun = [], threading.Event(), threading.Event()
        self.is_broken = False

    def __call__(self, items):
        self.has_begun.set()
        self.is_let.wait(10)
        if self.is_broken:
            raise PanicError("broken for good")
        if list(items) != [0]:  # not the probe
            self.batches.append(list(items))
        if 13 in items:
            raise ValueError("thirteen")
        if 666 in items:
            raise PanicError("the tokenizer panicked")
        if 99 in items:
            raise SystemExit(1)
        if -1 in items:
            raise UserError(f"text {items.index(-1)} has no tokens")
        return [2 * item for item in items]


@pytest.fixture
def doubling():
    return Doubling()


@pytest.fixture
def start():
    made = []

    def start(**options):
        made.append(Scheduler(**options))
        return made[-1]

    yield start
    for scheduler in made:
        scheduler.abandon()


@pytest.fixture
def queue(doubling, start):
    yield start().queue("doubling", doubling, probe=[0])
    doubling.is_let.set()


def at_speed(queue, *, seconds_per_token, batch_tokens=None, monkeypatch=None):
    """Let a queue believe in a speed, so that no test depends on the clock."""
    speed = queue._speed
    speed.learn = lambda tokens, seconds, share: None
    speed._seconds, speed._tokens = seconds_per_token * 1000, 1000
    if batch_tokens is not None:
        monkeypatch.setattr(batching, "_BATCH_TOKENS", (batch_tokens, batch_tokens))
    return queue


@pytest.fixture
def blocked(queue, doubling):
    """A queue whose first request, [1], is being computed."""
    first = queue.submit([1])
    assert doubling.has_begun.wait(10)
    return queue, first


def test_what_comes_while_one_batch_runs_is_the_next_batch(blocked, doubling, monkeypatch):
    queue, first = blocked
    at_speed(queue, seconds_per_token=1e-9, batch_tokens=5, monkeypatch=monkeypatch)
    others = [queue.submit(items) for items in ([2, 3], [4], [5, 6], [7, 8, 9])]
    doubling.is_let.set()
    assert first.result(10) == [2]
    assert [other.result(10) for other in others] == [[4, 6], [8], [10, 12], [14, 16, 18]]
    assert doubling.batches == [[1], [2, 3, 4, 5, 6], [7, 8, 9]]


def test_a_large_request_is_computed_in_slices_and_others_come_between(blocked, doubling, monkeypatch):
    queue, _ = blocked
    at_speed(queue, seconds_per_token=1e-9, batch_tokens=3, monkeypatch=monkeypatch)
    large = queue.submit(list(range(100, 108)))
    small = [queue.submit([2]), queue.submit([3])]
    doubling.is_let.set()
    assert large.result(10) == [2 * number for number in range(100, 108)]
    assert [one.result(10) for one in small] == [[4], [6]]
    assert doubling.batches == [[1], [100, 101, 102], [2, 3, 103], [104, 105, 106], [107]]


def test_a_request_of_one_batch_that_was_cut_is_finished_before_the_next_one_begins(blocked, doubling, monkeypatch):
    queue, _ = blocked
    at_speed(queue, seconds_per_token=1e-9, batch_tokens=4, monkeypatch=monkeypatch)
    futures = [queue.submit(items) for items in ([2, 3, 4], [20, 21, 22, 23], [5], [6], [7])]
    doubling.is_let.set()
    assert [future.result(10) for future in futures] == [[4, 6, 8], [40, 42, 44, 46], [10], [12], [14]]
    assert doubling.batches == [[1], [2, 3, 4, 20], [21, 22, 23, 5], [6, 7]]


def test_a_large_request_gets_one_batch_of_each_round(blocked, doubling, monkeypatch):
    queue, _ = blocked
    at_speed(queue, seconds_per_token=1e-9, batch_tokens=4, monkeypatch=monkeypatch)
    futures = [queue.submit(items) for items in ([2], list(range(20, 30)), list(range(40, 48)), [3])]
    doubling.is_let.set()
    assert [len(future.result(10)) for future in futures] == [1, 10, 8, 1]
    # a turn is four items, also where it lies in two batches
    assert doubling.batches == [[1], [2, 20, 21, 22], [23, 40, 41, 42], [43, 3, 24, 25], [26, 27, 44, 45], [46, 47, 28, 29]]


def test_an_item_larger_than_a_batch_is_a_batch_of_its_own(blocked, doubling, monkeypatch):
    queue, _ = blocked
    at_speed(queue, seconds_per_token=1e-9, batch_tokens=10, monkeypatch=monkeypatch)
    futures = [queue.submit([2, 3], tokens=[4, 4]), queue.submit([4], tokens=[500]), queue.submit([5, 6], tokens=[600, 7])]
    doubling.is_let.set()
    assert [future.result(10) for future in futures] == [[4, 6], [8], [10, 12]]
    assert doubling.batches == [[1], [2, 3], [4], [5], [6]]


def test_two_models_take_turns_and_never_compute_at_once(start, monkeypatch):
    order, is_let = [], threading.Event()

    def compute(items):
        assert threading.current_thread().name == "tain-compute-0"
        is_let.wait(10)
        order.extend(items)
        return items

    scheduler = start()
    queues = [at_speed(scheduler.queue(name, compute, probe=[]), seconds_per_token=1e-9) for name in "ab"]
    monkeypatch.setattr(batching, "_BATCH_TOKENS", (1, 1))
    futures = [queues[0].submit(["a1", "a2", "a3"]), queues[1].submit(["b1", "b2"])]
    is_let.set()
    for future in futures:
        future.result(10)
    assert order == ["a1", "b1", "a2", "b2", "a3"]


# ---- admission


def test_more_than_seconds_of_work_is_refused_and_told_when_to_come_again(blocked, doubling, monkeypatch):
    queue, _ = blocked
    at_speed(queue, seconds_per_token=0.01, batch_tokens=25, monkeypatch=monkeypatch)
    waiting = [queue.submit([2], tokens=[200]) for _ in range(3)]  # 2 s each, of which one round counts
    for future in waiting[1:]:
        assert future.cancel()
    waiting = waiting[:1] + [queue.submit([3], tokens=[25]) for _ in range(20)]  # 0.25 s each: 7 s, one round 5.25 s
    with pytest.raises(TooBusyError) as refused:
        queue.submit([4])
    assert refused.value.retry_after_s == 6
    assert waiting[5].cancel()
    queue.submit([4])  # 5.0 s now
    doubling.is_let.set()
    assert waiting[-1].result(10) == [6]


def test_a_large_request_keeps_no_small_one_out(blocked, doubling, monkeypatch):
    queue, _ = blocked
    at_speed(queue, seconds_per_token=0.01, batch_tokens=25, monkeypatch=monkeypatch)
    large = queue.submit(list(range(1000, 1300)), tokens=[25] * 300)  # 75 s of work
    small = queue.submit([2])
    with pytest.raises(TooBusyError):
        queue.submit(list(range(1000, 1100)), tokens=[25] * 100)  # 25 s: would wait as long for its own rounds
    second = queue.submit(list(range(1000, 1400)), tokens=[25] * 400)  # waits no longer than it takes itself
    doubling.is_let.set()
    assert small.result(10) == [4]
    assert (len(large.result(10)), len(second.result(10))) == (300, 400)


def test_all_models_count_together(start, doubling):
    scheduler = start()
    first, other = scheduler.queue("a", doubling, probe=[0]), scheduler.queue("b", doubling, probe=[0])
    first.submit([1])
    assert doubling.has_begun.wait(10)
    for queue in (first, other):
        at_speed(queue, seconds_per_token=0.01)
    for _ in range(21):
        first.submit([2], tokens=[25])
    with pytest.raises(TooBusyError):
        other.submit([3])
    doubling.is_let.set()


def test_a_request_of_any_size_is_accepted_where_nothing_waits(queue, doubling):
    at_speed(queue, seconds_per_token=1.0)
    doubling.is_let.set()
    assert len(queue.submit(list(range(100, 200)), tokens=[50] * 100).result(10)) == 100


def test_sums_of_the_queue_are_exact_through_slices_cancelling_and_errors(blocked, doubling, monkeypatch):
    queue, _ = blocked
    at_speed(queue, seconds_per_token=1e-9, batch_tokens=3, monkeypatch=monkeypatch)
    futures = [queue.submit(list(range(100, 100 + size))) for size in (7, 1, 4, 13)]
    futures.append(queue.submit([13]))
    assert (queue._waiting_tokens, queue._round_tokens) == (26, 3 + 1 + 3 + 3 + 1)
    assert futures[2].cancel()
    assert (queue._waiting_tokens, queue._round_tokens) == (22, 8)
    doubling.is_let.set()
    for future in (futures[0], futures[1], futures[3]):
        future.result(10)
    with pytest.raises(ComputeError):
        futures[4].result(10)
    queue.submit([1]).result(10)
    assert (queue._waiting_tokens, queue._round_tokens, len(queue._jobs)) == (0, 0, 0)


def test_submitting_and_cancelling_look_at_no_other_request(blocked, doubling):
    """Counted, not timed: each access to the jobs that wait is seen."""
    queue, _ = blocked

    class Watched(type(queue._jobs)):
        looked_at = 0

        def values(self):
            for job in super().values():
                Watched.looked_at += 1
                yield job

        def __iter__(self):
            for key in super().__iter__():
                Watched.looked_at += 1
                yield key

    queue._jobs = Watched()
    futures = [queue.submit([number]) for number in range(1, 500)]
    assert all(future.cancel() for future in futures[::2])
    assert Watched.looked_at == 0
    doubling.is_let.set()


def test_a_request_that_was_given_up_is_not_computed(blocked, doubling):
    queue, first = blocked
    given_up, kept = queue.submit([2]), queue.submit([3])
    assert given_up.cancel()
    doubling.is_let.set()
    assert (first.result(10), kept.result(10)) == ([2], [6])
    assert doubling.batches == [[1], [3]]


def test_the_rest_of_a_request_that_was_given_up_halfway_is_not_computed(queue, doubling, monkeypatch):
    at_speed(queue, seconds_per_token=1e-9, batch_tokens=2, monkeypatch=monkeypatch)
    large = queue.submit([1, 2, 3, 4, 5])
    assert doubling.has_begun.wait(10)
    assert large.cancel()
    kept = queue.submit([6])
    doubling.is_let.set()
    assert kept.result(10) == [12]
    assert doubling.batches == [[1, 2], [6]]


def test_the_first_batch_is_no_measure_of_speed():
    speed = batching._Speed()
    speed.learn(10, 60.0)
    assert (speed.seconds_per_token, speed.batch_tokens) == (0.0, batching._FIRST_BATCH_TOKENS)
    speed.learn(968, 1.0)
    assert speed.seconds_per_token == pytest.approx(1e-3)
    assert speed.batch_tokens == 256  # fewer would take a quarter of a second; they are the fewest
    for _ in range(100):
        speed.learn(99_968, 1.0)
    assert speed.seconds_per_token == pytest.approx(1e-5, rel=0.01)
    assert speed.batch_tokens == pytest.approx(25_000, rel=0.01)


def test_the_speed_is_that_of_the_whole_machine():
    speed = batching._Speed()
    for share in (1.0, 0.5, 0.5):  # the first batch of each worker
        speed.learn(10, 60.0, share)
    assert speed.seconds_per_token == 0.0
    speed.learn(968, 1.0, 0.5)
    assert speed.seconds_per_token == pytest.approx(0.5e-3)
    speed.learn(968, 0.5, 1.0)
    assert speed.seconds_per_token == pytest.approx(0.5e-3)


# ---- several workers


class Cores:
    """A queue of two workers; notes which batches run together, and on how much of the machine. Each waits until it is let."""

    def __init__(self, scheduler):
        self.began, self.running, self.let = [], [], {}
        self.changed = threading.Condition()
        self.scheduler = scheduler
        self.queue = scheduler.queue("a", self.function("whole"), probe=[0], on_one_core=self.function("one core"))

    def function(self, kind):
        def compute(items):
            with self.changed:
                batch = (kind, tuple(items))
                self.running.append(batch)
                self.began.append((batch, len(self.running)))
                self.changed.notify_all()
                assert self.changed.wait_for(lambda: batch in self.let, 10)
                self.running.remove(batch)
            if 13 in items:
                raise ValueError("thirteen")
            return [2 * item for item in items]

        return compute

    def finish(self, kind, *items):
        with self.changed:
            self.let[kind, items] = True
            self.changed.notify_all()

    def seen(self, count):
        """The first batches that began, each with how many ran then."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.began) >= count, 10), self.began
            return self.began[:count]


@pytest.fixture
def cores(start, monkeypatch):
    """Its batches have four tokens, or two on one core."""
    monkeypatch.setattr(batching, "_LEAST_SHARE_TOKENS", 1)
    monkeypatch.setattr(batching, "_LONGER", 1)
    made = Cores(start(workers=2))
    at_speed(made.queue, seconds_per_token=1e-9, batch_tokens=4, monkeypatch=monkeypatch)
    return made


def test_a_request_alone_has_the_whole_machine(cores):
    first = cores.queue.submit([1, 2])
    assert cores.seen(1) == [(("whole", (1, 2)), 1)]
    second = cores.queue.submit([3])
    time.sleep(0.05)
    assert len(cores.began) == 1  # the second does not disturb it
    cores.finish("whole", 1, 2)
    cores.finish("whole", 3)
    assert (first.result(10), second.result(10)) == ([2, 4], [6])
    assert cores.seen(2)[1] == (("whole", (3,)), 1)


def test_what_does_not_fit_into_a_batch_is_computed_on_all_cores_at_once(cores):
    first = cores.queue.submit([1, 2, 3, 4, 5, 6, 7])
    assert {batch for batch, _ in cores.seen(2)} == {("one core", (1, 2)), ("one core", (3, 4))}
    assert cores.began[1][1] == 2  # together
    cores.finish("one core", 3, 4)  # the later one first; its worker takes its share of the rest
    assert cores.seen(3)[2] == (("one core", (5,)), 2)
    cores.finish("one core", 5)
    assert cores.seen(4)[3] == (("one core", (6,)), 2)
    for items in ((1, 2), (6,), (7,)):
        cores.finish("one core", *items)
        cores.finish("whole", *items)
    assert first.result(10) == [2, 4, 6, 8, 10, 12, 14]  # in order


def test_a_slice_with_an_error_fails_its_request_and_no_other(cores):
    bad = cores.queue.submit([1, 2, 13, 4, 5, 6])
    cores.seen(2)
    good = cores.queue.submit([7])
    for kind in ("whole", "one core"):
        for items in ((0,), (13, 4), (7,)):  # 0 is the probe
            cores.finish(kind, *items)
    with pytest.raises(ComputeError, match="thirteen"):
        bad.result(10)
    cores.finish("one core", 1, 2)
    assert good.result(10) == [14]
    assert not {5, 6} & {item for (_, items), _ in cores.began for item in items}


def test_a_model_that_needs_the_machine_waits_its_turn_and_then_runs_alone(cores):
    other = cores.scheduler.queue("b", cores.function("torch"), probe=[0])
    first = cores.queue.submit([1, 2, 3, 4, 5, 6])
    cores.seen(2)
    second = other.submit([10])
    cores.finish("one core", 1, 2)
    time.sleep(0.05)
    assert len(cores.began) == 2  # its turn is next, so nothing else begins
    cores.finish("one core", 3, 4)
    assert cores.seen(3)[2] == (("torch", (10,)), 1)
    cores.finish("torch", 10)
    cores.finish("whole", 5, 6)
    assert (second.result(10), first.result(10)) == ([20], [2, 4, 6, 8, 10, 12])


def test_a_failing_model_is_tested_even_where_others_are_always_busy(cores):
    other = cores.scheduler.queue("b", cores.function("torch"), probe=[0])
    first = cores.queue.submit([1, 2, 3, 4, 5, 6])
    cores.seen(2)
    other._is_failing = True
    cores.finish("one core", 1, 2)
    time.sleep(0.05)
    assert len(cores.began) == 2
    cores.finish("one core", 3, 4)
    assert cores.seen(3)[2] == (("torch", (0,)), 1)
    cores.finish("torch", 0)
    cores.finish("whole", 5, 6)
    assert first.result(10) == [2, 4, 6, 8, 10, 12]
    assert cores.scheduler.failing == []


def test_models_take_turns_on_the_whole_machine_if_one_of_them_needs_it(cores):
    other = cores.scheduler.queue("b", cores.function("torch"), probe=[0])
    at_speed(other, seconds_per_token=1e-9)
    first = cores.queue.submit([1])
    cores.seen(1)
    waiting = [other.submit(list(range(20, 26))), cores.queue.submit([2, 3, 4, 5, 6, 7])]
    for kind, *items in (
        ("whole", 1),
        ("torch", 20, 21, 22, 23),
        ("whole", 2, 3, 4, 5),
        ("torch", 24, 25),
        ("whole", 6, 7),
    ):
        cores.finish(kind, *items)
    assert [len(future.result(10)) for future in (first, *waiting)] == [1, 6, 6]
    assert {together for _, together in cores.began} == {1}


def test_an_item_that_is_too_long_for_one_core_has_all_of_them(cores):
    first = cores.queue.submit([1, 2, 3, 4, 5, 6])
    cores.seen(2)
    large = cores.queue.submit([10], tokens=[3])
    for items in ((1, 2), (3, 4), (5, 6)):
        cores.finish("one core", *items)
    cores.finish("whole", 10)
    assert (large.result(10), len(first.result(10))) == ([20], 6)
    assert cores.began[-1] == (("whole", (10,)), 1)


def test_a_model_that_is_slow_on_one_core_has_all_of_them(cores, monkeypatch):
    monkeypatch.setattr(batching, "_LEAST_SHARE_TOKENS", 3)  # more than a batch on one core may have
    future = cores.queue.submit([1, 2, 3, 4, 5, 6])
    cores.finish("whole", 1, 2, 3, 4)
    cores.finish("whole", 5, 6)
    assert len(future.result(10)) == 6
    assert {together for _, together in cores.began} == {1}


def test_stopping_waits_for_all_workers(cores):
    begun = cores.queue.submit([1, 2, 3, 4, 5, 6])
    cores.seen(2)
    assert cores.scheduler.busy_s > 0
    cores.scheduler.stop()
    assert cores.scheduler.is_alive and not cores.scheduler.join(0.01)
    for items in ((1, 2), (3, 4), (5,), (6,)):
        cores.finish("one core", *items)
        cores.finish("whole", *items)
    assert begun.result(10) == [2, 4, 6, 8, 10, 12]
    assert cores.scheduler.join(10.0) and not cores.scheduler.is_alive


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_ends_stops_the_others(start):
    def compute(items):
        has_begun.set()
        is_let.wait(10)
        if 99 in items:
            raise SystemExit(1)
        return items

    has_begun, is_let = threading.Event(), threading.Event()
    scheduler = start(workers=2)
    queue = scheduler.queue("a", compute, probe=[0], on_one_core=compute)
    futures = [queue.submit([99]), *(queue.submit([number]) for number in range(20))]
    assert has_begun.wait(10)
    is_let.set()
    for future in futures:
        with pytest.raises(StoppingError):
            future.result(10)
    assert scheduler.join(10.0) and not scheduler.is_alive
    with pytest.raises(StoppingError):
        queue.submit([1])


def test_many_requests_from_many_threads_on_several_workers(start, monkeypatch):
    """Every answer is right, nothing is lost, and the sums of the queue come out even."""
    monkeypatch.setattr(batching, "_LEAST_SHARE_TOKENS", 3)

    most, running, lock = [0], [0], threading.Lock()

    def compute(items):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.0005)
        with lock:
            running[0] -= 1
        return [2 * item for item in items]

    queue = start(workers=3).queue("a", compute, probe=[0], on_one_core=compute)
    at_speed(queue, seconds_per_token=1e-9, batch_tokens=10, monkeypatch=monkeypatch)
    wrong = []

    def client(seed):
        for number in range(60):
            items = list(range(seed, seed + 1 + (seed * 7 + number * 13) % 23))
            future = queue.submit(items)
            if number % 10 == 9:
                future.cancel()
            elif future.result(30) != [2 * item for item in items]:
                wrong.append(items)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(client, range(8)))
    queue.submit([1]).result(30)
    assert wrong == [] and 2 <= most[0] <= 3
    assert (queue._waiting_tokens, queue._round_tokens, len(queue._jobs)) == (0, 0, 0)


# ---- errors


def test_one_requests_error_is_no_others(blocked, doubling):
    queue, first = blocked
    good, bad, also_good, panic = queue.submit([2]), queue.submit([13]), queue.submit([4]), queue.submit([666])
    doubling.is_let.set()
    assert (first.result(10), good.result(10), also_good.result(10)) == ([2], [4], [8])
    with pytest.raises(ComputeError, match="ValueError: thirteen"):
        bad.result(10)
    with pytest.raises(ComputeError, match="PanicError: the tokenizer panicked"):
        panic.result(10)
    assert queue.submit([5]).result(10) == [10]


def test_a_panic_is_an_error_of_one_request_and_the_thread_goes_on(queue, doubling):
    doubling.is_let.set()
    with pytest.raises(ComputeError):
        queue.submit([666]).result(10)
    assert queue.submit([5]).result(10) == [10]
    assert queue._scheduler.is_alive and queue._scheduler.failing == []


def test_the_rest_of_a_request_with_an_error_is_not_computed(queue, doubling, monkeypatch):
    at_speed(queue, seconds_per_token=1e-9, batch_tokens=2, monkeypatch=monkeypatch)
    doubling.is_let.set()
    with pytest.raises(ComputeError):
        queue.submit([13, 1, 2, 3, 4]).result(10)
    queue.submit([5]).result(10)
    assert doubling.batches == [[13, 1], [5]]


def test_a_refused_text_of_a_later_slice_is_counted_from_there(queue, doubling, monkeypatch):
    at_speed(queue, seconds_per_token=1e-9, batch_tokens=2, monkeypatch=monkeypatch)
    doubling.is_let.set()
    with pytest.raises(UserError, match=r"^text 1 has no tokens \(texts are counted from input 2\)$"):
        queue.submit([1, 2, 3, -1]).result(10)
    with pytest.raises(UserError, match=r"^text 1 has no tokens$"):
        queue.submit([1, -1]).result(10)


def test_a_model_that_is_broken_is_named_until_it_works_again(queue, doubling, monkeypatch):
    monkeypatch.setattr(batching, "_PROBE_S", 0.01)
    doubling.is_let.set()
    doubling.is_broken = True
    with pytest.raises(ComputeError):
        queue.submit([1]).result(10)
    assert queue._scheduler.failing == ["doubling"]
    doubling.is_broken = False
    until_s = time.monotonic() + 10
    while queue._scheduler.failing and time.monotonic() < until_s:  # the probe finds out, without any request
        time.sleep(0.01)
    assert queue._scheduler.failing == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_model_that_ends_the_thread_leaves_no_request_waiting(blocked, doubling):
    queue, first = blocked
    ending, waiting = queue.submit([99]), queue.submit([2])
    doubling.is_let.set()
    assert first.result(10) == [2]
    for future in (ending, waiting):
        with pytest.raises(StoppingError):
            future.result(10)
    assert queue._scheduler.join(10.0) and not queue._scheduler.is_alive
    with pytest.raises(StoppingError):
        queue.submit([3])


# ---- stopping


def test_stopping_finishes_what_has_begun_and_refuses_the_rest(queue, doubling, monkeypatch):
    at_speed(queue, seconds_per_token=1e-9, batch_tokens=2, monkeypatch=monkeypatch)
    begun = queue.submit([1, 2, 3, 4, 5])
    assert doubling.has_begun.wait(10)
    waiting = queue.submit([6])
    queue._scheduler.stop()
    with pytest.raises(StoppingError):
        waiting.result(0)
    with pytest.raises(StoppingError):
        queue.submit([7])
    doubling.is_let.set()
    assert begun.result(10) == [2, 4, 6, 8, 10]
    assert queue._scheduler.join(10.0)
    assert doubling.batches == [[1, 2], [3, 4], [5]]


def test_abandoning_refuses_also_what_is_being_computed(queue, doubling):
    begun = queue.submit([1])
    assert doubling.has_begun.wait(10)
    queue._scheduler.abandon()
    with pytest.raises(StoppingError):
        begun.result(0)
    assert queue._scheduler.busy_s > 0
    assert not queue._scheduler.join(0.01)
    doubling.is_let.set()
    assert queue._scheduler.join(10.0)
