"""Output that several commands share: numbers as JSON and CSV files, figures as lines on the terminal."""

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from store.common import atomic
from store.errors import OutputExists


def write_numbers(folder: Path, name: str, value: Any, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write FOLDER/NAME.json with `value` and FOLDER/NAME.csv with `rows`."""
    write_json(folder / f"{name}.json", value)
    write_csv(folder / f"{name}.csv", columns, rows)


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Write JSON data."""
    atomic.write_text(path, json.dumps(value, indent=indent) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table with its column names in the first line."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    atomic.write_text(path, text.getvalue())


def show_scores(table: Mapping[str, Mapping[str, float]], *, out: Path | None) -> None:
    """Print the scores of each set of samples, one a line; with `out`, also write them as JSON, NaN as null.

    Raises:
        OutputExists: `out` is there already.
    """
    if out is not None:
        if out.exists():
            raise OutputExists(f"output '{out}' exists. Delete it or choose another --out")
        plain = {
            name: {score: None if value != value else value for score, value in scores.items()}
            for name, scores in table.items()
        }
        write_json(out, plain, indent=1)
    for name, scores in table.items():
        sys.stdout.write(f"{name}\n")
        for score, value in scores.items():
            sys.stdout.write(f"  {score:<24} {value:>10.4g}\n")
