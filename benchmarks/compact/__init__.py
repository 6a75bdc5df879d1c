"""Bytes of a row against what they cost a student: `python -m benchmarks.compact`."""
