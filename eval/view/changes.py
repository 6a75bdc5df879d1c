"""Whether a cache is another than it was: datasets and parts added or deleted, sealed again."""

from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor

import store
from store.storage.base import Storage

RECORDS = "seal/"
HEAD_BYTES = 16 * 2**10  # of a record of a seal: counts, sums and the checksum of the whole
READ_TOGETHER = 16


def state_of(cache: store.Cache) -> Hashable:
    """Return what differs once parts were added or deleted, or a seal is another; reads a few KB of each record."""
    storage = cache.storage
    records = sorted((RECORDS + entry.name, entry.size_bytes) for entry in storage.list_objects(RECORDS))
    with ThreadPoolExecutor(READ_TOGETHER) as pool:
        heads = list(pool.map(lambda record: _head(storage, *record), records))
    return cache.stored_names, tuple(zip(records, heads, strict=True))


def _head(storage: Storage, key: str, size_bytes: int) -> bytes:
    length = min(size_bytes, HEAD_BYTES)
    data = bytearray(length)
    try:
        with storage.open_object(key) as record:
            record.read_into([memoryview(data)], 0, length)
    except OSError:
        return b""  # deleted meanwhile
    return bytes(data)
