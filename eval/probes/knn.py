"""k-nearest-neighbour classification of pooled features.

Shapes: N training vectors, M test vectors, D channels. Source: the protocol of DINO and DINOv2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from eval.probes.settings import TEMPERATURE, KnnSettings

_CHUNK = 1024


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
        classes: how many there are.
        temperature: of the votes.

    Returns:
        k -> int64 (M,) predicted classes.
    """
    bank = functional.normalize(train.float(), dim=1)
    most = min(max(neighbours), len(train))
    found: dict[int, list[Tensor]] = {k: [] for k in neighbours}
    for queries in torch.split(test.float(), _CHUNK):
        similarity, nearest = (functional.normalize(queries, dim=1) @ bank.T).topk(most, dim=1)
        votes = (similarity / temperature).exp()
        voted = labels[nearest]
        for k in neighbours:
            scores = torch.zeros(len(queries), classes, device=train.device)
            scores.scatter_add_(1, voted[:, :k], votes[:, :k])
            found[k].append(scores.argmax(1))
    return {k: torch.cat(parts) if parts else labels.new_empty(0) for k, parts in found.items()}


def accuracy(predicted: Tensor, true: Tensor) -> float:
    """Share of right classes in percent; NaN of none."""
    return 100 * float((predicted == true).double().mean())


def evaluate(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, classes: int, settings: KnnSettings
) -> dict[str, float]:
    """Accuracy in percent for every k, as `top1_k20` and so on."""
    predicted = predict(
        train,
        train_labels,
        test,
        neighbours=settings.neighbours,
        classes=classes,
        temperature=settings.temperature,
    )
    return {f"top1_k{k}": accuracy(classes_of, test_labels) for k, classes_of in predicted.items()}
