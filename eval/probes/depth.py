"""Linear depth: the head, its loss, the error.

Shapes: B images, N patches, D channels, K bins, H W pixels. Depths in metres. Source: the linear depth protocol of
DINOv2 (bins and loss of AdaBins).
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from eval.encoders.probed import ProbedEncoder, Tokens
from eval.probes import datasets, head_training
from eval.probes.datasets import Dense, read_depth_mm, read_image
from eval.probes.depth_crops import training_crop
from eval.probes.feature_store import Features, FeatureStore, Progress
from eval.probes.settings import DepthSettings
from store.errors import InvalidInput

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


SHARD_ITEMS = 16

MM_PER_M = 1000.0


def run(
    encoder: ProbedEncoder,
    *,
    train: Dense,
    test: Dense,
    shelf: FeatureStore,
    settings: DepthSettings,
) -> dict[str, Any]:
    """Train and test a head.

    Args:
        encoder: what is probed.
        train: training images.
        test: test images.
        shelf: where its features are kept.
        settings: of the probe.

    Returns:
        `rmse` in metres, the mean over the test images that have known depth, their number, and `loss` of the last
        tenth of the training steps.
    """
    crops = crop_features(encoder, train, shelf=shelf, settings=settings)
    whole = whole_features(encoder, test, shelf=shelf, settings=settings)
    grid = encoder.grid(settings.crops.crop_height, settings.crops.crop_width)
    head, loss = fit(crops, grid=grid, settings=settings, device=encoder.device, progress=shelf.progress)
    errors = evaluate(head, whole, encoder=encoder, settings=settings, progress=shelf.progress)
    scored = errors[np.isfinite(errors)]
    return {
        "rmse": float(scored.mean()) if len(scored) else None,
        "loss": loss,
        "train_images": len(train.images),
        "test_images": len(scored),
    }


def crop_features(encoder: ProbedEncoder, dataset: Dense, *, shelf: FeatureStore, settings: DepthSettings) -> Features:
    """Features of `views` augmented crops of every image: patches, CLS where there is one, depth in mm (uint16)."""

    def crop(item: int) -> tuple[np.ndarray, np.ndarray]:
        number, view = divmod(item, settings.views)
        image, depth_mm = _read(dataset, number)
        generator = np.random.default_rng([settings.crop_seed, number, view])
        try:
            return training_crop(image, depth_mm, settings.crops, generator)
        except InvalidInput as error:
            raise InvalidInput(f"image '{dataset.images[number]}': {error}") from None

    def compute(items: range) -> dict[str, np.ndarray]:
        images, depths = zip(*map(crop, items), strict=True)
        return {**_arrays(encoder(np.stack(images))), "depth_mm": np.stack(depths)}

    drawn = {"crops": asdict(settings.crops), "views": settings.views, "seed": settings.crop_seed}
    return shelf.filled(
        compute,
        encoder=encoder.name,
        part="train",
        key={"encoder": encoder.identity, "dataset": datasets.identity(dataset), "depth": drawn},
        items=len(dataset.images) * settings.views,
        shard_items=SHARD_ITEMS,
    )


def whole_features(encoder: ProbedEncoder, dataset: Dense, *, shelf: FeatureStore, settings: DepthSettings) -> Features:
    """Features of whole test images and of their mirrored copies: patches (n, V, N, D), CLS (n, V, D), depth in mm.

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

    return shelf.filled(
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
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        head = DepthHead(channels).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    order = head_training.batches(
        stored.items, batch=settings.batch, iterations=settings.iterations, seed=settings.seed
    )
    losses: list[torch.Tensor] = []
    for step, items in zip(progress(range(settings.iterations)), order, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        patches = torch.from_numpy(stored.gather("patches", items)).to(device)
        cls = torch.from_numpy(stored.gather("cls", items)).to(device) if "cls" in stored.names() else None
        depth = torch.from_numpy(stored.gather("depth_mm", items).astype(np.float32) / MM_PER_M).to(device)
        loss = depth_loss(head(patches, cls, grid), depth, mean_only=step < settings.mean_only)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(head.parameters(), settings.clip)
        optimizer.step()
        losses.append(loss.detach())
    return head.eval(), head_training.tail_mean(losses)


def learning_rate(step: int, settings: DepthSettings) -> float:
    """The learning rate of a step, counted from 0."""
    warm = head_training.warm_up(step, steps=round(settings.warm_up * settings.iterations), start=1e-3)
    return settings.lr * warm * head_training.cosine_decay(step, iterations=settings.iterations, end=1e-8)


@torch.inference_mode()
def evaluate(
    head: DepthHead, stored: Features, *, encoder: ProbedEncoder, settings: DepthSettings, progress: Progress = iter
) -> np.ndarray:
    """RMSE of every test image in metres, float64; NaN where no depth is known."""
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


def _arrays(tokens: Tokens) -> dict[str, np.ndarray]:
    return {"patches": tokens.patches} if tokens.cls is None else {"patches": tokens.patches, "cls": tokens.cls}


def _read(dataset: Dense, number: int) -> tuple[np.ndarray, np.ndarray]:
    image, depth_mm = read_image(dataset.images[number]), read_depth_mm(dataset.labels[number])
    if image.shape[:2] != depth_mm.shape:
        raise InvalidInput(
            f"image '{dataset.images[number]}': {image.shape[:2]}, its depth has {depth_mm.shape}. Expected one size"
        )
    return image, depth_mm
