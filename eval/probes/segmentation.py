"""Linear segmentation: the head, its loss, sliding windows put together, mean IoU.

Shapes: B crops, N patches, D channels, K classes, M windows, H W pixels, c side of a crop. Source: the linear
segmentation protocol of DINOv2.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from eval.encoders.probed import ProbedEncoder
from eval.probes import datasets, head_training
from eval.probes.datasets import IGNORED, Dense, read_image, read_labels
from eval.probes.feature_store import Features, FeatureStore, Progress
from eval.probes.segmentation_crops import cut_windows, resize_labels, training_crop, windows
from eval.probes.settings import SegmentationSettings


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


SHARD_CROPS = 32

SHARD_IMAGES = 8


def run(
    encoder: ProbedEncoder,
    *,
    train: Dense,
    test: Dense,
    shelf: FeatureStore,
    settings: SegmentationSettings,
) -> dict[str, Any]:
    """Train and test a head.

    Args:
        encoder: what is probed.
        train: training images.
        test: test images.
        shelf: where its features are kept.
        settings: of the probe.

    Returns:
        `miou` and `pixel_accuracy` in percent, `iou` by class (fraction, None where undefined), `loss` of the last
        tenth of the training steps.
    """
    crops = crop_features(encoder, train, shelf=shelf, settings=settings)
    parts = window_features(encoder, test, shelf=shelf, settings=settings)
    grid = encoder.grid(settings.crops.crop, settings.crops.crop)
    head, loss = fit(
        crops, grid=grid, classes=train.classes, settings=settings, device=encoder.device, progress=shelf.progress
    )
    confusion = evaluate(head, parts, grid=grid, classes=test.classes, settings=settings, progress=shelf.progress)
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
    encoder: ProbedEncoder, dataset: Dense, *, shelf: FeatureStore, settings: SegmentationSettings
) -> Features:
    """Features of `views` augmented crops of every image: tokens (n, N, D) float16, labels (n, c, c) uint8."""

    def crop(item: int) -> tuple[np.ndarray, np.ndarray]:
        number, view = divmod(item, settings.views)
        image, labels = _read(dataset, number)
        if labels.shape != image.shape[:2]:
            labels = resize_labels(labels, image.shape[:2])
        return training_crop(image, labels, settings.crops, np.random.default_rng([settings.crop_seed, number, view]))

    def compute(items: range) -> dict[str, np.ndarray]:
        images, labels = zip(*map(crop, items), strict=True)
        return {"tokens": encoder(np.stack(images)).patches, "labels": np.stack(labels)}

    drawn = {"crops": asdict(settings.crops), "views": settings.views, "seed": settings.crop_seed}
    return shelf.filled(
        compute,
        encoder=encoder.name,
        part="train",
        key={"encoder": encoder.identity, "dataset": datasets.identity(dataset), "segmentation": drawn},
        items=len(dataset.images) * settings.views,
        shard_items=SHARD_CROPS,
    )


def window_features(
    encoder: ProbedEncoder, dataset: Dense, *, shelf: FeatureStore, settings: SegmentationSettings
) -> Features:
    """Features of the sliding windows of every test image, with its labels.

    A shard has tokens (all windows, N, D) float16, labels (all pixels,) uint8, and for each of its images the number
    of windows and the sizes (height, width) of the resized image and of its labels.
    """

    def compute(items: range) -> dict[str, np.ndarray]:
        tokens, labels, sizes = [], [], []
        for number in items:
            image, truth = _read(dataset, number)
            cut, resized = cut_windows(image, settings.crops)
            tokens.append(encoder(cut).patches)
            labels.append(truth.reshape(-1))
            sizes.append((len(cut), *resized, *truth.shape))
        return {
            "tokens": np.concatenate(tokens),
            "labels": np.concatenate(labels),
            "sizes": np.array(sizes, dtype=np.int64),
        }

    laid_out = {key: getattr(settings.crops, key) for key in ("short_side", "long_cap", "crop", "stride")}
    return shelf.filled(
        compute,
        encoder=encoder.name,
        part="test",
        key={"encoder": encoder.identity, "dataset": datasets.identity(dataset), "windows": laid_out},
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
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        head = SegmentationHead(channels, classes).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    order = head_training.batches(
        stored.items, batch=settings.batch, iterations=settings.iterations, seed=settings.seed
    )
    losses: list[torch.Tensor] = []
    for step, items in zip(progress(range(settings.iterations)), order, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        tokens = torch.from_numpy(stored.gather("tokens", items)).to(device)
        labels = torch.from_numpy(stored.gather("labels", items)).to(device).long()
        loss = pixel_loss(head(tokens, grid), labels)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.detach())
    return head.eval(), head_training.tail_mean(losses)


def learning_rate(step: int, settings: SegmentationSettings) -> float:
    """The learning rate of a step, counted from 0."""
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
            truth = arrays["labels"][first_pixel : first_pixel + pixels].reshape(original)
            crop = settings.crops.crop
            predicted = classify_image(
                head,
                tokens,
                grid=grid,
                places=windows(max(resized[0], crop), max(resized[1], crop), settings.crops),
                crop=crop,
                resized=resized,
                original=original,
            )
            confusion.add(predicted.cpu().numpy(), truth)
            first_window, first_pixel = first_window + count, first_pixel + pixels
    return confusion


def _read(dataset: Dense, number: int) -> tuple[np.ndarray, np.ndarray]:
    return read_image(dataset.images[number]), read_labels(dataset.labels[number], dataset.lookup)
