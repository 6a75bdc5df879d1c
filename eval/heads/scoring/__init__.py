"""Benchmarks of task heads from images to figures: map-free, multi-view depth and pose, people; tables of the paper."""
