"""Decoding of codes on the device, straight to standardised targets.

Products are of half precision on a GPU; the mean never is. It is added to the product in float32, as a shift that the
loss applies piece by piece: rounded to bf16, means of 20 standard deviations would shift a channel by 0.07.

Shapes: B images, b of them at once, P prefix tokens (0 or 1), K stored patches, N tokens of a type, C channels (and as
many components), R bytes of a record, G groups, n components of a group, m of them in one code.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from store.format.code import Code
from train.objective.targets import MIN_STD, Shift, Standardisation, TeacherNorm, TeacherShift

CPU_CHUNK_ELEMENTS = 1 << 20  # components decoded at once: 4 MiB of float32
GPU_CHUNK_ELEMENTS = 1 << 25
PREFIX, PATCH = 0, 1  # token types, as the arrays of a code number them
SIGN_FACTOR = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64, whose products are modulo 2**64
SCALES_PER_OCTAVE, OCTAVES_BELOW_ONE = 16, 8  # scale of a group: 2 ** (byte / 16 - 8)

Groups = Sequence[tuple[int, int]]  # (m, n) of each group


class Decoded(NamedTuple):
    """Decoded tokens in units of the targets' standard deviation, around the code's own mean."""

    prefix: Tensor  # (B, P, C)
    patch: Tensor  # (B, K, C)


def decoding_dtype(device: torch.device) -> torch.dtype:
    """Return the type of the products: bf16 on a GPU, float32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def sign_numbers(rows: Tensor) -> Tensor:
    """Return the number of the sign vector of each row (B,) int64, as `store.format.code_signs.sign_number` does."""
    return (rows * SIGN_FACTOR >> 56) & 255


class Decoder(nn.Module):
    """Decodes the codes of one teacher to targets that are standardised with the statistics of a training.

    Nothing of it is trained or saved: it follows from the code and the statistics.
    """

    signs: Tensor

    def __init__(self, code: Code, norm: TeacherNorm, *, dtype: torch.dtype | None = None) -> None:
        """Build the matrices on the device of the statistics.

        Args:
            code: code of the teacher's tokens.
            norm: mean and standard deviation of the targets.
            dtype: type of the products; None takes that of the device.
        """
        super().__init__()
        device = norm.patch.mean.device
        chosen = decoding_dtype(device) if dtype is None else dtype
        self.prefix_tokens = code.prefix_tokens
        self.prefix_bytes = code.prefix_tokens * code.spec.prefix_record_bytes
        self.register_buffer("signs", torch.tensor(code.signs).to(device, chosen))
        self.patch = _TypeDecoder(code, PATCH, code.spec.groups["patch"], norm.patch, dtype=chosen)
        self.prefix: _TypeDecoder | None = None
        if code.prefix_tokens and norm.prefix is not None:
            self.prefix = _TypeDecoder(code, PREFIX, code.spec.groups["prefix"], norm.prefix, dtype=chosen)

    @property
    def shift(self) -> TeacherShift:
        """What is still to be added to decoded tokens, in float32; `teacher_loss` takes it as `norm`."""
        prefix = None if self.prefix is None else Shift(self.prefix.offset)
        return TeacherShift(prefix=prefix, patch=Shift(self.patch.offset))

    @torch.no_grad()
    def forward(self, codes: Tensor, rows: Tensor) -> Decoded:
        """Decode rows.

        Args:
            codes: uint8 (B, row bytes), as stored.
            rows: int64 (B,), their row numbers.

        Returns:
            Tokens that lack `shift`, of the type of the products; of a subset, the stored patches in their order.
        """
        signs = self.signs[sign_numbers(rows)]  # (B, C)
        patch = self.patch(_records(codes[:, self.prefix_bytes :], self.patch.record_bytes), signs)
        if self.prefix is None:
            return Decoded(patch[:, :0], patch)
        return Decoded(self.prefix(_records(codes[:, : self.prefix_bytes], self.prefix.record_bytes), signs), patch)

    def standardised(self, codes: Tensor, rows: Tensor) -> Tensor:
        """Return the targets themselves, float32 (B, P + K, C), prefix first; arguments as for `forward`."""
        prefix, patch = self(codes, rows)
        shifted = [] if self.prefix is None else [prefix + self.prefix.offset]
        return torch.cat([*shifted, patch + self.patch.offset], dim=1)


