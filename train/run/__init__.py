"""The directory of a run: checkpoints, log, curves, loading."""
