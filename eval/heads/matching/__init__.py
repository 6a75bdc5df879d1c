"""Matches of two views by their descriptors or points, and what follows from points alone."""

from eval.heads.matching.reciprocal import away_from_border, both_ways, exhaustive, fast_reciprocal

__all__ = ["away_from_border", "both_ways", "exhaustive", "fast_reciprocal"]
