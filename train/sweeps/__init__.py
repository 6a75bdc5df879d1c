"""Sweeps with a name: the paper's tables, at the paper's scale and at the demo's."""
