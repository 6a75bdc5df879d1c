"""Parsing of command-line arguments that tyro has no type for."""

from collections.abc import Sequence

from store import errors


def names_of(text: str) -> list[str] | None:
    """Return the names of `a,b,c`; None for all, which is the empty text."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return names or None


def patch_of(text: str) -> tuple[int, int] | None:
    """Return (row, col) of `ROW,COL`; None for the empty text.

    Raises:
        errors.InvalidInput: not two numbers.
    """
    if not text:
        return None
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise errors.InvalidInput(f"--patch: expected ROW,COL such as 3,5, found '{text}'")
    return int(parts[0]), int(parts[1])


def rows_of(texts: Sequence[str], *, rows: int) -> list[int]:
    """Return the rows that `17` and `0:256` (without its end, as in Python) name, in this order.

    Args:
        texts: numbers and ranges.
        rows: how many there are; `:` alone means all.

    Raises:
        errors.InvalidInput: a text is neither; all such are listed.
    """
    chosen: list[int] = []
    wrong = []
    for text in texts:
        start, colon, stop = text.partition(":")
        if not colon and start.isdecimal():
            chosen.append(int(start))
        elif colon and (start or "0").isdecimal() and (stop or "0").isdecimal():
            chosen += range(int(start or 0), int(stop) if stop else rows)
        else:
            wrong.append(text)
    if wrong:
        raise errors.InvalidInput(f"rows: expected numbers or ranges such as 17 0:256, found {', '.join(wrong)}")
    return chosen
