"""An archive of float16 tokens compressed without loss by PCodec, which any reader of Zarr with numcodecs opens.

Its arrays are no arrays of codistill (rows have no fixed place, so they have no `layout`, no trailers and no record of
a seal): they are read through zarr-python, checked by the crc32c of each row, and not written again.
"""

import json
from importlib.util import find_spec
from typing import Any

import numpy as np

from store import errors
from store.cache.dataset import Dataset
from store.common.extras import missing_extra
from store.compact import forms
from store.compact.forms import refuse_other_form
from store.compact.tokens_of_source import blocks
from store.compact.transfer import take_over
from store.format import schema
from store.format.attributes import ARCHIVE
from store.format.schema import CHECKSUM_ATTRIBUTE, OK

LEVEL = 8  # PCodec's own default
CODEC = {"name": "numcodecs.pcodec", "configuration": {"level": LEVEL}}
CRC32C = {"name": "crc32c"}
NEEDED_MODULE = "pcodec"


def require_codec() -> None:
    """Check that the codec is installed.

    Raises:
        errors.MissingExtra: it is not; the message names the extra.
    """
    if find_spec(NEEDED_MODULE) is None:
        raise errors.MissingExtra(missing_extra(NEEDED_MODULE, program="store"))


def begin_archive(source: Dataset, target: Dataset, teacher: str) -> None:
    """Write the documents of a compressed array and take over the sealed tables; nothing happens where they exist.

    Raises:
        errors.NotSealed: the source is not sealed.
        errors.Conflict: the target holds them in another form.
    """
    source.status(teacher)
    refuse_other_form(target, teacher, asked=forms.ARCHIVE)
    path = schema.array_path(source.name, teacher)
    base = f"{schema.HIERARCHY}/{source.name}/{teacher}"
    tables = [
        f"{table}/{name}"
        for table, chunk in (
            (schema.status_path(source.name, teacher), "c.0"),
            (schema.statistics_path(source.name, teacher), "c.0.0.0"),
        )
        for name in ("zarr.json", chunk)
    ]
    take_over(source.storage, target.storage, tables)
    target.storage.put_if_absent(f"{base}/zarr.json", schema.group_document())
    target.storage.put_if_absent(f"{path}/zarr.json", archive_document(source, teacher))


def archive_document(source: Dataset, teacher: str) -> bytes:
    """Return the zarr.json of an archived array."""
    node = source.array(teacher)
    document: dict[str, Any] = {key: value for key, value in node.document.items() if key != "attributes"}
    own = {key: value for key, value in node.attributes.items() if key != "layout"} | {ARCHIVE: CODEC["name"]}
    others = {key: value for key, value in node.document["attributes"].items() if key != CHECKSUM_ATTRIBUTE}
    (sharding,) = document["codecs"]
    configuration = {**sharding["configuration"], "codecs": [CODEC, CRC32C]}
    document["codecs"] = [{**sharding, "configuration": configuration}]
    document["attributes"] = {**others, "codistill": own}
    return schema.json_bytes(document, indent=2)


def write_archive(source: Dataset, target: Dataset, teacher: str, shard: int) -> bool:
    """Compress one shard; return whether another job wrote it first.

    Rows that failed stay absent: their status is what is sealed.
    """
    import zarr  # slow to import, and only archives are written by it
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    from store.storage.zarr_adapter import ignore_codec_warning

    ignore_codec_warning()
    rows = source.shard_rows_of(shard)
    document = json.loads(archive_document(source, teacher))
    document["shape"] = [len(rows), *document["shape"][1:]]
    held = {"zarr.json": default_buffer_prototype().buffer.from_bytes(json.dumps(document).encode())}
    array = zarr.open_array(MemoryStore(held), mode="r+")
    values = np.full((len(rows), *document["shape"][1:]), np.nan, np.float16)
    ok = np.flatnonzero(source.status(teacher)[rows.start : rows.stop] == OK) + rows.start
    for part, tokens in blocks(source, teacher, ok):
        values[part - rows.start] = tokens
    array[:] = values
    name = schema.shard_name(0, len(document["shape"]))
    key = source.array(teacher).shard_key(shard)
    data = held[name].to_bytes() if name in held else b""
    return bool(data) and not target.storage.put_if_absent(key, data)
