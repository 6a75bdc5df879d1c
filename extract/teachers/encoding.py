"""Encode a teacher's tokens on its device, so that bytes come back to the host instead of float16 values.

On a CPU the store's own encoder does it, in the thread that computed the batch. On other devices the same steps run in
torch, in float32; codes differ from the store's only where two codewords, or two scales, are as near up to rounding.
What is measured of a row (moments, distortion) is that of its true tokens, rounded to float16.

Shapes: B rows, T tokens (P prefix tokens, then patches), K stored patches, C channels, m values of a codeword.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from store.format import statistics
from store.format.code import SCALES, Code
from store.format.code_encode import EncodedRow, Encoder, rotations, transposed_basis
from store.format.code_signs import sign_number
from store.format.codeword_search import half_squares
from store.format.distortion import BINS, KINDS, Distortion
from store.format.moments import TokenMoments

ROWS_AT_ONCE = 16  # of ViT-L at 336 px: some copies of 38 MB
VECTORS_AT_ONCE = 2**18  # their scores take 268 MB
ROWS_MEASURED = 2**10  # decides how moments are summed: as those of a shard


class TokenEncoder(Protocol):
    """Encodes rows of float16 tokens with one code; safe to use from several threads."""

    def encode(self, tokens: Tensor, rows: Sequence[int]) -> list[EncodedRow]:
        """Encode rows.

        Args:
            tokens: float16 (B, T, C), finite, on the teacher's device.
            rows: row numbers, B of them.
        """
        ...


def token_encoder(code: Code, device: torch.device) -> TokenEncoder:
    """Return the encoder of a code for a device."""
    return HostEncoder(code) if device.type == "cpu" else DeviceEncoder(code, device)


class HostEncoder:
    """The store's encoder; see `TokenEncoder`."""

    def __init__(self, code: Code) -> None:
        self._code = code
        self._encoder = Encoder(code)

    def encode(self, tokens: Tensor, rows: Sequence[int]) -> list[EncodedRow]:
        """See `TokenEncoder.encode`."""
        values = tokens.numpy()
        codes, distortions = self._encoder.encode(values, np.asarray(rows, np.int64))
        return [
            EncodedRow(codes=codes[index], moments=self._moments(values[index]), distortion=distortion)
            for index, distortion in enumerate(distortions)
        ]

    def _moments(self, row: np.ndarray) -> np.ndarray:
        code = self._code
        moments = TokenMoments(
            prefix_tokens=code.prefix_tokens, tokens=code.tokens, channels=code.channels, rows=ROWS_MEASURED
        )
        moments.add(row)
        return statistics.stacked(*moments.result())


