"""Texts for people, in one form everywhere: sizes, durations, lists that end in `and 3 more`."""

from collections.abc import Iterable

LISTED = 8
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def human_bytes(count: float) -> str:
    """Return a size with three digits: `302 MB`, `1.18 GB`. Decimal units."""
    for unit in UNITS:
        if count < 999.5 or unit == UNITS[-1]:
            break
        count /= 1000.0
    digits = 0 if unit == "B" or count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:.{digits}f} {unit}"


def human_duration(seconds: float) -> str:
    """Return a time: `3 s`, `4:05 min`, `1:00 h`, `12.5 days`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    if whole < 48 * 3600:
        return f"{whole // 3600}:{whole // 60 % 60:02d} h"
    return f"{whole / 86400:.1f} days"


def some(values: Iterable[object], *, limit: int = LISTED, separator: str = ", ") -> str:
    """Return `3, 4` or `3, 4, ... and 90 more`, with at most `limit` values spelt out."""
    texts = [str(value) for value in values]
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return separator.join(texts[:limit]) + more


def some_rows(rows: Iterable[int]) -> str:
    """Return `row 3`, `rows 3, 4` or `rows 3, 4, ... and 90 more`."""
    listed = list(rows)
    return f"row{'s' if len(listed) != 1 else ''} {some(listed)}"


def random_weights_note(teachers: Iterable[str]) -> str:
    """Return the sentence that warns of the teachers with random weights, from their names; empty without any."""
    names = [f"'{name}'" for name in sorted(teachers)]
    if not names:
        return ""
    return f"random weights of {', '.join(names)}: for trials of a pipeline; what is learnt from them means nothing"
