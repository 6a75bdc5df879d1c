"""Regression of points: MASt3R's scale-aware distance, its variant free of scale and shift, and confidence weights.

Shapes: B pairs, H W pixels, P pixels that count. Source: DUSt3R (Wang et al., CVPR 2024), MASt3R (Leroy et al., ECCV
2024).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from eval.heads.mast3r.losses.truth import PairTruth, ViewTruth, in_first_camera
from store.errors import InvalidInput

SMALLEST = 1e-8
SCALE_BOUNDS = (1e-3, 1e3)

NormMode = Literal["avg_dis", "avg_log1p", "avg_warp-log1p", "median_dis", "sqrt_dis"]
Maps = tuple[Tensor, Tensor]
Outputs = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Settings of the regression; the defaults are those of the published training.

    Attributes:
        norm: what points are divided by, one number a pair; see `norm_factor`. None for nothing.
        metric_aware: predictions of metric pairs are divided by the factor of the true points, not by their own.
        gt_scale: true points, and predictions of metric pairs, are not divided.
        max_metric_scale: metric pairs with a valid true point this far away count as not metric; None for none.
        sky_loss: loss of pixels of the sky, which have no point; 0 leaves them out.
        in_log: compare points whose distance d is replaced by log(1 + d).
        scale_and_shift: first align the depth's median and the scale, as in the test criterion of that name.
    """

    norm: NormMode | None = "avg_dis"
    metric_aware: bool = True
    gt_scale: bool = False
    max_metric_scale: float | None = None
    sky_loss: float = 2.0
    in_log: bool = False
    scale_and_shift: bool = False


@dataclass(frozen=True, kw_only=True)
class PixelLosses:
    """Losses of the pixels of one view that count.

    Attributes:
        loss: (P,).
        mask: which pixels these are, bool (B, H, W).
    """

    loss: Tensor
    mask: Tensor

    def mean(self) -> Tensor:
        """Return the mean over all pixels of the batch that count; 0 without any."""
        return self.loss.mean() if self.loss.numel() else self.loss.sum()


def pixel_losses(outputs: Outputs, truth: PairTruth, settings: Regression) -> tuple[PixelLosses, PixelLosses]:
    """Return the distance between predicted and true points of both views.

    Args:
        outputs: outputs of the model for both views: `pts3d` and `pts3d_in_other_view`.
        truth: ground truth.
        settings: settings.

    Raises:
        InvalidInput: shapes that do not fit together, or an unknown norm.
    """
    predicted = (outputs[0]["pts3d"], outputs[1]["pts3d_in_other_view"])
    true, valid = in_first_camera(truth), (truth.one.valid, truth.two.valid)
    for prediction, points in zip(predicted, true, strict=True):
        if prediction.shape != points.shape:
            raise InvalidInput(f"predicted points {tuple(prediction.shape)}: true ones are {tuple(points.shape)}")
    predicted, true = _normalised(predicted, true, valid, truth.metric, settings)
    if settings.scale_and_shift:
        predicted, true = _aligned(predicted, true, valid, settings)
    if settings.in_log:
        predicted, true = (_in_log(predicted[0]), _in_log(predicted[1])), (_in_log(true[0]), _in_log(true[1]))
    return (
        _view(predicted[0], true[0], truth.one, settings),
        _view(predicted[1], true[1], truth.two, settings),
    )


def _view(predicted: Tensor, true: Tensor, view: ViewTruth, settings: Regression) -> PixelLosses:
    if view.sky is None or not settings.sky_loss:
        return PixelLosses(loss=(predicted[view.valid] - true[view.valid]).norm(dim=-1), mask=view.valid)
    mask = view.valid | view.sky
    sky = ~view.valid[mask]
    goal = torch.where(sky[:, None], 0.0, true[mask])  # NaN in the sky would come back through the gradient
    distance = (predicted[mask] - goal).norm(dim=-1)
    return PixelLosses(loss=torch.where(sky, distance.new_tensor(settings.sky_loss), distance), mask=mask)


def _normalised(predicted: Maps, true: Maps, valid: Maps, metric: Tensor, settings: Regression) -> tuple[Maps, Maps]:
    if settings.norm is None:
        return predicted, true
    if settings.norm == "avg_warp-log1p":
        raise InvalidInput("norm 'avg_warp-log1p': its factor is known here, its warp of the points is not")
    by_truth = metric.clone() if settings.metric_aware else torch.zeros_like(metric)
    if settings.max_metric_scale is not None:
        far = [
            (points.norm(dim=-1) * mask >= settings.max_metric_scale).flatten(1).any(dim=1)
            for points, mask in zip(true, valid, strict=True)
        ]
        by_truth &= ~(far[0] | far[1])
    true_factor = norm_factor(true, valid, settings.norm)
    metric_factor = torch.ones_like(true_factor) if settings.gt_scale else true_factor
    factor = torch.where(by_truth, metric_factor, norm_factor(predicted, valid, settings.norm))
    return _divided(predicted, factor), true if settings.gt_scale else _divided(true, true_factor)


