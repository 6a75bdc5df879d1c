"""The compact form of a teacher's tokens: bytes of a row to float16 tokens.

A row is the records of its prefix tokens, then of its stored patches in patch order. A record is one scale byte a
group, then the codes of group 0, 1, ..., one byte each: the number of a codeword of m values. Decoded:

    mean + ((codeword * scale) rotation * signs[hash of the row]) decoder        scale = 2 ** (byte / 16 - 8)

Every byte string decodes to finite numbers: only checksums tell damage.

Legend: B rows, N tokens, P prefix tokens, K stored patches, C channels (also components), type 0 prefix, 1 patch.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.format import schema
from store.format.books import CODEWORDS
from store.format.code_signs import SIGN_VECTORS, sign_number
from store.format.code_spec import CodeSpec as CodeSpec
from store.format.distortion import KINDS
from store.format.token_subset import check_even

LARGEST = 65504.0  # of float16
MIN_STD = 1e-3
LARGEST_FACTOR = 1e6  # of the matrices: products stay far from the end of float32
SCALES = 2.0 ** (np.arange(256, dtype=np.float32) / 16 - 8)
EXITS = "Restore code/ from another copy of the cache, or write the codes again"

UInt8 = npt.NDArray[np.uint8]
Int8 = npt.NDArray[np.int8]
Int64 = npt.NDArray[np.int64]
Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Code:
    """A code with its arrays. Make it with `Code.from_arrays`, which checks them.

    Attributes:
        spec: what the attributes of `codes` say.
        mean, std: float32 [2, C], of the true tokens that the code was fitted to; std is at least 1e-3.
        rotation: float32 [2, C, C]: gain of each group times the transposed rotation, in blocks on the diagonal.
        signs: int8 [256, C], each -1 or 1.
        decoder: float32 [2, C, C]: the transposed basis times std.
        books: m -> float32 [256, m], those in use.
        prefix_tokens: P.
        patch_grid: (rows, cols) of patches.
    """

    spec: CodeSpec
    mean: Float32
    std: Float32
    rotation: Float32
    signs: Int8
    decoder: Float32
    books: Mapping[int, Float32]
    prefix_tokens: int
    patch_grid: tuple[int, int]

    @property
    def channels(self) -> int:
        """Return C."""
        return int(self.mean.shape[1])

    @property
    def patches(self) -> int:
        """Return the patches of a row, stored or not."""
        return self.patch_grid[0] * self.patch_grid[1]

    @property
    def tokens(self) -> int:
        """Return N, the tokens of a decoded row."""
        return self.prefix_tokens + self.patches

    @property
    def row_bytes(self) -> int:
        """Return the bytes of a row."""
        return self.spec.row_bytes(self.prefix_tokens, self.patches)

    @property
    def prefix_bytes(self) -> int:
        """Return the bytes of a row's prefix tokens, which come first."""
        return self.prefix_tokens * self.spec.prefix_record_bytes

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays as they lie under `code/`: name -> array."""
        return {
            "mean": self.mean,
            "std": self.std,
            "rotation": self.rotation,
            "signs": self.signs,
            "decoder": self.decoder,
            **{f"book_{size}": book for size, book in sorted(self.books.items())},
        }

    @classmethod
    def from_arrays(
        cls,
        spec: CodeSpec,
        arrays: Mapping[str, npt.NDArray[Any]],
        *,
        prefix_tokens: int,
        patch_grid: tuple[int, int],
        where: str = "code",
    ) -> "Code":
        """Return the code of stored arrays.

        Args:
            spec: attributes of the `codes` array.
            arrays: name -> array, all under `code/`.
            prefix_tokens: prefix tokens of a row.
            patch_grid: (rows, cols) of patches.
            where: name of the code, for errors.

        Raises:
            errors.Damaged: an array is absent or of another shape or type, holds values that no code has, or is not
                one that the digest was made of.
        """
        for name, (shape, dtype) in array_shapes(spec).items():
            found = arrays.get(name)
            if found is None or found.shape != shape or found.dtype != dtype:
                stored = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
                raise errors.Damaged(f"{where}/{name}: expected {dtype} {list(shape)}, found {stored}. {EXITS}")
        code = cls(
            spec=spec,
            mean=arrays["mean"],
            std=arrays["std"],
            rotation=arrays["rotation"],
            signs=arrays["signs"],
            decoder=arrays["decoder"],
            books={size: arrays[f"book_{size}"] for size in spec.book_sizes},
            prefix_tokens=prefix_tokens,
            patch_grid=patch_grid,
        )
        code._check_values(where)
        code.check_digest(where)
        return code

    def check_digest(self, where: str = "code") -> None:
        """Check that the arrays are those that the digest was made of.

        Raises:
            errors.Damaged: they are not; both digests are shown.
        """
        found = self.computed_digest()
        if found != self.spec.digest:
            raise errors.Damaged(f"{where}: its arrays have digest {found}, expected {self.spec.digest}. {EXITS}")

    def computed_digest(self) -> str:
        """Return the digest of groups, gains, subset and arrays as they are."""
        sums = {name: _sha256(array) for name, array in self.arrays().items()}
        return schema.digest({**self.spec.digested(), "arrays": sums})

    def computed_without_subset(self) -> str:
        """Return the digest that this code would have if it stored all patches: equal records are decoded alike."""
        return replace(self, spec=replace(self.spec, subset=None)).computed_digest()

    def with_digest(self) -> "Code":
        """Return this code with the digest of its arrays; for those who make codes."""
        return replace(self, spec=replace(self.spec, digest=self.computed_digest()))

    def standardised(self, tokens: npt.NDArray[Any]) -> Float32:
        """Return (token - mean) / std of float16 or float32 tokens [..., N, C], float32."""
        split = self.prefix_tokens
        result = np.empty(tokens.shape, np.float32)
        for kind, part in ((0, np.s_[..., :split, :]), (1, np.s_[..., split:, :])):
            np.subtract(tokens[part], self.mean[kind], out=result[part], dtype=np.float32)
            result[part] *= self._inverse_std[kind]
        return result

    def stored_tokens(self, rows: npt.NDArray[Any]) -> Int64 | None:
        """Return the numbers of each row's stored patches, int64 [B, K], ascending; None if all are stored."""
        return None if self.spec.subset is None else self.spec.subset.stored(rows, self.patch_grid)

    def decode(self, codes: UInt8, rows: npt.NDArray[Any], out: Float16 | None = None) -> Float16:
        """Decode rows, one after the other, so that a row's values do not depend on those beside it.

        Args:
            codes: uint8 [B, row_bytes], contiguous in each row.
            rows: row numbers [B], which tell signs and stored patches.
            out: float16 [B, N, C] to write to; None makes it.

        Returns:
            float16 [B, N, C]; NaN where a patch is not stored, elsewhere finite.

        Raises:
            errors.InvalidInput: shapes or types do not fit.
        """
        rows = np.asarray(rows)
        if codes.dtype != np.uint8 or codes.shape != (len(rows), self.row_bytes):
            found = f"{codes.dtype} {list(codes.shape)}"
            raise errors.InvalidInput(f"codes are {found}, expected uint8 {[len(rows), self.row_bytes]}")
        shape = (len(rows), self.tokens, self.channels)
        if out is None:
            out = np.empty(shape, np.float16)
        elif out.dtype != np.float16 or out.shape != shape:
            raise errors.InvalidInput(f"out is {out.dtype} {list(out.shape)}, expected float16 {list(shape)}")
        stored, numbers = self.stored_tokens(rows), sign_number(rows)
        for index, number in enumerate(numbers):
            self._decode_row(codes[index], int(number), None if stored is None else stored[index], out[index])
        return out

    def records(self, codes: UInt8) -> Iterator[tuple[int, UInt8]]:
        """Yield (type, records [tokens, record bytes]) of a row's codes [row_bytes], of each type that has tokens."""
        if self.prefix_tokens:
            yield 0, codes[: self.prefix_bytes].reshape(self.prefix_tokens, -1)
        yield 1, codes[self.prefix_bytes :].reshape(-1, self.spec.record_bytes)

    def components(self, kind: int, records: UInt8, number: int) -> Float32:
        """Return the decoded components of tokens of a type, in the basis: float32 [tokens, C], multiply by `decoder`.

        Args:
            kind: type of the tokens.
            records: uint8 [tokens, record bytes].
            number: of the row's sign vector.
        """
        groups = self.spec.groups[KINDS[kind]]
        turned = np.empty((len(records), self.channels), np.float32)
        first_code, first = len(groups), 0
        for group, (size, count) in enumerate(groups):
            codes = records[:, first_code : first_code + count // size]
            values = np.take(self.books[size], codes, axis=0).reshape(len(records), count)
            values *= SCALES[records[:, group]][:, None]
            block = slice(first, first + count)
            np.matmul(values, self._blocks[kind][group], out=turned[:, block])
            first_code, first = first_code + count // size, first + count
        turned *= self._float_signs[number]
        return turned

    def _decode_row(self, codes: UInt8, number: int, stored: Int64 | None, out: Float16) -> None:
        for kind, records in self.records(codes):
            deviations = self.components(kind, records, number) @ self.decoder[kind]
            if not self._fits_float16(kind, records):  # only of tokens that no teacher gives, or of damaged bytes
                np.clip(deviations, -LARGEST - self.mean[kind], LARGEST - self.mean[kind], out=deviations)
            place = out[: self.prefix_tokens] if kind == 0 else out[self.prefix_tokens :]
            if kind == 1 and stored is not None:
                place[:] = np.nan
                place[stored] = deviations + self.mean[kind]
            else:
                np.add(deviations, self.mean[kind], out=place, dtype=np.float32, casting="unsafe")

    def _fits_float16(self, kind: int, records: UInt8) -> bool:
        """Return whether no token of these records can exceed float16, by lengths of vectors."""
        lengths = SCALES[records[:, : len(self._longest[kind])]] * self._longest[kind]
        largest = float(np.sqrt(np.square(lengths, dtype=np.float64).sum(axis=1).max(initial=0)))
        return largest * self._steepest[kind] + float(np.abs(self.mean[kind]).max()) < LARGEST

    @cached_property
    def _longest(self) -> tuple[npt.NDArray[np.float64], ...]:
        """Bounds on the length of each group's part of a token at scale 1, by type."""
        longest = []
        for kind, name in enumerate(KINDS):
            codewords = [
                np.sqrt(count / size * np.square(self.books[size], dtype=np.float64).sum(axis=1).max())
                for size, count in self.spec.groups[name]
            ]
            gains = [np.sqrt(np.abs(block @ block.T).sum(axis=1).max()) for block in self._blocks[kind]]
            longest.append(np.array(codewords) * np.array(gains))
        return tuple(longest)

    @cached_property
    def _steepest(self) -> tuple[float, ...]:
        """Length of the longest column of `decoder`, by type."""
        return tuple(float(np.linalg.norm(matrix.astype(np.float64), axis=0).max()) for matrix in self.decoder)

    @cached_property
    def _blocks(self) -> tuple[tuple[Float32, ...], ...]:
        """Blocks of the rotation by type and group, contiguous."""
        blocks = []
        for kind, name in enumerate(KINDS):
            ends = np.cumsum([count for _, count in self.spec.groups[name]], dtype=np.int64)
            starts = [0, *ends[:-1]]
            parts = (np.s_[first:end] for first, end in zip(starts, ends, strict=False))
            blocks.append(tuple(np.ascontiguousarray(self.rotation[kind, part, part]) for part in parts))
        return tuple(blocks)

    @cached_property
    def _float_signs(self) -> Float32:
        return self.signs.astype(np.float32)

    @cached_property
    def _inverse_std(self) -> Float32:
        return np.asarray(1 / self.std)

    def _check_values(self, where: str) -> None:
        with np.errstate(invalid="ignore"):  # comparing NaN
            fits = {
                "mean": (np.abs(self.mean) <= 2 * LARGEST).all(),
                "std": ((self.std >= MIN_STD / 2) & (self.std <= 2 * LARGEST)).all(),
                "rotation": (np.abs(self.rotation) <= LARGEST_FACTOR).all(),
                "signs": (np.abs(self.signs) == 1).all(),
                "decoder": (np.abs(self.decoder) <= LARGEST_FACTOR).all(),
                **{f"book_{size}": (np.abs(book) <= LARGEST_FACTOR).all() for size, book in self.books.items()},
            }
        wrong = [name for name, fit in fits.items() if not fit]
        if wrong:
            raise errors.Damaged(f"{where}: values of {wrong} are not those of a code. {EXITS}")
        if bool(self.spec.groups["prefix"]) != bool(self.prefix_tokens):
            groups = "groups" if self.spec.groups["prefix"] else "no groups"
            raise errors.Damaged(
                f"{where}: {groups} of prefix tokens, of which a row has {self.prefix_tokens}. {EXITS}"
            )
        if self.spec.subset is not None:
            check_even(self.patch_grid)


def array_shapes(spec: CodeSpec) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return shape and type of the arrays that lie under `code/`: name -> (shape, dtype)."""
    channels, single = spec.channels, np.dtype(np.float32)
    return {
        "mean": ((2, channels), single),
        "std": ((2, channels), single),
        "rotation": ((2, channels, channels), single),
        "signs": ((SIGN_VECTORS, channels), np.dtype(np.int8)),
        "decoder": ((2, channels, channels), single),
        **{f"book_{size}": ((CODEWORDS, size), single) for size in spec.book_sizes},
    }


def _sha256(array: npt.NDArray[Any]) -> str:
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return hashlib.sha256(little.tobytes()).hexdigest()
