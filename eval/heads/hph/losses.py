"""Losses of the perception head.

Shapes: B images, n x n cells, P people, J rotations, V vertices, K joints. Source: naver/multi-hmr.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from eval.heads.hph.people import People
from eval.heads.hph.targets import Truth
from eval.heads.recipes.hph import POINTS_2D, LossWeights

LOG_EPS = 1e-7


def detection_loss(scores: Tensor, true: Tensor) -> Tensor:
    """Return CenterNet's focal loss, divided by the number of people in the whole batch, or by nothing without any.

    Args:
        scores: (B, n, n), predicted, in (0, 1).
        true: (B, n, n), 1 for people, else 0.
    """
    people = true == 1
    at_people = (scores + LOG_EPS).log() * (1 - scores).square()
    elsewhere = (1 - scores + LOG_EPS).log() * scores.square()
    return -torch.where(people, at_people, elsewhere).sum() / people.sum().clamp_min(1)


def all_terms(predicted: Mapping[str, Tensor], true: Mapping[str, Tensor], *, img_size: int) -> dict[str, Tensor]:
    """Return every term without its weight; NaN where it is a mean over nothing.

    Args:
        predicted: scores (B, n, n), offset (P, 2), rotmat (P, J, 3, 3), shape (P, S), dist_postprocessed (P,), transl
            and transl_pelvis (P, 3), v3d (P, V, 3), j3d (P, K, 3), v2d and j2d; further axes of one are ignored.
        true: the same; the shape may have another number of numbers, of which the common ones count.
        img_size: side of the input image in px: true points outside of it do not count in px.
    """
    betas = min(predicted["shape"].shape[-1], true["shape"].shape[-1])
    centred = {
        name: _points_l1(_around_pelvis(predicted, name), _around_pelvis(true, name)).mean() for name in ("j3d", "v3d")
    }
    return {
        "bce": detection_loss(predicted["scores"].reshape(true["scores"].shape), true["scores"]),
        "offset": _people_l1(predicted["offset"], true["offset"]),
        "rotmat": _people_l1(predicted["rotmat"], true["rotmat"]),
        "shape": _people_l1(predicted["shape"][:, :betas], true["shape"][:, :betas]),
        "dist": _people_l1(_column(predicted["dist_postprocessed"]), _column(true["dist_postprocessed"])),
        "transl": _people_l1(predicted["transl"], true["transl"]),
        **centred,
        **{name: _inside_l1(predicted[name], true[name], img_size=img_size) for name in POINTS_2D},
    }


def total(terms: Mapping[str, Tensor], weights: LossWeights, *, epoch: int) -> Tensor:
    """Return the weighted sum of the terms; those that are not finite count nothing and give no gradient.

    Args:
        terms: result of `all_terms`.
        weights: weights of the terms.
        epoch: epoch of the step, which decides whether the terms in px count.
    """
    factors = weights.at(epoch)
    used = [name for name in terms if factors[name]]
    finite = torch.stack([terms[name].detach() for name in used]).isfinite().tolist()  # one wait for the GPU
    counted = [factors[name] * terms[name] for name, real in zip(used, finite, strict=True) if real]
    return torch.stack(counted).sum() if counted else torch.zeros_like(terms["bce"])


def values(people: People | Truth) -> dict[str, Tensor]:
    """Return what `all_terms` takes of predicted or of true people.

    Raises:
        MissingName: people without a body model.
    """
    names = ("offset", "rotmat", "shape", "dist_postprocessed", "transl", "transl_pelvis", "v3d", "j3d", *POINTS_2D)
    if isinstance(people, People):
        return {"scores": people.score_map, **{name: people.value(name) for name in names}}
    return {"scores": people.scores, **{name: getattr(people, name) for name in names}}


def _people_l1(predicted: Tensor, true: Tensor) -> Tensor:
    """Sum absolute differences over all axes but that of people, and average over people."""
    return (predicted - true).abs().flatten(1).sum(1).mean()


def _points_l1(predicted: Tensor, true: Tensor) -> Tensor:
    return (predicted - true).abs().sum(-1)


def _around_pelvis(people: Mapping[str, Tensor], name: str) -> Tensor:
    return people[name] - people["transl_pelvis"].reshape(-1, 1, 3)


def _inside_l1(predicted: Tensor, true: Tensor, *, img_size: int) -> Tensor:
    """Average the L1 distance in px over the points whose true place is strictly inside the image."""
    inside = ((true > 0) & (true < img_size)).all(-1)
    return _points_l1(predicted[inside], true[inside]).mean()


def _column(numbers: Tensor) -> Tensor:
    return numbers.reshape(-1, 1)
