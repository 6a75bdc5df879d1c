"""Arrays not written by codistill, read by zarr-python through any storage of ours.

Reads are then checked and retried like all others, and errors carry no credentials.
"""

import asyncio
import warnings
from collections.abc import AsyncIterator, Iterable
from typing import Any

import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from store.storage.base import Storage

ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def open_array(storage: Storage, path: str) -> Any:
    """Open the array at `path` for reading.

    Args:
        storage: storage of the cache.
        path: path of the array below the cache.
    """
    ignore_codec_warning()
    return zarr.open_array(StorageStore(storage, path), mode="r")


def ignore_codec_warning() -> None:
    """Let zarr not warn that codecs of numcodecs are no part of its specification; repeating it changes nothing."""
    warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr", category=UserWarning)


class StorageStore(Store):
    """Read-only store of the objects below one path of a storage; of its methods zarr uses `get` to read arrays."""

    def __init__(self, storage: Storage, path: str) -> None:
        super().__init__(read_only=True)
        self._storage, self._path = storage, path

    def __repr__(self) -> str:
        return f"StorageStore('{self._storage.location}', '{self._path}')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorageStore) and (self._storage, self._path) == (other._storage, other._path)

    supports_writes = False
    supports_deletes = False
    supports_listing = False

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        try:
            data = await asyncio.to_thread(self._read, key, byte_range)
        except ABSENT:
            return None
        return prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return list(await asyncio.gather(*(self.get(key, prototype, wanted) for key, wanted in key_ranges)))

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread(self._storage.exists, f"{self._path}/{key}")

    async def set(self, key: str, value: Buffer) -> None:
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        raise NotImplementedError

    def list(self) -> AsyncIterator[str]:
        raise NotImplementedError

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        raise NotImplementedError

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        raise NotImplementedError

    def _read(self, key: str, wanted: ByteRequest | None) -> bytes:
        key = f"{self._path}/{key}"
        if isinstance(wanted, RangeByteRequest):
            buffer = bytearray(wanted.end - wanted.start)
            with self._storage.open_object(key) as source:
                length = source.read_into([buffer], wanted.start, len(buffer))
            return bytes(buffer[:length])
        if isinstance(wanted, SuffixByteRequest):
            return self._storage.read_last(key, wanted.suffix)
        return self._storage.read(key, wanted.offset if isinstance(wanted, OffsetByteRequest) else 0)
