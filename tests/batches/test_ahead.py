"""Batches prepared before their steps."""

import threading
import time

import pytest

from tain.batches.ahead import Ahead


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_step_gets_its_own_value_whatever_was_made_ahead(workers):
    with Ahead(lambda step: step * step, workers=workers) as ahead:
        assert [ahead(step) for step in [0, 1, 2, 3, 40, 41, 5]] == [0, 1, 4, 9, 1600, 1681, 25]


def test_the_next_steps_are_made_in_advance():
    made = threading.Event()
    with Ahead(lambda step: made.set() if step == 3 else None, workers=1) as ahead:
        ahead(0)
        assert made.wait(timeout=30)


def test_nothing_is_made_after_the_block():
    running = []

    def make(step):
        running.append(step)
        time.sleep(0.01)
        running.remove(step)

    with Ahead(make, workers=2) as ahead:
        ahead(0)
    assert not running
    with pytest.raises(RuntimeError):
        ahead(1)


def test_what_a_step_raises_reaches_the_one_who_asks_for_it():
    def make(step):
        if step == 2:
            raise ValueError("step 2 has no text")
        return step

    with Ahead(make, workers=1) as ahead:
        assert ahead(0) == 0 and ahead(1) == 1
        with pytest.raises(ValueError, match="step 2"):
            ahead(2)
