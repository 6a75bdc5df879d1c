"""Linear segmentation probe: features of crops and windows, a linear head and its loss, mean IoU.

Shapes: B crops, N patches, D channels, K classes, M windows, H W pixels, c side of a crop. Source: the linear
segmentation protocol of DINOv2.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from eval.encoders.open_encoder import OpenEncoder, Tokens
from eval.probes import datasets, head_training, training_crops
from eval.probes.datasets import IGNORED, Dense, read_image, read_labels
from eval.probes.feature_store import Features, FeatureStore, Progress
from eval.probes.segmentation_crops import cut_windows, resize_labels, training_crop, windows
from eval.probes.settings import SegmentationSettings

SHARD_CROPS = 32
SHARD_IMAGES = 8


class SegmentationHead(nn.Module):
    """Head of batch norm and one linear layer a patch: (B, N, D) tokens -> (B, K, rows, cols) logits."""

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


class Confusion:
    """Confusion matrix: counts of (true, predicted) classes over a whole dataset, ignored pixels left out."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), dtype=np.int64)

    def add(self, predicted: np.ndarray, true: np.ndarray) -> None:
        """Count the pixels of an image: class indices of any equal shape, 255 in `true` ignored."""
        known = true != IGNORED
        classes = len(self.counts)
        pairs = true[known].astype(np.int64) * classes + predicted[known]
        self.counts += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def iou(self) -> np.ndarray:
        """Return intersection over union of every class, float64 (K,); NaN for a class neither true nor predicted."""
        hits = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - hits
        return np.asarray(np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0))

    def mean_iou(self) -> float:
        """Return the mean over the classes whose IoU is defined, in percent; NaN if none is."""
        iou = self.iou()
        defined = iou[np.isfinite(iou)]
        return 100 * float(defined.mean()) if len(defined) else float("nan")

    def pixel_accuracy(self) -> float:
        """Return the share of correct labelled pixels, in percent; NaN without labelled pixels."""
        total = int(self.counts.sum())
        return 100 * float(np.trace(self.counts)) / total if total else float("nan")


def run(
    encoder: OpenEncoder,
    *,
    train: Dense,
    test: Dense,
    feature_store: FeatureStore,
    settings: SegmentationSettings,
) -> dict[str, Any]:
    """Train and test a head.

    Args:
        encoder: encoder to probe.
        train: training images.
        test: test images.
        feature_store: store of the encoder's features.
        settings: settings of the probe.

    Returns:
        `miou` and `pixel_accuracy` in percent, `iou` by class (fraction, None where undefined), `loss` of the last
        tenth of the training steps.
    """
    crops = crop_features(encoder, train, feature_store=feature_store, settings=settings)
    test_windows = window_features(encoder, test, feature_store=feature_store, settings=settings)
    grid = encoder.grid(settings.crops.crop, settings.crops.crop)
    progress = feature_store.progress
    head, loss = fit(
        crops, grid=grid, classes=train.classes, settings=settings, device=encoder.device, progress=progress
    )
    confusion = evaluate(head, test_windows, grid=grid, classes=test.classes, settings=settings, progress=progress)
    iou = [None if np.isnan(value) else float(value) for value in confusion.iou()]
    return {
        "miou": confusion.mean_iou(),
        "pixel_accuracy": confusion.pixel_accuracy(),
        "iou": iou,
        "loss": loss,
        "train_images": len(train.images),
        "test_images": len(test.images),
    }


