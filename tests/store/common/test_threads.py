"""The ordered map over a pool: order, bound, errors."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from store.common.threads import ordered_map


def test_ordered_map_keeps_order_and_its_bound() -> None:
    begun: list[int] = []

    def slow(number: int) -> int:
        begun.append(number)
        time.sleep(0.001 * (number % 3))
        return number * 2

    with ThreadPoolExecutor(8) as pool:
        for taken, result in enumerate(ordered_map(pool, slow, range(30), ahead=4)):
            assert result == 2 * taken
            assert len(begun) <= taken + 1 + 4
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
