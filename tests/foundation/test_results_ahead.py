"""Results come in order, from threads that work a bounded number of tasks ahead."""

import threading
import time
from functools import partial

import pytest

from tain.foundation.ahead import results_ahead


@pytest.mark.parametrize("threads", [1, 2])
def test_results_come_in_order_and_not_far_ahead(threads: int):
    begun: list[int] = []

    def task(number: int) -> int:
        begun.append(number)
        time.sleep(0.001 * (number % 3))
        return number

    results = results_ahead((partial(task, number) for number in range(40)), threads=threads, ahead=4)
    for number in range(40):
        assert next(results) == number
        assert len(begun) <= number + 6  # four ahead, this one and the next
    assert next(results, None) is None


def test_an_error_in_one_thread_ends_the_others():
    begun: list[int] = []

    def task(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise ValueError("row 3")
        return number

    with pytest.raises(ValueError, match="row 3"):
        list(results_ahead((partial(task, number) for number in range(1000)), threads=2, ahead=4))
    assert len(begun) < 20


def test_no_thread_is_left_when_the_caller_stops_early():
    before = set(threading.enumerate())
    results = results_ahead((partial(int, number) for number in range(100)), threads=3, ahead=6)
    assert next(results) == 0
    assert set(threading.enumerate()) > before
    results.close()
    assert set(threading.enumerate()) == before
