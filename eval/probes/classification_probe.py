"""k-NN and linear classification from end to end: one vector an image, stored once, used by both probes."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from eval.probes import datasets, knn, linear
from eval.probes.datasets import Folders
from eval.probes.encoders import ProbedEncoder
from eval.probes.features import Shelf
from eval.probes.reading import read_image
from eval.probes.settings import CentreSettings, KnnSettings, LinearSettings, Pooling
from store.errors import InvalidInput

SHARD_IMAGES = 256


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Pooled features of a split: pooling -> float32 (images, D), and int64 labels."""

    pooled: dict[str, np.ndarray]
    labels: np.ndarray

    def of(self, pooling: Pooling | None) -> np.ndarray:
        """The vectors of one pooling; `cls+mean` puts both side by side, None means CLS where there is one.

        Raises:
            InvalidInput: the encoder has no CLS token.
        """
        if pooling is None:
            return self.pooled.get("cls", self.pooled["mean"])
        names = pooling.split("+")
        if "cls" in names and "cls" not in self.pooled:
            raise InvalidInput(f"pooling '{pooling}': this encoder has no CLS token. Pass --pooling mean")
        return np.concatenate([self.pooled[name] for name in names], axis=1)


def run_knn(
    encoder: ProbedEncoder, *, train: Folders, test: Folders, shelf: Shelf, settings: KnnSettings
) -> dict[str, Any]:
    """k-NN accuracy in percent for every k, as `top1_k20` and so on.

    Args:
        encoder: what is probed.
        train: images whose labels vote.
        test: images to classify.
        shelf: where their features are kept.
        settings: of the probe.
    """
    bank, queries = (
        vectors(encoder, dataset, part=part, shelf=shelf, settings=settings.centre)
        for dataset, part in ((train, "train"), (test, "test"))
    )
    found = knn.evaluate(
        *(torch.from_numpy(array).to(encoder.device) for array in (bank.of(settings.pooling), bank.labels)),
        *(torch.from_numpy(array).to(encoder.device) for array in (queries.of(settings.pooling), queries.labels)),
        classes=len(train.classes),
        settings=settings,
    )
    return {**found, "train_images": len(bank.labels), "test_images": len(queries.labels)}


def run_linear(
    encoder: ProbedEncoder, *, train: Folders, test: Folders, shelf: Shelf, settings: LinearSettings
) -> dict[str, Any]:
    """Accuracy of logistic regression in percent; arguments as for `run_knn`."""
    fitted, scored = (
        vectors(encoder, dataset, part=part, shelf=shelf, settings=settings.centre)
        for dataset, part in ((train, "train"), (test, "test"))
    )
    pooling = settings.pooling
    found = linear.evaluate(fitted.of(pooling), fitted.labels, scored.of(pooling), scored.labels, settings=settings)
    return {**found, "train_images": len(fitted.labels), "test_images": len(scored.labels)}


def vectors(encoder: ProbedEncoder, dataset: Folders, *, part: str, shelf: Shelf, settings: CentreSettings) -> Vectors:
    """Pooled features of every image of a split called `part`, extracted unless they are stored."""

    def compute(items: range) -> dict[str, np.ndarray]:
        pixels = np.stack([centre(read_image(dataset.images[item]), settings) for item in items])
        return encoder(pixels).pooled()

    stored = shelf.filled(
        compute,
        encoder=encoder.name,
        part=part,
        key={"encoder": encoder.identity, "dataset": datasets.identity(dataset), "centre": asdict(settings)},
        items=len(dataset.images),
        shard_items=SHARD_IMAGES,
    )
    shards = [stored.read(shard) for shard in range(stored.shards)]
    pooled = {name: np.concatenate([shard[name] for shard in shards]).astype(np.float32) for name in shards[0]}
    return Vectors(pooled=pooled, labels=np.array(dataset.labels, dtype=np.int64))


def centre(image: np.ndarray, settings: CentreSettings) -> np.ndarray:
    """Resize and cut the centre of uint8 (H, W, 3) to uint8 (crop, crop, 3)."""
    height, width = image.shape[:2]
    scale = settings.resize / min(height, width)
    size = (max(settings.crop, round(width * scale)), max(settings.crop, round(height * scale)))
    resized = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    top, left = (size[1] - settings.crop) // 2, (size[0] - settings.crop) // 2
    return resized[top : top + settings.crop, left : left + settings.crop]
