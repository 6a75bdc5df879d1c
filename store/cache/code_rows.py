"""Rows of a shard of codes: true tokens or encoded rows go in, bytes to store and what the trailer records come out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.format import distortion, statistics
from store.format.code_encode import EncodedRow, Encoder
from store.format.distortion import Distortion
from store.format.moments import TokenMoments
from store.format.statistics import Moments


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Sums over the true tokens of a shard of codes, which its trailer records; they do not follow from the codes.

    Attributes:
        moments: moments of prefix tokens (None without any) and patch tokens.
        distortion: what the code does to the stored ones.
    """

    moments: tuple[Moments | None, Moments]
    distortion: Distortion


class CodeRows:
    """Encodes the rows of one shard and sums their moments and distortion; not for several threads."""

    def __init__(self, encoder: Encoder, *, rows: int) -> None:
        """Begin with no row.

        Args:
            encoder: encoder of the array's code.
            rows: approximate number of rows to come.
        """
        code = encoder.code
        self._encoder, self._row_bytes = encoder, code.row_bytes
        self._tokens, self._channels = code.tokens, code.channels
        self._moments = TokenMoments(
            prefix_tokens=code.prefix_tokens, tokens=self._tokens, channels=self._channels, rows=rows
        )
        self._encoded = statistics.stacked(None, statistics.empty(self._channels))  # of rows that came encoded
        self._distortion = distortion.empty(self._channels)

    def add(self, row: npt.NDArray[Any] | EncodedRow, number: int) -> npt.NDArray[np.uint8] | None:
        """Add a row and return its codes, uint8 [row bytes]; None, and nothing added, if a value is not finite.

        Args:
            row: true tokens, float16 [N, C], or what a device made of them.
            number: number of the row in the array, which its code depends on.

        Raises:
            errors.InvalidInput: another shape or type.
        """
        if isinstance(row, EncodedRow):
            return self._add_encoded(row)
        if row.shape != (self._tokens, self._channels) or row.dtype != np.float16:
            expected = f"float16 {(self._tokens, self._channels)}"
            raise errors.InvalidInput(f"expected {expected} or an encoded row, found {row.dtype} {row.shape}")
        if not self._moments.add(row):
            return None
        codes, parts = self._encoder.encode(row[None], np.array([number]))
        self._distortion = distortion.merge([self._distortion, *parts])
        return np.ascontiguousarray(codes[0])

    def measured(self) -> Measured:
        """Return the sums over all rows added."""
        parts = np.stack([statistics.stacked(*self._moments.result()), self._encoded])
        moments = statistics.from_stacked(statistics.merge_stacked(parts))
        return Measured(moments=moments, distortion=self._distortion)

    def _add_encoded(self, row: EncodedRow) -> npt.NDArray[np.uint8] | None:
        shapes = (row.codes.shape, row.moments.shape, row.distortion.sums.shape)
        expected = ((self._row_bytes,), (2, 5, self._channels), (2, 3, self._channels))
        if shapes != expected or row.codes.dtype != np.uint8:
            found = f"{row.codes.dtype} codes, moments and distortion of shapes {shapes}"
            raise errors.InvalidInput(f"expected uint8 codes and shapes {expected}, found {found}")
        if statistics.moments_problem(row.moments):
            return None
        self._encoded = statistics.merge_stacked(np.stack([self._encoded, row.moments]))
        self._distortion = distortion.merge([self._distortion, row.distortion])
        return np.ascontiguousarray(row.codes)
