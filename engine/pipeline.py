"""Two ends of a pipeline: one thread makes items ahead of their use, another one takes results off the hands.

Few items wait between threads, and an error in a thread is raised where its result is asked for.
"""
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

AHEAD = 2  # items that wait between two threads
Item = TypeVar('Item')


def ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """The items, made by a thread, AHEAD of them before they are asked for. To stop early, close the generator."""
    end = object()
    with _thread() as thread:
        waiting: deque[Future] = deque(thread.submit(next, items, end) for _ in range(AHEAD))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, items, end))
            yield item


def behind(take: Callable[[Item], None], items: Iterable[Item]) -> None:
    """Calls `take` with each item, in order, in a thread, while the next ones are made."""
    with _thread() as thread:
        waiting: deque[Future] = deque()
        for item in items:
            waiting.append(thread.submit(take, item))
            if len(waiting) > AHEAD:
                waiting.popleft().result()
        for future in waiting:
            future.result()


@contextmanager
def _thread() -> Iterator[ThreadPoolExecutor]:
    """One thread; what waits for it when the block is left, by an error or an interrupt, is not begun."""
    thread = ThreadPoolExecutor(1)
    try:
        yield thread
    finally:
        thread.shutdown(cancel_futures=True)
