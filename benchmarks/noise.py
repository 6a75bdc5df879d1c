"""Synthetic rows of the benchmarks of training and of the library."""

import pyarrow as pa

from store.format import manifest
from store.format.schema import OK


def manifest_of_noise(rows: range) -> pa.Table:
    """Return the manifest of rows of noise, each an image of its own, all ok."""
    known = {
        "row": list(rows),
        "dataset": ["noise"] * len(rows),
        "image_index": list(rows),
        "path": [f"{row}.png" for row in rows],
        "view": [0] * len(rows),
        "status": [OK] * len(rows),
    }
    columns = [pa.array(known.get(column.name, [None] * len(rows)), column.type) for column in manifest.SCHEMA]
    return pa.table(columns, schema=manifest.SCHEMA)
