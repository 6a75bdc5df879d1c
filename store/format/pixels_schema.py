"""Document of the pixels of a dataset."""

import numpy as np

from store.format import schema


def pixels_document(*, rows: int, image_size: int, shard_rows: int, jpeg: bool = False) -> bytes:
    """Return the zarr.json of a dataset's pixels, uint8 [rows, image_size, image_size, 3], stored raw or as JPEG."""
    return schema.array_document(
        shape=(rows, image_size, image_size, 3),
        dtype=np.dtype(np.uint8),
        dimension_names=schema.PIXELS_DIMENSIONS,
        shard_rows=shard_rows,
        attributes={"requires": [schema.JPEG_PIXELS]} if jpeg else {},
    )
