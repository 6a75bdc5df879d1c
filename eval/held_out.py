"""What a held-out row is: another view of a photograph that was trained on, or a photograph never seen.

Read off the image lists of the cache, never off names of datasets.
"""

import posixpath
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store.dataset import Dataset


def image_keys(dataset: Dataset) -> pa.ChunkedArray:
    """Name every image of a dataset by root and path, the same in every dataset over the same files (image order)."""
    images = dataset.image_list().sort_by("image_index")
    return pc.binary_join_element_wise(_root(dataset), images["path"], "/")


def seen_in_training(dataset: Dataset, training: Iterable[Dataset]) -> np.ndarray:
    """Which images of `dataset` are also images of a training dataset, bool (images,).

    Two datasets hold the same photograph if root folder and relative path together name the same file. Lists of
    folders that lie apart are not even read.
    """
    keys = image_keys(dataset)
    seen = np.zeros(len(keys), dtype=np.bool_)
    for other in training:
        if _nested(_root(dataset), _root(other)) and not seen.all():
            seen |= pc.is_in(keys, value_set=image_keys(other)).to_numpy()
    return seen


def _root(dataset: Dataset) -> str:
    """The folder that paths start at; a source that records none is told apart by its list of images alone."""
    root = str(dataset.source.get("root") or "")
    return posixpath.normpath(root) if root else ""


def _nested(first: str, second: str) -> bool:
    return f"{first}/".startswith(f"{second}/") or f"{second}/".startswith(f"{first}/")
