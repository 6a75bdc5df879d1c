"""Format 1 as pure code: names, layout, trailers, manifest rows, statistics. The specification is docs/format.md."""
