"""The distillation loss: per token a cosine distance and a smooth-L1, in float32 whatever autocast says.

Shapes: B images, N tokens, K of them that are cached, P prefix tokens (0 or 1), C channels, T teachers.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from store.errors import InvalidInput
from train.objective.targets import MIN_STD, Shift, Standardisation, TeacherNorm, TeacherShift
from train.recipe.config import Loss

Target = Tensor | tuple[Tensor, Tensor]  # (B, P + N, C), prefix first; or (B, P, C) and (B, N, C)

COSINE_EPS = 1e-8  # vectors are divided by at least this norm
CPU_CHUNK_ELEMENTS = 1 << 20  # float32 working set of one pass: fits the caches
GPU_CHUNK_ELEMENTS = 1 << 25  # fills the device, small beside the activations


class TokenLosses(NamedTuple):
    """Distances per token; `loss` alone carries a gradient."""

    loss: Tensor  # (B, N) weighted sum
    cosine: Tensor  # (B, N) 1 - cosine similarity
    smooth_l1: Tensor  # (B, N) mean over channels


@dataclass(frozen=True, kw_only=True)
class TeacherLoss:
    """Loss of the images of a batch against one teacher.

    Attributes:
        per_image: (B,) differentiable; mean over tokens, then over token types.
        terms: `cls_cosine_loss`, `cls_smooth_l1`, `patch_cosine_loss`, `patch_smooth_l1`, each (B,) detached; the
            `cls` terms only where the teacher has a CLS token.
        corrected: (B,) detached estimate of the same against the teacher's true tokens; None where the targets are.
    """

    per_image: Tensor
    terms: dict[str, Tensor]
    corrected: Tensor | None = None

    @property
    def against_true(self) -> Tensor:
        """The loss against the teacher's true tokens, (B,) detached: `corrected`, or the loss itself."""
        return self.per_image.detach() if self.corrected is None else self.corrected


def token_losses(
    prediction: Tensor, target: Tensor, *, norm: Standardisation | Shift | None, weights: Loss
) -> TokenLosses:
    """Compute the distances of predicted and teacher tokens.

    The targets stay as cached (raw, half precision) and are standardised piece by piece. Distances and gradient come
    out of one pass over small pieces, so no tensor of the size of the batch is held in float32, and the backward pass
    needs one tensor like `prediction`.

    Args:
        prediction: (B, N, C), any float dtype.
        target: (B, N, C), any float dtype; gets no gradient.
        norm: statistics to standardise `target` with, or what is still to be added to it; None compares with `target`
            itself.
        weights: weights of the two distances in `loss`.

    Raises:
        InvalidInput: the shapes differ.
    """
    if prediction.shape != target.shape:
        raise InvalidInput(
            f"student tokens {tuple(prediction.shape)} differ from teacher tokens {tuple(target.shape)} "
            "(batch, tokens, channels). Check the student's patch size and the teacher's grid"
        )
    mean, std = _mean_and_std(norm)
    return TokenLosses(*_TokenDistances.apply(prediction, target, mean, std, weights.cosine, weights.smooth_l1))


def _mean_and_std(norm: Standardisation | Shift | None) -> tuple[Tensor | None, Tensor | None]:
    """Return what is subtracted from targets and what they are divided by, float32 (C,)."""
    if norm is None:
        return None, None
    if isinstance(norm, Shift):
        return -norm.offset.float(), None
    return norm.mean.float(), norm.std.float().clamp(min=MIN_STD)


def teacher_loss(
    prediction: tuple[Tensor, Tensor],
    target: Target,
    *,
    norm: TeacherNorm | TeacherShift | None,
    weights: Loss,
    tokens: Tensor | None = None,
) -> TeacherLoss:
    """Return the loss of each image against one teacher: mean over tokens, then mean over token types.

    Args:
        prediction: predicted prefix (B, P, C) and patches (B, N, C).
        target: raw tokens as cached, (B, P + N, C) prefix first, or prefix and patches apart.
        norm: statistics to standardise `target` with, or what is still to be added to it; None compares with `target`
            itself.
        weights: weights of the two distances.
        tokens: integers (B, K), the patches that `target` holds, in its order, where it does not hold all N.
    """
    prefix, patches = prediction
    split = prefix.shape[1]
    raw_prefix, raw_patches = (target[:, :split], target[:, split:]) if isinstance(target, Tensor) else target
    predicted_patches = patches if tokens is None else _chosen(patches, tokens)
    parts = {"patch": (predicted_patches, raw_patches, norm.patch if norm else None)}
    if split:
        parts = {"cls": (prefix, raw_prefix, norm.prefix if norm else None), **parts}
    terms: dict[str, Tensor] = {}
    per_type = []
    for kind, (predicted, raw, statistics) in parts.items():
        distances = token_losses(predicted, raw, norm=statistics, weights=weights)
        terms[f"{kind}_cosine_loss"] = distances.cosine.mean(dim=1)
        terms[f"{kind}_smooth_l1"] = distances.smooth_l1.mean(dim=1)
        per_type.append(distances.loss.mean(dim=1))
    return TeacherLoss(per_image=torch.stack(per_type).mean(dim=0), terms=terms)


