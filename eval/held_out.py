"""What a held-out row is: another view of a photograph that was trained on, or a photograph never seen.

Read off the image lists of the cache, never off names of datasets.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store.dataset import Dataset


def image_keys(dataset: Dataset) -> pa.ChunkedArray:
    """Name every image of a dataset, the same in every dataset over the same files, in image order.

    The cache does not record where a dataset's folder was, so a photograph is known by its path below that folder and
    its size in bytes together: the path alone would confuse `train/0001.png` with `val/0001.png`.
    """
    images = dataset.image_list()
    return pc.binary_join_element_wise(images["path"], pc.cast(images["bytes"], pa.string()), "#")


def seen_in_training(dataset: Dataset, training: Iterable[Dataset]) -> np.ndarray:
    """Which images of `dataset` are also images of a training dataset, bool (images,)."""
    seen = np.zeros(dataset.images, dtype=np.bool_)
    keys = image_keys(dataset)
    for other in training:
        if other.image_list_sha256 == dataset.image_list_sha256:
            return np.ones(dataset.images, dtype=np.bool_)
        candidates = pc.is_in(other.image_list()["bytes"], value_set=dataset.image_list()["bytes"])
        if pc.any(candidates).as_py():
            seen |= pc.is_in(keys, value_set=image_keys(other).filter(candidates)).to_numpy()
    return seen
