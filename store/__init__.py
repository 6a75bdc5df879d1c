"""The offline teacher-feature cache: format, reading, writing, sealing, checking. Imports no torch.

The names of this package are imported when they are first used: a command that only refuses its arguments needs none.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from store import errors
    from store.cache.cache import Cache, create, open
    from store.cache.dataset import Dataset
    from store.cache.metadata import TeacherInfo
    from store.cache.reader import Shard
    from store.cache.writer import ShardWriter
    from store.format.statistics import Moments, Statistics
    from store.format.trailer import Trailer
    from store.sealing.seal import SealReport, seal

__all__ = [
    "Cache",
    "Dataset",
    "Moments",
    "SealReport",
    "Shard",
    "ShardWriter",
    "Statistics",
    "TeacherInfo",
    "Trailer",
    "create",
    "errors",
    "open",
    "seal",
]
MODULES = {
    "Cache": "cache.cache",
    "Dataset": "cache.dataset",
    "Moments": "format.statistics",
    "SealReport": "sealing.seal",
    "Shard": "cache.reader",
    "ShardWriter": "cache.writer",
    "Statistics": "format.statistics",
    "TeacherInfo": "cache.metadata",
    "Trailer": "format.trailer",
    "create": "cache.cache",
    "open": "cache.cache",
    "seal": "sealing.seal",
}


def __getattr__(name: str) -> object:
    if name == "errors":
        return importlib.import_module("store.errors")
    if name not in MODULES:
        raise AttributeError(f"module 'store' has no attribute '{name}'; available: {', '.join(__all__)}")
    return getattr(importlib.import_module(f"store.{MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
