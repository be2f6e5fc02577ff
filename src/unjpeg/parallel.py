"""Threads beside the one that asks: what comes next is made while one thing is in use, in order, so many at a time.

numpy, zlib and the image libraries let other threads run while they compute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["map_ahead", "work_ahead"]

S = TypeVar("S")
T = TypeVar("T")


def work_ahead(items: Iterator[T]) -> Generator[T]:
    """The same items, none of them None; a thread makes the next one while one is in use."""
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(next, items, None)
        while (item := waiting.result()) is not None:
            waiting = thread.submit(next, items, None)
            yield item


def map_ahead(function: Callable[[S], T], items: Iterable[S], threads: int) -> Generator[T]:
    """``map``, in so many threads: results in order, and no more than two a thread begun that nobody has taken.

    The items are asked for in the caller's thread. With one thread nothing runs beside it.
    """
    rest = iter(items)
    if threads == 1:
        yield from map(function, rest)
        return
    with ThreadPoolExecutor(threads) as pool:
        begun: deque[Future[T]] = deque()
        try:
            for item in rest:
                begun.append(pool.submit(function, item))
                if len(begun) == 2 * threads:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for unwanted in begun:
                unwanted.cancel()