def _chosen(patches: Tensor, tokens: Tensor) -> Tensor:
    """Return some patches (B, K, C) of each image; no patch twice, so that the gradient is exact in any order."""
    images, patch_count, channels = patches.shape
    first = torch.arange(images, device=patches.device)[:, None] * patch_count
    flat = patches.reshape(-1, channels).index_select(0, (tokens.long() + first).flatten())
    return flat.view(images, tokens.shape[1], channels)


def combine(per_image: Tensor, coefficients: Tensor) -> Tensor:
    """Return the scalar loss: the sum of losses (T, B) times coefficients (T, B)."""
    return (per_image * coefficients).sum()


class _TokenDistances(torch.autograd.Function):
    """Distances per token and their analytic gradient, computed together in one pass over the operands."""

    @staticmethod
    def forward(
        ctx: Any,
        prediction: Tensor,  # (B, N, C)
        target: Tensor,  # (B, N, C)
        mean: Tensor | None,  # (C,)
        std: Tensor | None,  # (C,), clamped; None divides by nothing
        cosine_weight: float,
        smooth_l1_weight: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        shape, device = prediction.shape[:2], prediction.device
        cosine = torch.empty(shape, dtype=torch.float32, device=device)
        smooth_l1 = torch.empty(shape, dtype=torch.float32, device=device)
        gradient = torch.empty_like(prediction) if ctx.needs_input_grad[0] else None
        chunk = CPU_CHUNK_ELEMENTS if device.type == "cpu" else GPU_CHUNK_ELEMENTS
        step = max(1, chunk // max(1, prediction.shape[1] * prediction.shape[2]))
        for start in range(0, len(prediction), step):
            piece = slice(start, start + step)
            student = prediction[piece].float()
            # float32 because `mean` is: what is added or subtracted never passes through half precision
            teacher = target[piece].float() if mean is None else torch.sub(target[piece], mean)
            if std is not None:
                teacher.div_(std)
            cosine[piece], smooth_l1[piece], slope = _distances(
                student, teacher, None if gradient is None else (cosine_weight, smooth_l1_weight)
            )
            if gradient is not None and slope is not None:
                gradient[piece] = slope
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(cosine, smooth_l1)
        return cosine_weight * cosine + smooth_l1_weight * smooth_l1, cosine, smooth_l1

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        if gradient is None:
            return None, None, None, None, None, None
        scaled = torch.mul(gradient, upstream[0][..., None], out=torch.empty_like(gradient))
        return scaled, None, None, None, None, None


def _distances(
    student: Tensor, teacher: Tensor, weights: tuple[float, float] | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute cosine distance, smooth-L1 (beta 1) and, given weights, the gradient of their weighted sum.

    Args:
        student: float32 (b, N, C).
        teacher: float32 (b, N, C).
        weights: weights of cosine and smooth-L1 in the gradient; None computes no gradient.

    Returns:
        (b, N), (b, N) and (b, N, C) or None.
    """
    student_norm = torch.linalg.vector_norm(student, dim=-1, keepdim=True).clamp_(min=COSINE_EPS)
    teacher_norm = torch.linalg.vector_norm(teacher, dim=-1, keepdim=True).clamp_(min=COSINE_EPS)
    similarity = (student * teacher).sum(dim=-1, keepdim=True).div_(student_norm).div_(teacher_norm)
    difference = student - teacher
    slope = difference.clamp(-1, 1)  # derivative of smooth-L1; smooth-L1 itself is slope * (difference - slope / 2)
    smooth_l1 = difference.sub_(slope, alpha=0.5).mul_(slope).mean(dim=-1)
    cosine = 1 - similarity.squeeze(-1)
    if weights is None:
        return cosine, smooth_l1, None
    slope.mul_(weights[1] / student.shape[-1])
    slope.addcmul_(student, weights[0] * similarity / student_norm.square())
    slope.addcmul_(teacher, -weights[0] / (student_norm * teacher_norm))
    return cosine, smooth_l1, slope
