"""k-NN and linear classification from end to end: one vector an image, stored once, used by both probes."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from eval.probes import datasets, knn, linear
from eval.probes.datasets import Folders
from eval.probes.encoders import ProbedEncoder
from eval.probes.features import Shelf
from eval.probes.reading import read_image
from store.errors import InvalidInput

SHARD_IMAGES = 256
Pooling = Literal["cls", "mean", "cls+mean"]


@dataclass(frozen=True, kw_only=True)
class CentreSettings:
    """How images are shown: the short side resized (bicubic), the centre cut out.

    Args:
        resize: short side, px.
        crop: side of the centre crop, px.
    """

    resize: int = 256
    crop: int = 224


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Pooled features of a split: pooling -> float32 (images, D), and int64 labels."""

    pooled: dict[str, np.ndarray]
    labels: np.ndarray

    def of(self, pooling: Pooling) -> np.ndarray:
        """The vectors of one pooling; `cls+mean` puts both side by side.

        Raises:
            InvalidInput: the encoder has no CLS token.
        """
        names = pooling.split("+")
        missing = [name for name in names if name not in self.pooled]
        if missing:
            raise InvalidInput(f"pooling '{pooling}': this encoder has no {missing[0]} token. Expected: mean")
        return np.concatenate([self.pooled[name] for name in names], axis=1)


def vectors(
    encoder: ProbedEncoder,
    dataset: Folders,
    *,
    part: str,
    shelf: Shelf,
    settings: CentreSettings,
) -> Vectors:
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
    pooled = {key: np.concatenate([shard[key] for shard in shards]).astype(np.float32) for key in shards[0]}
    return Vectors(pooled=pooled, labels=np.array(dataset.labels, dtype=np.int64))


def centre(image: np.ndarray, settings: CentreSettings) -> np.ndarray:
    """Resize and cut the centre of uint8 (H, W, 3) to uint8 (crop, crop, 3)."""
    height, width = image.shape[:2]
    scale = settings.resize / min(height, width)
    size = (max(settings.crop, round(width * scale)), max(settings.crop, round(height * scale)))
    resized = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    top, left = (size[1] - settings.crop) // 2, (size[0] - settings.crop) // 2
    return resized[top : top + settings.crop, left : left + settings.crop]


def run_knn(
    train: Vectors, test: Vectors, *, classes: int, pooling: Pooling, settings: knn.KnnSettings, device: torch.device
) -> dict[str, Any]:
    """k-NN accuracy in percent for every k."""
    bank, queries = (torch.from_numpy(part.of(pooling)).to(device) for part in (train, test))
    labels, truth = (torch.from_numpy(part.labels).to(device) for part in (train, test))
    found = knn.evaluate(bank, labels, queries, truth, classes=classes, settings=settings)
    return {**found, "train_images": len(labels), "test_images": len(truth)}


def run_linear(train: Vectors, test: Vectors, *, pooling: Pooling, settings: linear.LinearSettings) -> dict[str, Any]:
    """Accuracy of logistic regression in percent."""
    found = linear.evaluate(train.of(pooling), train.labels, test.of(pooling), test.labels, settings=settings)
    return {**found, "train_images": len(train.labels), "test_images": len(test.labels)}
