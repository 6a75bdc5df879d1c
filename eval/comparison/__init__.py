"""Compare runs: paired differences, noise of seeds, ranking."""
