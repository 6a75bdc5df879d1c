"""Sources of images. `open_source` returns the source that a catalogue entry describes."""

from extract.catalogue import DatasetEntry
from extract.sources.base import UNKNOWN_BYTES, Listing, Source
from extract.sources.files import FolderSource, ListSource
from extract.sources.parquet import ParquetSource
from extract.sources.tar import TarSource

__all__ = ["UNKNOWN_BYTES", "Listing", "Source", "open_source"]


def open_source(entry: DatasetEntry) -> Source:
    """Return the source of a dataset's images; nothing is read yet."""
    if entry.tar:
        return TarSource(entry.root, tars=entry.tar, exclude=entry.exclude)
    if entry.parquet:
        return ParquetSource(entry.root, parquets=entry.parquet, column=entry.image_column, exclude=entry.exclude)
    if entry.list_file is not None:
        return ListSource(entry.root, list_file=entry.list_file, exclude=entry.exclude)
    return FolderSource(entry.root, patterns=entry.pattern, exclude=entry.exclude)
