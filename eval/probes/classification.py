"""k-NN and linear classification probes: one feature vector an image, extracted once for both.

Shapes: N training vectors, M test vectors, D channels.
"""

import warnings
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional

from eval.encoders.open_encoder import OpenEncoder
from eval.probes import datasets
from eval.probes.datasets import Folders, read_image
from eval.probes.feature_store import FeatureStore
from eval.probes.settings import TEMPERATURE, CentreSettings, KnnSettings, LinearSettings, Pooling
from store.errors import InvalidInput

SHARD_IMAGES = 256
QUERIES_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Feature vectors of a split: pooling -> float32 (images, D), and int64 labels."""

    pooled: dict[str, np.ndarray]
    labels: np.ndarray

    def of(self, pooling: Pooling | None) -> np.ndarray:
        """Return the vectors of one pooling; `cls+mean` joins both, None means CLS if there is one, else the mean.

        Raises:
            InvalidInput: the encoder has no CLS token.
        """
        parts = [self.pooled[name] for name in _pooled_names(self.pooled, pooling)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def run_knn(
    encoder: OpenEncoder, *, train: Folders, test: Folders, feature_store: FeatureStore, settings: KnnSettings
) -> dict[str, Any]:
    """Measure k-NN accuracy in percent for every k, as `top1_k20` and so on.

    Args:
        encoder: encoder to probe.
        train: images whose labels vote.
        test: images to classify.
        feature_store: store of the encoder's features.
        settings: settings of the probe.

    Raises:
        InvalidInput: test images of a class that has no training image.
    """
    bank, queries = _both_splits(encoder, train=train, test=test, feature_store=feature_store, settings=settings)
    scores = score_knn(
        *(torch.from_numpy(array).to(encoder.device) for array in (bank.of(settings.pooling), bank.labels)),
        *(torch.from_numpy(array).to(encoder.device) for array in (queries.of(settings.pooling), queries.labels)),
        classes=len(train.classes),
        settings=settings,
    )
    return {**scores, "train_images": len(bank.labels), "test_images": len(queries.labels)}


def run_linear(
    encoder: OpenEncoder, *, train: Folders, test: Folders, feature_store: FeatureStore, settings: LinearSettings
) -> dict[str, Any]:
    """Measure the accuracy of logistic regression in percent; arguments as for `run_knn`."""
    _check_trainable(np.array(train.labels))
    fitted, scored = _both_splits(encoder, train=train, test=test, feature_store=feature_store, settings=settings)
    pooling = settings.pooling
    scores = score_linear(fitted.of(pooling), fitted.labels, scored.of(pooling), scored.labels, settings=settings)
    return {**scores, "train_images": len(fitted.labels), "test_images": len(scored.labels)}


def _both_splits(
    encoder: OpenEncoder,
    *,
    train: Folders,
    test: Folders,
    feature_store: FeatureStore,
    settings: KnnSettings | LinearSettings,
) -> tuple[Vectors, Vectors]:
    """Vectors of the training and of the test split, whose labels are numbers in the training split's classes."""
    test = datasets.with_classes_of(train, test)
    return (
        vectors(encoder, train, part="train", feature_store=feature_store, settings=settings),
        vectors(encoder, test, part="test", feature_store=feature_store, settings=settings),
    )


def vectors(
    encoder: OpenEncoder,
    dataset: Folders,
    *,
    part: str,
    feature_store: FeatureStore,
    settings: KnnSettings | LinearSettings,
) -> Vectors:
    """Return pooled features of every image of a split, extracted unless they are stored.

    Args:
        encoder: encoder of the images.
        dataset: images of the split.
        part: name of the split, part of the folder's name.
        feature_store: store of the features.
        settings: size and crop of images, and the pooling that is wanted of them.

    Raises:
        InvalidInput: the encoder has no CLS token for the pooling; known after the first images.
    """

    def compute(items: range) -> dict[str, np.ndarray]:
        pixels = np.stack([centre(read_image(dataset.images[item]), settings.centre) for item in items])
        pooled = encoder(pixels).pooled()
        _pooled_names(pooled, settings.pooling)
        return pooled

    stored = feature_store.filled(
        compute,
        encoder=encoder.name,
        part=part,
        key={"encoder": encoder.identity, "dataset": datasets.identity(dataset), "centre": asdict(settings.centre)},
        items=len(dataset.images),
        shard_items=SHARD_IMAGES,
    )
    shards = [stored.read(shard) for shard in range(stored.shards)]
    pooled = {name: np.concatenate([shard[name] for shard in shards]).astype(np.float32) for name in shards[0]}
    return Vectors(pooled=pooled, labels=np.array(dataset.labels, dtype=np.int64))


