"""Rows of a rebuilt shard: from what a recomputer gives to what an array stores; whether that was stored before."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.cache.code_rows import CodeRows
from store.format import jpeg
from store.format.indexed_layout import IndexedLayout
from store.format.jpeg import EncodedPixels
from store.format.schema import CODES, PIXELS
from store.verify.shard_check import ShardLocation

# Relative distance of tokens of the same pixels on different machines; those of other pixels are 0.1 and more apart.
CLOSE = 1e-2
CLOSE_CODES = 0.05  # share of bytes that differ, where tokens differ in last bits; of other pixels nearly all do

Row = npt.NDArray[Any] | EncodedPixels  # what a shard writer takes


class CannotRebuild(Exception):
    """A shard cannot be rebuilt.

    Attributes:
        reason: why, and what to do.
        rows: rows that can be neither copied nor recomputed.
    """

    def __init__(self, reason: str, rows: tuple[int, ...] = ()) -> None:
        super().__init__(reason)
        self.reason, self.rows = reason, rows


def stored_form(location: ShardLocation, pixels: Row) -> Row:
    """Return recomputed pixels as their array stores them."""
    if isinstance(pixels, EncodedPixels) or not isinstance(location.dataset.array(PIXELS).layout, IndexedLayout):
        return pixels
    return jpeg.encoded(pixels)


def code_rows(location: ShardLocation, *, rows: int) -> CodeRows | None:
    """Return what encodes recomputed rows; None where rows are stored as they are.

    Raises:
        CannotRebuild: the code is damaged.
    """
    if location.dataset.array(location.array).form != CODES:
        return None
    try:
        return CodeRows(location.dataset.encoder(location.array), rows=rows)
    except errors.Damaged as error:
        raise CannotRebuild(f"its code must be whole first: {error}") from error


def storable(location: ShardLocation, position: int, row: Any, codes: CodeRows | None) -> npt.NDArray[Any]:
    """Return a recomputed row as its array stores it.

    Args:
        location: location of the shard.
        position: position of the row in the shard.
        row: true tokens, or what a device encoded.
        codes: what encodes rows, which adds this one to its sums; None where rows are stored as they are.

    Raises:
        CannotRebuild: it is not a row of this array.
    """
    fault = "the recomputer is at fault"
    if codes is not None:
        try:
            stored = codes.add(row, location.dataset.first_row + location.rows.start + position)
        except errors.InvalidInput as error:
            raise CannotRebuild(f"a recomputed row cannot be stored: {error}: {fault}") from error
        if stored is None:
            raise CannotRebuild(f"a recomputed row is not finite: {fault}")
        return stored
    node = location.dataset.array(location.array)
    if row.shape != node.row_shape or row.dtype != node.dtype or not np.isfinite(row).all():
        expected = f"finite {node.dtype} {node.row_shape}"
        raise CannotRebuild(f"a recomputed row is {row.dtype} {row.shape}, expected {expected}: {fault}")
    return np.asarray(row)


def close(stored: Row, made: npt.NDArray[Any]) -> bool:
    """Return whether stored tokens or codes are those of the same pixels as recomputed ones."""
    if isinstance(stored, EncodedPixels):
        return False
    if stored.dtype == np.uint8:
        return bool(np.count_nonzero(stored != made) <= CLOSE_CODES * stored.size)
    difference = np.linalg.norm(stored.astype(np.float64) - np.asarray(made, np.float64))
    return bool(difference <= CLOSE * np.linalg.norm(stored.astype(np.float64)))


def complete(results: Iterable[Any], count: int) -> list[Any]:
    """Return all of the results, of which there must be `count`.

    Raises:
        CannotRebuild: the recomputer fails, or gives another number.
    """
    try:
        made = list(results)
    except errors.CodistillError as error:
        raise CannotRebuild(f"its rows cannot be recomputed: {error}") from error
    if len(made) != count:
        raise CannotRebuild(f"{count} rows asked for, {len(made)} recomputed: the recomputer is at fault")
    return made
