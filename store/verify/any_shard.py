"""Check of one shard object, by the form in which its array is stored."""

from store.format.indexed_layout import IndexedLayout
from store.verify import jpeg_check, shard_check
from store.verify.shard_check import ShardCheck, ShardLocation


def check_trailer(location: ShardLocation) -> ShardCheck:
    """Check trailer and index of a shard.

    Raises:
        FileNotFoundError: there is no such object.
    """
    return jpeg_check.check_trailer(location) if _is_indexed(location) else shard_check.check_trailer(location)


def check_shard(location: ShardLocation) -> ShardCheck:
    """Check everything in a shard; no row is read of one that belongs elsewhere.

    Raises:
        FileNotFoundError: there is no such object.
        errors.MissingExtra: pixels are stored as JPEG and nothing is installed that decodes them.
    """
    return jpeg_check.check_shard(location) if _is_indexed(location) else shard_check.check_shard(location)


def _is_indexed(location: ShardLocation) -> bool:
    return isinstance(location.dataset.array(location.array).layout, IndexedLayout)
