"""Pairs of posed views with depth: synthetic ones, a real one that needs no download, and public datasets on disk."""

from eval.heads.pairs.batches import RESOLUTIONS, PairBatch, ViewBatch, collate
from eval.heads.pairs.mixture import Mixture, PairBatches, open_mixture
from eval.heads.pairs.prepare import PLAIN, Augmentation, prepare
from eval.heads.pairs.settings import PairsEntry, PairsFile, open_datasets, read_pairs_file
from eval.heads.pairs.views import Pair, PairDataset, View

__all__ = [
    "PLAIN",
    "RESOLUTIONS",
    "Augmentation",
    "Mixture",
    "Pair",
    "PairBatch",
    "PairBatches",
    "PairDataset",
    "PairsEntry",
    "PairsFile",
    "View",
    "ViewBatch",
    "collate",
    "open_datasets",
    "open_mixture",
    "prepare",
    "read_pairs_file",
]
