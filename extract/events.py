"""The event log: one JSON object a line, for machines that watch a job."""

import json
import time
from pathlib import Path
from typing import Any, Self


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
