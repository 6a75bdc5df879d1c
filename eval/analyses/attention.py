"""Typical attention maps (Fig. 9) of the encoder's last block and of every transformer projector.

Each patch of an image has a map of its attention to the others; k-medoids chooses the most typical ones.

Shapes: B images, L tokens of a sequence, N patches = rows x cols of the grid, D channels, K medoids.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from backbones.images import normalise
from eval.analyses.pca import held_out_views
from eval.fidelity import rows
from eval.fidelity.measure import Subject
from store.errors import InvalidInput
from train.model.distiller import Distiller
from train.model.projectors import TransformerProjector

ENCODER = "encoder, last block"
PROJECTOR = "projector of "
NEEDED = ("qkv", "num_heads", "head_dim", "scale")
MAPS = pa.schema(
    [
        ("image", pa.int64()),
        ("caption", pa.string()),
        ("network", pa.string()),
        ("medoid", pa.int64()),
        ("patch", pa.int64()),
        ("share", pa.float64()),
        ("rows", pa.int64()),
        ("cols", pa.int64()),
        ("attention", pa.list_(pa.float32())),
        ("photograph", pa.binary()),
        ("size_px", pa.int64()),
    ]
)


def maps(
    subject: Subject,
    *,
    device: torch.device,
    count: int = 3,
    k: int = 9,
    images: Sequence[tuple[str, np.ndarray]] = (),
) -> tuple[dict[str, Any], pa.Table]:
    """Compute typical attention maps of some images.

    Args:
        subject: the student to analyse; its modules are on `device`.
        device: device to compute on.
        count: number of held-out views, chosen as for the PCA pictures.
        k: maps of each network and image.
        images: (caption, uint8 (H, W, 3)) to analyse instead of held-out views; sides multiples of the patch.

    Returns:
        The networks (JSON), and the maps with schema `MAPS`.
    """
    captioned = list(images) or _held_out(subject, count=count, device=device)
    entries = []
    for number, (caption, pixels) in enumerate(captioned):
        batch = torch.from_numpy(np.ascontiguousarray(pixels))[None].to(device)
        grid = (pixels.shape[0] // subject.student.cell_px, pixels.shape[1] // subject.student.cell_px)
        for network, attention in patch_attention(subject.student, normalise(batch)).items():
            medoids, shares = typical_maps(attention[0], k=k)
            for rank, (patch, share) in enumerate(zip(medoids, shares, strict=True)):
                first = rank == 0 and network == ENCODER
                entries.append(
                    {
                        "image": number,
                        "caption": caption,
                        "network": network,
                        "medoid": rank,
                        "patch": int(patch),
                        "share": float(share),
                        "rows": grid[0],
                        "cols": grid[1],
                        "attention": attention[0, patch],
                        "photograph": pixels.tobytes() if first else None,
                        "size_px": pixels.shape[0],
                    }
                )
    return {"networks": list(_layers(subject.student)), "k": k}, pa.Table.from_pylist(entries, schema=MAPS)


def patch_attention(distiller: Distiller, images: Tensor) -> dict[str, np.ndarray]:
    """Compute the attention of every patch to all patches.

    Args:
        distiller: a student with its projectors.
        images: normalised (B, 3, H, W).

    Returns:
        network -> float32 (B, N, N), for the encoder's last block and the last block of every transformer projector;
        prefix tokens are left out, so rows sum to at most 1.
    """
    layers = _layers(distiller)
    inputs: dict[str, Tensor] = {}
    with _recorded_inputs(layers, inputs), torch.inference_mode():
        distiller(images)
        attention = {name: attention_weights(layers[name], tokens) for name, tokens in inputs.items()}
    prefixes = {
        name: distiller.encoder.prefix_tokens
        if name == ENCODER
        else distiller.encoder.prefix_tokens - distiller.encoder.register_tokens
        for name in attention
    }
    return {name: values[:, prefixes[name] :, prefixes[name] :].cpu().numpy() for name, values in attention.items()}


def attention_weights(layer: Any, tokens: Tensor) -> Tensor:
    """Compute the softmax attention of a layer, averaged over its heads.

    Args:
        layer: a self-attention layer as in timm's ViTs.
        tokens: (B, L, D) input of the layer.

    Returns:
        float32 (B, L, L); each row sums to 1.

    Raises:
        InvalidInput: a layer of another kind.
    """
    missing = [name for name in NEEDED if not hasattr(layer, name)]
    if missing:
        raise InvalidInput(
            f"attention maps need timm's plain attention, found {type(layer).__name__} without {', '.join(missing)}"
        )
    batch, length, _ = tokens.shape
    qkv = layer.qkv(tokens).reshape(batch, length, 3, layer.num_heads, layer.head_dim).permute(2, 0, 3, 1, 4)
    query, key = layer.q_norm(qkv[0]), layer.k_norm(qkv[1])
    logits = (query.float() * layer.scale) @ key.float().transpose(-2, -1)
    averaged: Tensor = logits.softmax(dim=-1).mean(dim=1)
    return averaged


def typical_maps(attention: np.ndarray, *, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Choose the k most typical rows of one image's attention.

    Args:
        attention: (N, N), one row a patch.
        k: number of rows, at most.
        seed: seed of the clustering.

    Returns:
        Indices of these rows, int64 (K,), most common first, and the share of patches that each stands for.
    """
    medoids, labels = k_medoids(attention, k, seed=seed)
    return medoids, np.bincount(labels, minlength=len(medoids)) / len(labels)


