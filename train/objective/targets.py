"""Standardisation of teacher tokens: exact statistics of the training mixture, or the released running average.

Shapes: B images, N patches, P prefix tokens of a teacher (0 or 1), C channels, W ranks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from store import TeacherInfo

MIN_STD = 1e-3  # the released code clamps the std; it does not add an epsilon
CHUNK_ELEMENTS = 1 << 22  # float32 working set of one pass: 16 MiB


class Standardisation(NamedTuple):
    """Per-channel statistics of one token type: `(x - mean) / max(std, MIN_STD)`."""

    mean: Tensor  # (C,)
    std: Tensor  # (C,), not clamped

    def apply(self, tokens: Tensor) -> Tensor:
        """Standardise tokens (..., C) in float32."""
        return (tokens.float() - self.mean) / self.std.clamp(min=MIN_STD)


class TeacherNorm(NamedTuple):
    """Statistics to standardise one teacher's tokens with; `prefix` is None without a CLS token."""

    prefix: Standardisation | None
    patch: Standardisation


class Shift(NamedTuple):
    """What is still to be added to tokens that are divided by the standard deviation already."""

    offset: Tensor  # (C,), float32


class TeacherShift(NamedTuple):
    """What is still to be added to one teacher's decoded tokens; `prefix` is None without a CLS token."""

    prefix: Shift | None
    patch: Shift


class BatchMoments(NamedTuple):
    """Number of tokens of a batch, their mean and sum of squared deviations per channel, in float64."""

    tokens: Tensor  # ()
    mean: Tensor  # (C,)
    m2: Tensor  # (C,)


GatherRanks = Callable[[Tensor], Tensor]  # (K,) of this rank -> (W, K) of all ranks


def batch_moments(tokens: Tensor) -> BatchMoments:
    """Return the moments of tokens (B, N, C) of any float dtype, per channel over images and tokens.

    The tokens are read in pieces, so that half-precision ones are never copied whole to float32.
    """
    images = max(1, CHUNK_ELEMENTS // max(1, tokens.shape[1] * tokens.shape[2]))
    parts = []
    for piece in torch.split(tokens, images):
        var, mean = torch.var_mean(piece.float(), dim=(0, 1), correction=0)
        count = piece.shape[0] * piece.shape[1]
        # `full`, not `tensor`: copying a number to a GPU waits for all of its unfinished work
        tokens_seen = torch.full((), count, dtype=torch.float64, device=var.device)
        parts.append(BatchMoments(tokens_seen, mean.double(), var.double() * count))
    return merge_batch_moments(parts)


def merge_batch_moments(parts: Sequence[BatchMoments]) -> BatchMoments:
    """Merge the moments of disjoint sets of tokens (Chan's formula)."""
    counts = torch.stack([part.tokens for part in parts])  # (K,)
    means = torch.stack([part.mean for part in parts])  # (K, C)
    total = counts.sum()
    mean = (counts[:, None] * means).sum(0) / total
    m2 = torch.stack([part.m2 for part in parts]).sum(0) + (counts[:, None] * (means - mean).square()).sum(0)
    return BatchMoments(total, mean, m2)


def merge_over_ranks(part: BatchMoments, gather: GatherRanks | None) -> BatchMoments:
    """Merge this rank's moments with those of the other ranks; `gather` None means that there is one rank."""
    if gather is None:
        return part
    channels = len(part.mean)
    of_ranks = gather(torch.cat([part.tokens[None], part.mean, part.m2]))  # (W, 1 + 2 C)
    return merge_batch_moments([BatchMoments(row[0], row[1 : 1 + channels], row[1 + channels :]) for row in of_ranks])


class RunningStatistics(nn.Module):
    """Mean and std of one token type of one teacher, in buffers that start at 0 and 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def stored(self) -> Standardisation:
        return Standardisation(self.mean, self.std)

    @torch.no_grad()
    def update(self, batch: BatchMoments, momentum: float) -> Standardisation:
        """Move the buffers towards the batch's statistics and return these, which standardise this batch."""
        mean = batch.mean.float()
        std = (batch.m2 / (batch.tokens - 1)).sqrt().float()
        self.mean.lerp_(mean, momentum)
        self.std.lerp_(std, momentum)  # std, not variance, is averaged
        return Standardisation(mean, std)


class TargetNorms(nn.Module):
    """Statistics of every teacher and token type; the state dict has `norms.TEACHER.{cls|patch}.{mean|std}`."""

    def __init__(self, teachers: Mapping[str, TeacherInfo]) -> None:
        super().__init__()
        self.norms = nn.ModuleDict()
        for name, teacher in sorted(teachers.items()):
            types = ("cls", "patch") if teacher.prefix_tokens else ("patch",)
            self.norms[name] = nn.ModuleDict({kind: RunningStatistics(teacher.channels) for kind in types})

    def _of(self, teacher: str, kind: str) -> RunningStatistics | None:
        by_type = self.norms[teacher]
        statistics = by_type[kind] if isinstance(by_type, nn.ModuleDict) and kind in by_type else None
        return statistics if isinstance(statistics, RunningStatistics) else None

    @torch.no_grad()
    def set(self, teacher: str, *, patch: Standardisation, prefix: Standardisation | None) -> None:
        """Store exact statistics, computed from a cache over the training mixture."""
        for kind, statistics in (("cls", prefix), ("patch", patch)):
            buffers = self._of(teacher, kind)
            if buffers is not None and statistics is not None:
                buffers.mean.copy_(statistics.mean)
                buffers.std.copy_(statistics.std)

    def stored(self, teacher: str) -> TeacherNorm:
        """Return the stored statistics of one teacher."""
        prefix, patch = self._of(teacher, "cls"), self._of(teacher, "patch")
        assert patch is not None
        return TeacherNorm(prefix.stored() if prefix else None, patch.stored())

    def update(
        self, teacher: str, targets: Sequence[Tensor], *, momentum: float, gather: GatherRanks | None = None
    ) -> TeacherNorm:
        """Update the statistics with a training batch as the released code does; return those for this batch.

        With momentum > 0 they are the batch's own mean and unbiased std over all ranks, and the buffers move towards
        them; with momentum 0 they are the stored values.

        Args:
            teacher: name of the teacher.
            targets: raw tokens (b, P + N, C) of this rank, one tensor per micro-batch.
            momentum: weight of the new batch in the buffers.
            gather: function that stacks the vectors of all ranks; None on one rank.

        Source: naver/dune; UNIC differs (it applies the buffers before the update).
        """
        if momentum == 0:
            return self.stored(teacher)
        prefix, patch = self._of(teacher, "cls"), self._of(teacher, "patch")
        assert patch is not None
        split = 1 if prefix else 0
        patch_now = _moments([target[:, split:] for target in targets], gather)
        if prefix is None:
            return TeacherNorm(None, patch.update(patch_now, momentum))
        prefix_now = _moments([target[:, :split] for target in targets], gather)
        return TeacherNorm(prefix.update(prefix_now, momentum), patch.update(patch_now, momentum))


def _moments(targets: Sequence[Tensor], gather: GatherRanks | None) -> BatchMoments:
    return merge_over_ranks(merge_batch_moments([batch_moments(target) for target in targets]), gather)
