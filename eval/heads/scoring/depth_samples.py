"""Samples of multi-view depth on disk.

    DATA/SET/SAMPLE.npz        depth (H, W) in metres, 0 where unknown: what `codistill eval multiview-depth` takes
    DATA/SET/SAMPLE/key.png    the view that has the depth (or key.jpg)
    DATA/SET/SAMPLE/00.png     the other views in the order of the benchmark (any names, .png or .jpg)

The layout is ours: the robust multi-view depth benchmark (lmb-freiburg/robustmvd) reads five datasets through loaders
and lists of samples of its own. What is documented is the sample that each loader gives, and `write_sample` writes such
samples in this layout.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.heads.pairs.files import Tree
from store.common import atomic
from store.errors import InvalidInput, MissingFile

IMAGE_PATTERNS = ("*.png", "*.jpg", "*.jpeg")
KEY = "key"


@dataclass(frozen=True, kw_only=True)
class DepthSample:
    """One sample.

    Attributes:
        dataset: name of its set.
        name: name in the set.
        key: name of the key view's image below the root.
        sources: names of the other views, in order.
        depth: name of the file of the true depth.
    """

    dataset: str
    name: str
    key: str
    sources: tuple[str, ...]
    depth: str


def list_samples(tree: Tree) -> list[DepthSample]:
    """List all samples, ordered by set and name.

    Raises:
        MissingFile: no sample, or one without key view, other views or depth; all are listed.
    """
    found, problems = [], []
    for dataset in tree.folders():
        for name in tree.folders(dataset):
            folder = f"{dataset}/{name}"
            images = sorted(image for pattern in IMAGE_PATTERNS for image in tree.glob(f"{folder}/{pattern}"))
            keys = [image for image in images if Path(image).stem == KEY]
            sources = tuple(image for image in images if Path(image).stem != KEY)
            if not images:
                continue
            if len(keys) != 1 or not sources or not tree.has(f"{folder}.npz"):
                problems.append(f"{folder}: {len(keys)} key views, {len(sources)} others, depth {folder}.npz")
                continue
            found.append(DepthSample(dataset=dataset, name=name, key=keys[0], sources=sources, depth=f"{folder}.npz"))
    if problems or not found:
        what = f"{len(problems)} samples are not whole, such as {problems[0]}" if problems else "no sample"
        raise MissingFile(
            f"multi-view depth: {what} in '{tree.root}'. Expected SET/SAMPLE.npz with depth, SET/SAMPLE/key.png and "
            "at least one other view"
        )
    return found


def read_depth(tree: Tree, sample: DepthSample) -> np.ndarray:
    """Return the true depth (H, W), 0 where unknown.

    Raises:
        InvalidInput: it is not finite, has other axes, or is unknown everywhere.
    """
    (depth,) = tree.arrays(sample.depth, ("depth",))
    if depth.ndim != 2 or depth.dtype.kind not in "fiu":
        raise InvalidInput(f"{tree.where(sample.depth)}: expected numbers (H, W), found {depth.dtype} {depth.shape}")
    broken = depth.size - int(np.isfinite(depth).sum())
    if broken:
        raise InvalidInput(f"{tree.where(sample.depth)}: {broken} pixels are NaN or infinite; unknown depth must be 0")
    if not (depth > 0).any():
        raise InvalidInput(f"{tree.where(sample.depth)}: no pixel above 0, so there is nothing to score")
    return np.asarray(depth, dtype=np.float64)


def write_sample(data: str | Path, dataset: str, name: str, sample: Mapping[str, Any]) -> None:
    """Write a sample of robustmvd's loaders (`create_dataset("eth3d.robustmvd.mvd")[0]`) in this layout.

    Args:
        data: root of all sets.
        dataset: name of the set, such as eth3d.
        name: name of the sample.
        sample: `images`, a list of float (3, H, W) from 0 to 255; `keyview_idx`; `depth` (1, H, W) in metres.

    Raises:
        InvalidInput: arrays of other shapes, or names with slashes.
    """
    if any(Path(part).name != part or part in ("", ".", "..") for part in (dataset, name)):
        raise InvalidInput(f"names '{dataset}' and '{name}': expected names without folders")
    images = [np.asarray(image) for image in sample["images"]]
    depth = np.asarray(sample["depth"])
    key = int(np.asarray(sample["keyview_idx"]).reshape(()))
    if depth.ndim != 3 or depth.shape[0] != 1 or any(image.ndim != 3 or image.shape[0] != 3 for image in images):
        shapes = [image.shape for image in images]
        raise InvalidInput(
            f"sample '{name}': expected images (3, H, W) and depth (1, H, W), found {shapes} {depth.shape}"
        )
    if not 0 <= key < len(images):
        raise InvalidInput(f"sample '{name}': keyview_idx {key} of {len(images)} images")
    folder = Path(data) / dataset / name
    for number, image in enumerate(images):
        pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8).transpose(1, 2, 0)
        with atomic.replacing(folder / ("key.png" if number == key else f"{number:04d}.png")) as partial:
            Image.fromarray(pixels).save(partial)
    with atomic.replacing(folder.parent / f"{name}.npz") as partial:
        np.savez_compressed(partial, depth=depth[0].astype(np.float32))
