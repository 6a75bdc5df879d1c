"""Reading of what follows the rows of a shard: its trailer and its sharding index."""

from store.format.indexed_layout import IndexedLayout
from store.format.schema import ArrayNode
from store.format.trailer import ENDING, MAX_TRAILER_BYTES
from store.storage.base import Storage

LIKELY_TRAILER_BYTES = 2**15  # of 256 rows of pixels; one read more where it is longer


def read_tail(storage: Storage, node: ArrayNode, shard: int) -> bytes:
    """Return the bytes behind the rows of a shard, as far as they can be told from the object; nothing is checked.

    Args:
        storage: storage of the cache.
        node: array that codistill wrote.
        shard: number of the shard.

    Raises:
        FileNotFoundError: there is no such shard.
        errors.Damaged: there is more than a trailer can have.
    """
    layout, key = node.layout, node.shard_key(shard)
    assert layout is not None
    if isinstance(layout, IndexedLayout):
        return read_recorded_tail(storage, key, layout)
    return storage.read(key, layout.slots_bytes(shard), limit=MAX_TRAILER_BYTES + layout.index_bytes)


def read_recorded_tail(storage: Storage, key: str, layout: IndexedLayout) -> bytes:
    """Return trailer and index by the length that is recorded between them; what there is if that makes no sense."""
    fixed = ENDING.size + layout.index_bytes
    tail = storage.read_last(key, LIKELY_TRAILER_BYTES + fixed)
    if len(tail) < fixed:
        return tail
    length, _ = ENDING.unpack_from(tail, len(tail) - fixed)
    if length > MAX_TRAILER_BYTES:
        return tail[-fixed:]
    if length + fixed > len(tail):
        tail = storage.read_last(key, length + fixed)
    return tail[-(length + fixed) :]
