from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unjpeg.errors import BadImageError
from unjpeg.parallel import map_ahead, work_ahead


def test_the_next_is_made_while_one_is_in_use() -> None:
    second_made = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        second_made.set()
        yield 2

    got = []
    for item in work_ahead(items()):
        assert second_made.wait(10)
        got.append(item)
    assert got == [1, 2]


def test_what_fails_ahead_is_raised_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise BadImageError("the second")

    ahead = work_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(BadImageError, match="the second"):
        next(ahead)


def test_nothing_is_made_any_more_once_nobody_asks() -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    before = threading.active_count()
    ahead = work_ahead(items())
    assert next(ahead) == 0
    ahead.close()
    assert made == [0, 1]
    assert threading.active_count() == before


# Several at a time


@given(items=st.lists(st.integers(), max_size=20), threads=st.integers(1, 4))
def test_results_come_in_order(items: list[int], threads: int) -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.0005 * (number % 3))
        return number + 1

    assert list(map_ahead(slow_first, items, threads)) == [item + 1 for item in items]


def test_several_are_made_at_once_but_not_all() -> None:
    together = threading.Barrier(2)
    asked: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            asked.append(number)
            yield number

    def wait(number: int) -> int:
        if number < 2:
            together.wait(10)
        return number

    made = map_ahead(wait, items(), 2)
    assert next(made) == 0
    assert len(asked) <= 5
    made.close()
    assert len(asked) <= 5


def test_with_one_thread_nothing_runs_beside_the_caller() -> None:
    assert list(map_ahead(lambda _: threading.current_thread(), range(3), 1)) == [threading.current_thread()] * 3


@pytest.mark.parametrize("threads", [1, 3])
def test_what_fails_in_a_thread_is_raised_in_its_place(threads: int) -> None:
    def refuse(number: int) -> int:
        if number == 3:
            raise BadImageError("the third")
        return number

    before = threading.active_count()
    made = map_ahead(refuse, range(9), threads)
    assert [next(made) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(BadImageError, match="the third"):
        next(made)
    assert threading.active_count() == before
