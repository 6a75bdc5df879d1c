"""The ordered map over a pool: order, bound, errors."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from store.common.threads import ordered_map


def test_ordered_map_keeps_order_and_its_bound() -> None:
    """Each second item ends after the one that follows it, and every item that may begin does."""
    begun = [threading.Event() for _ in range(30)]
    ended = [threading.Event() for _ in range(30)]

    def work(number: int) -> int:
        begun[number].set()
        if number % 2 == 0:
            ended[number + 1].wait()
        ended[number].set()
        return number * 2

    with ThreadPoolExecutor(8) as pool:
        for taken, result in enumerate(ordered_map(pool, work, range(30), ahead=4)):
            assert result == 2 * taken
            for event in begun[: taken + 1 + 4]:
                event.wait()
            assert not any(event.is_set() for event in begun[taken + 1 + 4 :])
    assert taken == 29


def test_ordered_map_hands_on_errors_and_begins_nothing_more() -> None:
    begun = []

    def fails(number: int) -> int:
        begun.append(number)
        if number == 2:
            raise ValueError("at two")
        return number

    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="at two"):
        list(ordered_map(pool, fails, range(100), ahead=3))
    assert len(begun) < 10
