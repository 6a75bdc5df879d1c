"""From float16 tokens to the bytes of a code, and what that did to them.

Rows are encoded one by one, so that a row's bytes do not depend on those beside it. Tokens are always rounded to
float16 first: converting a cache of float16 gives the bytes that extraction would have given.

Legend: B rows, N tokens, P prefix tokens, K stored patches, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.format import distortion
from store.format.code import SCALES, Code
from store.format.code_signs import sign_number
from store.format.codeword_search import scale_bytes, searcher
from store.format.distortion import KINDS, Distortion

UInt8 = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]
Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedRow:
    """A row that a device encoded.

    Attributes:
        codes: uint8 [row_bytes].
        moments: float64 [2, 5, C] of the row's true float16 tokens, as statistics are stored.
        distortion: of the row's stored tokens.
    """

    codes: UInt8
    moments: Float64
    distortion: Distortion


class Encoder:
    """Encodes rows with one code."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self._bases = [transposed_basis(code, kind) for kind in (0, 1)]
        self._rotations = [rotations(code, kind) for kind in (0, 1)]
        self._searches = {size: searcher(book) for size, book in code.books.items()}
        self._signs = code.signs.astype(np.float32)

    def encode(self, tokens: Float16, rows: npt.NDArray[Any]) -> tuple[UInt8, tuple[Distortion, ...]]:
        """Encode rows.

        Args:
            tokens: float16 [B, N, C], finite.
            rows: row numbers [B].

        Returns:
            (codes uint8 [B, row_bytes], distortion of each row's stored tokens).

        Raises:
            errors.InvalidInput: shapes or types do not fit.
        """
        code, rows = self.code, np.asarray(rows)
        shape = (len(rows), code.tokens, code.channels)
        if tokens.dtype != np.float16 or tokens.shape != shape:
            found = f"{tokens.dtype} {list(tokens.shape)}"
            raise errors.InvalidInput(f"tokens are {found}, expected float16 {list(shape)}")
        stored, numbers = code.stored_tokens(rows), sign_number(rows)
        codes = np.empty((len(rows), code.row_bytes), np.uint8)
        distortions = [
            self._encode_row(tokens[index], int(number), None if stored is None else stored[index], codes[index])
            for index, number in enumerate(numbers)
        ]
        return codes, tuple(distortions)

    def _encode_row(self, tokens: Float16, number: int, stored: Int64 | None, codes: UInt8) -> Distortion:
        code, split = self.code, self.code.prefix_tokens
        if stored is not None:
            tokens = np.concatenate([tokens[:split], tokens[split + stored]])
        standardised = code.standardised(tokens)
        measured = distortion.empty(code.channels)
        for kind, records in code.records(codes):
            true = standardised[:split] if kind == 0 else standardised[split:]
            self.encode_standardised(true, kind, number, records)
            decoded = self.from_components(code.components(kind, records, number), kind)
            measured.sums[kind], measured.cosine[kind], measured.floor[kind] = distortion.measure(true, decoded)
        return measured

    def encode_standardised(self, true: Float32, kind: int, number: int, records: UInt8) -> None:
        """Write the records uint8 [tokens, record bytes] of standardised tokens float32 [tokens, C] of a type."""
        components = self.to_components(true, kind) * self._signs[number]
        groups = self.code.spec.groups[KINDS[kind]]
        first_code, first = len(groups), 0
        for group, (size, count) in enumerate(groups):
            values = components[:, first : first + count] @ self._rotations[kind][group]
            scales = scale_bytes(values)
            values /= SCALES[scales][:, None]
            last_code = first_code + count // size
            records[:, group] = scales
            records[:, first_code:last_code] = self._searches[size](values.reshape(-1, size)).reshape(len(records), -1)
            first_code, first = last_code, first + count

    def to_components(self, true: Float32, kind: int) -> Float32:
        """Return standardised tokens [tokens, C] in the basis, before signs."""
        basis = self._bases[kind]
        return true if basis is None else np.asarray(true @ basis.T)

    def from_components(self, components: Float32, kind: int) -> Float32:
        """Return standardised tokens [tokens, C] from components in the basis."""
        basis = self._bases[kind]
        return components if basis is None else np.asarray(components @ basis)


def transposed_basis(code: Code, kind: int) -> Float32 | None:
    """Return V', float32 [component, channel]; None if it is the identity."""
    basis = np.asarray(code.decoder[kind] / code.std[kind])
    return None if np.array_equal(code.decoder[kind], np.diag(code.std[kind])) else basis


def rotations(code: Code, kind: int) -> Sequence[Float32]:
    """Return R of each group, float32 [component, rotated component], without gain."""
    result, first = [], 0
    for (_, count), gain in zip(code.spec.groups[KINDS[kind]], code.spec.gains[KINDS[kind]], strict=True):
        block = slice(first, first + count)
        result.append(np.ascontiguousarray(code.rotation[kind, block, block].T / np.float32(gain)))
        first += count
    return result
