"""Progress of a stage for people: a bar on a terminal, a line now and then in a log file."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TextIO

from tqdm import tqdm

LINE_SECONDS = 15.0


class Display:
    """Shows rows, rows/s, MB/s, failed rows and time left of one stage. Use as a context manager.

    Args:
        name: of the stage.
        rows: in all.
        done: of these, made by earlier runs.
        row_bytes: stored bytes of a row, on average.
        stream: where to; a bar if it is a terminal.
    """

    def __init__(
        self,
        name: str,
        *,
        rows: int,
        done: int,
        row_bytes: float,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._rows, self._before, self._row_bytes = name, rows, done, row_bytes
        self._done, self._failed = done, 0
        self._stream, self._clock = stream, clock
        self._started = self._last_line = clock()
        terminal = stream.isatty()
        self._bar = (
            tqdm(total=rows, initial=done, desc=f"{name:<24}", unit="row", file=stream, dynamic_ncols=True)
            if terminal
            else None
        )

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._done > self._before:
            self._line()

    def advance(self, rows: int, failed: int) -> None:
        """So many more rows were made, failed ones included."""
        self._done += rows
        self._failed += failed
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"{self._rate() * self._row_bytes / 1e6:.1f} MB/s, {self._failed} failed", refresh=False
            )
            self._bar.update(rows)
        elif self._clock() - self._last_line >= LINE_SECONDS:
            self._line()

    def _rate(self) -> float:
        return (self._done - self._before) / max(self._clock() - self._started, 1e-9)

    def _line(self) -> None:
        self._last_line = self._clock()
        rate = self._rate()
        left = (self._rows - self._done) / rate if rate else 0.0
        percent = 100 * self._done / max(self._rows, 1)
        self._stream.write(
            f"{self._name:<24} {self._done}/{self._rows} rows ({percent:.0f} %), {rate:.1f} rows/s, "
            f"{rate * self._row_bytes / 1e6:.1f} MB/s, {self._failed} failed, {duration(left)} left\n"
        )
        self._stream.flush()


def duration(seconds: float) -> str:
    """`3 s`, `4:05`, `1:00:00`, `12 days`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    if whole < 48 * 3600:
        return f"{whole // 3600}:{whole // 60 % 60:02d} h"
    return f"{whole / 86400:.1f} days"


def size(count: float) -> str:
    """`512 B`, `3.9 GB`, `80.5 TB` (powers of ten)."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count:.0f} B"


class EventLog:
    """Appends events to a file, each with its time (seconds since 1970); without a path it drops them."""

    def __init__(self, path: Path | None) -> None:
        self._file = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, event: str, **fields: Any) -> None:
        """Append one event; `fields` are plain JSON."""
        if self._file is not None:
            line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}, ensure_ascii=False)
            self._file.write(line + "\n")
            self._file.flush()