def crop_features(
    encoder: OpenEncoder, dataset: Dense, *, feature_store: FeatureStore, settings: SegmentationSettings
) -> Features:
    """Extract `views` augmented crops of every image: tokens (n, N, D) float16, labels (n, c, c) uint8."""

    def sample_crop(number: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        image, labels = _read(dataset, number)
        if labels.shape != image.shape[:2]:
            labels = resize_labels(labels, image.shape[:2])
        return training_crop(image, labels, settings.crops, generator)

    def to_arrays(tokens: Tokens, labels: np.ndarray) -> dict[str, np.ndarray]:
        return {"tokens": tokens.patches, "labels": labels}

    return training_crops.crop_features(
        encoder,
        dataset,
        kind="segmentation",
        sample_crop=sample_crop,
        to_arrays=to_arrays,
        feature_store=feature_store,
        settings=settings,
        shard_items=SHARD_CROPS,
    )


def window_features(
    encoder: OpenEncoder, dataset: Dense, *, feature_store: FeatureStore, settings: SegmentationSettings
) -> Features:
    """Extract the sliding windows of every test image, with its labels.

    A shard has tokens (all windows, N, D) float16, labels (all pixels,) uint8, and for each of its images in `sizes`
    the number of windows and the (height, width) of the resized image and of its labels.
    """

    def compute(items: range) -> dict[str, np.ndarray]:
        tokens, labels, sizes = [], [], []
        for number in items:
            image, true = _read(dataset, number)
            image_windows, resized = cut_windows(image, settings.crops)
            tokens.append(encoder(image_windows).patches)
            labels.append(true.reshape(-1))
            sizes.append((len(image_windows), *resized, *true.shape))
        return {
            "tokens": np.concatenate(tokens),
            "labels": np.concatenate(labels),
            "sizes": np.array(sizes, dtype=np.int64),
        }

    layout = {key: getattr(settings.crops, key) for key in ("short_side", "long_cap", "crop", "stride")}
    return feature_store.filled(
        compute,
        encoder=encoder.name,
        part="test",
        key={"encoder": encoder.identity, "dataset": datasets.identity(dataset), "windows": layout},
        items=len(dataset.images),
        shard_items=SHARD_IMAGES,
    )


def fit(
    stored: Features,
    *,
    grid: tuple[int, int],
    classes: int,
    settings: SegmentationSettings,
    device: torch.device,
    progress: Progress = iter,
) -> tuple[SegmentationHead, float]:
    """Train a head on stored crops; returns it in evaluation mode, and the mean loss of the last tenth of the steps."""
    channels = stored.gather("tokens", np.zeros(1, dtype=np.int64)).shape[-1]

    def loss_of(head: SegmentationHead, _: int, items: np.ndarray) -> Tensor:
        tokens = torch.from_numpy(stored.gather("tokens", items)).to(device)
        labels = torch.from_numpy(stored.gather("labels", items)).to(device).long()
        return pixel_loss(head(tokens, grid), labels)

    return head_training.fit(
        lambda: SegmentationHead(channels, classes),
        loss_of,
        learning_rate=lambda step: learning_rate(step, settings),
        settings=settings,
        items=stored.items,
        device=device,
        progress=progress,
    )


def learning_rate(step: int, settings: SegmentationSettings) -> float:
    """Return the learning rate of a step, counted from 0."""
    warm = head_training.warm_up(step, steps=round(settings.warm_up * settings.iterations), start=1e-6)
    return settings.lr * warm * head_training.linear_decay(step, iterations=settings.iterations)


def evaluate(
    head: SegmentationHead,
    stored: Features,
    *,
    grid: tuple[int, int],
    classes: int,
    settings: SegmentationSettings,
    progress: Progress = iter,
) -> Confusion:
    """Classify every pixel of the test images and count."""
    confusion = Confusion(classes)
    device = next(head.parameters()).device
    for shard in progress(range(stored.shards)):
        arrays = stored.read(shard)
        first_window = first_pixel = 0
        for count, *sizes in arrays["sizes"].tolist():
            resized, original = (sizes[0], sizes[1]), (sizes[2], sizes[3])
            tokens = torch.from_numpy(arrays["tokens"][first_window : first_window + count]).to(device)
            pixels = original[0] * original[1]
            true = arrays["labels"][first_pixel : first_pixel + pixels].reshape(original)
            crop = settings.crops.crop
            predicted = classify_image(
                head,
                tokens,
                grid=grid,
                corners=windows(max(resized[0], crop), max(resized[1], crop), settings.crops),
                crop=crop,
                resized=resized,
                original=original,
            )
            confusion.add(predicted.cpu().numpy(), true)
            first_window, first_pixel = first_window + count, first_pixel + pixels
    return confusion


@torch.inference_mode()
def classify_image(
    head: SegmentationHead,
    tokens: Tensor,
    *,
    grid: tuple[int, int],
    corners: Sequence[tuple[int, int]],
    crop: int,
    resized: tuple[int, int],
    original: tuple[int, int],
) -> Tensor:
    """Classify an image's pixels, int64 (H, W), from the tokens of its windows.

    Args:
        head: trained head, in evaluation mode.
        tokens: (M, N, D).
        grid: (rows, cols) of a window's patches.
        corners: (top, left) of the windows in the resized image.
        crop: side of a window, px.
        resized: (height, width) of the image that was cut into windows.
        original: (height, width) of the labels.
    """
    logits = merge_windows(enlarge(head(tokens, grid), (crop, crop)), corners, resized)
    return enlarge(logits[None], original)[0].argmax(0)


def merge_windows(logits: Tensor, corners: Sequence[tuple[int, int]], size: tuple[int, int]) -> Tensor:
    """Average overlapping windows.

    Args:
        logits: (M, K, c, c).
        corners: (top, left) of every window.
        size: (height, width) of the image; windows may reach beyond it.

    Returns:
        (K, height, width).
    """
    side = logits.shape[-1]
    height = max(size[0], max(top for top, _ in corners) + side)
    width = max(size[1], max(left for _, left in corners) + side)
    total = logits.new_zeros(logits.shape[1], height, width)
    count = logits.new_zeros(height, width)
    for window, (top, left) in zip(logits, corners, strict=True):
        total[:, top : top + side, left : left + side] += window
        count[top : top + side, left : left + side] += 1
    return (total / count.clamp_min(1))[:, : size[0], : size[1]]


def pixel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum cross-entropy over labelled pixels and divide by the number of *all* pixels, ignored ones included.

    Args:
        logits: (B, K, h, w), enlarged to the labels.
        labels: int64 (B, H, W), 255 ignored.
    """
    enlarged = enlarge(logits, (labels.shape[1], labels.shape[2]))
    total = functional.cross_entropy(enlarged, labels, ignore_index=IGNORED, reduction="sum")
    return total / labels.numel()


def enlarge(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, K, h, w) bilinearly to (B, K, H, W); cells of padding are not removed, as in the protocol."""
    return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def _read(dataset: Dense, number: int) -> tuple[np.ndarray, np.ndarray]:
    return read_image(dataset.images[number]), read_labels(dataset.labels[number], dataset.lookup)
