"""Progress of a job: a bar on a terminal or lines in a log for people, and an event log of JSON lines for programs."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TextIO

from tqdm import tqdm

from store.common.text import human_duration

LINE_SECONDS = 15.0


class StageDisplay:
    """Shows rows, rows/s, MB/s, failed rows and time left of one stage. Use as a context manager.

    Args:
        name: name of the stage.
        rows: number of rows of the stage.
        done: number of these rows that earlier runs made.
        row_bytes: stored bytes of a row, on average.
        stream: stream to write to; gets a bar if it is a terminal, else lines.
        clock: returns the time in seconds.
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._done > self._before:
            self._line()

    def advance(self, rows: int, failed: int) -> None:
        """Count `rows` more rows as made, of which `failed` failed."""
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
            f"{rate * self._row_bytes / 1e6:.1f} MB/s, {self._failed} failed, {human_duration(left)} left\n"
        )
        self._stream.flush()


class CalibrationDisplay:
    """Shows the rows that a code is calibrated on. Use as a context manager; shows nothing if there are none.

    Args:
        name: name of the stage.
        stream: stream to write to; gets a bar if it is a terminal, else lines.
    """

    def __init__(self, name: str, *, stream: TextIO) -> None:
        self._name, self._stream = name, stream
        self._display: StageDisplay | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._display is not None:
            self._display.__exit__()

    def advance(self, rows: int, wanted: int) -> None:
        """Count `rows` more rows as computed, of `wanted` in all."""
        if self._display is None:
            self._display = StageDisplay(self._name, rows=wanted, done=0, row_bytes=0, stream=self._stream)
        self._display.advance(rows, 0)


class EventLog:
    """Appends events to a file of JSON lines, each with its time (seconds since 1970); without a path it drops them."""

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
        """Append one event, with `fields` of plain JSON."""
        if self._file is not None:
            line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}, ensure_ascii=False)
            self._file.write(line + "\n")
            self._file.flush()
