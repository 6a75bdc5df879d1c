"""Collect the trailers of shards into one manifest, status and statistics."""
