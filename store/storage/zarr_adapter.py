"""A read-only zarr-python store over our reads of an object store: checked, retried, errors without credentials."""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore, StorePath

if TYPE_CHECKING:
    from store.storage.object_store import ObjectStorage


class _CheckedStore(ObjectStore[Any]):
    """zarr-python's store, with every value read by `ObjectStorage`."""

    def __init__(self, storage: "ObjectStorage") -> None:
        super().__init__(storage.client, read_only=True)
        self._storage = storage

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        try:
            data = await asyncio.to_thread(self._read, key, byte_range)
        except FileNotFoundError:
            return None
        return prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return list(await asyncio.gather(*(self.get(key, prototype, wanted) for key, wanted in key_ranges)))

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread(self._storage.exists, key)

    def _read(self, key: str, wanted: ByteRequest | None) -> bytes:
        if isinstance(wanted, RangeByteRequest):
            return bytes(self._storage.read_range(key, wanted.start, wanted.end))
        if isinstance(wanted, SuffixByteRequest):
            return self._storage.read_last(key, wanted.suffix)
        return self._storage.read(key, wanted.offset if isinstance(wanted, OffsetByteRequest) else 0)


def read_only_store(storage: "ObjectStorage", path: str) -> StorePath:
    """Return the hierarchy below `path`."""
    return StorePath(_CheckedStore(storage), path)
