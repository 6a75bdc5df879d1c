"""Results stored in the run directory, each under a key of everything it depends on; recomputed when that changes.

RUN/eval/<kind>-<key>.json holds {"key": what it depends on, "value": the result}; a table goes beside it as Parquet.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from store.common import atomic

FOLDER = "eval"

Value: TypeAlias = dict[str, Any]
ValueAndTable: TypeAlias = tuple[Value, pa.Table | None]


def digest(value: Any) -> str:
    """Return the sha256 of JSON data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Results:
    """Stored results of one run.

    Args:
        run: the run directory.
        depends_on: JSON that every result depends on: the run's weights and the state of its caches.
    """

    def __init__(self, run: Path, depends_on: Mapping[str, Any]) -> None:
        self.folder = run / FOLDER
        self.depends_on = dict(depends_on)

    def get(self, kind: str, settings: Mapping[str, Any]) -> ValueAndTable | None:
        """Return the stored result, or None if there is none or something it depends on has changed.

        A damaged file counts as none, so it is recomputed and replaced.
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
        """Store a result; the JSON file appears last, so that a killed job leaves no incomplete result."""
        path = self._path(kind, settings)
        if table is not None:
            with atomic.replacing(path.with_suffix(".parquet")) as partial:
                pq.write_table(table, partial, compression="zstd")
        entry = {"key": self._key(kind, settings), "value": dict(value), "table": table is not None}
        atomic.write_text(path, json.dumps(entry, indent=1))

    def all_of(self, kind: str, *, newest_first: bool = False) -> Iterator[tuple[Value, Value, pa.Table | None]]:
        """Yield settings, value and table of every valid result of a kind, in order of file names or newest first."""
        paths = sorted(self.folder.glob(f"{kind}-*.json"))
        for path in sorted(paths, key=_modified, reverse=True) if newest_first else paths:
            try:
                settings = dict(json.loads(path.read_text(encoding="utf-8"))["key"]["settings"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            stored = self.get(kind, settings)
            if stored is not None:
                yield settings, *stored

    def latest(self, kind: str) -> tuple[Value, Value, pa.Table | None] | None:
        """Return settings, value and table of the newest valid result of a kind, with whatever settings computed."""
        return next(self.all_of(kind, newest_first=True), None)

    def get_or_compute(
        self,
        kind: str,
        settings: Mapping[str, Any],
        compute: Callable[[], tuple[Mapping[str, Any], pa.Table | None]],
    ) -> ValueAndTable:
        """Return the stored result; if there is none, compute and store it."""
        stored = self.get(kind, settings)
        if stored is not None:
            return stored
        value, table = compute()
        self.put(kind, settings, value, table)
        # A reader gets what is stored: JSON's types, not those of the computation.
        return json.loads(json.dumps(dict(value))), table

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
