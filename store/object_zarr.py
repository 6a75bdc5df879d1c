"""A read-only zarr-python store over an object store whose errors carry no credentials."""

from typing import TYPE_CHECKING, Any

from zarr.storage import ObjectStore, StorePath

from store import errors
from store.object_failures import failure_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype


class _ScrubbedStore(ObjectStore[Any]):
    """zarr-python's store, with `errors.StorageFailed` instead of the client's errors."""

    def __init__(self, store: Any, *, read_only: bool = False, location: str = "") -> None:
        super().__init__(store, read_only=read_only)
        self.location = location

    async def get(
        self, key: str, prototype: "BufferPrototype", byte_range: "ByteRequest | None" = None
    ) -> "Buffer | None":
        from obstore.exceptions import BaseError

        try:
            return await super().get(key, prototype, byte_range)
        except BaseError as error:
            failure = failure_of(error)
        raise errors.StorageFailed(f"{self.location}: reading '{key}' failed: {failure.text}")

    async def get_partial_values(
        self, prototype: "BufferPrototype", key_ranges: "Iterable[tuple[str, ByteRequest | None]]"
    ) -> "list[Buffer | None]":
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]


def read_only_store(client: Any, path: str, *, location: str) -> StorePath:
    """Return the hierarchy below `path`.

    Args:
        client: of obstore.
        path: below the client's root.
        location: what errors call it.
    """
    return StorePath(_ScrubbedStore(client, read_only=True, location=location), path)
