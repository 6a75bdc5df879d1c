"""Losses of descriptors: InfoNCE among the pixels of a pair, weighted with their confidences, and average precision.

Shapes: B pairs, N pixel pairs of each, D channels, M matched pixel pairs of the batch. Source: MASt3R.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from eval.heads.mast3r.losses.truth import PairTruth
from store.errors import InvalidInput

SMALLEST = 1e-8

Mode = Literal["proper", "all", "dual"]
Outputs = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Settings of the matching loss; the defaults are those of the published training.

    Attributes:
        mode: what a match competes with: `proper`, the other pixels of its row and of its column; `dual`, the same in
            one product; `all`, every other pair.
        temperature: products are divided by it.
        block: with more pixel pairs than this they are shuffled, and each block competes within itself.
        alpha: weight of the reward for confidence; None for a plain mean without confidences.
        conf_mode: confidence of a match: `mean` or `prod` of those of its two pixels.
    """

    mode: Mode = "proper"
    temperature: float = 0.05
    block: int = 8192
    alpha: float | None = 10.0
    conf_mode: Literal["mean", "prod"] = "mean"


def info_nce(desc1: Tensor, desc2: Tensor, matched: Tensor, settings: Matching) -> Tensor:
    """Return the loss of every match, (M,), in the order of the pairs.

    Pixel pairs that are no match are negatives of the others in both directions. Shares below 1e-8 are cut off, and
    have no gradient.

    Args:
        desc1: descriptors of view 1 at the pixel pairs, (B, N, D).
        desc2: those of view 2.
        matched: which of them are matches, bool (B, N).
        settings: mode and temperature.

    Raises:
        InvalidInput: unknown mode.
    """
    grown = (desc1.float() @ desc2.float().transpose(1, 2) / settings.temperature).exp()
    own = grown.diagonal(dim1=1, dim2=2)
    if settings.mode == "all":
        return _surprise(own / grown.sum(dim=(1, 2))[:, None])[matched]
    rows, columns = grown.sum(dim=2), grown.sum(dim=1)
    if settings.mode == "proper":
        return (_surprise(own / rows) + _surprise(own / columns))[matched]
    if settings.mode == "dual":
        return _surprise(own.square() / rows / columns)[matched]
    raise InvalidInput(f"mode {settings.mode!r}: expected proper, all or dual")


def _surprise(share: Tensor) -> Tensor:
    """Return -log of shares, of at least 1e-8."""
    return -share.clip(min=SMALLEST).log()


def matching_loss(
    outputs: Outputs, truth: PairTruth, settings: Matching, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Return the loss of all matches of a batch, and the same without confidences; both 0 without a match.

    Args:
        outputs: outputs of the model for both views: `desc` and `desc_conf`.
        truth: ground truth with correspondences.
        settings: settings.
        generator: source of the shuffling into blocks, on the CPU; None takes torch's own.

    Raises:
        InvalidInput: no correspondences, or pixels outside of the maps.
    """
    pixels1, pixels2, matched = _correspondences(truth, outputs)
    desc1, desc2 = at(outputs[0]["desc"], pixels1), at(outputs[1]["desc"], pixels2)
    conf1, conf2 = at(outputs[0]["desc_conf"], pixels1), at(outputs[1]["desc_conf"], pixels2)
    if matched.shape[1] > settings.block:
        order = torch.randperm(matched.shape[1], generator=generator).to(matched.device)
        desc1, desc2, conf1, conf2, matched = (values[:, order] for values in (desc1, desc2, conf1, conf2, matched))
    blocks = range(0, matched.shape[1], settings.block)
    parts = [slice(start, start + settings.block) for start in blocks]
    surprise = torch.cat([info_nce(desc1[:, part], desc2[:, part], matched[:, part], settings) for part in parts])
    if not surprise.numel():
        zero = outputs[0]["desc"].sum() * 0
        return zero, zero.detach()
    plain = surprise.mean()
    if settings.alpha is None:
        return plain, plain.detach()
    first, second = (torch.cat([conf[:, part][matched[:, part]] for part in parts]) for conf in (conf1, conf2))
    confidence = (first + second) / 2 if settings.conf_mode == "mean" else first * second
    return (surprise * confidence - settings.alpha * confidence.log()).mean(), plain.detach()


def average_precision(outputs: Outputs, truth: PairTruth, *, negatives: int = 0) -> Tensor:
    """Return the mean over all matches of 1 / (1 + number of pixels of view 2 that are more alike); 0 without a match.

    Args:
        outputs: outputs of the model for both views.
        truth: ground truth with correspondences; the pixels of all its N pairs compete.
        negatives: further pixels of view 2 that compete: the first ones, row by row, that are in no pair.

    Raises:
        InvalidInput: see `matching_loss`; or a view 2 without so many pixels.
    """
    pixels1, pixels2, matched = _correspondences(truth, outputs)
    desc1, desc2 = at(outputs[0]["desc"], pixels1), at(outputs[1]["desc"], pixels2)
    if negatives:
        desc2 = torch.cat([desc2, _unused(outputs[1]["desc"], pixels2, negatives)], dim=1)
    products = desc1 @ desc2.transpose(1, 2)
    own = products.diagonal(dim1=1, dim2=2)
    better = (products > own[..., None]).sum(dim=2)
    precision = 1 / (1 + better[matched].float())
    return precision.mean() if precision.numel() else precision.sum()


def _unused(maps: Tensor, pixels: Tensor, count: int) -> Tensor:
    """Return the values of the first `count` pixels of each map that are not among `pixels`, (B, count, D)."""
    flat = maps.flatten(1, 2)
    used = torch.zeros(flat.shape[:2], dtype=torch.bool, device=maps.device)
    used.scatter_(1, pixels[..., 0] + maps.shape[2] * pixels[..., 1], True)
    if int((~used).sum(dim=1).min()) < count:
        raise InvalidInput(f"negatives {count}: a view has fewer pixels that are in no pair")
    first = used.int().argsort(dim=1, stable=True)[:, :count]
    return flat.gather(1, first[..., None].expand(-1, -1, flat.shape[2]))


def at(maps: Tensor, pixels: Tensor) -> Tensor:
    """Return the values of (B, H, W, ...) maps at (B, N, 2) pixels (x, y)."""
    batch = torch.arange(len(maps), device=maps.device)[:, None]
    return maps[batch, pixels[..., 1], pixels[..., 0]]


def _correspondences(truth: PairTruth, outputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
    if truth.pixels1 is None or truth.pixels2 is None or truth.matched is None:
        raise InvalidInput("matching loss: the ground truth has no correspondences")
    for view, pixels in zip(outputs, (truth.pixels1, truth.pixels2), strict=True):
        height, width = view["desc"].shape[1:3]
        bounds = torch.tensor((width, height), device=pixels.device)
        if bool(((pixels < 0) | (pixels >= bounds)).any()):
            raise InvalidInput(f"correspondences: some lie outside of the view of {width}x{height} px")
    return truth.pixels1.long(), truth.pixels2.long(), truth.matched
