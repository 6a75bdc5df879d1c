"""Objects of one cache that another takes over as they are: linked where both lie on one file system, else copied.

Nothing ever changes in place in a cache, so two caches may share files: what replaces or deletes an object of one
leaves that of the other.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from store import errors
from store.storage import publish
from store.storage.base import Storage
from store.storage.local import LocalStorage

PIECE_BYTES = 8 * 2**20
CANNOT_LINK = {
    *(errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK),
    *(errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL),
}


def take_over(source: Storage, target: Storage, keys: Iterable[str]) -> None:
    """Give a cache objects of another under the same keys, unless it has them; an interruption leaves whole objects.

    Args:
        source: storage to take from.
        target: storage to give to.
        keys: keys of the objects.

    Raises:
        FileNotFoundError: an object is not in the source.
    """
    linked: set[Path] = set()
    for key in keys:
        if target.exists(key):
            continue
        if isinstance(source, LocalStorage) and isinstance(target, LocalStorage):
            folder = (target.root / key).parent
            publish.make_directories(folder)
            if _linked(source.root / key, target.root / key):
                linked.add(folder)
                continue
        copy(source, target, key)
    for folder in sorted(linked):
        publish.sync_directory(folder)


def copy(source: Storage, target: Storage, key: str) -> None:
    """Copy an object, piece by piece; nothing happens if the target has one by then."""
    size = source.size(key)
    sink = target.create(key)
    try:
        with source.open_object(key) as reading:
            for offset in range(0, size, PIECE_BYTES):
                piece = bytearray(min(PIECE_BYTES, size - offset))
                if reading.read_into([piece], offset, len(piece)) != len(piece):
                    raise errors.Damaged(f"'{key}' below {source.location} was cut short while it was copied")
                sink.write([piece], offset)
        sink.publish()
    finally:
        sink.discard()


def objects_below(storage: Storage, prefix: str) -> Iterator[str]:
    """Yield the keys of all objects below a prefix, each `zarr.json` after the objects that it describes."""
    for folder in sorted(storage.list_directories(prefix)):
        yield from objects_below(storage, f"{prefix}/{folder}")
    names = (entry.name for entry in storage.list_objects(prefix) if not publish.is_temporary(entry.name))
    yield from (f"{prefix}/{name}" for name in sorted(names, key=lambda name: (name == "zarr.json", name)))


def _linked(existing: Path, new: Path) -> bool:
    """Return whether a file is at `new` now: a link to `existing`, or what another job put there."""
    try:
        os.link(os.path.realpath(existing), new)
    except FileExistsError:
        return True
    except OSError as error:
        if error.errno in CANNOT_LINK:
            return False
        raise
    return True