class _TypeDecoder(nn.Module):
    """Decodes the records of one token type.

    Attributes:
        record_bytes: bytes of a record.
        offset: float32 (C,), what is still to be added to decoded tokens.
    """

    scales: Tensor
    matrix: Tensor
    offset: Tensor

    def __init__(self, code: Code, kind: int, groups: Groups, norm: Standardisation, *, dtype: torch.dtype) -> None:
        super().__init__()
        device = norm.mean.device
        self.groups = [(int(m), int(n)) for m, n in groups]
        self.record_bytes = len(self.groups) + sum(n // m for m, n in self.groups)
        std = norm.std.double().clamp(min=MIN_STD).cpu().numpy()  # float64: each matrix is rounded once
        mean = norm.mean.double().cpu().numpy()
        tensors = {
            "scales": 2.0 ** (np.arange(256) / SCALES_PER_OCTAVE - OCTAVES_BELOW_ONE),
            "matrix": code.decoder[kind].astype(np.float64) / std,
            **{f"book_{m}": code.books[m] for m, _ in self.groups},
            **_blocks(code.rotation[kind], self.groups),
        }
        for name, values in tensors.items():
            self.register_buffer(name, torch.tensor(values).to(device, dtype))
        offset = (code.mean[kind].astype(np.float64) - mean) / std
        self.register_buffer("offset", torch.tensor(offset).to(device, torch.float32))

    def forward(self, records: Tensor, signs: Tensor) -> Tensor:
        """Decode records uint8 (B, N, R) of rows with the signs (B, C), some images at a time."""
        images, tokens = records.shape[:2]
        channels = self.matrix.shape[1]
        decoded = torch.empty((images, tokens, channels), dtype=self.matrix.dtype, device=records.device)
        chunk = GPU_CHUNK_ELEMENTS if records.is_cuda else CPU_CHUNK_ELEMENTS
        step = max(1, chunk // max(1, tokens * channels))
        for start in range(0, images, step):
            piece = slice(start, start + step)
            turned = self._turned(records[piece]).mul_(signs[piece, None])  # (b, N, C)
            torch.mm(turned.flatten(0, 1), self.matrix, out=decoded[piece].flatten(0, 1))
        return decoded

    def _turned(self, records: Tensor) -> Tensor:
        """Return the components (b, N, C) before the signs: codewords times scales, turned back group by group."""
        parts, first = [], len(self.groups)
        for number, (m, n) in enumerate(self.groups):
            words = self._words(records[:, :, first : first + n // m], m)
            scale = self.scales[records[:, :, number : number + 1].int()]  # (b, N, 1)
            parts.append(words.mul_(scale) @ self.get_buffer(f"rotation_{number}"))
            first += n // m
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def _words(self, codes: Tensor, m: int) -> Tensor:
        """Return the codewords (b, N, n) of codes (b, N, n / m)."""
        book, numbers = self.get_buffer(f"book_{m}"), codes.int()
        if m == 1:  # several times as fast as rows of one value
            return book.flatten().index_select(0, numbers.flatten()).view(numbers.shape)
        return functional.embedding(numbers, book).flatten(2)


def _records(codes: Tensor, record_bytes: int) -> Tensor:
    return codes.reshape(len(codes), -1, record_bytes)


def _blocks(rotation: "np.ndarray[Any, np.dtype[np.float32]]", groups: Groups) -> Mapping[str, Any]:
    """Return the block of each group of a block-diagonal rotation (C, C)."""
    blocks, first = {}, 0
    for number, (_, n) in enumerate(groups):
        blocks[f"rotation_{number}"] = rotation[first : first + n, first : first + n]
        first += n
    return blocks