class DeviceEncoder:
    """The encoder in torch; see `TokenEncoder`.

    Args:
        code: code of the tokens.
        device: device of the tokens.
    """

    def __init__(self, code: Code, device: torch.device) -> None:
        def placed(values: np.ndarray | None) -> Tensor | None:
            return None if values is None else torch.tensor(values, device=device)

        def here(values: np.ndarray) -> Tensor:
            return torch.tensor(values, device=device)

        self._code = code
        self._mean, self._inverse_std = here(code.mean), here(np.asarray(1 / code.std))
        self._signs = here(code.signs.astype(np.float32))
        self._bases = [placed(transposed_basis(code, kind)) for kind in (0, 1)]
        self._rotations = [[here(rotation) for rotation in rotations(code, kind)] for kind in (0, 1)]
        self._back = [[here(block) for block in _blocks(code, kind)] for kind in (0, 1)]
        self._books = {size: here(np.array(book)) for size, book in code.books.items()}
        self._halves = {size: here(half_squares(book)) for size, book in code.books.items()}
        self._scales = here(SCALES)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # other threads use them in streams of their own

    def encode(self, tokens: Tensor, rows: Sequence[int]) -> list[EncodedRow]:
        """See `TokenEncoder.encode`."""
        encoded: list[EncodedRow] = []
        for first in range(0, len(tokens), ROWS_AT_ONCE):
            part = np.asarray(rows[first : first + ROWS_AT_ONCE], np.int64)
            encoded += self._encode(tokens[first : first + ROWS_AT_ONCE], part)
        return encoded

    def _encode(self, tokens: Tensor, rows: np.ndarray) -> list[EncodedRow]:
        code, split = self._code, self._code.prefix_tokens
        signs = self._signs[torch.from_numpy(sign_number(rows)).to(tokens.device)][:, None]
        patches = tokens[:, split:]
        stored = code.stored_tokens(rows)
        if stored is not None:
            index = torch.from_numpy(stored).to(tokens.device)[:, :, None].expand(-1, -1, code.channels)
            patches = patches.gather(1, index)
        records, measured = [], []
        for kind, kept in ((0, tokens[:, :split]), (1, patches)):
            if kept.shape[1]:
                record, distortion = self._encode_kind(kept, kind, signs)
                records.append(record.flatten(1))
            else:
                distortion = _no_distortion(kept)
            measured.append(distortion)
        moments = torch.stack([_moments(part) for part in (tokens[:, :split], tokens[:, split:])], dim=1)
        sums, cosine, floor = (torch.stack(parts, dim=1) for parts in zip(*measured, strict=True))
        host = [part.cpu().numpy() for part in (torch.cat(records, dim=1), moments, sums, cosine, floor)]
        return [
            EncodedRow(codes=codes, moments=moment, distortion=Distortion(sums=s, cosine=c, floor=f))
            for codes, moment, s, c, f in zip(*host, strict=True)
        ]

    def _encode_kind(self, tokens: Tensor, kind: int, signs: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Return records uint8 (B, n, record bytes) of tokens (B, n, C) of a type, and their distortion."""
        true = (tokens.float() - self._mean[kind]) * self._inverse_std[kind]
        basis = self._bases[kind]
        components = (true if basis is None else true @ basis.T) * signs
        scale_bytes, codes, decoded, first = [], [], [], 0
        for group, (size, count) in enumerate(self._code.spec.groups[KINDS[kind]]):
            values = components[..., first : first + count] @ self._rotations[kind][group]
            scale = _scale_bytes(values)
            factor = self._scales[scale.long()]
            numbers = self._nearest((values / factor).reshape(-1, size), size).view(*values.shape[:2], -1)
            rounded = functional.embedding(numbers.int(), self._books[size]).flatten(2) * factor
            scale_bytes.append(scale)
            codes.append(numbers)
            decoded.append(rounded @ self._back[kind][group])
            first += count
        back = torch.cat(decoded, dim=-1) * signs
        found = back if basis is None else back @ basis
        return torch.cat([*scale_bytes, *codes], dim=-1), _distortion(true, found)

    def _nearest(self, values: Tensor, size: int) -> Tensor:
        """Return the number of the nearest codeword of each vector (n, m), uint8 (n,)."""
        book = self._books[size]
        if size == 1:
            middles = (book[1:, 0] + book[:-1, 0]) / 2
            return torch.searchsorted(middles, values[:, 0].contiguous()).to(torch.uint8)
        found = torch.empty(len(values), dtype=torch.uint8, device=values.device)
        for first in range(0, len(values), VECTORS_AT_ONCE):
            scores = torch.addmm(-self._halves[size], values[first : first + VECTORS_AT_ONCE], book.T)
            found[first : first + VECTORS_AT_ONCE] = scores.argmax(dim=1).to(torch.uint8)
        return found


def _blocks(code: Code, kind: int) -> list[np.ndarray]:
    """Return the transposed rotation of each group with its gain, float32 [rotated component, component]."""
    blocks, first = [], 0
    for _, count in code.spec.groups[KINDS[kind]]:
        part = slice(first, first + count)
        blocks.append(np.ascontiguousarray(code.rotation[kind, part, part]))
        first += count
    return blocks


def _scale_bytes(values: Tensor) -> Tensor:
    """Return the byte of the scale nearest to the root mean square of the last axis, uint8 (B, n, 1)."""
    squares = values.square().mean(dim=-1, keepdim=True).clamp(min=2.0**-40)
    return (8 * torch.log2(squares.double()) + 128).round().clamp(0, 255).to(torch.uint8)


def _distortion(true: Tensor, decoded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return sums (B, 3, C), histogram of cosines (B, 256) and floor (B, 3) of standardised tokens (B, n, C)."""
    products = torch.stack([true * true, true * decoded, decoded * decoded], dim=1)  # (B, 3, n, C)
    squares, dots, decoded_squares = products.sum(dim=-1, dtype=torch.float64).unbind(dim=1)
    norms = (squares * decoded_squares).sqrt()
    cosines = torch.where(norms > 0, dots / norms.clamp(min=torch.finfo(torch.float64).tiny), 0.0).clamp(-1, 1)
    bins = ((cosines + 1) * (BINS / 2)).long().clamp(max=BINS - 1)
    histogram = torch.zeros(len(true), BINS, dtype=torch.int64, device=true.device)
    histogram.scatter_add_(1, bins, torch.ones_like(bins))
    smooth_l1 = functional.smooth_l1_loss(decoded, true, reduction="none").mean(dim=-1, dtype=torch.float64)
    count = torch.full_like(smooth_l1[:, 0], true.shape[1])
    floor = torch.stack([count, (1 - cosines).sum(dim=1), smooth_l1.sum(dim=1)], dim=1)
    return products.sum(dim=2, dtype=torch.float64), histogram, floor


def _no_distortion(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows, channels = len(tokens), tokens.shape[2]
    sums = torch.zeros(rows, 3, channels, dtype=torch.float64, device=tokens.device)
    return sums, torch.zeros(rows, BINS, dtype=torch.int64, device=tokens.device), sums[:, :, :1].flatten(1)


def _moments(tokens: Tensor) -> Tensor:
    """Return the moments (B, 5, C) of float16 tokens (B, n, C) of each row: count, mean, M2, min, max."""
    if not tokens.shape[1]:
        empty = statistics.stacked(None, statistics.empty(tokens.shape[2]))[1]
        return torch.from_numpy(empty).to(tokens.device).expand(len(tokens), -1, -1)
    values = tokens.double()
    mean = values.mean(dim=1)
    squares = (values - mean[:, None]).square().sum(dim=1)
    count = torch.full_like(mean, tokens.shape[1])
    return torch.stack([count, mean, squares, values.amin(dim=1), values.amax(dim=1)], dim=1)
