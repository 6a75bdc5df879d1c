"""Lines of Map-free's pose and intrinsics files, understood as the benchmark understands them.

Fields are separated by one space each. A frame is known by the number in its name alone: `seq1/frame_00005.jpg`,
`frame_00005.png` and `seq0/frame_00005.jpg` are the same frame of a scene.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from store.errors import InvalidInput

ZERO_NORM = 1e-8


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line: file and number for messages, the frame's name, and the numbers after it, NaN where a field is none."""

    where: str
    frame: str
    values: Sequence[float]


def split_lines(content: bytes, *, source: str) -> list[Line]:
    """Split the content of a file into lines, without those that are empty or comments (a `#` in the first field).

    Args:
        content: UTF-8 text.
        source: name of the file in messages.

    Raises:
        InvalidInput: other text than UTF-8.
    """
    try:
        texts = io.StringIO(content.decode("utf-8"), newline=None)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{source}: not UTF-8 ({error.reason}). Save it as UTF-8 text") from None
    lines = []
    for number, text in enumerate(texts, start=1):
        frame, *fields = text.strip().split(" ")
        if frame and "#" not in frame:
            lines.append(
                Line(where=f"{source} line {number}", frame=frame, values=[_number(field) for field in fields])
            )
    return lines


def frame_number(name: str) -> int | None:
    """Return the number in a frame's name, its five characters before the last four, or None if they are no number."""
    try:
        return int(name[-9:-4])
    except ValueError:
        return None


def pose_problem(frame: str, values: Sequence[float], *, count: int) -> str:
    """Say why the benchmark skips a pose line; empty if it does not.

    Args:
        frame: name of the frame.
        values: quaternion, translation, and in submissions the confidence.
        count: expected number of values, 7 or 8.
    """
    if len(values) != count:
        return f"{len(values)} fields after the frame, expected {count}, with one space before each"
    if frame_number(frame) is None:
        return f"no frame number in '{frame}', expected five digits before the suffix as in seq1/frame_00005.jpg"
    if not all(map(math.isfinite, values)):
        return "a field is not a finite number"
    if math.hypot(*values[:4]) <= ZERO_NORM:
        return "the quaternion is zero"
    return ""


def _number(field: str) -> float:
    try:
        return float(field)
    except ValueError:
        return math.nan
