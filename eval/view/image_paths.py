"""Paths of images from the image lists, a row group at a time: lists may have tens of millions of images."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

import store
from eval.view.opened import Opened
from store.format.schema import images_key

FEW_GROUPS = 2  # of a million images each, which a page of rows may read


def image_path(opened: Opened, dataset: store.Dataset, image: int) -> str:
    """Return the path of an image of a part."""
    starts = _group_starts(opened, dataset)
    group = int(np.searchsorted(starts, image, side="right")) - 1

    def read() -> pa.Array:
        with dataset.storage.arrow_file(images_key(dataset.name)) as source:
            table = pq.ParquetFile(source, page_checksum_verification=True).read_row_group(group, columns=["path"])
        return table["path"].combine_chunks()

    paths = opened.memory.get_or_make(("images", dataset.name, group), read, lambda paths: int(paths.nbytes))
    place = image - int(starts[group])
    return str(paths[place].as_py()) if 0 <= place < len(paths) else ""


def lie_together(opened: Opened, dataset: store.Dataset, images: Sequence[int]) -> bool:
    """Return whether the paths of some images of a part are in few row groups, so that a page of them is quick."""
    starts = _group_starts(opened, dataset)
    return len(np.unique(np.searchsorted(starts, np.asarray(images), side="right"))) <= FEW_GROUPS


def _group_starts(opened: Opened, dataset: store.Dataset) -> npt.NDArray[np.int64]:
    """Return the first image of each row group."""

    def read() -> npt.NDArray[np.int64]:
        with dataset.storage.arrow_file(images_key(dataset.name)) as source:
            metadata = pq.ParquetFile(source).metadata
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        return np.cumsum([0, *sizes[:-1]])

    return opened.memory.get_or_make(("images", dataset.name), read, lambda starts: int(starts.nbytes))
