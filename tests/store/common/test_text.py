"""Texts for people: sizes, durations, cut lists."""

import pytest

from store.common.text import human_bytes, human_duration, some, some_rows


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1180, "1.18 kB"), (302e6, "302 MB"), (73.2e12, "73.2 TB")]
)
def test_sizes_have_three_digits(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3 s"), (245, "4:05 min"), (3600, "1:00 h"), (47 * 3600, "47:00 h"), (1e6, "11.6 days")]
)
def test_durations(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_long_lists_are_cut() -> None:
    assert some([3, 4]) == "3, 4"
    assert some(range(11), limit=2) == "0, 1 and 9 more"
    assert some(["a", "b"], separator="; ") == "a; b"
    assert some_rows([3]) == "row 3"
    assert some_rows(range(10)) == "rows 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
