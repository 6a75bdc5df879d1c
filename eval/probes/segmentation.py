"""Linear segmentation: the head, its loss, sliding windows put together, mean IoU.

Shapes: B crops, N patches, D channels, K classes, M windows, H W pixels, c side of a crop. Source: the linear
segmentation protocol of DINOv2.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from eval.probes.datasets import IGNORED


class SegmentationHead(nn.Module):
    """Batch norm and one linear layer a patch: (B, N, D) tokens -> (B, K, rows, cols) logits."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.classify = nn.Conv2d(channels, classes, kernel_size=1)
        nn.init.normal_(self.classify.weight, std=0.01)
        if self.classify.bias is not None:
            nn.init.zeros_(self.classify.bias)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Classify the patches; `grid` is (rows, cols), row-major."""
        maps = tokens.float().transpose(1, 2).reshape(len(tokens), -1, *grid)
        logits: Tensor = self.classify(self.norm(maps))
        return logits


def enlarge(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of (B, K, h, w) to (B, K, H, W); cells of padding are not removed, as in the protocol."""
    return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def pixel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over labelled pixels and divided by the number of *all* pixels, ignored ones included.

    Args:
        logits: (B, K, h, w), enlarged to the labels.
        labels: int64 (B, H, W), 255 ignored.
    """
    enlarged = enlarge(logits, (labels.shape[1], labels.shape[2]))
    total = functional.cross_entropy(enlarged, labels, ignore_index=IGNORED, reduction="sum")
    return total / labels.numel()


def merge_windows(logits: Tensor, places: Sequence[tuple[int, int]], size: tuple[int, int]) -> Tensor:
    """Average overlapping windows.

    Args:
        logits: (M, K, c, c).
        places: (top, left) of every window.
        size: (height, width) of the image; windows may reach beyond it.

    Returns:
        (K, height, width).
    """
    side = logits.shape[-1]
    height = max(size[0], max(top for top, _ in places) + side)
    width = max(size[1], max(left for _, left in places) + side)
    total = logits.new_zeros(logits.shape[1], height, width)
    count = logits.new_zeros(height, width)
    for window, (top, left) in zip(logits, places, strict=True):
        total[:, top : top + side, left : left + side] += window
        count[top : top + side, left : left + side] += 1
    return (total / count.clamp_min(1))[:, : size[0], : size[1]]


class Confusion:
    """Counts of (true, predicted) classes over a whole dataset, ignored pixels left out."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), dtype=np.int64)

    def add(self, predicted: np.ndarray, true: np.ndarray) -> None:
        """Count the pixels of an image: class indices of any equal shape, 255 in `true` ignored."""
        known = true != IGNORED
        classes = len(self.counts)
        pairs = true[known].astype(np.int64) * classes + predicted[known]
        self.counts += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def iou(self) -> np.ndarray:
        """Intersection over union of every class, float64 (K,); NaN for a class neither there nor predicted."""
        hits = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - hits
        return np.asarray(np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0))

    def mean_iou(self) -> float:
        """Mean over the classes whose IoU is defined, in percent; NaN if none is."""
        iou = self.iou()
        defined = iou[np.isfinite(iou)]
        return 100 * float(defined.mean()) if len(defined) else float("nan")

    def pixel_accuracy(self) -> float:
        """Share of labelled pixels that are right, in percent; NaN of none."""
        total = int(self.counts.sum())
        return 100 * float(np.trace(self.counts)) / total if total else float("nan")


@torch.inference_mode()
def classify_image(
    head: SegmentationHead,
    tokens: Tensor,
    *,
    grid: tuple[int, int],
    places: Sequence[tuple[int, int]],
    crop: int,
    resized: tuple[int, int],
    original: tuple[int, int],
) -> Tensor:
    """Classes of an image's pixels, int64 (H, W), from the tokens of its windows.

    Args:
        head: in evaluation mode.
        tokens: (M, N, D).
        grid: (rows, cols) of a window's patches.
        places: (top, left) of the windows in the resized image.
        crop: side of a window, px.
        resized: (height, width) of the image that was cut into windows.
        original: (height, width) of the labels.
    """
    logits = merge_windows(enlarge(head(tokens, grid), (crop, crop)), places, resized)
    return enlarge(logits[None], original)[0].argmax(0)
