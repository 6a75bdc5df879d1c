"""Losses of MASt3R's training and validation."""

from eval.heads.mast3r.losses.criterion import Criterion, validation
from eval.heads.mast3r.losses.matching import Matching
from eval.heads.mast3r.losses.regression import Regression
from eval.heads.mast3r.losses.truth import PairTruth, ViewTruth

__all__ = ["Criterion", "Matching", "PairTruth", "Regression", "ViewTruth", "validation"]
