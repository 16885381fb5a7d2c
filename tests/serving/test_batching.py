"""Requests that pile up are computed together, each gets its own results, and one's error is no other's."""

import threading

import pytest

from tain.serving.batching import Batcher, TooBusyError


class Doubling:
    """Doubles numbers, once it is let; remembers its batches."""

    def __init__(self):
        self.batches, self.is_let, self.has_begun = [], threading.Event(), threading.Event()

    def __call__(self, items):
        self.has_begun.set()
        self.is_let.wait(10)
        self.batches.append(list(items))
        if 13 in items:
            raise ValueError("thirteen")
        return [2 * item for item in items]


@pytest.fixture
def doubling():
    return Doubling()


@pytest.fixture
def start(doubling):
    made = []

    def start(**options):
        made.append(Batcher(doubling, turn=threading.Lock(), **options))
        return made[-1]

    yield start
    doubling.is_let.set()
    for batcher in made:
        batcher.close()


def test_what_comes_while_one_batch_runs_is_the_next_batch(doubling, start):
    batcher = start(most_texts=5)
    first = batcher.submit([1])
    assert doubling.has_begun.wait(10)
    others = [batcher.submit(items) for items in ([2, 3], [4], [5, 6, 7], [8])]
    doubling.is_let.set()
    assert first.result(10) == [2]
    assert [other.result(10) for other in others] == [[4, 6], [8], [10, 12, 14], [16]]
    assert doubling.batches == [[1], [2, 3, 4], [5, 6, 7, 8]]


def test_one_requests_error_is_no_others(doubling, start):
    batcher = start()
    first = batcher.submit([1])
    assert doubling.has_begun.wait(10)
    good, bad, also_good = batcher.submit([2]), batcher.submit([13]), batcher.submit([4])
    doubling.is_let.set()
    assert (first.result(10), good.result(10), also_good.result(10)) == ([2], [4], [8])
    with pytest.raises(ValueError, match="thirteen"):
        bad.result(10)


def test_too_much_that_waits_is_refused_and_a_large_request_alone_is_not(doubling, start):
    batcher = start(most_waiting=3)
    running = batcher.submit([1] * 9)
    assert doubling.has_begun.wait(10)
    waiting = batcher.submit([2, 3])
    with pytest.raises(TooBusyError):
        batcher.submit([4, 5])
    fits = batcher.submit([6])
    doubling.is_let.set()
    assert (running.result(10), waiting.result(10), fits.result(10)) == ([2] * 9, [4, 6], [12])


def test_an_item_may_be_many_texts(doubling, start):
    batcher = start(most_waiting=10, most_texts=10)
    first = batcher.submit([1])
    assert doubling.has_begun.wait(10)
    large = batcher.submit([2], texts=8)
    with pytest.raises(TooBusyError):
        batcher.submit([3], texts=3)
    assert large.cancel()  # who went away waits no more
    others = [batcher.submit([number], texts=5) for number in (4, 5)]
    doubling.is_let.set()
    assert [future.result(10) for future in (first, *others)] == [[2], [8], [10]]
    assert doubling.batches == [[1], [4, 5]]


def test_a_request_that_was_given_up_is_not_computed(doubling, start):
    batcher = start()
    first = batcher.submit([1])
    assert doubling.has_begun.wait(10)
    given_up, kept = batcher.submit([2]), batcher.submit([3])
    assert given_up.cancel()
    doubling.is_let.set()
    assert (first.result(10), kept.result(10)) == ([2], [6])
    assert doubling.batches == [[1], [3]]


def test_closing_finishes_what_waits_and_takes_no_more(doubling, start):
    batcher = start()
    future = batcher.submit([1])
    doubling.is_let.set()
    batcher.close()
    assert future.result(0) == [2]
    with pytest.raises(TooBusyError):
        batcher.submit([2])


def test_two_models_never_compute_at_once():
    turn, together, most = threading.Lock(), [0], [0]

    def compute(items):
        together[0] += 1
        most[0] = max(most[0], together[0])
        threading.Event().wait(0.002)
        together[0] -= 1
        return items

    batchers = [Batcher(compute, turn=turn, most_texts=1) for _ in range(2)]
    futures = [batcher.submit([number]) for number in range(10) for batcher in batchers]
    assert [future.result(10)[0] for future in futures] == [number for number in range(10) for _ in batchers]
    assert most == [1]
    for batcher in batchers:
        batcher.close()