def k_medoids(points: np.ndarray, k: int, *, seed: int = 0, max_rounds: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Cluster points around k of them, by Euclidean distance.

    Starts as k-means++ does, then alternates assignment and choice of the member with the least total distance to
    its cluster, until nothing changes. Scikit-learn-extra, which the paper used, is unmaintained.

    Args:
        points: (N, C).
        k: number of medoids; at most N are returned.
        seed: seed of the start.
        max_rounds: limit of rounds; the alternation ends long before.

    Returns:
        Indices of the medoids, int64 (k,), largest cluster first, and the cluster of every point, int64 (N,).
    """
    values = np.asarray(points, np.float64)
    k = min(k, len(values))
    distances = _distances(values)
    medoids = _initial_medoids(distances, k, seed=seed)
    for _ in range(max_rounds):
        labels = _assign(distances, medoids)
        updated = medoids.copy()
        for cluster in range(k):
            members = np.flatnonzero(labels == cluster)
            if len(members):
                totals = distances[np.ix_(members, members)].sum(1)
                updated[cluster] = members[totals.argmin()]
        if np.array_equal(updated, medoids):
            break
        medoids = updated
    labels = _assign(distances, medoids)
    order = np.argsort(-np.bincount(labels, minlength=k), kind="stable")
    rank = np.empty(k, dtype=np.int64)
    rank[order] = np.arange(k)
    return medoids[order], rank[labels]


def _held_out(subject: Subject, *, count: int, device: torch.device) -> list[tuple[str, np.ndarray]]:
    selection, captions = held_out_views(subject.mixture, count=count)
    pixels: dict[int, np.ndarray] = {}
    for numbers, batch in rows.batches(selection, subject.mixture, device=device):
        pixels.update(zip(numbers.tolist(), batch.pixels.cpu().numpy().copy(), strict=True))
    return [(captions[number], pixels[number]) for number in sorted(pixels)]


def _layers(distiller: Distiller) -> dict[str, nn.Module]:
    """Return the attention layers to analyse, by name of their network."""
    blocks = [*distiller.encoder.blocks.children()]
    layers: dict[str, Any] = {ENCODER: getattr(blocks[-1], "attn", blocks[-1])}
    for teacher, projector in distiller.projectors.items():
        if isinstance(projector, TransformerProjector):
            last: Any = projector.blocks[-1]
            layers[PROJECTOR + teacher] = last.attn
    return layers


@contextmanager
def _recorded_inputs(layers: dict[str, nn.Module], inputs: dict[str, Tensor]) -> Iterator[None]:
    """Record the inputs of layers in `inputs` while they run."""

    def recorder(name: str) -> Any:
        def record(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            inputs[name] = arguments[0]

        return record

    handles = [layer.register_forward_pre_hook(recorder(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _assign(distances: np.ndarray, medoids: np.ndarray) -> np.ndarray:
    """Assign every point to its nearest medoid; a medoid belongs to itself even among duplicates."""
    labels = np.asarray(distances[:, medoids].argmin(1))
    labels[medoids] = np.arange(len(medoids))
    return labels


def _distances(values: np.ndarray) -> np.ndarray:
    squares = (values * values).sum(1)
    squared = squares[:, None] + squares[None, :] - 2.0 * values @ values.T
    np.fill_diagonal(squared, 0.0)
    return np.asarray(np.sqrt(squared.clip(min=0.0)))


def _initial_medoids(distances: np.ndarray, k: int, *, seed: int) -> np.ndarray:
    """Sample k distinct points, each with a probability proportional to its squared distance to those before."""
    generator = np.random.default_rng(seed)
    chosen = [int(distances.sum(1).argmin())]
    while len(chosen) < k:
        weight = distances[:, chosen].min(1) ** 2
        weight[chosen] = 0.0
        if weight.sum() <= 0:  # only duplicates are left
            weight = np.ones(len(distances))
            weight[chosen] = 0.0
        chosen.append(int(generator.choice(len(distances), p=weight / weight.sum())))
    return np.array(chosen, dtype=np.int64)
