"""Standardisation of teacher tokens: exact statistics of the training mixture, or the released running average.

Shapes: B images, N patches, P prefix tokens of a teacher (0 or 1), C channels, W ranks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

MIN_STD = 1e-3  # the released code clamps the std; it does not add an epsilon
CHUNK_ELEMENTS = 1 << 22  # float32 working set of one pass: 16 MiB


@dataclass(frozen=True, kw_only=True)
class TeacherSpec:
    """What a student must predict for one teacher.

    Args:
        channels: width C of the teacher's tokens.
        prefix_tokens: 1 if the teacher gives a CLS token, 0 if only patches.
    """

    channels: int
    prefix_tokens: int


class Standardisation(NamedTuple):
    """Per-channel statistics of one token type: `(x - mean) / max(std, MIN_STD)`."""

    mean: Tensor  # (C,)
    std: Tensor  # (C,), not clamped

    def apply(self, tokens: Tensor) -> Tensor:
        """Standardise tokens (..., C) in float32."""
        return (tokens.float() - self.mean) / self.std.clamp(min=MIN_STD)


class TeacherNorm(NamedTuple):
    """The statistics that one teacher's tokens are standardised with; `prefix` is None without a CLS token."""

    prefix: Standardisation | None
    patch: Standardisation


class Moments(NamedTuple):
    """Number of tokens, mean and sum of squared deviations per channel, in float64."""

    tokens: Tensor  # ()
    mean: Tensor  # (C,)
    m2: Tensor  # (C,)


Gather = Callable[[Tensor], Tensor]  # (K,) of this rank -> (W, K) of all ranks


def moments(tokens: Tensor) -> Moments:
    """Return the moments of tokens (B, N, C) of any float dtype, per channel over images and tokens.

    Read in pieces, so that half-precision tokens are never copied whole to float32.
    """
    images = max(1, CHUNK_ELEMENTS // max(1, tokens.shape[1] * tokens.shape[2]))
    parts = []
    for piece in torch.split(tokens, images):
        var, mean = torch.var_mean(piece.float(), dim=(0, 1), correction=0)
        count = piece.shape[0] * piece.shape[1]
        # filled, not sent: a number copied to a GPU waits for everything that it has still to do
        tokens_seen = torch.full((), count, dtype=torch.float64, device=var.device)
        parts.append(Moments(tokens_seen, mean.double(), var.double() * count))
    return merge(parts)


def merge(parts: Sequence[Moments]) -> Moments:
    """Merge the moments of disjoint sets of tokens (Chan's formula)."""
    counts = torch.stack([part.tokens for part in parts])  # (K,)
    means = torch.stack([part.mean for part in parts])  # (K, C)
    total = counts.sum()
    mean = (counts[:, None] * means).sum(0) / total
    m2 = torch.stack([part.m2 for part in parts]).sum(0) + (counts[:, None] * (means - mean).square()).sum(0)
    return Moments(total, mean, m2)


def gathered(part: Moments, gather: Gather | None) -> Moments:
    """Merge this rank's moments with those of the other ranks; `gather` None means that there are none."""
    if gather is None:
        return part
    channels = len(part.mean)
    everyone = gather(torch.cat([part.tokens[None], part.mean, part.m2]))
    return merge([Moments(row[0], row[1 : 1 + channels], row[1 + channels :]) for row in everyone])


class RunningStatistics(nn.Module):
    """Mean and std of one token type of one teacher, as buffers that start at 0 and 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def stored(self) -> Standardisation:
        return Standardisation(self.mean, self.std)

    @torch.no_grad()
    def update(self, batch: Moments, momentum: float) -> Standardisation:
        """Blend the batch in and return the batch's own statistics, which standardise this very batch."""
        mean = batch.mean.float()
        std = (batch.m2 / (batch.tokens - 1)).sqrt().float()
        self.mean.lerp_(mean, momentum)
        self.std.lerp_(std, momentum)  # std, not variance, is averaged
        return Standardisation(mean, std)


class TargetNorms(nn.Module):
    """Statistics of every teacher and token type; the state dict has `norms.TEACHER.{cls|patch}.{mean|std}`."""

    def __init__(self, teachers: Mapping[str, TeacherSpec]) -> None:
        super().__init__()
        self.norms = nn.ModuleDict()
        for name, spec in sorted(teachers.items()):
            types = ("cls", "patch") if spec.prefix_tokens else ("patch",)
            self.norms[name] = nn.ModuleDict({kind: RunningStatistics(spec.channels) for kind in types})

    def _of(self, teacher: str, kind: str) -> RunningStatistics | None:
        by_type = self.norms[teacher]
        found = by_type[kind] if isinstance(by_type, nn.ModuleDict) and kind in by_type else None
        return found if isinstance(found, RunningStatistics) else None

    @torch.no_grad()
    def set(self, teacher: str, *, patch: Standardisation, prefix: Standardisation | None) -> None:
        """Store exact statistics, computed from a cache over the training mixture."""
        for kind, statistics in (("cls", prefix), ("patch", patch)):
            held = self._of(teacher, kind)
            if held is not None and statistics is not None:
                held.mean.copy_(statistics.mean)
                held.std.copy_(statistics.std)

    def stored(self, teacher: str) -> TeacherNorm:
        """Return the stored statistics of one teacher."""
        prefix, patch = self._of(teacher, "cls"), self._of(teacher, "patch")
        assert patch is not None
        return TeacherNorm(prefix.stored() if prefix else None, patch.stored())

    def update(
        self, teacher: str, targets: Sequence[Tensor], *, momentum: float, gather: Gather | None = None
    ) -> TeacherNorm:
        """Take in a training batch as the released code does, and return what standardises this batch.

        With momentum > 0 that is the batch's own mean and unbiased std over all ranks, while the buffers move towards
        them; with momentum 0 the stored values.

        Args:
            targets: raw tokens (b, P + N, C) of this rank, one tensor per micro-batch.
            momentum: weight of the new batch in the buffers.
            gather: stacks a vector of every rank; None on one rank.

        Source: naver/dune; UNIC differs (it applies the buffers before the update).
        """
        if momentum == 0:
            return self.stored(teacher)
        prefix, patch = self._of(teacher, "cls"), self._of(teacher, "patch")
        assert patch is not None
        split = 1 if prefix else 0
        patch_now = gathered(merge([moments(target[:, split:]) for target in targets]), gather)
        if prefix is None:
            return TeacherNorm(None, patch.update(patch_now, momentum))
        prefix_now = gathered(merge([moments(target[:, :split]) for target in targets]), gather)
        return TeacherNorm(prefix.update(prefix_now, momentum), patch.update(patch_now, momentum))
