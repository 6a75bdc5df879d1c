"""The offline teacher-feature cache: format, reading, writing, sealing, checking. Imports no torch."""

from store.cache import Cache, create, open
from store.dataset import Dataset, TeacherInfo
from store.reader import Shard
from store.seal import SealReport, seal
from store.statistics import Moments, Statistics
from store.trailer import Trailer
from store.writer import ShardWriter

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