def centre(image: np.ndarray, settings: CentreSettings) -> np.ndarray:
    """Resize uint8 (H, W, 3) and cut its centre, uint8 (crop, crop, 3)."""
    height, width = image.shape[:2]
    scale = settings.resize / min(height, width)
    size = (max(settings.crop, round(width * scale)), max(settings.crop, round(height * scale)))
    resized = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    top, left = (size[1] - settings.crop) // 2, (size[0] - settings.crop) // 2
    return resized[top : top + settings.crop, left : left + settings.crop]


def score_knn(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, classes: int, settings: KnnSettings
) -> dict[str, float]:
    """Compute k-NN accuracy in percent for every k, as `top1_k20` and so on."""
    predicted = predict(
        train,
        train_labels,
        test,
        neighbours=settings.neighbours,
        classes=classes,
        temperature=settings.temperature,
    )
    return {f"top1_k{k}": accuracy(classes_of, test_labels) for k, classes_of in predicted.items()}


def predict(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    *,
    neighbours: Sequence[int],
    classes: int,
    temperature: float = TEMPERATURE,
) -> dict[int, Tensor]:
    """Classify by the similarity-weighted vote of the nearest training vectors.

    A neighbour of cosine similarity s votes exp(s / temperature) for its class; of equal votes the lower class wins.

    Args:
        train: float (N, D).
        labels: int64 (N,), classes of `train`.
        test: float (M, D).
        neighbours: values of k.
        classes: number of classes.
        temperature: temperature of the votes.

    Returns:
        k -> int64 (M,) predicted classes.
    """
    bank = functional.normalize(train.float(), dim=1)
    most = min(max(neighbours), len(train))
    predicted: dict[int, list[Tensor]] = {k: [] for k in neighbours}
    for queries in torch.split(test.float(), QUERIES_AT_ONCE):
        similarity, nearest = (functional.normalize(queries, dim=1) @ bank.T).topk(most, dim=1)
        votes = (similarity / temperature).exp()
        voted = labels[nearest]
        for k in neighbours:
            scores = torch.zeros(len(queries), classes, device=train.device)
            scores.scatter_add_(1, voted[:, :k], votes[:, :k])
            predicted[k].append(scores.argmax(1))
    return {k: torch.cat(parts) if parts else labels.new_empty(0) for k, parts in predicted.items()}


def score_linear(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, *, settings: LinearSettings
) -> dict[str, float]:
    """Train logistic regression on (N, D), test it on (M, D).

    Returns:
        `top1` on the test set in percent, the chosen `strength`, and `held_out_top1`, which decided the choice.

    Raises:
        InvalidInput: a class with a single training vector, or only one class.
    """
    counts = _check_trainable(train_labels)
    if len(settings.strengths) > 1:
        size = max(settings.held_out, len(counts) / len(train))
        splitter = StratifiedShuffleSplit(n_splits=1, test_size=size, random_state=settings.seed)
        fit, held = next(splitter.split(train, train_labels))
        scores = {
            strength: _top1(_fitted(train[fit], train_labels[fit], strength, settings), train[held], train_labels[held])
            for strength in settings.strengths
        }
    else:
        scores = dict.fromkeys(settings.strengths, float("nan"))
    best = max(scores, key=lambda strength: scores[strength]) if len(scores) > 1 else settings.strengths[0]
    model = _fitted(train, train_labels, best, settings)
    return {"top1": _top1(model, test, test_labels), "strength": best, "held_out_top1": scores[best]}


def accuracy(predicted: Tensor, true: Tensor) -> float:
    """Return the share of correct classes in percent; NaN of none."""
    return 100 * float((predicted == true).double().mean())


def _pooled_names(pooled: Container[str], pooling: Pooling | None) -> list[str]:
    if pooling is None:
        return ["cls" if "cls" in pooled else "mean"]
    names = pooling.split("+")
    if "cls" in names and "cls" not in pooled:
        raise InvalidInput(f"pooling '{pooling}': this encoder has no CLS token. Pass --pooling mean")
    return names


def _check_trainable(labels: np.ndarray) -> np.ndarray:
    """Count the training images of each class that has any; refuse a single class, and classes of a single image."""
    _, counts = np.unique(labels, return_counts=True)
    if len(counts) < 2 or counts.min() < 2:
        raise InvalidInput("linear probe: expected two classes at least, with two training images each at least")
    return np.asarray(counts)


def _fitted(vectors: np.ndarray, labels: np.ndarray, strength: float, settings: LinearSettings) -> Any:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=settings.iterations))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the limit of iterations is part of the settings
        return model.fit(vectors, labels)


def _top1(model: Any, vectors: np.ndarray, labels: np.ndarray) -> float:
    return 100 * float(model.score(vectors, labels))
