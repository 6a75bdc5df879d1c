"""Linear depth probe: features of crops and whole images, a linear head and its loss, root mean squared error.

Shapes: B images, N patches, D channels, K bins, H W pixels. Depths in metres. Source: the linear depth protocol of
DINOv2 (bins and loss of AdaBins).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from eval.encoders.open_encoder import OpenEncoder, Tokens
from eval.probes import datasets, head_training, training_crops
from eval.probes.datasets import Dense, read_depth_mm, read_image
from eval.probes.depth_crops import training_crop
from eval.probes.feature_store import Features, FeatureStore, Progress
from eval.probes.settings import DepthSettings
from store.errors import InvalidInput

BINS = 256
MIN_DEPTH_M, MAX_DEPTH_M = 0.001, 10.0
UPSAMPLE = 4
MM_PER_M = 1000.0
SHARD_ITEMS = 16
_LOG_MARGIN_M = 0.001


class DepthHead(nn.Module):
    """Head that predicts depth as the expectation over fixed bins, from one linear layer.

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


def run(
    encoder: OpenEncoder,
    *,
    train: Dense,
    test: Dense,
    feature_store: FeatureStore,
    settings: DepthSettings,
) -> dict[str, Any]:
    """Train and test a head.

    Args:
        encoder: encoder to probe.
        train: training images.
        test: test images.
        feature_store: store of the encoder's features.
        settings: settings of the probe.

    Returns:
        `rmse` in metres, the mean over the test images that have known depth, their number, and `loss` of the last
        tenth of the training steps.
    """
    crops = crop_features(encoder, train, feature_store=feature_store, settings=settings)
    test_images = whole_features(encoder, test, feature_store=feature_store, settings=settings)
    grid = encoder.grid(settings.crops.crop_height, settings.crops.crop_width)
    progress = feature_store.progress
    head, loss = fit(crops, grid=grid, settings=settings, device=encoder.device, progress=progress)
    errors = evaluate(head, test_images, encoder=encoder, settings=settings, progress=progress)
    scored = errors[np.isfinite(errors)]
    return {
        "rmse": float(scored.mean()) if len(scored) else None,
        "loss": loss,
        "train_images": len(train.images),
        "test_images": len(scored),
    }


