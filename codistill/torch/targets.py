"""Targets of a batch: float16 tokens standardised, codes decoded straight to standardised targets, on its device.

Shapes: B images, P prefix tokens, N patches, K stored patches, C channels.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codistill.torch.batch import Batch
from store.errors import InvalidInput
from store.format.code import Code
from train.data.buffers import to_device
from train.data.mixture import Mixture
from train.objective.decode import Decoder
from train.objective.target_statistics import set_exact
from train.objective.targets import MIN_STD, TargetNorms

STATISTICS = ("datasets", "subset")
Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
Place = slice | Tensor  # of images in a batch


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a student should predict of one teacher, for the images of a batch.

    Attributes:
        patches: float32 (B, N, C), in row-major order of the grid; zeros where `mask` is False.
        mask: bool (B, N), True where there is a target: the image learns from this teacher, and the patch is stored.
        prefix: float32 (B, P, C), CLS and registers; P is 0 where the teacher has none.
        eligible: bool (B,), True where the image learns from this teacher; the mask of `prefix`.
        grid: (rows, cols) of patches.
    """

    patches: Tensor
    mask: Tensor
    prefix: Tensor
    eligible: Tensor
    grid: tuple[int, int]

    @property
    def map(self) -> Tensor:
        """Patches as a feature map, float32 (B, C, rows, cols)."""
        return self.patches.transpose(1, 2).reshape(len(self.patches), self.patches.shape[2], *self.grid)

    @property
    def mask_map(self) -> Tensor:
        """`mask` as a map, bool (B, 1, rows, cols)."""
        return self.mask.reshape(len(self.mask), 1, *self.grid)