def norm_factor(points: Maps, valid: Maps, mode: NormMode = "avg_dis") -> Tensor:
    """Return one number a pair that its points are divided by, (B,), at least 1e-8.

    Args:
        points: points of both views, (B, H, W, 3) each.
        valid: which of them count, bool (B, H, W).
        mode: average of the distances from the origin (`avg_dis`) or of their log(1 + d) (`avg_log1p`,
            `avg_warp-log1p`), their median (the lower one), or the square of the average root.

    Raises:
        InvalidInput: unknown mode.
    """
    if mode not in get_args(NormMode):
        raise InvalidInput(f"norm {mode!r}: expected one of {', '.join(get_args(NormMode))}")
    distance = torch.cat([one.norm(dim=-1).flatten(1) for one in points], dim=1)
    mask = torch.cat([one.flatten(1) for one in valid], dim=1)
    if mode == "median_dis":
        factor = torch.where(mask, distance, torch.nan).nanmedian(dim=1).values
        return factor.nan_to_num(nan=SMALLEST).clip(min=SMALLEST)
    if mode == "sqrt_dis":
        # a root has no gradient at 0, where pixels that do not count are put
        distance = torch.where(mask, distance, 1.0).sqrt()
    elif mode != "avg_dis":
        distance = distance.log1p()
    mean = torch.where(mask, distance, 0.0).sum(dim=1) / (mask.sum(dim=1) + SMALLEST)
    factor = mean.square() if mode == "sqrt_dis" else mean
    return factor.clip(min=SMALLEST)


def _divided(points: Maps, factor: Tensor) -> Maps:
    divisor = factor[:, None, None, None]
    return points[0] / divisor, points[1] / divisor


def _in_log(points: Tensor) -> Tensor:
    distance = points.norm(dim=-1, keepdim=True)
    shrunk: Tensor = points / distance.clip(min=SMALLEST) * distance.log1p()
    return shrunk


def _aligned(predicted: Maps, true: Maps, valid: Maps, settings: Regression) -> tuple[Maps, Maps]:
    """Shift both to a median depth of 0, then bring both to one scale."""
    predicted, true = (_shifted(points, valid) for points in (predicted, true))
    true_scale, own_scale = (_scale(points, valid) for points in (true, predicted))
    own_scale = own_scale.clip(*SCALE_BOUNDS)
    if settings.gt_scale:
        return _divided(predicted, own_scale / true_scale), true
    return _divided(predicted, own_scale), _divided(true, true_scale)


def _shifted(points: Maps, valid: Maps) -> Maps:
    middle = _joined(points, valid)[..., 2].nanmedian(dim=1).values
    shift = torch.zeros(len(middle), 1, 1, 3, dtype=middle.dtype, device=middle.device)
    shift[..., 2] = middle[:, None, None]
    return points[0] - shift, points[1] - shift


def _scale(points: Maps, valid: Maps) -> Tensor:
    """Return the median distance to the centre, whose coordinates are medians, (B,)."""
    joined = _joined(points, valid)
    centre = joined.nanmedian(dim=1, keepdim=True).values
    distance: Tensor = (joined - centre).norm(dim=-1)
    return distance.nanmedian(dim=1).values


def _joined(points: Maps, valid: Maps) -> Tensor:
    """Return the points of both views, (B, pixels, 3), NaN where they do not count."""
    return torch.cat(
        [torch.where(mask[..., None], one, torch.nan).flatten(1, 2) for one, mask in zip(points, valid, strict=True)],
        dim=1,
    )


def confident(losses: PixelLosses, confidence: Tensor, *, alpha: float = 0.2) -> Tensor:
    """Return the mean of `loss * confidence - alpha * log(confidence)` over the pixels that count; 0 without any.

    Args:
        losses: losses of one view.
        confidence: (B, H, W), above 0.
        alpha: weight of the reward for confidence.
    """
    if not losses.loss.numel():
        return losses.loss.sum()
    chosen = confidence[losses.mask]
    return (losses.loss * chosen - alpha * chosen.log()).mean()
