"""The offline teacher-feature cache: format, reading, writing, sealing, checking. Imports no torch."""

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
    "open",
    "seal",
]