class Targets:
    """Makes targets of batches. Follows the device of each batch; holds nothing that is trained or saved.

    Products of decoding are of half precision on a GPU, means always float32.

    Attributes:
        norms: mean and standard deviation of every teacher's tokens, in host memory.
    """

    def __init__(self, mixture: Mixture, *, standardise: bool = True, statistics: str = "datasets") -> None:
        """Read the statistics and the codes; arguments as for `CacheDataset.targets`, which makes it."""
        if statistics not in STATISTICS:
            raise InvalidInput(f"statistics {statistics!r}: expected one of {', '.join(STATISTICS)}")
        self.norms = TargetNorms(mixture.teachers)
        if standardise:
            set_exact(self.norms, mixture, over_subset=statistics == "subset")
        self._teachers = mixture.teachers
        sources, names = mixture.sources, list(mixture.teachers)
        codes = {name: [source.codes([name]).get(name) for source in sources] for name in names}
        self._in_codes = {name: np.array([code is not None for code in codes[name]]) for name in names}
        self._reads = {name: np.array([name in source.reads for source in sources]) for name in names}
        self._in_part = {
            name: any(code is not None and code.subset is not None for code in codes[name]) for name in names
        }
        self._codes: dict[str, Code] = {}
        for source in sources:  # all codes of a teacher are alike
            for name in source.codes(names):
                self._codes.setdefault(name, source.dataset.code(name))
        self._on_device: dict[torch.device, _OnDevice] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_on_device": {}}

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[str, Target]:
        """Return the target of every teacher, on the device of the batch."""
        return {name: self._target(name, batch) for name in batch.teachers}

    def restore(self, teacher: str, tokens: Tensor, *, prefix: bool = False) -> Tensor:
        """Turn predictions (..., C) of standardised targets back into tokens as the teacher makes them, float32."""
        norm = self._at(tokens.device).norms.stored(teacher)
        of_type = norm.prefix if prefix else norm.patch
        if of_type is None:
            raise InvalidInput(f"teacher '{teacher}' has no prefix tokens")
        return tokens.float() * of_type.std.clamp(min=MIN_STD) + of_type.mean

    def _target(self, name: str, batch: Batch) -> Target:
        info = self._teachers[name]
        encoded = self._in_codes[name][batch.sources] if name in batch.codes else np.zeros(len(batch), np.bool_)
        if not len(batch):
            tokens = torch.zeros((0, info.prefix_tokens + info.patches, info.channels), device=batch.device)
            mask = tokens.new_zeros((0, info.patches), dtype=torch.bool)
        elif encoded.all():
            tokens, mask = self._decoded(name, batch, slice(None))
        elif not encoded.any():
            tokens, mask = self._standardised(name, batch, slice(None))
        else:
            tokens, mask = self._of_both(name, batch, encoded)
        eligible = batch.eligible[name]
        prefix, patches = tokens[:, : info.prefix_tokens], tokens[:, info.prefix_tokens :]
        if not self._reads[name][batch.sources].all():  # zeros that were not read are not the mean: no targets
            mask = mask & eligible[:, None]
            patches = torch.where(eligible[:, None, None], patches, 0.0)
            prefix = torch.where(eligible[:, None, None], prefix, 0.0)
        return Target(patches=patches, mask=mask, prefix=prefix, eligible=eligible, grid=info.patch_grid)

    def _of_both(self, name: str, batch: Batch, encoded: Flags) -> tuple[Tensor, Tensor]:
        """Return targets of images of which some have codes and others float16 tokens."""
        places = [to_device(np.flatnonzero(encoded == of_codes), batch.device) for of_codes in (True, False)]
        parts = [self._decoded(name, batch, places[0]), self._standardised(name, batch, places[1])]
        joined = []
        for values in zip(*parts, strict=True):
            whole = values[0].new_empty((len(batch), *values[0].shape[1:]))
            for place, part in zip(places, values, strict=True):
                whole.index_copy_(0, place, part)
            joined.append(whole)
        return joined[0], joined[1]

    def _decoded(self, name: str, batch: Batch, place: Place) -> tuple[Tensor, Tensor]:
        """Return targets (b, P + N, C) of the images at `place` that have codes, and the mask of their patches."""
        tokens = self._at(batch.device).decoder(name).standardised(batch.codes[name][place], batch.rows[place])
        patches = self._teachers[name].patches
        if name not in batch.patches:
            return tokens, tokens.new_ones((len(tokens), patches), dtype=torch.bool)
        prefix = self._teachers[name].prefix_tokens
        stored = batch.patches[name][place].long()  # (b, K)
        whole = tokens.new_zeros((len(tokens), prefix + patches, tokens.shape[2]))
        whole[:, :prefix] = tokens[:, :prefix]
        whole[:, prefix:].scatter_(1, stored[:, :, None].expand(-1, -1, tokens.shape[2]), tokens[:, prefix:])
        mask = torch.zeros((len(tokens), patches), dtype=torch.bool, device=tokens.device)
        return whole, mask.scatter_(1, stored, True)

    def _standardised(self, name: str, batch: Batch, place: Place) -> tuple[Tensor, Tensor]:
        """Return the same of the images at `place` that have float16 tokens."""
        norm, prefix = self._at(batch.device).norms.stored(name), self._teachers[name].prefix_tokens
        raw = batch.tokens[name][place]
        parts = [] if norm.prefix is None else [norm.prefix.apply(raw[:, :prefix])]
        tokens = torch.cat([*parts, norm.patch.apply(raw[:, prefix:])], dim=1) if parts else norm.patch.apply(raw)
        if not self._in_part[name]:
            return tokens, tokens.new_ones((len(tokens), tokens.shape[1] - prefix), dtype=torch.bool)
        mask = tokens[:, prefix:].isfinite().all(dim=2)  # decoded on the host: NaN where a code holds no patch
        return tokens.nan_to_num_(nan=0.0), mask

    def _at(self, device: torch.device) -> "_OnDevice":
        if device not in self._on_device:
            self._on_device[device] = _OnDevice(self.norms, self._codes, device)
        return self._on_device[device]


class _OnDevice:
    """Statistics and decoders on one device."""

    def __init__(self, norms: TargetNorms, codes: Mapping[str, Code], device: torch.device) -> None:
        self.norms = copy.deepcopy(norms).to(device)
        self._codes = codes
        self._decoders: dict[str, Decoder] = {}

    def decoder(self, name: str) -> Decoder:
        if name not in self._decoders:
            self._decoders[name] = Decoder(self._codes[name], self.norms.stored(name))
        return self._decoders[name]
