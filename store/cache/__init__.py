"""The Python API of a cache: opening it, reading rows, writing shards."""
