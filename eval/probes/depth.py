"""Linear depth: the head, its loss, the error.

Shapes: B images, N patches, D channels, K bins, H W pixels. Depths in metres. Source: the linear depth protocol of
DINOv2 (bins and loss of AdaBins).
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

BINS = 256
MIN_DEPTH_M, MAX_DEPTH_M = 0.001, 10.0
UPSAMPLE = 4
_LOG_MARGIN_M = 0.001


class DepthHead(nn.Module):
    """Depth as the expectation over fixed bins, from one linear layer.

    The protocol enlarges the features four times and then applies the layer; here the layer comes first, which is the
    same (bilinear weights add up to one) at a sixteenth of the cost.

    Args:
        channels: D of a patch, or of a patch and the CLS token that is appended to each.
        bins: K, evenly from 1 mm to 10 m.
    """

    centres: Tensor

    def __init__(self, channels: int, *, bins: int = BINS) -> None:
        super().__init__()
        self.score = nn.Linear(channels, bins)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.zeros_(self.score.bias)
        self.register_buffer("centres", torch.linspace(MIN_DEPTH_M, MAX_DEPTH_M, bins))

    def forward(self, patches: Tensor, cls: Tensor | None, grid: tuple[int, int]) -> Tensor:
        """Predict depth at four times the grid.

        Args:
            patches: (B, N, D), row-major on `grid` = (rows, cols).
            cls: (B, D) or None.
            grid: (rows, cols).

        Returns:
            (B, 1, 4 rows, 4 cols) in metres.
        """
        features = patches.float()
        if cls is not None:
            features = torch.cat([features, cls.float()[:, None].expand(-1, features.shape[1], -1)], dim=-1)
        scores = self.score(features).transpose(1, 2).reshape(len(patches), -1, *grid)
        enlarged = functional.interpolate(scores, scale_factor=UPSAMPLE, mode="bilinear", align_corners=False)
        weights = functional.relu(enlarged) + 0.1
        depth = torch.einsum("bkhw,k->bhw", weights, self.centres) / weights.sum(1)
        return depth[:, None]


def resized(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of (B, 1, h, w) to (B, 1, H, W)."""
    return functional.interpolate(depth, size=size, mode="bilinear", align_corners=False)


def depth_loss(predicted: Tensor, true: Tensor, *, mean_only: bool = False) -> Tensor:
    """Scale-invariant log loss: sqrt(var(g) + 0.15 mean(g)^2), g = difference of log depths over known pixels.

    Args:
        predicted: (B, 1, h, w), resized to the true depth.
        true: (B, H, W), 0 where unknown.
        mean_only: leave the variance out, as in the first 100 iterations.

    Returns:
        A scalar; 0 if nothing is known, the mean term alone if a single pixel is (its variance is undefined).
    """
    enlarged = resized(predicted, (true.shape[1], true.shape[2]))[:, 0]
    known = true > 0
    g = torch.log(enlarged[known] + _LOG_MARGIN_M) - torch.log(true[known] + _LOG_MARGIN_M)
    if not g.numel():
        return enlarged.sum() * 0.0
    squared = 0.15 * g.mean() ** 2
    if not mean_only and g.numel() > 1:
        squared = squared + g.var()
    # The root's slope is infinite at zero, where a perfect prediction would get NaN gradients.
    return torch.sqrt(squared.clamp_min(torch.finfo(squared.dtype).tiny))


def predict(
    head: DepthHead, patches: Tensor, cls: Tensor | None, *, grid: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Depth of images and their mirrored copies, averaged.

    Args:
        head: in evaluation mode.
        patches: (B, V, N, D), V = 1, or 2: the image and the mirrored one.
        cls: (B, V, D) or None.
        grid: (rows, cols).
        size: (height, width) of the true depth; cells of padding are not removed but stretched with the rest.

    Returns:
        (B, H, W) within [0.001, 10] m.
    """
    found = []
    for view in range(patches.shape[1]):
        depth = head(patches[:, view], None if cls is None else cls[:, view], grid)
        depth = resized(depth.clamp(MIN_DEPTH_M, MAX_DEPTH_M), size)[:, 0]
        found.append(depth.flip(-1) if view else depth)
    return torch.stack(found).mean(0)


def root_mean_squared_error(predicted: np.ndarray, true: np.ndarray, *, crop: tuple[int, int, int, int]) -> float:
    """Root mean squared error of one (H, W) image over 1 mm < true < 10 m inside the crop; NaN if there is no pixel.

    Args:
        predicted: metres.
        true: metres.
        crop: (top, bottom, left, right) that is scored; all zero takes the whole image.
    """
    top, bottom, left, right = crop
    part = np.s_[top:bottom, left:right] if any(crop) else np.s_[:, :]
    truth, guess = true[part].astype(np.float64), predicted[part].astype(np.float64)
    known = (truth > MIN_DEPTH_M) & (truth < MAX_DEPTH_M)
    return float(np.sqrt(np.mean((guess[known] - truth[known]) ** 2))) if known.any() else float("nan")
