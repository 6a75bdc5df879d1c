"""Python API of a cache: open it, read rows, write shards."""
