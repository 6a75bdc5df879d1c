"""Rows that a person names: numbers and ranges, images by name or pattern, conditions on the manifest's columns."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from store import errors
from store.cache.dataset import Dataset
from store.common.config import near_miss
from store.common.row_filter import parse
from store.common.text import some
from store.format.manifest import SCHEMA

NUMBER = re.compile(r"\d{1,18}")
HALF_OPEN = re.compile(r"(\d{0,18}):(\d{0,18})")  # without its end, as in Python
INCLUSIVE = re.compile(r"(\d{1,18})-(\d{1,18})")
PATTERN_CHARACTERS = "*?["
MOST_NAMES_COMPARED = 20_000  # to find the one that was meant
FORMS = "numbers, ranges (100:200, or 100-199), names of images, quoted patterns ('a*.jpg')"

Rows = npt.NDArray[np.int64]


def choose_rows(dataset: Dataset, texts: Sequence[str], *, where: str = "", images: Path | None = None) -> Rows:
    """Return the rows that texts name, each once, in the order in which they are named.

    Args:
        dataset: dataset of the rows.
        texts: numbers (17), ranges without their end (100:200) or with it (100-199), several of these with commas;
            names of images: the path of the image list, the end of one, or a file below the root; patterns of them,
            where `*` stays in its folder and `**` does not. All views of an image are taken. None takes all rows.
        where: condition on the manifest's columns that the rows must meet, as `data.subset` of a training; empty for
            none.
        images: root of the images; None takes the one that the dataset records.

    Raises:
        errors.InvalidInput: a text names no row; all such texts are listed.
        errors.InvalidConfig: the condition is not understood.
        errors.NotSealed: a condition, and the manifest is not sealed.
    """
    rows = _named(dataset, texts, images) if texts else np.arange(dataset.rows, dtype=np.int64)
    if where:
        met = dataset.manifest(["row"], parse(where, SCHEMA, subject="--where"))["row"].to_numpy()
        rows = rows[np.isin(rows, met)]
    if not len(rows):
        raise errors.InvalidInput(f"no row of '{dataset.name}' is chosen: --where {where!r} is true for none of them")
    return rows


def _named(dataset: Dataset, texts: Sequence[str], images: Path | None) -> Rows:
    names = _Images(dataset, images)
    found, wrong = [], []
    for text in texts:
        rows = _numbers(text, dataset)
        if rows is None:
            rows = names.rows(text)
        if rows is None:
            wrong.append(text)
        else:
            found.append(rows)
    if wrong:
        raise errors.InvalidInput(f"rows: {names.nothing_found(wrong)}. Expected {FORMS}, or --where CONDITION")
    joined = np.concatenate(found)
    outside = joined[(joined < 0) | (joined >= dataset.rows)]
    if len(outside):
        raise errors.InvalidInput(
            f"rows {some(outside.tolist())} are not in '{dataset.name}', which has 0..{dataset.rows - 1}"
        )
    _, first = np.unique(joined, return_index=True)
    return np.asarray(joined[np.sort(first)])


def _numbers(text: str, dataset: Dataset) -> Rows | None:
    """Return the rows of numbers and ranges with commas between them; None if it is something else.

    Raises:
        errors.InvalidInput: a range goes backwards, or beyond the dataset: it could fill the memory.
    """
    ranges = []
    for part in (item.strip() for item in text.split(",") if item.strip()):
        if NUMBER.fullmatch(part):
            first, end = int(part), int(part) + 1
        elif match := HALF_OPEN.fullmatch(part):
            first, end = int(match[1] or 0), int(match[2]) if match[2] else dataset.rows
        elif match := INCLUSIVE.fullmatch(part):
            first, end = int(match[1]), int(match[2]) + 1
        else:
            return None
        if first >= end:
            raise errors.InvalidInput(f"rows: '{part}' is an empty range")
        if end > dataset.rows:
            raise errors.InvalidInput(f"rows {part} are not in '{dataset.name}', which has 0..{dataset.rows - 1}")
        ranges.append(np.arange(first, end, dtype=np.int64))
    return np.concatenate(ranges) if ranges else None


class _Images:
    """Images of a dataset by name; the list is read when the first one is asked for."""

    def __init__(self, dataset: Dataset, images: Path | None) -> None:
        self._dataset = dataset
        self._root = images or dataset.source.get("root")
        self._paths: pa.ChunkedArray | None = None

    @property
    def paths(self) -> pa.ChunkedArray:
        if self._paths is None:
            self._paths = self._dataset.image_list()["path"]
        return self._paths

    def rows(self, text: str) -> Rows | None:
        """Return the rows of the images that a text names, or several with commas; None if there are none."""
        found = self._images(text)
        if not len(found) and "," in text:
            parts = [self._images(part.strip()) for part in text.split(",") if part.strip()]
            found = np.concatenate(parts) if all(len(part) for part in parts) else found
        if not len(found):
            return None
        views = np.arange(self._dataset.views, dtype=np.int64)
        return np.asarray((found[:, None] * self._dataset.views + views).ravel())

    def nothing_found(self, texts: Sequence[str]) -> str:
        """Say which texts name nothing, with the image that may be meant."""
        hint = ""
        if len(texts) == 1 and len(self.paths) <= MOST_NAMES_COMPARED:
            hint = near_miss(texts[0], self.paths.to_pylist())
        return f"no image of '{self._dataset.name}' is called {some(map(repr, texts))}{hint}"

    def _images(self, text: str) -> Rows:
        for candidate in (text, self._below_root(text)):
            if candidate:
                found = self._where(pc.equal(self.paths, candidate))
                if len(found):
                    return found
        ending = self._where(pc.ends_with(self.paths, f"/{text}"))
        if len(ending) or not any(character in text for character in PATTERN_CHARACTERS):
            return ending
        return self._where(pc.match_substring_regex(self.paths, pattern_regex(text)))

    def _below_root(self, text: str) -> str:
        """Return a path of the file system as the image list names it; empty if it is not below the root."""
        try:
            return Path(text).resolve().relative_to(Path(str(self._root)).resolve()).as_posix()
        except (OSError, ValueError, RuntimeError):
            return ""

    def _where(self, mask: pa.ChunkedArray) -> Rows:
        return np.flatnonzero(mask.to_numpy()).astype(np.int64)


def pattern_regex(pattern: str) -> str:
    """Return the regular expression (RE2) of a pattern of names; it begins at a folder and ends with the name."""
    parts, at = [r"(?s)(?:^|/)"], 0
    while at < len(pattern):
        character = pattern[at]
        closing = pattern.find("]", at + 2) if character == "[" else -1
        if pattern.startswith("**", at):
            parts.append(".*")
            at += 1
        elif character in "*?":
            parts.append("[^/]*" if character == "*" else "[^/]")
        elif closing > 0:
            inner = pattern[at + 1 : closing]
            negated = inner.startswith(("!", "^"))
            escaped = inner[negated:].replace("\\", r"\\").replace("[", r"\[").replace("^", r"\^").replace("]", r"\]")
            parts.append(f"[^/{escaped}]" if negated else f"[{escaped}]")
            at = closing
        else:
            parts.append(re.escape(character))
        at += 1
    return "".join([*parts, "$"])
