"""Readers of the layouts in which public datasets of posed views are distributed, one a file."""
