"""Items that a thread makes ahead, and results that another one takes."""
import threading
import time
from contextlib import closing

import pytest

from engine.pipeline import AHEAD, ahead, behind


def test_items_keep_their_order_and_few_wait():
    """Items made in one thread, taken in another: never more than AHEAD wait on either side."""
    made, taken, waiting = [], [], []

    def items():
        for number in range(20):
            made.append((number, threading.current_thread()))
            yield number

    def results():
        for number in ahead(items()):
            waiting.append((len(made) - number - 1, number - len(taken)))
            yield number * 10

    def take(result):
        time.sleep(0.002)
        taken.append((result, threading.current_thread()))
    behind(take, results())
    assert [number for number, _ in made] == list(range(20)) and [result for result, _ in taken] == list(range(0, 200, 10))
    assert {thread for _, thread in made} != {thread for _, thread in taken}
    assert threading.current_thread() not in {thread for _, thread in made + taken}
    assert max(ahead for ahead, _ in waiting) <= AHEAD and max(behind for _, behind in waiting) <= AHEAD + 1


def test_an_error_in_a_thread_ends_the_work():
    def items():
        yield 1
        raise ValueError('in the first thread')
    with pytest.raises(ValueError, match='in the first thread'):
        list(ahead(items()))

    def take(number):
        raise ValueError(f'in the last thread, at {number}')
    numbers = iter(range(100))
    with pytest.raises(ValueError, match='in the last thread, at 0'):
        behind(take, numbers)
    assert next(numbers) <= AHEAD + 1


def test_no_thread_is_left_after_stopping_early():
    count = threading.active_count()
    with closing(ahead(iter(range(100)))) as items:
        assert next(items) == 0
    assert threading.active_count() == count