def crop_features(
    encoder: OpenEncoder, dataset: Dense, *, feature_store: FeatureStore, settings: DepthSettings
) -> Features:
    """Extract `views` augmented crops of every image: patches, CLS where there is one, depth in mm (uint16)."""

    def sample_crop(number: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        image, depth_mm = _read(dataset, number)
        try:
            return training_crop(image, depth_mm, settings.crops, generator)
        except InvalidInput as error:
            raise InvalidInput(f"image '{dataset.images[number]}': {error}") from None

    def to_arrays(tokens: Tokens, depth_mm: np.ndarray) -> dict[str, np.ndarray]:
        return {**_arrays(tokens), "depth_mm": depth_mm}

    return training_crops.crop_features(
        encoder,
        dataset,
        kind="depth",
        sample_crop=sample_crop,
        to_arrays=to_arrays,
        feature_store=feature_store,
        settings=settings,
        shard_items=SHARD_ITEMS,
    )


def whole_features(
    encoder: OpenEncoder, dataset: Dense, *, feature_store: FeatureStore, settings: DepthSettings
) -> Features:
    """Extract whole test images and their mirrored copies: patches (n, V, N, D), CLS (n, V, D), depth in mm.

    Raises:
        InvalidInput: images of different sizes.
    """

    def compute(items: range) -> dict[str, np.ndarray]:
        pairs = [_read(dataset, number) for number in items]
        shapes = {image.shape for image, _ in pairs}
        if len(shapes) > 1:
            raise InvalidInput(f"test images of different sizes: {sorted(shapes)}. The depth probe expects one")
        images = np.stack([image for image, _ in pairs])
        views = [images, images[:, :, ::-1]] if settings.mirror else [images]
        encoded = [_arrays(encoder(view)) for view in views]
        stacked = {name: np.stack([view[name] for view in encoded], axis=1) for name in encoded[0]}
        return {**stacked, "depth_mm": np.stack([depth for _, depth in pairs])}

    return feature_store.filled(
        compute,
        encoder=encoder.name,
        part="test",
        key={"encoder": encoder.identity, "dataset": datasets.identity(dataset), "mirror": settings.mirror},
        items=len(dataset.images),
        shard_items=SHARD_ITEMS,
    )


def fit(
    stored: Features,
    *,
    grid: tuple[int, int],
    settings: DepthSettings,
    device: torch.device,
    progress: Progress = iter,
) -> tuple[DepthHead, float]:
    """Train a head on stored crops; returns it in evaluation mode, and the mean loss of the last tenth of the steps."""
    channels = sum(
        stored.gather(name, np.zeros(1, dtype=np.int64)).shape[-1]
        for name in ("patches", "cls")
        if name in stored.names()
    )

    def loss_of(head: DepthHead, step: int, items: np.ndarray) -> Tensor:
        patches = torch.from_numpy(stored.gather("patches", items)).to(device)
        cls = torch.from_numpy(stored.gather("cls", items)).to(device) if "cls" in stored.names() else None
        depth = torch.from_numpy(stored.gather("depth_mm", items).astype(np.float32) / MM_PER_M).to(device)
        return depth_loss(head(patches, cls, grid), depth, mean_only=step < settings.mean_only)

    return head_training.fit(
        lambda: DepthHead(channels),
        loss_of,
        learning_rate=lambda step: learning_rate(step, settings),
        settings=settings,
        items=stored.items,
        device=device,
        clip=settings.clip,
        progress=progress,
    )


def learning_rate(step: int, settings: DepthSettings) -> float:
    """Return the learning rate of a step, counted from 0."""
    warm = head_training.warm_up(step, steps=round(settings.warm_up * settings.iterations), start=1e-3)
    return settings.lr * warm * head_training.cosine_decay(step, iterations=settings.iterations, end=1e-8)


@torch.inference_mode()
def evaluate(
    head: DepthHead, stored: Features, *, encoder: OpenEncoder, settings: DepthSettings, progress: Progress = iter
) -> np.ndarray:
    """Compute the RMSE of every test image in metres, float64; NaN where no depth is known."""
    errors = []
    for shard in progress(range(stored.shards)):
        arrays = stored.read(shard)
        patches = torch.from_numpy(arrays["patches"]).to(encoder.device)
        cls = torch.from_numpy(arrays["cls"]).to(encoder.device) if "cls" in arrays else None
        true = arrays["depth_mm"].astype(np.float64) / MM_PER_M
        size = (true.shape[1], true.shape[2])
        predicted = predict(head, patches, cls, grid=encoder.grid(*size), size=size).cpu().numpy()
        errors += [root_mean_squared_error(p, t, crop=settings.scored) for p, t in zip(predicted, true, strict=True)]
    return np.array(errors)


def predict(
    head: DepthHead, patches: Tensor, cls: Tensor | None, *, grid: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Predict the depth of images and average it with that of their mirrored copies.

    Args:
        head: trained head, in evaluation mode.
        patches: (B, V, N, D), V = 1, or 2: the image and the mirrored one.
        cls: (B, V, D) or None.
        grid: (rows, cols).
        size: (height, width) of the true depth; cells of padding are not removed but stretched with the rest.

    Returns:
        (B, H, W) within [0.001, 10] m.
    """
    depths = []
    for view in range(patches.shape[1]):
        depth = head(patches[:, view], None if cls is None else cls[:, view], grid)
        depth = resized(depth.clamp(MIN_DEPTH_M, MAX_DEPTH_M), size)[:, 0]
        depths.append(depth.flip(-1) if view else depth)
    return torch.stack(depths).mean(0)


def depth_loss(predicted: Tensor, true: Tensor, *, mean_only: bool = False) -> Tensor:
    """Compute the scale-invariant log loss: sqrt(var(g) + 0.15 mean(g)^2), g = difference of known log depths.

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


def root_mean_squared_error(predicted: np.ndarray, true: np.ndarray, *, crop: tuple[int, int, int, int]) -> float:
    """Compute the RMSE of one (H, W) image over 1 mm < true < 10 m inside the crop; NaN if there is no such pixel.

    Args:
        predicted: predicted depth in metres.
        true: true depth in metres.
        crop: (top, bottom, left, right) that is scored; all zero scores the whole image.
    """
    known = scored_pixels(true, crop=crop)
    goal, values = true[known].astype(np.float64), predicted[known].astype(np.float64)
    return float(np.sqrt(np.mean((values - goal) ** 2))) if len(goal) else float("nan")


def scored_pixels(true: np.ndarray, *, crop: tuple[int, int, int, int]) -> np.ndarray:
    """Return which pixels of an image count, bool (H, W): 1 mm < true < 10 m inside the crop; arguments as above."""
    top, bottom, left, right = crop if any(crop) else (0, true.shape[0], 0, true.shape[1])
    inside = np.zeros(true.shape, dtype=np.bool_)
    inside[top:bottom, left:right] = True
    return np.asarray(inside & (true > MIN_DEPTH_M) & (true < MAX_DEPTH_M))


def resized(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, 1, h, w) bilinearly to (B, 1, H, W)."""
    return functional.interpolate(depth, size=size, mode="bilinear", align_corners=False)


def _arrays(tokens: Tokens) -> dict[str, np.ndarray]:
    return {"patches": tokens.patches} if tokens.cls is None else {"patches": tokens.patches, "cls": tokens.cls}


def _read(dataset: Dense, number: int) -> tuple[np.ndarray, np.ndarray]:
    image, depth_mm = read_image(dataset.images[number]), read_depth_mm(dataset.labels[number])
    if image.shape[:2] != depth_mm.shape:
        raise InvalidInput(
            f"image '{dataset.images[number]}': {image.shape[:2]}, its depth has {depth_mm.shape}. Expected one size"
        )
    return image, depth_mm
