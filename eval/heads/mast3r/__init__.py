"""MASt3R's task head: two images to points in the first camera's frame, confidences and descriptors."""

from eval.heads.mast3r.initialise import from_mast3r, from_scratch
from eval.heads.mast3r.model import PairModel, ViewTokens, is_symmetrised
from eval.heads.mast3r.read import load
from eval.heads.mast3r.write import save

__all__ = ["PairModel", "ViewTokens", "from_mast3r", "from_scratch", "is_symmetrised", "load", "save"]
