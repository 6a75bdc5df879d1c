"""The depth probe from end to end: features of crops and test images, a head trained on them, RMSE.

Shapes: B images, N patches, D channels, V views of a test image (itself and mirrored), H W pixels.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from eval.probes import datasets, training
from eval.probes.datasets import Dense
from eval.probes.depth import DepthHead, depth_loss, predict, root_mean_squared_error
from eval.probes.depth_views import training_crop
from eval.probes.encoders import ProbedEncoder, Tokens
from eval.probes.features import Features, Progress, Shelf
from eval.probes.reading import read_depth_mm, read_image
from eval.probes.settings import DepthSettings
from store.errors import InvalidInput

SHARD_ITEMS = 16
MM_PER_M = 1000.0


def run(
    encoder: ProbedEncoder,
    *,
    train: Dense,
    test: Dense,
    shelf: Shelf,
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


def crop_features(encoder: ProbedEncoder, dataset: Dense, *, shelf: Shelf, settings: DepthSettings) -> Features:
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


def whole_features(encoder: ProbedEncoder, dataset: Dense, *, shelf: Shelf, settings: DepthSettings) -> Features:
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
    order = training.batches(stored.items, batch=settings.batch, iterations=settings.iterations, seed=settings.seed)
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
    return head.eval(), training.tail_mean(losses)


def learning_rate(step: int, settings: DepthSettings) -> float:
    """The learning rate of a step, counted from 0."""
    warm = training.warm_up(step, steps=round(settings.warm_up * settings.iterations), start=1e-3)
    return settings.lr * warm * training.cosine_decay(step, iterations=settings.iterations, end=1e-8)


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
