"""DOC store.common.text."""

from collections.abc import Iterable

LISTED_ROWS = 8


def some_rows(rows: Iterable[int]) -> str:
    """Return `row 3`, `rows 3, 4` or `rows 3, 4, ... and 90 more`."""
    listed = list(rows)
    text = ", ".join(str(row) for row in listed[:LISTED_ROWS])
    more = f" and {len(listed) - LISTED_ROWS} more" if len(listed) > LISTED_ROWS else ""
    return f"row{'s' if len(listed) != 1 else ''} {text}{more}"


UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def human_bytes(count: float) -> str:
    """Return a size with three digits: `302 MB`, `1.18 GB`. Decimal units."""
    for unit in UNITS:
        if count < 999.5 or unit == UNITS[-1]:
            break
        count /= 1000.0
    digits = 0 if unit == "B" or count >= 100 else 1 if count >= 10 else 2
    return f"{count:.{digits}f} {unit}"
