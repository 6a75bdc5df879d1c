"""Results kept in the run directory, each under a key of everything it depends on; recomputed only when that changes.

RUN/eval/<kind>-<key>.json holds {"key": what it depends on, "value": the result}; a table goes beside it as Parquet.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = "eval"


def digest(value: Any) -> str:
    """The sha256 of JSON data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """The sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Results:
    """What was computed about one run.

    Args:
        run: the run directory.
        depends_on: what every result depends on: the run's weights and the state of its caches.
    """

    def __init__(self, run: Path, depends_on: Mapping[str, Any]) -> None:
        self.folder = run / FOLDER
        self.depends_on = dict(depends_on)

    def get(self, kind: str, settings: Mapping[str, Any]) -> tuple[dict[str, Any], pa.Table | None] | None:
        """The stored result of these settings, or None if it was never computed or something changed since.

        A damaged file counts as none: it is computed again and replaced.
        """
        path = self._path(kind, settings)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["key"] != self._key(kind, settings):
                return None
            table = pq.read_table(path.with_suffix(".parquet")) if stored["table"] else None
            return dict(stored["value"]), table
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            return None

    def put(
        self, kind: str, settings: Mapping[str, Any], value: Mapping[str, Any], table: pa.Table | None = None
    ) -> None:
        """Store a result; the JSON file is the last thing to appear, so that a killed job leaves nothing half."""
        path = self._path(kind, settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        if table is not None:
            partial = path.with_suffix(f".parquet.{os.getpid()}")
            pq.write_table(table, partial, compression="zstd")
            partial.replace(path.with_suffix(".parquet"))
        entry = {"key": self._key(kind, settings), "value": dict(value), "table": table is not None}
        partial = path.with_suffix(f".json.{os.getpid()}")
        partial.write_text(json.dumps(entry, indent=1), encoding="utf-8")
        partial.replace(path)

    def latest(self, kind: str) -> tuple[dict[str, Any], dict[str, Any], pa.Table | None] | None:
        """Settings, value and table of the newest valid result of a kind, with whatever settings it was computed."""
        for path in sorted(self.folder.glob(f"{kind}-*.json"), key=_modified, reverse=True):
            try:
                settings = dict(json.loads(path.read_text(encoding="utf-8"))["key"]["settings"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            found = self.get(kind, settings)
            if found is not None:
                return settings, *found
        return None

    def get_or_compute(
        self,
        kind: str,
        settings: Mapping[str, Any],
        compute: Callable[[], tuple[Mapping[str, Any], pa.Table | None]],
    ) -> tuple[dict[str, Any], pa.Table | None]:
        """The stored result, or the computed one, which is then stored."""
        found = self.get(kind, settings)
        if found is None:
            value, table = compute()
            self.put(kind, settings, value, table)
            # What a reader gets is what is stored: JSON's types, not those of the computation.
            found = json.loads(json.dumps(dict(value))), table
        return found

    def _key(self, kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        key = {"kind": kind, "settings": dict(settings), **self.depends_on}
        return dict(json.loads(json.dumps(key)))

    def _path(self, kind: str, settings: Mapping[str, Any]) -> Path:
        return self.folder / f"{kind}-{digest(self._key(kind, settings))[:12]}.json"


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
